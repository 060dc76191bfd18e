// Package channels is the order inspect → decide → record → forward → mask for
// connections that carry channels, as SSH's do: long-lived, beside each other,
// each with requests and with streams of bytes in both directions.
//
// A request of either side is made a Step by the protocol's Codec, and what the
// step would do is asked of the gate before anything of it goes on: global
// requests, the opening of a channel, the requests on it. What a channel turns
// out to be for, by the request that has Step.Main, decides whose exchange its
// bytes belong to, and who moves them: the pumps in pump.go, or a Handler of the
// protocol's own that understands them.
//
// One channel that waits, for a person or for an end that does not read, delays
// no other: each has goroutines of its own and a gate beside the session's, and
// what is read ahead is bounded by SSH's own windows.
//
// The package leaves to the protocol what requests mean and how both ends are
// reached. Start with Session.Run, then channel.request.
package channels

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/postern/postern/internal/engine"
)

const (
	// maxChannels is how many an agent may have open on one connection. OpenSSH's
	// server allows ten sessions; forwarded connections come on top.
	maxChannels = 256
	// maxQueued is how many requests may wait on one channel, or for the
	// connection: a few more than may be deferred, for clients send an environment
	// without waiting for an answer.
	maxQueued = maxDeferred + 32
	// stuckTime is after how long the connections are closed under a session that
	// has ended, and still waits for one that does not read.
	stuckTime = closeGrace + 2*sayTime
)

// Side is one connection, as x/crypto/ssh returns it.
type Side struct {
	Conn     ssh.Conn
	Channels <-chan ssh.NewChannel
	Requests <-chan *ssh.Request
}

// From says who asks.
type From uint8

const (
	Agent From = iota
	Upstream
)

// Codec says what requests would do. It does no I/O. Global is called from one
// goroutine for each side, Open from several.
type Codec interface {
	// Global makes a step of a request that belongs to no channel.
	Global(from From, kind string, payload []byte) Step
	// Open makes a step of the opening of a channel, and returns the codec for
	// the requests on it.
	Open(from From, kind string, extra []byte) (Step, ChannelCodec)
}

// ChannelCodec is the Codec of one channel. Request is called from one goroutine
// for what the agent asks, Answer from one for what the upstream does.
type ChannelCodec interface {
	Request(kind string, payload []byte) Step
	// Answer returns what the agent is given of a request of the upstream's; send
	// is false for what it is not given. Text in it goes through clean.
	Answer(kind string, payload []byte, clean func([]byte) []byte) (out []byte, send bool, ended *Ended)
}

// Ended is what an upstream said of how a command ended.
type Ended struct {
	Tag  string // such as "exit 0" or "signal TERM"
	OK   bool
	Exit *engine.Exit
}

// Do is what becomes of a request that is allowed.
type Do uint8

const (
	Refuse  Do = iota // answered with no, forwarded to nobody
	Grant             // answered with yes, forwarded to nobody
	Forward           // to the other side, whose answer is the answer
	Echo              // to the other side, if it has been reached yet
	Defer             // answered with yes; goes ahead of the request with Main, so that the upstream hears of nothing before that is allowed
)

// Step is what a request comes to.
type Step struct {
	Do Do
	// Request is what the gate is asked first; nil: nobody is asked.
	Request *engine.Request
	Type    string // goes on in place of the request's own; empty: that
	Payload []byte // the same for what came with it; nil: that

	// Main says that the streams of the channel belong to this request, of which
	// there is one on a channel. It has a Request, or it is refused.
	Main    bool
	Handler Handler // moves the bytes; nil: the pumps do
	// Script makes another step of the whole of the agent's input, where Request
	// would surely be denied, or a rule names LineVerb, and the input may say what is
	// meant. Nil: it does not.
	Script func(input []byte) Step
	// Keys holds the lines of what is typed, which are asked of the gate one by one
	// where a rule names LineVerb, the verb of them all. Nil: there is no terminal.
	Keys     Keys
	LineVerb string
	// Interrupts says that it may take away what is typed, beside the stream: it is
	// refused where lines are decided.
	Interrupts bool

	// Needed says of a deferred request that without it Main is not what was asked
	// for: when the upstream refuses the one, the agent is denied the other.
	Needed   string
	Terminal *engine.Terminal // what the channel is shown on from now on
	Forward  *Destination     // of the opening of a channel: it leads on, within the connection
	// Answer makes of what came with the upstream's yes to a global request what the
	// agent is given of it. Nil: nothing is.
	Answer func(answer []byte) []byte
	// Then is called after the request was forwarded and answered.
	Then func(ok bool)
}

