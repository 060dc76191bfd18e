package gateway

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/postern/postern/internal/dns"
	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/record"
	"github.com/postern/postern/internal/secret"
	"github.com/postern/postern/internal/wire"
)

// session is one intercepted connection, accept to end.
type session struct {
	gateway *Gateway
	setup   *Setup // as it was at accept; requests are decided by the newest
	flow    engine.Flow
	agent   *Agent
	target  *Target
	began   time.Time
	client  *wire.Conn
	log     *record.Session
	gate    *gate
	metrics *targetMetrics
	way     func(context.Context) (net.Conn, error) // to the upstream, of a connection within another; nil: dialled as any
	traffic *traffic

	ctx    context.Context
	cancel context.CancelCauseFunc
	err    error

	mu       sync.Mutex
	upstream *wire.Conn // the last one dialled, for counters
	activity activity
	purpose  string
	used     secret.Credential // that the upstream was last shown
	refused  bool              // it did not take one
	waits    int               // requests that wait for a person, which is not idleness
	quiescer engine.Quiescer   // the protocol's, while it relays; nil: it cannot say
}

// activity remembers when bytes last moved.
type activity struct {
	bytes int64
	at    time.Time
}

// begin opens the recording and counts the session in.
func (g *Gateway) begin(ctx context.Context, conn net.Conn, flow engine.Flow) (*session, error) {
	setup := g.setup.Load()
	s := &session{gateway: g, setup: setup, flow: flow, began: g.Now(), client: wire.New(conn)}
	s.activity.at = s.began
	if r, ok := conn.(*reentered); ok {
		s.way = r.dial
	}
	s.agent = setup.agentFor(&flow)
	if s.agent == nil {
		return nil, fmt.Errorf("agent %q is not configured", flow.Agent)
	}
	s.target = setup.target(flow)
	s.ctx, s.cancel = context.WithCancelCause(ctx)
	if d := g.enter(s, setup.Limits); d != nil {
		s.cancel(d)
		return nil, d
	}
	meta := record.Meta{Flow: flow, Generation: setup.Generation, ConfigHash: setup.Hash}
	if s.target != nil {
		meta.Target, meta.Protocol = s.target.Name, s.target.Protocol.Name
	}
	var err error
	if s.log, err = g.Store.Session(meta); err != nil {
		g.leave(s)
		s.cancel(err)
		return nil, fmt.Errorf("open the recording: %w", err)
	}
	g.Metrics.began(s)
	if newest := g.setup.Load(); newest != setup {
		// That reload may have gone through the sessions before this one was in.
		if d := s.outdated(newest); d != nil {
			s.cancel(d)
		}
	}
	return s, nil
}

// end puts the end on record, whatever happened. It is the one place where a
// panic in a session is caught: it ends that session and nothing else.
func (s *session) end() {
	if p := recover(); p != nil {
		s.err = fmt.Errorf("panic: %v", p)
		stack := debug.Stack()
		if far, ok := p.(interface{ Stack() []byte }); ok { // it happened on another goroutine
			stack = far.Stack()
		}
		s.gateway.Log.Error("a session panicked", "session", s.flow.Session, "panic", p, "stack", string(stack))
	}
	s.cancel(nil)
	s.client.Close()
	s.hangUp()
	in, out := s.client.Counters()
	text := s.errorText()
	if err := s.log.Close(record.End{Error: text, Up: uint64(in), Down: uint64(out)}); err != nil {
		s.gateway.Log.Error("close the recording", "session", s.flow.Session, "error", err)
	}
	s.used.Wipe() // it is this session's own copy
	s.gateway.leave(s)
	if s.gateway.Ended != nil {
		s.gateway.Ended(&s.flow)
	}
	s.gateway.Metrics.ended(s, in, out)
	s.gateway.Log.Info("session ended", "session", s.flow.Session, "agent", s.flow.Agent, "container", s.flow.Container.String(),
		"target", s.targetName(), "duration", s.gateway.Now().Sub(s.began).Round(time.Millisecond), "error", text)
}

