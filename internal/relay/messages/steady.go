package messages

import (
	"context"
	"fmt"
	"time"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/wire"
)

// bulkBytes is how much of one answer the loop relays before it leaves the rest
// to goroutines, which are as fast at that and keep nobody else waiting.
const bulkBytes = 256 << 10

// left is what a session takes from the loop to its goroutines. It is taken up
// where it was left, by the goroutine whose work it is.
type left struct {
	step     Step  // of a request that has to wait for its decision
	upward   error // ends the client's goroutine
	downward error // ends the upstream's
}

func (l *left) request() (Step, error) {
	step, err := l.step, l.upward
	l.step, l.upward = Step{}, nil
	return step, err
}

func (l *left) response() error {
	err := l.downward
	l.downward = nil
	return err
}

// request is what is to be decided, nil for nothing.
func (s Step) request() *engine.Request {
	if s.Decide != nil {
		return s.Decide
	}
	return s.Prepare
}

// rest reports whether the session is to go on in the loop: nothing is owed,
// nothing is to be written, and the client's goroutine waits for the client. It
// stops that goroutine.
func (s *Session) rest() bool {
	if s.Loop == nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.reading || len(s.out.Up)+len(s.out.Down) > 0 || !s.Codec.Idle() {
		return false
	}
	s.resting = true
	s.Client.SetReadDeadline(time.Unix(1, 0))
	return true
}

// steady drives the session in the loop until something would have to wait. On
// return both connections are attached and whatever has to be done next, an
// error included, is left for relay.
func (s *Session) steady(ctx context.Context) {
	if err := s.detach(); err != nil {
		s.Loop = nil // were it to try again it would do nothing else
		return
	}
	defer s.attach()
	if len(s.out.Up)+len(s.out.Down) == 0 {
		s.out, s.spare = Out{}, Out{}
	}
	if s.step(s.Client, nil) && s.step(s.Upstream, nil) && !s.Loop.drive(ctx, s) {
		s.Loop = nil
	}
}

func (s *Session) detach() error {
	err := s.Client.Detach()
	if err != nil {
		return err
	}
	if err = s.Upstream.Detach(); err != nil {
		s.Client.Attach() //nolint:errcheck // its error is that of the next read
	}
	return err
}

func (s *Session) attach() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.Client.Attach(); err != nil && s.left.upward == nil {
		s.left.upward = fmt.Errorf("leave the loop: %w", err)
	}
	if err := s.Upstream.Attach(); err != nil && s.left.downward == nil {
		s.left.downward = fmt.Errorf("leave the loop: %w", err)
	}
}

// room is what a thread of the loop lends to the session it serves, so that
// sessions on which nothing happens hold nothing.
type room struct {
	read []byte
	out  Out
}

// step relays what one side has sent. It does not wait, and reports whether the
// session may stay in the loop; else the reason is in left, or shows again in
// relay. A panic is such a reason.
func (s *Session) step(from *wire.Conn, lent *room) (stay bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.protected(func() error {
		stay = s.served(from, lent)
		return nil
	})
	if err != nil {
		s.left.upward, s.left.downward, stay = err, err, false
	}
	return stay
}

// served is step with s.mu held.
func (s *Session) served(from *wire.Conn, lent *room) bool {
	if lent != nil && s.out.Up == nil && s.out.Down == nil {
		s.out, lent.out = lent.out, Out{}
		defer s.reclaim(lent)
	}
	give := s.giveNow
	if from == s.Client {
		give, s.bulk = s.takeNow, 0
	}
	from.Ready()
	defer from.Settle()
	for {
		stay := give()
		if s.left.upward != nil || s.left.downward != nil {
			return false // as with relay, what came before an error stays here
		}
		if !s.writeNow() || !stay {
			return false
		}
		if lent != nil {
			from.Lend(lent.read)
		}
		before := len(from.Buffered())
		after, err := from.Fill(flushBytes)
		if err == wire.ErrWouldBlock {
			return true
		}
		if s.bulk += len(after) - before; err != nil || s.bulk > bulkBytes {
			return false // relay reads the error again
		}
	}
}

// reclaim takes back what was lent, unless a panic left something unwritten: no
// byte of one session may get into another.
func (s *Session) reclaim(lent *room) {
	if len(s.out.Up)+len(s.out.Down) == 0 {
		s.out, lent.out = Out{}, s.out
	}
}

// takeNow is take for as long as nothing has to wait.
func (s *Session) takeNow() bool {
	for !s.ended && !s.quiet {
		buf := s.Client.Buffered()
		n, need, err := s.Codec.SplitRequest(buf)
		if err != nil || s.within(n, need) != nil || need > flushBytes {
			return false // as take finds, too
		}
		if n == 0 {
			return true
		}
		step, err := s.Codec.Request(&s.out, buf[:n])
		s.Client.Discard(n)
		if err != nil {
			s.left.upward = err
			return false
		}
		if !s.decideNow(step) {
			return false
		}
		s.ended = step.End
		if s.Codec.Held() != nil {
			return false // people are waited for
		}
	}
	return false
}

// decideNow decides what can be decided without waiting, and leaves the rest.
func (s *Session) decideNow(step Step) bool {
	r := step.request()
	if r == nil {
		return true
	}
	if !s.Resolver.Known(r) {
		s.left.step = step
		return false
	}
	if step.Decide == nil {
		s.left.upward = s.prepare(r)
		return s.left.upward == nil
	}
	x, now, err := s.Gate.SubmitNow(r)
	if !now {
		s.left.step = step
		return false
	}
	s.left.upward = s.decided(x, err)
	return s.left.upward == nil
}

// giveNow is give for a session in the loop, where what the codec asks of the
// upstream on its own account is written by writeNow.
func (s *Session) giveNow() bool {
	for {
		buf := s.Upstream.Buffered()
		n, need, err := s.Codec.SplitResponse(buf)
		if err != nil || s.within(n, need) != nil || need > flushBytes {
			return false // as give finds, too
		}
		if n == 0 {
			return true
		}
		err = s.Codec.Response(&s.out, buf[:n])
		s.Upstream.Discard(n)
		if err != nil {
			s.left.downward = err
			return false
		}
	}
}

// writeNow writes what is due and reports whether all of it was taken. What was
// not is kept by the connection, for relay to flush.
func (s *Session) writeNow() bool {
	if up := s.out.Up; len(up) > 0 {
		if _, err := s.Upstream.Write(up); err != nil && s.left.upward == nil {
			s.left.upward = fmt.Errorf("write to the upstream: %w", err)
		}
		s.out.Up = shrunk(up)
	}
	if down := s.out.Down; len(down) > 0 {
		if _, err := s.Client.Write(down); err != nil && s.left.downward == nil {
			s.left.downward = fmt.Errorf("write to the client: %w", err)
		}
		s.out.Down = shrunk(down)
	}
	return s.left.upward == nil && s.left.downward == nil && !s.Upstream.Stuck() && !s.Client.Stuck()
}
