package channels

import (
	"sync"

	"golang.org/x/crypto/ssh"
)

// queue takes requests off a connection as they come: the library reads nothing
// of a connection while sixteen requests of a channel wait.
type queue struct {
	mu    sync.Mutex
	wake  sync.Cond
	wait  []*ssh.Request
	ended bool
}

func newQueue() *queue {
	q := &queue{}
	q.wake.L = &q.mu
	return q
}

// fill puts in all that comes, until there is no more or it is too much.
func (q *queue) fill(requests <-chan *ssh.Request) (fits bool) {
	defer q.end()
	for r := range requests {
		if !q.put(r) {
			go ssh.DiscardRequests(requests) // ends with the channel, which is closed next
			return false
		}
	}
	return true
}

func (q *queue) put(r *ssh.Request) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.wait) >= maxQueued {
		return false
	}
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
	if len(q.wait) == 0 {
		q.wait = nil
	}
	return r
}
