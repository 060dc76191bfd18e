package messages

import (
	"context"
	"sync"
	"time"

	"github.com/postern/postern/internal/engine"
)

// Held is a request that runs, or has run, before people decide. The codec keeps
// what it has done from lasting and its answer from the client until it is
// settled. But for Prepare and the channels, it is called with the session's lock.
type Held interface {
	Exchange() engine.Exchange
	// Prepare finds out what it takes to run it. It is called first, without the
	// lock, and may wait.
	Prepare(ctx context.Context)
	// Start runs it.
	Start(out *Out)
	// Ran is closed when the upstream has answered; it may be closed from the start.
	Ran() <-chan struct{}
	// Preview is what people are shown. It is not ok when there is nothing left
	// that they could decide.
	Preview() (p engine.Preview, ok bool)
	// Settled has it stay or be undone, whether it has run by then or not.
	Settled(out *Out, d *engine.Denial) error
	// Over is closed when the client may send its next request.
	Over() <-chan struct{}
	// Rest takes up what the client had sent behind it, as Request does.
	Rest(out *Out) (Step, error)
}

// hold sees the codec's held request through, if it has one. It is called with
// s.mu held and returns with it held. Meanwhile nothing else of the client goes
// on: what it sends is kept up to a limit, and its end undoes the request.
func (s *Session) hold(ctx context.Context) error {
	h := s.Codec.Held()
	if h == nil {
		return nil
	}
	err := s.unlocked(func() error { h.Prepare(ctx); return nil })
	if err != nil {
		return err
	}
	h.Start(&s.out)
	d := s.settle(ctx, h)
	if err := h.Settled(&s.out, d); err != nil {
		return err
	}
	err = s.unlocked(func() error {
		select {
		case <-h.Over():
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	})
	if err != nil {
		return err
	}
	step, err := h.Rest(&s.out)
	if err != nil {
		return err
	}
	if err := s.decide(ctx, step); err != nil {
		return err
	}
	s.ended = s.ended || step.End
	return s.hold(ctx)
}

// settle waits for the upstream and then for people; nil means that they agreed.
func (s *Session) settle(ctx context.Context, h Held) *engine.Denial {
	var watch sync.WaitGroup
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s.withdraw, s.runs = cancel, true
	s.mu.Unlock()
	defer func() {
		s.Client.SetReadDeadline(time.Unix(1, 0)) // ends watchClient
		watch.Wait()
		s.Client.SetReadDeadline(time.Time{})
		s.mu.Lock()
		s.withdraw = nil
	}()
	if err := s.flush(); err != nil {
		cancel(engine.ErrGone)
	}
	watch.Go(func() { s.watchClient(cancel) })
	select {
	case <-h.Ran():
	case <-ctx.Done():
	}
	s.mu.Lock()
	s.runs = false
	p, ok := h.Preview()
	s.mu.Unlock()
	if !ok {
		return nil
	}
	return h.Exchange().Settle(ctx, p, func(p engine.Pending) {
		s.mu.Lock()
		s.Codec.Pending(&s.out, p)
		s.mu.Unlock()
		if err := s.flush(); err != nil {
			cancel(engine.ErrGone)
		}
	})
}

// Withdraw cancels the request that waits for a person, if one does. It reports
// whether that is all: what has not been answered yet has to be cancelled
// upstream too.
func (s *Session) Withdraw() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.withdraw == nil {
		return false
	}
	s.withdraw(engine.ErrWithdrawn)
	return !s.runs
}
