package notify

import (
	"sync"
	"time"
)

// How many notifications are on their way at once, to all hosts and to one, how
// many more wait for one, and how long one may wait. A host that takes 5 s for each
// answer then holds up 8 of 128, and no more than 4096 closures are in memory for
// it: the sweep sends what was dropped.
const (
	outboxAtOnce  = 128
	outboxPerHost = 8
	outboxWaiting = 4096
	outboxWait    = 10 * time.Second
)

// An Outbox sends what it is given, a few at a time for each host: one that is
// slow holds up nobody but itself. It keeps nothing that the store does not
// have: what it drops is sent by a later sweep. The zero value is ready.
type Outbox struct {
	mu    sync.Mutex
	hosts map[string]*outboxHost
	busy  int
	idle  chan struct{} // closed when nothing is on its way; nil: nobody waits for that
}

type outboxHost struct {
	waiting []outboxJob
	busy    int
}

type outboxJob struct {
	do    func(run bool)
	since time.Time
}

// Put queues do. It is called with true, in its own goroutine, when its turn comes,
// or with false if it waited too long; then it must return at once.
func (o *Outbox) Put(host string, do func(run bool)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.hosts == nil {
		o.hosts = map[string]*outboxHost{}
	}
	q := o.hosts[host]
	if q == nil {
		q = &outboxHost{}
		o.hosts[host] = q
	}
	if len(q.waiting) >= outboxWaiting {
		do(false)
		return
	}
	q.waiting = append(q.waiting, outboxJob{do: do, since: time.Now()})
	o.start()
}

// start starts what may start. The lock is held.
func (o *Outbox) start() {
	for host, q := range o.hosts {
		for len(q.waiting) > 0 && q.busy < outboxPerHost && o.busy < outboxAtOnce {
			job := q.waiting[0]
			q.waiting = q.waiting[1:]
			q.busy++
			o.busy++
			go o.run(q, job)
		}
		if len(q.waiting) == 0 && q.busy == 0 {
			delete(o.hosts, host)
		}
	}
	if o.busy == 0 && o.idle != nil {
		close(o.idle)
		o.idle = nil
	}
}

func (o *Outbox) run(q *outboxHost, job outboxJob) {
	job.do(time.Since(job.since) < outboxWait)
	o.mu.Lock()
	defer o.mu.Unlock()
	q.busy--
	o.busy--
	o.start()
}

// Drop drops what waits. The channel is closed when what is on its way has come to
// its end.
func (o *Outbox) Drop() <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, q := range o.hosts {
		for _, job := range q.waiting {
			job.do(false)
		}
		q.waiting = nil
	}
	if o.busy == 0 {
		closed := make(chan struct{})
		close(closed)
		return closed
	}
	if o.idle == nil {
		o.idle = make(chan struct{})
	}
	return o.idle
}
