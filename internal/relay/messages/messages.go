// Package messages drives a protocol of framed messages: inspect, decide,
// record, forward, mask, in that order, written once. The protocol supplies a
// Codec that knows the bytes and does no I/O; this package does the I/O and
// knows no protocol.
//
// Start with Session.Run. Two goroutines copy, one per direction; what they
// share is the codec's state, under one lock that is never held across I/O or
// while a request waits for a person. The one that reads the upstream never
// writes to it: an upstream that is busy answering may not be reading.
package messages

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/wire"
)

// flushBytes is how much may pile up for one side before it is written: about
// what one read brings.
const flushBytes = 64 << 10

// goodbyeTimeout bounds the last words to a client that may not be reading.
const goodbyeTimeout = 2 * time.Second

// Codec is one session's protocol state. Calls never overlap. A msg is one
// whole message, valid during the call only.
type Codec interface {
	// SplitRequest and SplitResponse return the length of the first whole
	// message in buf, or 0 and, where known, how many bytes it will need.
	SplitRequest(buf []byte) (n, need int, err error)
	SplitResponse(buf []byte) (n, need int, err error)

	// Request takes one message of the client. It either appends what goes on
	// to out, or keeps the message and returns what must be decided first; then
	// exactly one of Allowed and Denied follows before the next Request.
	Request(out *Out, msg []byte) (Step, error)
	// Allowed forwards the kept message. The exchange is nil for Step.Prepare.
	Allowed(out *Out, x engine.Exchange)
	// Denied answers it, in its turn, in the protocol's own words.
	Denied(out *Out, d *engine.Denial)
	// Pending tells the client that the kept message waits for a person.
	Pending(out *Out, p engine.Pending)
	// Response takes one message of the upstream.
	Response(out *Out, msg []byte) error

	// Goodbye appends the last words to a client whose session is ended by us.
	Goodbye(out *Out, d *engine.Denial)
	// Broken ends every exchange that is still open. It is called last.
	Broken()
}

// Step is what a Codec makes of a client's message.
type Step struct {
	Decide  *engine.Request // submitted to the gate before anything goes on
	Prepare *engine.Request // refused when the gate is sure to deny what it prepares
	End     bool            // the client said goodbye
}

// Out collects whole messages for both sides.
type Out struct{ Up, Down []byte }

// Resolver finds out what a request would do, before it is decided.
type Resolver interface {
	// Known completes r from memory and reports whether it could.
	Known(r *engine.Request) bool
	// Resolve is called without the session's lock and may wait; afterwards r is
	// Known. It returns why r cannot be understood.
	Resolve(ctx context.Context, r *engine.Request) *engine.Denial
}

// Session is one logged-in client and its upstream.
type Session struct {
	Client, Upstream *wire.Conn
	Codec            Codec
	Resolver         Resolver
	Gate             engine.Gate
	Limits           engine.Limits

	mu       sync.Mutex // guards Codec, out and withdraw
	out      Out
	spare    Out
	withdraw context.CancelCauseFunc // of the request that waits, nil when none does

	writeUp, writeDown sync.Mutex // serialise flushes, in the order of out; taken before mu
	ended              bool       // the client said goodbye; owned by the client's goroutine
	injections         sync.WaitGroup
}

// Run relays until one side ends, ctx is cancelled or a limit is hit. A ctx
// cancelled with a *engine.Denial as its cause tells it to the client. Both
// connections are closed and both goroutines have ended when Run returns. A panic
// on either of them is Run's, as a *Panic, after that.
func (s *Session) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := context.AfterFunc(ctx, func() { s.interrupt(context.Cause(ctx)) })
	defer stop()

	requests := make(chan error, 1)
	go func() {
		err := s.protected(func() error { return s.requests(ctx) })
		s.part(err)
		requests <- err
	}()
	err := s.protected(s.responses)
	s.part(err)
	cancel(engine.ErrGone) // a request that waits waits no longer
	other := <-requests
	s.injections.Wait()

	var panicked *Panic
	errors.As(errors.Join(other, err), &panicked)
	s.broken(panicked)
	if panicked != nil {
		panic(panicked)
	}
	return first(other, err)
}

// part closes both ends after one of them is done. A client's goodbye has been
// forwarded; the upstream closes by itself then and its last words still pass,
// to a client that may not wait for them.
func (s *Session) part(err error) {
	if err == nil && s.ended {
		s.Upstream.SetReadDeadline(time.Now().Add(goodbyeTimeout))
		s.Client.SetWriteDeadline(time.Now().Add(goodbyeTimeout))
		return
	}
	var d *engine.Denial
	if errors.As(err, &d) {
		s.goodbye(d)
	}
	s.Client.Close()
	s.Upstream.Close()
}

// first picks the error that explains the end of the session: closed
// connections and end of file only follow from another.
func first(errs ...error) error {
	for _, err := range errs {
		if err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, io.EOF) {
			return err
		}
	}
	return nil
}

