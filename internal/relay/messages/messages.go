// Package messages drives a protocol of framed messages: inspect, decide,
// record, forward, mask, in that order, written once. The protocol supplies a
// Codec that knows the bytes and does no I/O; this package does the I/O and
// knows no protocol.
//
// Start with Session.Run. A session is relayed by one of two drivers. Two
// goroutines copy, one per direction; what they share is the codec's state,
// under one lock that is never held across I/O or while a request waits for a
// person. The one that reads the upstream never writes to it: an upstream that
// is busy answering may not be reading. They are right for everything. In its
// steady state, when nothing has to wait for anything but bytes, a session is
// driven by a Loop, which serves many on one thread and saves what switching
// between threads costs.
package messages

import (
	"context"
	"errors"
	"io"
	"net"
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

	// Held is the request whose people are to be asked now though it may have gone
	// on; nil when there is none.
	Held() Held

	// Idle reports whether the upstream owes nothing.
	Idle() bool
	// InTransaction reports whether a transaction is open, which ends with the
	// session.
	InTransaction() bool

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
	Loop             *Loop // nil: goroutines only

	mu       sync.Mutex // guards Codec and what follows
	out      Out
	spare    Out
	withdraw context.CancelCauseFunc // of the request that waits, nil when none does
	runs     bool                    // that request is upstream already
	left     left
	reading  bool // the client's goroutine waits for the client
	resting  bool // both goroutines are to stop for the loop
	deciding bool // a request is kept by the codec until it is decided
	quiet    bool // the session ends: no further request is taken
	bulk     int  // bytes the loop has read since the client last sent some

	writeUp, writeDown sync.Mutex // serialise flushes, in the order of out; taken before mu
	ended              bool       // the client said goodbye; owned by the client's goroutine
	injections         sync.WaitGroup
}

// Run relays until one side ends, ctx is cancelled or a limit is hit. A ctx
// cancelled with a *engine.Denial as its cause tells it to the client. Both
// connections are closed and both goroutines have ended when Run returns. A panic
// on either of them, or in the loop, is Run's, as a *Panic, after that.
func (s *Session) Run(ctx context.Context) error {
	for {
		if s.Loop != nil {
			s.steady(ctx)
		}
		if again, err := s.relay(ctx); !again {
			return err
		}
	}
}

// errRest stops a goroutine whose session goes on in the loop.
var errRest = errors.New("the session rests")

// relay copies with two goroutines until the session ends, or rests and is to
// go on in the loop.
func (s *Session) relay(ctx context.Context) (again bool, err error) {
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
	err = s.protected(s.responses)
	s.part(err)
	if err != errRest {
		cancel(engine.ErrGone) // a request that waits waits no longer
	}
	other := <-requests
	s.injections.Wait()
	if err == errRest && other == errRest && stop() {
		s.Client.SetReadDeadline(time.Time{})
		s.resting = false
		return true, nil
	}
	return false, s.finish(first(other, err), errors.Join(other, err))
}

// Quiesce says whether nothing is under way. If so, no request is taken from then
// on.
func (s *Session) Quiesce() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	busy := s.deciding || s.left.step.request() != nil || len(s.out.Up)+len(s.out.Down) > 0
	s.quiet = s.quiet || !busy && s.Codec.Held() == nil && s.Codec.Idle() && !s.Codec.InTransaction()
	return s.quiet
}

// finish ends what is still open after both directions have ended with all, of
// which err explains the end.
func (s *Session) finish(err, all error) error {
	s.Client.Close()
	s.Upstream.Close()
	var panicked *Panic
	errors.As(all, &panicked)
	s.broken(panicked)
	if panicked != nil {
		panic(panicked)
	}
	return err
}

// part closes both ends after one of them is done. A client's goodbye has been
// forwarded; the upstream closes by itself then and its last words still pass,
// to a client that may not wait for them.
func (s *Session) part(err error) {
	if err == errRest {
		return
	}
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
		if err != nil && err != errRest && !errors.Is(err, net.ErrClosed) && !errors.Is(err, io.EOF) {
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
