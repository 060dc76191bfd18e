package guard

import (
	"context"
	"sync"
)

// shift is what has to be over before another guard takes over: it is entered and
// left, and closed by who hands over.
type shift struct {
	mu      sync.Mutex
	inside  int
	closing bool
	closed  bool          // nobody is inside, and nobody comes in
	changed chan struct{} // closed at the next change; nil: nobody waits
}

// enter says whether one may: not while somebody hands over.
func (s *shift) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return false
	}
	s.inside++
	return true
}

// enterNext waits until nobody hands over.
func (s *shift) enterNext() { s.enterAfter(&s.closing) }

// enterLate is for what only has to come to its end: it waits where the next guard
// will do it, or where nothing comes of the handing over.
func (s *shift) enterLate() { s.enterAfter(&s.closed) }

func (s *shift) enterAfter(state *bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for *state {
		s.wait(context.Background())
	}
	s.inside++
}

func (s *shift) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inside--
	s.tell()
}

// close waits until nobody is inside; who comes is turned away meanwhile. When ctx
// ends first all is as before.
func (s *shift) close(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closing = true
	for s.inside > 0 && ctx.Err() == nil {
		s.wait(ctx)
	}
	if ctx.Err() != nil {
		s.closing = false
		s.tell()
		return context.Cause(ctx)
	}
	s.closed = true
	return nil
}

func (s *shift) open() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closing, s.closed = false, false
	s.tell()
}

// wait returns at the next change, or with ctx; called with mu held.
func (s *shift) wait(ctx context.Context) {
	if s.changed == nil {
		s.changed = make(chan struct{})
	}
	changed := s.changed
	s.mu.Unlock()
	defer s.mu.Lock()
	select {
	case <-changed:
	case <-ctx.Done():
	}
}

// tell wakes who waits; called with mu held.
func (s *shift) tell() {
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
}
