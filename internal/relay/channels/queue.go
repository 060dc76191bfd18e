package channels

import (
	"sync"

	"golang.org/x/crypto/ssh"
)

// queue takes requests off a connection as they come, and has them handled in
// order: the library reads nothing of a connection while sixteen requests of a
// channel wait. While none waits it has no goroutine of its own.
type queue struct {
	most   int // bytes of what waits
	handle func(*ssh.Request)

	mu      sync.Mutex
	wait    []*ssh.Request
	bytes   int
	busy    bool // work runs
	running sync.WaitGroup
}

// fill puts in all that comes, until there is no more. When it is too much, full
// is called, which ends what the requests belong to; the rest is refused.
func (q *queue) fill(requests <-chan *ssh.Request, full func()) {
	for r := range requests {
		if !q.put(r) {
			full()
			r.Reply(false, nil) //nolint:errcheck // the channel is gone then
			ssh.DiscardRequests(requests)
			return
		}
	}
}

func (q *queue) put(r *ssh.Request) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.wait) >= maxQueued || q.bytes+len(r.Payload) > q.most {
		return false
	}
	q.bytes += len(r.Payload)
	q.wait = append(q.wait, r)
	if !q.busy {
		q.busy = true
		q.running.Go(q.work)
	}
	return true
}

// work handles what waits.
func (q *queue) work() {
	for r := q.take(); r != nil; r = q.take() {
		q.handle(r)
	}
}

func (q *queue) take() *ssh.Request {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.wait) == 0 {
		q.busy, q.wait = false, nil
		return nil
	}
	r := q.wait[0]
	q.wait = q.wait[1:]
	q.bytes -= len(r.Payload)
	return r
}

// done waits until all that fill put in is handled.
func (q *queue) done() { q.running.Wait() }