// hangUp closes the upstream, which a protocol that panicked has left open.
func (s *session) hangUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.upstream != nil {
		s.upstream.Close()
	}
}

// errorText is why the session ended. What an upstream said may be quoted in
// it, and an upstream may quote the login.
func (s *session) errorText() string {
	if s.err == nil {
		return ""
	}
	text := s.err.Error()
	if u := new(*unreachable); errors.As(s.err, u) {
		text += ": " + (*u).cause.Error()
	}
	if s.gate == nil {
		return text
	}
	return string(s.gate.mask([]byte(text)))
}

func (s *session) targetName() string {
	if s.target == nil {
		return ""
	}
	return s.target.Name
}

// identify finds the target. The agent dialled a name that the resolver had
// answered, or an address that a target lists; anything else is refused without
// a word, since nothing is known of what it speaks.
func (s *session) identify() (engine.Protocol, error) {
	if s.target == nil {
		return engine.Protocol{}, s.fail(noTarget(s.flow))
	}
	return s.target.Protocol, nil
}

// noTarget says why a connection leads nowhere.
func noTarget(f engine.Flow) *engine.Denial {
	d := &engine.Denial{
		Code:   engine.ByPolicy,
		Reason: "no target is configured for " + f.Original.String(),
		Help:   "add a target with this host and port, and a rule that allows it",
	}
	switch {
	case f.Unclear != "":
		d.Reason = fmt.Sprintf("%s is the address of different targets: %s", f.Original, f.Unclear)
		d.Help = "remove real_addresses from them, or give them different ports"
	case f.Name != "":
		d.Reason = fmt.Sprintf("no target is configured for %s:%d", f.Name, f.Original.Port())
	case dns.Virtual(f.Original.Addr()):
		d.Reason = fmt.Sprintf("no name has the address %s (any more)", f.Original.Addr())
		d.Help = "look the name up again"
	}
	return d
}

func (s *session) engine(p engine.Protocol) (engine.Engine, error) {
	e, err := p.New(engine.Env{
		Flow:        s.flow,
		Target:      s.target.Name,
		Placeholder: s.target.Placeholder,
		AgentAuth:   s.target.AgentAuth,
		ServerTLS:   s.target.ServerTLS(s.flow),
		HostKeys:    s.hostKeys,
		Limits:      s.setup.Limits.Limits,
		Log:         s.gateway.Log.With("session", s.flow.Session, "target", s.target.Name),
	})
	if err != nil {
		return nil, s.fail(err)
	}
	return e, nil
}

// hostKeys are the gateway's for the host that the agent dialled.
func (s *session) hostKeys() ([]engine.HostKey, error) {
	if s.target.HostKeys == nil {
		return nil, errors.New("the target has no host keys")
	}
	return s.target.HostKeys(hostOf(s.flow).Host)
}

// greet bounds the time a silent client may take. A session that is ended from
// outside does not wait for it.
func (s *session) greet(e engine.Engine) (*engine.Intent, error) {
	ctx, cancel := context.WithTimeout(s.ctx, s.setup.Limits.Handshake)
	defer cancel()
	s.client.SetDeadline(time.Now().Add(s.setup.Limits.Handshake))
	stop := context.AfterFunc(s.ctx, func() { s.client.SetDeadline(time.Unix(1, 0)) })
	intent, err := e.Greet(ctx, s.client)
	if !stop() {
		if err == nil {
			e.Refuse(s.client, &engine.Denial{Code: engine.Ended, Reason: "the session was ended"}) // which cannot be said any more
		}
		err = context.Cause(s.ctx)
	}
	if err != nil {
		var d *engine.Denial
		if errors.As(err, &d) && d.Code == engine.Misuse {
			s.gateway.Metrics.misuse(s)
			s.gateway.Log.Warn("placeholder misuse", "session", s.flow.Session, "agent", s.flow.Agent,
				"target", s.target.Name, "pid", s.flow.PID, "uid", s.flow.UID, "comm", s.flow.Comm)
		}
		return nil, s.fail(fmt.Errorf("greet: %w", err))
	}
	s.client.SetDeadline(time.Time{})
	s.purpose = intent.Purpose
	if err := s.log.Intent(&intent); err != nil {
		s.refuse(e, &engine.Denial{Code: engine.Unavailable, Reason: "the session cannot be recorded", Help: "an operator finds the reason in the daemon's log"})
		return nil, s.fail(err)
	}
	return &intent, nil
}

