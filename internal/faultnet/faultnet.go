// Package faultnet is a bad network: a proxy between a client and a server of
// one machine that cuts, delays or holds back what passes, for tests.
//
//	network, err := faultnet.Listen(postgres.Addr())
//	...
//	network.Set(faultnet.Fault{LoseAnswers: 1}) // statements are executed, and nobody hears of it
//	...
//	network.Set(faultnet.Fault{}) // as good as new
//
// It stands in for github.com/Shopify/toxiproxy. As a library that would add a web framework and a
// logger to the requirements of every module that imports this one, and it cannot lose an answer.
package faultnet

import (
	"net"
	"sync"
	"time"
)

// A Fault is what is wrong with the network. The zero Fault is nothing.
type Fault struct {
	// Cut resets all connections, new ones as soon as they are made.
	Cut bool

	// Hold keeps back everything, either way, the ends of connections
	// included. Neither side is told. What is held back arrives when the fault
	// is over, as it does when lost packets are sent again.
	Hold bool

	// Delay is how much later each piece of what is sent arrives, either way.
	Delay time.Duration

	// LoseAnswers, above 0, loses of so many pieces of what servers answer
	// one, and resets its connection: what the client asked for was done, and
	// it does not know. 1 loses every answer.
	LoseAnswers int
}

// A Proxy passes connections on to a server. It is made by [Listen].
type Proxy struct {
	listener net.Listener
	wg       sync.WaitGroup

	mu      sync.Mutex
	server  string
	fault   Fault
	changed chan struct{} // closed when the fault is another one
	links   map[*link]struct{}
	answers int // since LoseAnswers was set
	lost    int
	closed  bool
}

// A link is a connection of a client with the one to the server.
type link struct {
	client, server net.Conn
	gone           chan struct{} // closed when both are
	once           sync.Once
}

// Listen listens on a free port of the loopback interface, and passes
// connections on to the server's address.
func Listen(server string) (*Proxy, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &Proxy{listener: listener, server: server, changed: make(chan struct{}), links: map[*link]struct{}{}}
	p.wg.Go(p.accept)
	return p, nil
}

// Addr returns the address to connect to.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Set replaces the fault, for connections that there are and new ones.
func (p *Proxy) Set(f Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault, p.answers = f, 0
	close(p.changed)
	p.changed = make(chan struct{})
	if f.Cut {
		p.resetAll()
	}
}

// Redirect passes connections that are made from now on to another server, as a name
// does that leads elsewhere after a switch. Those that there are stay where they are.
func (p *Proxy) Redirect(server string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.server = server
}

// Lost returns how many answers were lost so far.
func (p *Proxy) Lost() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lost
}

// Close resets all connections and stops listening.
func (p *Proxy) Close() error {
	p.mu.Lock()
	p.closed = true
	p.resetAll()
	p.mu.Unlock()
	err := p.listener.Close()
	p.wg.Wait()
	return err
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.wg.Go(func() { p.serve(client) })
	}
}

func (p *Proxy) serve(client net.Conn) {
	p.mu.Lock()
	to := p.server
	p.mu.Unlock()
	server, err := net.Dial("tcp", to)
	if err != nil {
		reset(client)
		return
	}
	l := &link{client: client, server: server, gone: make(chan struct{})}
	p.mu.Lock()
	p.links[l] = struct{}{}
	if p.closed || p.fault.Cut {
		l.reset()
	}
	p.mu.Unlock()

	var both sync.WaitGroup
	both.Go(func() { p.pass(l, server, client, false) })
	both.Go(func() { p.pass(l, client, server, true) })
	both.Wait()
	l.reset()
	p.mu.Lock()
	delete(p.links, l)
	p.mu.Unlock()
}

// pass copies from one side to the other until one of them ends.
func (p *Proxy) pass(l *link, to, from net.Conn, answers bool) {
	buffer := make([]byte, 32*1024)
	for {
		n, err := from.Read(buffer)
		if !p.lets(l, answers && n > 0) {
			l.reset()
			return
		}
		if _, failed := to.Write(buffer[:n]); failed != nil {
			l.reset()
			return
		}
		if err != nil { // it has nothing more to say, and may still listen
			_ = to.(*net.TCPConn).CloseWrite()
			return
		}
	}
}

// lets waits until a piece may arrive, and reports whether it does.
func (p *Proxy) lets(l *link, answer bool) bool {
	delayed := false
	for {
		p.mu.Lock()
		f, changed := p.fault, p.changed
		var wait <-chan time.Time
		switch {
		case f.Hold:
		case f.Delay > 0 && !delayed:
			wait, delayed = time.After(f.Delay), true
		default:
			lost := false
			if answer && f.LoseAnswers > 0 {
				p.answers++
				lost = p.answers%f.LoseAnswers == 0
			}
			if lost {
				p.lost++
			}
			p.mu.Unlock()
			return !lost
		}
		p.mu.Unlock()
		select {
		case <-changed:
		case <-wait:
		case <-l.gone:
			return false
		}
	}
}

// resetAll resets all connections. The lock is held.
func (p *Proxy) resetAll() {
	for l := range p.links {
		l.reset()
	}
}

func (l *link) reset() {
	l.once.Do(func() {
		reset(l.client)
		reset(l.server)
		close(l.gone)
	})
}

// reset closes a connection so that the other side gets an error, and not the
// end of what was sent.
func reset(c net.Conn) {
	_ = c.(*net.TCPConn).SetLinger(0)
	_ = c.Close()
}
