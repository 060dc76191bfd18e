// Package wiretest plays transcripts against an engine: a scripted client and
// scripted upstreams around it, a gate that records what it was asked. A test
// reads like the protocol: who says what, what the other side hears, and that
// nothing else happens.
//
//	wiretest.Play(t, func(t *testing.T) {
//		s := wiretest.Start(t, wiretest.Options{Protocol: p})
//		s.Client.Say(query)
//		s.Upstream().Hear(query)
//	})
//
// A transcript runs in a bubble of testing/synctest: after every Say the runner
// waits until each goroutine of the engine is blocked, so there are no sleeps,
// and silence is a fact instead of a guess. Before a peer says anything, and at
// the end, whatever another peer heard and the test did not expect fails the
// test; so does an exchange that was not ended exactly once.
//
// The package knows no protocol. Start with Start and Peer; Gate is what the
// engine is decided by.
package wiretest

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/secret"
	"github.com/postern/postern/internal/wire"
)

// Play runs a transcript in a bubble of its own.
func Play(t *testing.T, transcript func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, transcript)
}

// Options are what an engine is put between. Zero fields are filled in.
type Options struct {
	Protocol    engine.Protocol
	Env         engine.Env
	Login       engine.Login
	Other       *engine.Login // that there is once the first was refused; nil: none
	Unreachable error         // what dialling the upstream fails with
	Gate        *Gate
	Show        func([]byte) string // renders bytes for messages of failure
}

// Limits are small enough to be met in a test.
var Limits = engine.Limits{MessageBytes: 1 << 20, HeldBytes: 64 << 10, Handshake: 10 * time.Second, Statements: 16}

// Session is one engine at work.
type Session struct {
	Client *Peer
	Gate   *Gate

	t      *testing.T
	script *script
	login  engine.Login
	other  *engine.Login
	refuse error
	cancel context.CancelCauseFunc
	done   chan struct{}

	intent engine.Intent
	err    error

	mu        sync.Mutex // guards what Conn writes
	upstreams []*Peer
}

// Start makes an engine and runs it as the gateway does: Greet, then Relay,
// then the client's connection is closed.
func Start(t *testing.T, o Options) *Session {
	t.Helper()
	if o.Gate == nil {
		o.Gate = &Gate{}
	}
	if o.Env.Limits == (engine.Limits{}) {
		o.Env.Limits = Limits
	}
	if o.Env.Log == nil {
		o.Env.Log = slog.New(slog.DiscardHandler)
	}
	if o.Show == nil {
		o.Show = quoted
	}
	e, err := o.Protocol.New(o.Env)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	s := &Session{
		Gate: o.Gate, t: t, login: o.Login, other: o.Other, refuse: o.Unreachable, cancel: cancel,
		done: make(chan struct{}), script: &script{t: t, show: o.Show},
	}
	mine, theirs := Pipe()
	s.Client = s.script.peer("client", mine)
	client := wire.New(theirs)
	go s.serve(ctx, e, client)
	t.Cleanup(s.finish)
	synctest.Wait()
	return s
}

func (s *Session) serve(ctx context.Context, e engine.Engine, client *wire.Conn) {
	defer close(s.done)
	defer client.Close()
	greeting, cancel := context.WithTimeout(ctx, Limits.Handshake)
	defer cancel()
	client.SetDeadline(time.Now().Add(Limits.Handshake))
	if s.intent, s.err = e.Greet(greeting, client); s.err != nil {
		return
	}
	client.SetDeadline(time.Time{})
	s.err = e.Relay(ctx, client, s, s.Gate)
}

// Conn implements engine.Upstream: every dial is a new peer.
func (s *Session) Conn(context.Context) (*wire.Conn, engine.Login, error) {
	if s.refuse != nil {
		return nil, engine.Login{}, s.refuse
	}
	mine, theirs := Pipe()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.upstreams = append(s.upstreams, s.script.peer("upstream", mine))
	return wire.New(theirs), s.login, nil
}

// Refused implements engine.Upstream: there is another credential where the
// script has one.
func (s *Session) Refused(context.Context) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.other == nil {
		return false
	}
	s.login, s.other = *s.other, nil
	return true
}

// Upstream returns the newest connection that the engine dialled.
func (s *Session) Upstream() *Peer {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.upstreams) == 0 {
		s.t.Fatal("the engine has not dialled the upstream")
	}
	return s.upstreams[len(s.upstreams)-1]
}

// Dials returns how often the engine dialled the upstream.
func (s *Session) Dials() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.upstreams)
}

// Interrupt ends the session as the gateway does on a reload or a shutdown.
func (s *Session) Interrupt(cause error) {
	s.cancel(cause)
	synctest.Wait()
}

// End returns what the engine returned; it must have.
func (s *Session) End() (engine.Intent, error) {
	s.t.Helper()
	synctest.Wait()
	select {
	case <-s.done:
	default:
		s.t.Fatal("the engine is still at work")
	}
	return s.intent, s.err
}

// Denied returns the denial that the session ended with; there must be one.
func (s *Session) Denied() *engine.Denial {
	s.t.Helper()
	_, err := s.End()
	var d *engine.Denial
	if !errors.As(err, &d) {
		s.t.Fatalf("the session ended with %v, not with a denial", err)
	}
	return d
}

// finish hangs up on both sides and checks what every transcript promises.
func (s *Session) finish() {
	s.script.settled("the transcript ended")
	s.Client.Close()
	s.mu.Lock()
	for _, u := range s.upstreams {
		u.Close()
	}
	s.mu.Unlock()
	s.cancel(context.Canceled)
	<-s.done
	s.Gate.check(s.t)
}

// NoSecret fails the test when any peer but those named in except has heard the
// secret, or it is in the session's error.
func (s *Session) NoSecret(value secret.Secret) {
	s.t.Helper()
	s.script.mu.Lock()
	defer s.script.mu.Unlock()
	text := string(value.Reveal())
	if contains(s.Client.all, text) || s.err != nil && contains([]byte(s.err.Error()), text) || s.Gate.mentions(text) {
		s.t.Error("the secret went where it does not belong")
	}
}

// Preloaded returns a connection whose client has said b and left, and what
// was answered; for driving an engine without goroutines.
func Preloaded(b []byte) (c *wire.Conn, answered func() []byte) {
	mine, theirs := Pipe()
	mine.Write(b) //nolint:errcheck // it is a buffer
	mine.out.close()
	return wire.New(theirs), func() []byte {
		mine.poll(true)
		all, _ := io.ReadAll(mine)
		return all
	}
}