// Destination is where a connection within the connection leads.
type Destination struct {
	Host string
	Port uint16
}

// Session relays one connection.
type Session struct {
	ID    string // told to agents with a denial
	Agent Side
	Gate  engine.Gate
	Codec Codec
	// Dial reaches the upstream. It is called once, when the first request is to
	// be forwarded. Its error is a *engine.Denial where the agent may read it.
	Dial   func(context.Context) (Side, error)
	Limits engine.Limits
	Log    *slog.Logger

	cancel  context.CancelCauseFunc
	running sync.WaitGroup
	reach   func() (*Side, error) // the upstream, which whoever needs it first has dialled

	mu       sync.Mutex
	open     int  // channels
	closing  bool // nothing is dialled any more
	quiet    bool // no channel is opened any more
	channels map[*channel]bool
	silent   chan struct{} // closed when no channel is left, once somebody waits for that
	upstream *Side
}

// Why a relay ends when nothing is wrong.
var (
	errOver = errors.New("the connection ended")
	errGone = fmt.Errorf("the connection ended: %w", engine.ErrGone)
)

// Run relays until either side's connection or ctx ends, and returns when all of
// it is done.
func (s *Session) Run(ctx context.Context) (err error) {
	ctx, s.cancel = context.WithCancelCause(ctx)
	defer s.cancel(nil)
	s.channels = map[*channel]bool{}
	global, opened, backward := s.Gate.Beside(), s.Gate.Beside(), s.Gate.Beside()
	s.reach = sync.OnceValues(func() (*Side, error) { return s.dial(ctx, backward) })
	away := make(chan struct{}) // closed when the agent's connection has ended
	// For one that ends while an agent is spoken to that does not read.
	late := time.AfterFunc(stuckTime, s.close)
	late.Stop()
	armed := make(chan struct{})
	disarm := context.AfterFunc(ctx, func() {
		late.Reset(stuckTime)
		close(armed)
	})
	defer func() {
		if !disarm() {
			<-armed
		}
		late.Stop()
	}()
	asked := s.globals(ctx, global)
	s.begins(ctx, opened, asked)
	s.running.Go(func() { ssh.DiscardRequests(s.Agent.Requests) })
	s.running.Go(func() {
		for c := range s.Agent.Channels {
			c.Reject(ssh.ResourceShortage, "postern: the session is over") //nolint:errcheck // the connection is gone then
		}
		s.Agent.Conn.Wait() //nolint:errcheck // that it ended is all there is to know
		close(away)
		s.cancel(errGone)
	})
	<-ctx.Done()
	cause := context.Cause(ctx)
	var d *engine.Denial
	switch {
	case errors.As(cause, &d):
		s.tellAll(d, func(*channel) bool { return true })
		s.part(away)
	case cause == errOver:
		s.part(away)
	case cause == errGone:
		s.linger()
	}
	s.close()
	asked.done()
	s.running.Wait()
	if cause == errOver || cause == errGone {
		return nil
	}
	return cause
}

// Quiesce says whether no channel is open. If so, none is opened from then on.
func (s *Session) Quiesce() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.quiet = s.quiet || s.open == 0
	return s.quiet
}

// part lets an agent that has been told that all is over hang up by itself: what
// it was told last could be lost with a connection that is closed while it speaks.
func (s *Session) part(away <-chan struct{}) {
	s.mu.Lock()
	none := len(s.channels) == 0
	s.mu.Unlock()
	if none {
		return
	}
	s.closeUpstream()
	wait(away, sayTime)
}