// interrupt ends the session from outside.
func (s *Session) interrupt(cause error) {
	var d *engine.Denial
	if errors.As(cause, &d) {
		s.goodbye(d)
	}
	s.Client.Close()
	s.Upstream.Close()
}

func (s *Session) goodbye(d *engine.Denial) {
	s.protected(func() error { //nolint:errcheck // without these words the session ends all the same
		s.mu.Lock()
		defer s.mu.Unlock()
		s.Codec.Goodbye(&s.out, d)
		return nil
	})
	s.Client.SetWriteDeadline(time.Now().Add(goodbyeTimeout))
	s.flushDown() //nolint:errcheck // nobody is left to tell
}

// Withdraw cancels the request that waits for a person, if one does.
func (s *Session) Withdraw() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.withdraw == nil {
		return false
	}
	s.withdraw(engine.ErrWithdrawn)
	return true
}

// requests copies from the client until it ends.
func (s *Session) requests(ctx context.Context) error {
	for {
		need, err := s.take(ctx)
		if err != nil {
			return err
		}
		if err := s.flush(); err != nil || s.ended {
			return err
		}
		if _, err := s.Client.Fill(max(need, flushBytes)); err != nil {
			return fmt.Errorf("read from the client: %w", err)
		}
	}
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
	for !s.ended {
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
	r := step.Decide
	if r == nil {
		r = step.Prepare
	}
	if r == nil {
		return nil
	}
	if !s.Resolver.Known(r) {
		if err := s.unlocked(func() error { return s.resolve(ctx, r) }); err != nil {
			return s.denied(err)
		}
		if !s.Resolver.Known(r) {
			return errors.New("a request is unknown after it was resolved")
		}
	}
	if step.Decide == nil {
		if d := s.Gate.Would(r); d != nil {
			return s.denied(d)
		}
		s.Codec.Allowed(&s.out, nil)
		return nil
	}
	x, err := s.submit(ctx, r)
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
		waiting, s.withdraw = true, cancel
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

// responses copies from the upstream until it ends.
func (s *Session) responses() error {
	for {
		need, injected, err := s.give()
		if err != nil {
			return err
		}
		if injected {
			s.injections.Go(s.inject)
		}
		if err := s.flushDown(); err != nil {
			return err
		}
		if _, err := s.Upstream.Fill(max(need, flushBytes)); err != nil {
			return fmt.Errorf("read from the upstream: %w", err)
		}
	}
}

// inject writes what the codec asks of the upstream on its own account.
func (s *Session) inject() {
	if s.flushUp() != nil {
		s.Upstream.Close() // which ends responses, and so the session
	}
}

// give hands every whole message that is buffered to the codec. It returns how
// many bytes the next one needs, and whether the codec has something to say to
// the upstream.
func (s *Session) give() (need int, injected bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	buf, up := s.Upstream.Buffered(), len(s.out.Up)
	used := 0
	for {
		n, need, err := s.Codec.SplitResponse(buf[used:])
		if err == nil {
			err = s.within(n, need)
		}
		if err == nil && n > 0 {
			err = s.Codec.Response(&s.out, buf[used:used+n])
		}
		if n == 0 || err != nil {
			s.Upstream.Discard(used)
			return need, len(s.out.Up) > up, err
		}
		used += n
	}
}

// flush writes what is due on both sides. With nothing due it does not wait for
// a write of the other goroutine.
func (s *Session) flush() error {
	s.mu.Lock()
	up, down := len(s.out.Up) > 0, len(s.out.Down) > 0
	s.mu.Unlock()
	if up {
		if err := s.flushUp(); err != nil {
			return err
		}
	}
	if down {
		return s.flushDown()
	}
	return nil
}

// flushUp writes what is due to the upstream, in the order it became due.
func (s *Session) flushUp() error {
	s.writeUp.Lock()
	defer s.writeUp.Unlock()
	s.mu.Lock()
	up := s.out.Up
	s.out.Up, s.spare.Up = s.spare.Up[:0], nil
	s.mu.Unlock()
	var err error
	if len(up) > 0 {
		if _, err = s.Upstream.Write(up); err != nil {
			err = fmt.Errorf("write to the upstream: %w", err)
		}
	}
	s.spare.Up = shrunk(up)
	return err
}

// flushDown writes what is due to the client, in the order it became due.
func (s *Session) flushDown() error {
	s.writeDown.Lock()
	defer s.writeDown.Unlock()
	s.mu.Lock()
	down := s.out.Down
	s.out.Down, s.spare.Down = s.spare.Down[:0], nil
	s.mu.Unlock()
	var err error
	if len(down) > 0 {
		if _, err = s.Client.Write(down); err != nil {
			err = fmt.Errorf("write to the client: %w", err)
		}
	}
	s.spare.Down = shrunk(down)
	return err
}

// shrunk gives a large buffer back when little of it was needed, so that idle
// sessions stay small and streaming ones do not allocate.
func shrunk(b []byte) []byte {
	if cap(b) > 4<<10 && len(b) < cap(b)/4 {
		return nil
	}
	return b[:0]
}
