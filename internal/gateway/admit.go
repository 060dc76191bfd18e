package gateway

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/policy"
)

// admit decides whether there is to be a session at all. It waits for people
// where an identity has expired and the agent is configured so.
func (s *session) admit(intent *engine.Intent) *engine.Denial {
	s.gate = newGate(s, intent)
	now := s.gateway.Now()
	d := s.agent.admission(&s.flow, s.target.Name, now)
	switch {
	case s.agent.observing(now):
		return nil
	case d == nil && s.agent.Identity.asks(s.flow.Identity, now):
		d = s.askWhoever(now)
	}
	if d == nil {
		return nil
	}
	s.fail(d)                                                      //nolint:errcheck // it is d
	s.client.SetDeadline(time.Now().Add(s.setup.Limits.Handshake)) // for the last words
	return d
}

// admission says why a flow may have no session with a target whatever it asks
// for; nil: it may.
func (a *Agent) admission(f *engine.Flow, target string, now time.Time) *engine.Denial {
	if d := a.Identity.admission(f, now); d != nil {
		return d
	}
	return a.opens(f, target)
}

// mayReach says whether there is a session to be had at all.
func (a *Agent) mayReach(f *engine.Flow, target string, now time.Time) bool {
	return a.admission(f, target, now) == nil
}

// opens says why the policy, or what the run was launched with, leaves a target
// closed.
func (a *Agent) opens(f *engine.Flow, target string) *engine.Denial {
	v := a.Policy.Admit(target)
	if v.Action != policy.Deny && !engine.Narrowed(f.Only, target, "") {
		v = policy.Launch(target)
	}
	if v.Action == policy.Deny {
		return v.Denial()
	}
	return nil
}

// identityRule is what denials for the want of an identity name.
const identityRule = "identity"

// admission says why a flow is not taken for whose it is, or is not.
func (r IdentityRule) admission(f *engine.Flow, now time.Time) *engine.Denial {
	i := f.Identity
	d := &engine.Denial{Code: engine.ByPolicy, Rule: identityRule}
	switch {
	case i == nil && !r.Required:
		return nil
	case i == nil:
		d.Reason = "agent " + f.Agent + " acts for somebody, and nobody has said for whom"
		d.Help = "launch it with postern run --as, after postern login"
	case len(r.Issuers) > 0 && !slices.Contains(r.Issuers, i.Issuer):
		d.Reason = fmt.Sprintf("agent %s does not act for identities of %s", f.Agent, i.Issuer)
		d.Help = "log in at one of these: " + strings.Join(r.Issuers, ", ")
	case i.Expired(now) && (r.OnExpiry == ExpiryEnds || r.OnExpiry == ExpiryAsks && r.Ask == nil):
		d.Reason = fmt.Sprintf("the identity of %s expired at %s", i, i.Expires.UTC().Format(time.DateTime)+" UTC")
		d.Help = "log in again with postern login; a run whose token comes from a file waits for the next one"
	default:
		return nil
	}
	return d
}

// asks says whether people decide because the identity has expired.
func (r IdentityRule) asks(i *engine.Identity, now time.Time) bool {
	return r.OnExpiry == ExpiryAsks && r.Ask != nil && i.Expired(now)
}

// askWhoever has people decide about a session for somebody who was known.
func (s *session) askWhoever(now time.Time) *engine.Denial {
	i := s.flow.Identity
	r := &engine.Request{
		Kind:   "session",
		Text:   fmt.Sprintf("open a session with %s for %s, whose identity expired %s ago", s.target.Name, i, now.Sub(i.Expires).Round(time.Second)),
		Upkeep: true,
	}
	v := policy.Asking(identityRule, "the identity of "+i.String()+" has expired", "log in again with postern login", s.agent.Identity.Ask)
	x, err := s.gate.submit(s.ctx, r, v)
	var d *engine.Denial
	if errors.As(err, &d) {
		return d
	}
	if err != nil {
		return &engine.Denial{Code: engine.Unavailable, Rule: identityRule, Reason: "it cannot be decided", Help: "an operator finds the reason in the daemon's log"}
	}
	x.End(engine.Outcome{Status: engine.OK})
	return nil
}
