package messages

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/wire"
)

// requests copies from the client until it ends.
func (s *Session) requests(ctx context.Context) error {
	if err := s.Upstream.Flush(); err != nil {
		return fmt.Errorf("write to the upstream: %w", err)
	}
	for {
		need, err := s.take(ctx)
		if err != nil {
			return err
		}
		if err := s.flush(); err != nil || s.ended {
			return err
		}
		if err := s.fill(max(need, flushBytes)); err != nil {
			return err
		}
	}
}

// fill reads from the client. While it waits the session may come to rest; what
// it has read by then is for the loop.
func (s *Session) fill(limit int) error {
	s.mu.Lock()
	s.reading = true
	s.mu.Unlock()
	_, err := s.Client.Fill(limit)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reading = false
	switch {
	case s.resting && (err == nil || errors.Is(err, os.ErrDeadlineExceeded)):
		return errRest
	case err != nil:
		return fmt.Errorf("read from the client: %w", err)
	}
	return nil
}

// within checks the length of a message, whole or announced, before room is
// made for it.
func (s *Session) within(n, need int) error {
	if n = max(n, need); n > s.Limits.MessageBytes {
		return tooLong(n, s.Limits.MessageBytes)
	}
	return nil
}

func tooLong(need, limit int) *engine.Denial {
	return &engine.Denial{
		Code:   engine.Limit,
		Reason: fmt.Sprintf("a message of %d bytes is longer than the limit of %d", need, limit),
		Help:   "send it in smaller pieces, or ask the operator to raise limits.message_bytes",
	}
}

// take hands every whole message that is buffered to the codec and returns how
// many bytes the next one needs.
func (s *Session) take(ctx context.Context) (need int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	step, err := s.left.request()
	if err == nil {
		err = s.decide(ctx, step)
	}
	if err == nil {
		err = s.hold(ctx) // a step of the loop may have left it to us
	}
	if err != nil {
		return 0, err
	}
	for !s.ended && !s.quiet {
		buf := s.Client.Buffered()
		n, need, err := s.Codec.SplitRequest(buf)
		if err == nil {
			err = s.within(n, need)
		}
		if n == 0 || err != nil {
			return need, err
		}
		step, err := s.Codec.Request(&s.out, buf[:n])
		s.Client.Discard(n)
		if err != nil {
			return 0, err
		}
		if err := s.decide(ctx, step); err != nil {
			return 0, err
		}
		s.ended = step.End
		if err := s.hold(ctx); err != nil {
			return 0, err
		}
		if len(s.out.Up) >= flushBytes || len(s.out.Down) >= flushBytes {
			s.mu.Unlock()
			err = s.flush()
			s.mu.Lock()
			if err != nil {
				return 0, err
			}
		}
	}
	return 1, nil
}

// decide is called with s.mu held and returns with it held; it gives it up
// while it waits for the grammar or for people.
func (s *Session) decide(ctx context.Context, step Step) error {
	r := step.request()
	if r == nil {
		return nil
	}
	s.deciding = true
	defer func() { s.deciding = false }()
	if !s.Resolver.Known(r) {
		if err := s.unlocked(func() error { return s.resolve(ctx, r) }); err != nil {
			return s.denied(err)
		}
		if !s.Resolver.Known(r) {
			return errors.New("a request is unknown after it was resolved")
		}
	}
	if step.Decide == nil {
		return s.prepare(r)
	}
	x, err := s.submit(ctx, r)
	return s.decided(x, err)
}

func (s *Session) prepare(r *engine.Request) error {
	if d := s.Gate.Would(r); d != nil {
		return s.denied(d)
	}
	s.Codec.Allowed(&s.out, nil)
	return nil
}

func (s *Session) decided(x engine.Exchange, err error) error {
	if err != nil {
		return s.denied(err)
	}
	s.Codec.Allowed(&s.out, x)
	return nil
}

// denied lets the codec answer a denial; every other error ends the session.
func (s *Session) denied(err error) error {
	var d *engine.Denial
	if !errors.As(err, &d) {
		return err
	}
	s.Codec.Denied(&s.out, d)
	return nil
}

// unlocked flushes what came before and runs f without the lock.
func (s *Session) unlocked(f func() error) error {
	s.mu.Unlock()
	defer s.mu.Lock()
	if err := s.flush(); err != nil {
		return err
	}
	return f()
}

// resolve asks the resolver. The nil *Denial must not become a non-nil error.
func (s *Session) resolve(ctx context.Context, r *engine.Request) error {
	if d := s.Resolver.Resolve(ctx, r); d != nil {
		return s.refused(ctx, r, d)
	}
	return nil
}

// refused puts a request that could not be understood on record: the gate
// denies it for want of effects, and the resolver's words, which say more, are
// what the client hears.
func (s *Session) refused(ctx context.Context, r *engine.Request, d *engine.Denial) error {
	r.Refused = d
	_, err := s.Gate.Submit(ctx, r)
	if err == nil {
		return fmt.Errorf("the gate allowed a request that was refused: %w", d)
	}
	return err
}

// submit asks the gate. Should the request have to wait for a person, the lock
// is given up, everything before it is flushed, and the client is watched:
// bytes it sends meanwhile are kept up to a limit, and its end ends the wait.
func (s *Session) submit(ctx context.Context, r *engine.Request) (engine.Exchange, error) {
	var (
		waiting bool
		watch   sync.WaitGroup
	)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r.Pending = func(p engine.Pending) {
		if waiting {
			return
		}
		s.Codec.Pending(&s.out, p)
		waiting, s.withdraw, s.runs = true, cancel, false
		s.mu.Unlock()
		if err := s.flush(); err != nil {
			cancel(engine.ErrGone)
		}
		watch.Go(func() { s.watchClient(cancel) })
	}
	defer func() { // also when the gate panics, because callers give the lock up
		if waiting {
			s.Client.SetReadDeadline(time.Unix(1, 0)) // ends watchClient
			watch.Wait()
			s.Client.SetReadDeadline(time.Time{})
			s.mu.Lock()
			s.withdraw = nil
		}
	}()
	return s.Gate.Submit(ctx, r)
}

// watchClient reads ahead until its deadline is moved to the past.
func (s *Session) watchClient(cancel context.CancelCauseFunc) {
	for {
		_, err := s.Client.Fill(s.Limits.HeldBytes)
		switch {
		case err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, wire.ErrTooLong):
			return
		default:
			cancel(engine.ErrGone)
			return
		}
	}
}