// refuse tells a client that has been greeted why there is no session, for as long as
// it may take to greet one.
func (s *session) refuse(e engine.Engine, d *engine.Denial) {
	s.client.SetDeadline(time.Now().Add(s.setup.Limits.Handshake))
	defer context.AfterFunc(s.ctx, func() { s.client.SetDeadline(time.Unix(1, 0)) })()
	e.Refuse(s.client, d)
}

// relay runs the protocol until one side ends.
func (s *session) relay(e engine.Engine) {
	if e, ok := e.(engine.Quiescer); ok {
		s.mu.Lock()
		s.quiescer = e
		s.mu.Unlock()
	}
	err := e.Relay(s.ctx, s.client, s, s.gate)
	if cause := context.Cause(s.ctx); cause != nil {
		err = cause // the relay only notices that its connections are closed
	}
	if err != nil {
		s.fail(fmt.Errorf("relay: %w", err)) //nolint:errcheck // it is the last step
	}
}

// fail notes why the session ends. A denial of the session as a whole is put on
// record as one.
func (s *session) fail(err error) error {
	s.err = err
	var d *engine.Denial
	if errors.As(err, &d) {
		s.log.Denial(0, d) //nolint:errcheck // a poisoned recording ends the session in any case
		s.gateway.Metrics.sessionDenied(s, d)
	}
	return err
}

// outdated says why setup would not have begun this session.
func (s *session) outdated(setup *Setup) *engine.Denial {
	ended := func(why string) *engine.Denial {
		return &engine.Denial{Code: engine.Ended, Reason: "the configuration changed: " + why, Help: "connect again"}
	}
	agent := setup.agentFor(&s.flow)
	if agent == nil {
		return ended("the agent is no longer configured")
	}
	target := setup.target(s.flow)
	switch {
	case target == nil && s.target == nil:
		return nil
	case target == nil || s.target == nil || !target.same(s.target):
		return ended("the target is no longer the same")
	case agent.opens(&s.flow, target.Name) != nil && !agent.observing(s.gateway.Now()):
		return ended("the policy no longer allows this target")
	case !slices.Equal(agent.Masks[target.Name].words(), s.agent.Masks[target.Name].words()):
		return ended("the policy's masks changed")
	}
	return nil
}

// wait notes that a request waits for a person, or no longer does.
func (s *session) wait(waits bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if waits {
		s.waits++
	} else {
		s.waits--
	}
}

// quiescent says whether nothing is lost when the session ends now: nothing is under
// way on it, and nothing was just now, as between a login and the first request.
func (s *session) quiescent() bool {
	if s.idleSince(s.gateway.Now()) < quietAfter {
		return false
	}
	s.mu.Lock()
	quiescer := s.quiescer
	s.mu.Unlock()
	return quiescer != nil && quiescer.Quiesce()
}

// quietAfter is how long nothing has happened on a session that may be quiescent.
const quietAfter = 2 * time.Second

// idleSince is how long no byte has moved and nobody was waited for.
func (s *session) idleSince(now time.Time) time.Duration {
	in, out := s.client.Counters()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.activity.bytes != in+out || s.waits > 0 {
		s.activity = activity{in + out, now}
	}
	return now.Sub(s.activity.at)
}