// linger waits until what an agent that is gone had said has gone on.
func (s *Session) linger() {
	s.mu.Lock()
	silent := make(chan struct{})
	if s.silent = silent; len(s.channels) == 0 {
		close(silent)
		s.silent = nil
	}
	s.mu.Unlock()
	wait(silent, closeGrace)
}

// wait waits for done, but not longer than a time.
func wait(done <-chan struct{}, most time.Duration) {
	late := time.NewTimer(most)
	defer late.Stop()
	select {
	case <-done:
	case <-late.C:
	}
}

// close closes both connections, whereupon all that waits for either ends.
func (s *Session) close() {
	s.closeUpstream()
	s.Agent.Conn.Close()
}

func (s *Session) closeUpstream() {
	s.mu.Lock()
	s.closing = true
	up := s.upstream
	s.mu.Unlock()
	if up != nil {
		up.Conn.Close()
	}
}

// begins takes what the agent begins, until its connection or ctx ends: channels,
// and requests that belong to none.
func (s *Session) begins(ctx context.Context, gate engine.Gate, asked *queue) {
	channels, requests := s.Agent.Channels, s.Agent.Requests
	for channels != nil || requests != nil {
		select {
		case c, more := <-channels:
			if !more {
				channels = nil
				continue
			}
			s.opened(ctx, gate, Agent, c)
		case r, more := <-requests:
			switch {
			case !more:
				requests = nil
			case !asked.put(r):
				s.cancel(&engine.Denial{Code: engine.Limit, Reason: "too many requests wait on the connection"})
				r.Reply(false, nil) //nolint:errcheck // the connection is gone then
			}
		case <-ctx.Done():
			return
		}
	}
}

// opened takes a channel that a side opens to a goroutine of its own, so that none
// waits for another.
func (s *Session) opened(ctx context.Context, gate engine.Gate, from From, c ssh.NewChannel) {
	if why := s.enter(); why != "" {
		c.Reject(ssh.ResourceShortage, "postern: "+why) //nolint:errcheck // the connection is gone then
		return
	}
	g := gate.Beside()
	s.running.Go(func() {
		defer s.leave()
		s.serve(ctx, g, from, c)
	})
}

// enter counts a channel in, or says why it is none.
func (s *Session) enter() (why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.quiet {
		return "the gateway is stopping: connect again in a moment"
	}
	if s.open >= maxChannels {
		return fmt.Sprintf("more than %d channels on one connection", maxChannels)
	}
	s.open++
	return ""
}

func (s *Session) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open--
}

// dial reaches the upstream, for all channels: it does not end with the one that
// needed it first.
func (s *Session) dial(ctx context.Context, gate engine.Gate) (*Side, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	up, err := s.Dial(ctx)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.upstream = &up
	closing := s.closing
	s.mu.Unlock()
	if closing { // while it was dialled
		up.Conn.Close()
	}
	watching := gate.Beside()
	s.running.Go(func() {
		s.attend(ctx, gate, up)
		if err := up.Conn.Wait(); err != nil && !errors.Is(err, io.EOF) && ctx.Err() == nil {
			s.Log.Warn("the upstream's connection broke", "error", string(watching.Scrub([]byte(err.Error()))))
		}
		s.ended()
	})
	return &up, nil
}

// reached returns the upstream if it has been dialled.
func (s *Session) reached() *Side {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.upstream
}

// ended is called when the upstream's connection has: its channels have too, and
// the agent is told what they had to say before its connection ends. Channels on
// which nothing was begun have nothing to wait for.
func (s *Session) ended() {
	s.mu.Lock()
	all := slices.Collect(maps.Keys(s.channels))
	s.mu.Unlock()
	begun := map[*channel]bool{}
	for _, c := range all {
		begun[c] = c.began()
	}
	s.tellAll(lost, func(c *channel) bool { return !begun[c] })
	for c, answers := range begun {
		if answers {
			<-c.answered
		}
	}
	s.cancel(errOver)
}

func (s *Session) add(c *channel) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.channels[c] = true
}

// remove is called when all that the agent said on a channel has gone on.
func (s *Session) remove(c *channel) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if delete(s.channels, c); len(s.channels) == 0 && s.silent != nil {
		close(s.silent)
		s.silent = nil
	}
}
