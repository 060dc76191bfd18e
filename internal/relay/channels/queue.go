package channels

import (
	"sync"

	"golang.org/x/crypto/ssh"
)

// queue takes requests off a connection as they come: the library reads nothing
// of a connection while sixteen requests of a channel wait.
type queue struct {
	most int // bytes of what waits

	mu    sync.Mutex
	wake  sync.Cond
	wait  []*ssh.Request
	bytes int
	ended bool
}

func newQueue(most int) *queue {
	q := &queue{most: most}
	q.wake.L = &q.mu
	return q
}

// fill puts in all that comes, until there is no more. When it is too much, full
// is called, which ends what the requests belong to; the rest is refused.
func (q *queue) fill(requests <-chan *ssh.Request, full func()) {
	defer q.end()
	for r := range requests {
		if !q.put(r) {
			full()
			q.end()
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
	q.wake.Signal()
	return true
}

func (q *queue) end() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ended = true
	q.wake.Signal()
}

// take waits for the next request; nil when there are no more.
func (q *queue) take() *ssh.Request {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.wait) == 0 && !q.ended {
		q.wake.Wait()
	}
	if len(q.wait) == 0 {
		return nil
	}
	r := q.wait[0]
	q.wait = q.wait[1:]
	q.bytes -= len(r.Payload)
	if len(q.wait) == 0 {
		q.wait = nil
	}
	return r
}
