package faultnet

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A server answers each line with its number, and remembers it.
type server struct {
	listener net.Listener

	mu   sync.Mutex
	seen []string
}

func (s *server) did() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.seen...)
}

// serve starts a server with a bad network before it.
func serve(t *testing.T) (*server, *Proxy) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := &server{listener: listener}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				for lines := bufio.NewScanner(conn); lines.Scan(); {
					s.mu.Lock()
					s.seen = append(s.seen, lines.Text())
					n := len(s.seen)
					s.mu.Unlock()
					fmt.Fprintln(conn, n)
				}
			})
		}
	})
	p, err := Listen(listener.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, p.Close())
		require.NoError(t, listener.Close())
		wg.Wait()
	})
	return s, p
}

// A client asks over one connection.
type client struct {
	net.Conn
	answers *bufio.Reader
}

func connect(t *testing.T, p *Proxy) *client {
	conn, err := net.Dial("tcp", p.Addr())
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return &client{conn, bufio.NewReader(conn)}
}

func (c *client) ask(line string) (string, error) {
	if _, err := fmt.Fprintln(c, line); err != nil {
		return "", err
	}
	return c.answers.ReadString('\n')
}

func TestNoFault(t *testing.T) {
	_, p := serve(t)
	c := connect(t, p)
	for i := range 3 {
		answer, err := c.ask("a")
		require.NoError(t, err)
		require.Equal(t, fmt.Sprintln(i+1), answer)
	}
	require.NoError(t, c.Conn.(*net.TCPConn).CloseWrite())
	_, err := c.answers.ReadByte()
	require.Equal(t, io.EOF, err, "the end of one side arrives, and that of the other comes back")
}

func TestCut(t *testing.T) {
	s, p := serve(t)
	c := connect(t, p)
	_, err := c.ask("a")
	require.NoError(t, err)
	p.Set(Fault{Cut: true})
	_, err = c.ask("b")
	require.Error(t, err)
	conn, err := net.Dial("tcp", p.Addr())
	if err == nil {
		defer conn.Close()
		_, err = (&client{conn, bufio.NewReader(conn)}).ask("c")
	}
	require.Error(t, err)
	require.Equal(t, []string{"a"}, s.did())
	p.Set(Fault{})
	_, err = c.ask("d")
	require.Error(t, err, "a connection that was cut stays so")
	answer, err := connect(t, p).ask("e")
	require.NoError(t, err)
	require.Equal(t, "2\n", answer)
}

func TestHold(t *testing.T) {
	s, p := serve(t)
	c := connect(t, p)
	p.Set(Fault{Hold: true})
	require.NoError(t, c.SetReadDeadline(time.Now().Add(20*time.Millisecond)))
	_, err := c.ask("a")
	var timeout net.Error
	require.ErrorAs(t, err, &timeout)
	require.True(t, timeout.Timeout())
	gone := connect(t, p)
	_, err = fmt.Fprintln(gone, "b")
	require.NoError(t, err)
	require.NoError(t, gone.Close())
	require.Empty(t, s.did())

	p.Set(Fault{})
	require.NoError(t, c.SetReadDeadline(time.Time{}))
	_, err = c.answers.ReadString('\n')
	require.NoError(t, err, "it arrives when the fault is over")
	require.Eventually(t, func() bool { return len(s.did()) == 2 }, time.Minute, time.Millisecond, "also of who has gone")
}

func TestDelay(t *testing.T) {
	_, p := serve(t)
	c := connect(t, p)
	const delay = 20 * time.Millisecond
	p.Set(Fault{Delay: delay})
	began := time.Now()
	_, err := c.ask("a")
	require.NoError(t, err)
	require.GreaterOrEqual(t, time.Since(began), 2*delay, "there and back")
}

func TestLoseAnswers(t *testing.T) {
	s, p := serve(t)
	c := connect(t, p)
	p.Set(Fault{LoseAnswers: 1})
	_, err := c.ask("a")
	require.Error(t, err)
	require.Equal(t, []string{"a"}, s.did(), "it was done")
	require.Equal(t, 1, p.Lost())

	p.Set(Fault{LoseAnswers: 3})
	failed := 0
	c = connect(t, p)
	for range 9 {
		if _, err := c.ask("b"); err != nil {
			failed++
			c = connect(t, p)
		}
	}
	require.Equal(t, 3, failed)
	require.Len(t, s.did(), 10)
}

func TestCloseWhileItHolds(t *testing.T) {
	_, p := serve(t)
	c := connect(t, p)
	p.Set(Fault{Hold: true})
	_, err := fmt.Fprintln(c, "a")
	require.NoError(t, err)
}

// A name leads elsewhere: who is connected stays, who connects goes there.
func TestRedirect(t *testing.T) {
	s, p := serve(t)
	other, _ := serve(t)
	c := connect(t, p)
	_, err := c.ask("a")
	require.NoError(t, err)
	p.Redirect(other.listener.Addr().String())
	_, err = c.ask("b")
	require.NoError(t, err)
	_, err = connect(t, p).ask("c")
	require.NoError(t, err)
	require.Equal(t, []string{"a", "b"}, s.did())
	require.Equal(t, []string{"c"}, other.did())
}
