package messages

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/postern/postern/internal/wire"
)

// Loop serves sessions in their steady state on few threads, each of which
// waits for all of its sessions at once. A session enters when it rests and
// leaves when something would have to wait; while the loop does not run, none
// enters. It knows no protocol and does nothing that relay would not do.
type Loop struct {
	threads []*thread
	poller  func() (wire.Poller, error)
}

// NewLoop returns a loop of so many threads, one per two processors being
// enough. It starts nothing.
func NewLoop(threads int, poller func() (wire.Poller, error)) *Loop {
	l := &Loop{poller: poller}
	for range max(threads, 1) {
		l.threads = append(l.threads, &thread{})
	}
	return l
}

// Run serves until ctx ends; the sessions that are in the loop then go on with
// goroutines.
func (l *Loop) Run(ctx context.Context) error {
	var running sync.WaitGroup
	errs := make([]error, len(l.threads))
	for i, t := range l.threads {
		running.Go(func() { errs[i] = t.run(ctx, l.poller) })
	}
	running.Wait()
	return errors.Join(errs...)
}

// drive has s served until it leaves, which it does at once when ctx ends. It
// returns false when the loop does not run.
func (l *Loop) drive(ctx context.Context, s *Session) bool {
	best := l.threads[0]
	for _, t := range l.threads[1:] {
		if t.sessions() < best.sessions() {
			best = t
		}
	}
	m, ok := best.enter(s)
	if !ok {
		return false
	}
	stop := context.AfterFunc(ctx, func() { best.call(m) })
	defer stop()
	<-m.left
	return true
}

// Turn returns when each thread has gone round once more, which takes
// microseconds where none is stuck; else with ctx.
func (l *Loop) Turn(ctx context.Context) error {
	for i, t := range l.threads {
		turned, ok := t.turn()
		if !ok {
			continue // it does not run, and sessions have goroutines
		}
		select {
		case <-turned:
		case <-ctx.Done():
			return fmt.Errorf("thread %d of the relay loop does not turn: %w", i, ctx.Err())
		}
	}
	return nil
}

// thread is one of a loop's.
type thread struct {
	mu      sync.Mutex // guards what follows
	turned  []chan struct{}
	poller  wire.Poller // nil while the thread does not run
	members map[uint64]*member
	called  []*member // asked to leave
	last    uint64    // id given, never to be given again
}

// member is a session in the loop. Its client is watched under its id, its
// upstream under the next number.
type member struct {
	session *Session
	id      uint64
	left    chan struct{}
}

func (t *thread) sessions() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.members)
}

// enter begins to watch a session. It is not ok while the thread does not run.
func (t *thread) enter(s *Session) (m *member, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.poller == nil {
		return nil, false
	}
	t.last += 2
	m = &member{session: s, id: t.last, left: make(chan struct{})}
	t.members[m.id] = m // before the first event
	err := t.poller.Watch(s.Client, m.id)
	if err == nil {
		err = t.poller.Watch(s.Upstream, m.id|1)
	}
	if err != nil {
		t.dismiss(m)
		return nil, false
	}
	return m, true
}

// call asks a member to leave, which may have left already.
func (t *thread) call(m *member) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.members[m.id] == m && t.poller != nil {
		t.called = append(t.called, m)
		t.poller.Wake()
	}
}

// turn returns what is closed at the end of the next round.
func (t *thread) turn() (turned <-chan struct{}, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.poller == nil {
		return nil, false
	}
	c := make(chan struct{})
	t.turned = append(t.turned, c)
	t.poller.Wake()
	return c, true
}

// dismiss ends a membership. t.mu is held, and no step of it is under way.
func (t *thread) dismiss(m *member) {
	if t.members[m.id] != m {
		return
	}
	delete(t.members, m.id)
	t.poller.Forget(m.session.Client)
	t.poller.Forget(m.session.Upstream)
	close(m.left)
}

func (t *thread) run(ctx context.Context, open func() (wire.Poller, error)) error {
	poller, err := open()
	if err != nil {
		return fmt.Errorf("relay loop: %w", err)
	}
	t.mu.Lock()
	t.poller, t.members = poller, map[uint64]*member{}
	t.mu.Unlock()
	defer t.end()
	stop := context.AfterFunc(ctx, t.wake)
	defer stop()

	var ready []uint64
	lent := &room{read: make([]byte, flushBytes)}
	for ctx.Err() == nil {
		if ready, err = poller.Wait(ready[:0]); err != nil {
			return fmt.Errorf("relay loop: %w", err)
		}
		for _, id := range ready {
			t.serve(id, lent)
		}
		t.dismissCalled()
	}
	return nil
}

// serve relays what one side of a member has sent; the member may have left
// with an earlier event.
func (t *thread) serve(id uint64, lent *room) {
	t.mu.Lock()
	m := t.members[id&^1]
	t.mu.Unlock()
	if m == nil {
		return
	}
	from := m.session.Client
	if id&1 != 0 {
		from = m.session.Upstream
	}
	if !m.session.step(from, lent) {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.dismiss(m)
	}
}

func (t *thread) dismissCalled() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, m := range t.called {
		t.dismiss(m)
	}
	clear(t.called)
	t.called = t.called[:0]
	t.tellTurned()
}

// tellTurned is called with t.mu held.
func (t *thread) tellTurned() {
	for _, c := range t.turned {
		close(c)
	}
	t.turned = nil
}

func (t *thread) wake() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.poller != nil {
		t.poller.Wake()
	}
}

// end lets everybody go.
func (t *thread) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, m := range t.members {
		t.dismiss(m)
	}
	t.called = nil
	t.tellTurned()
	t.poller.Close() //nolint:errcheck // nothing is left in it
	t.poller = nil
}
