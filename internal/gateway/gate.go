package gateway

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/postern/postern/internal/approval"
	"github.com/postern/postern/internal/budget"
	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/mask"
	"github.com/postern/postern/internal/policy"
	"github.com/postern/postern/internal/record"
	"github.com/postern/postern/internal/secret"
	"github.com/postern/postern/pkg/recording"
)

// gate is a session's only way upstream; it implements engine.Gate. The relay
// calls it from one goroutine at a time; a session whose requests wait beside
// each other has several.
type gate struct {
	*session
	*sums
	database string // as the agent named it, as the user is
	user     string

	setup  *Setup // the newest that was decided by
	policy *policy.Policy
	caller *Agent                 // under setup; nil when it is configured no more
	memo   map[any]policy.Verdict // by engine.Request.Memo, under setup
	passes bool                   // an equal request may have another verdict: nothing is remembered

	budgets []Budget
	account *budget.Account // nil: no budget holds here

	masks *Masks
	plan  plan
	rows  []byte // of the running result, not yet on record
	text  []byte // scratch for masking what goes on record
}

// sums is what all gates of a session have in common.
type sums struct {
	statements atomic.Int64                 // that were let through
	given      atomic.Int64                 // rows that reached the agent
	taken      atomic.Int64                 // bytes of results on record
	known      atomic.Pointer[mask.Matcher] // the secret of this session, nil before it was fetched
}

// memoSize bounds what a session remembers of its verdicts.
const memoSize = 512

func newGate(s *session, intent *engine.Intent) *gate {
	g := &gate{
		session: s, sums: &sums{}, database: intent.Database, user: intent.User, masks: s.agent.Masks[s.target.Name], memo: map[any]policy.Verdict{},
	}
	g.follow(s.setup)
	return g
}

// Beside implements engine.Gate.
func (g *gate) Beside() engine.Gate {
	b := &gate{session: g.session, sums: g.sums, database: g.database, user: g.user, masks: g.masks, memo: map[any]policy.Verdict{}}
	b.follow(g.session.setup) // a newer one is taken when it decides
	return b
}

// follow takes a setup in use. Sessions that it would not have begun have been
// told to end; until they have, their requests are denied by an empty policy.
func (g *gate) follow(setup *Setup) {
	g.setup = setup
	g.policy, g.caller = &policy.Policy{Name: "none"}, setup.agentFor(&g.flow)
	if g.caller != nil {
		g.policy = g.caller.Policy
		g.budgets = g.caller.Budgets
		g.account = g.gateway.Ledger.Account(g.flow.Agent, g.target.Name, limitsOf(g.budgets))
	}
	g.passes = g.policy.Passing(g.target.Name)
	clear(g.memo)
}

// newest follows the setup that is in force now.
func (g *gate) newest() {
	if s := g.gateway.setup.Load(); s != g.setup {
		g.follow(s)
	}
}

// observes says whether verdicts are only recorded, which ends at a moment that
// may lie within the session.
func (g *gate) observes() bool { return g.caller != nil && g.caller.observing(g.gateway.Now()) }

// Submit implements engine.Gate: decide, record, and wait where a person is
// asked. When it returns an exchange, the request is on record.
func (g *gate) Submit(ctx context.Context, r *engine.Request) (engine.Exchange, error) {
	return g.submit(ctx, r, g.decide(r))
}

// SubmitNow implements engine.Gate. It decides once: a reload between two
// decisions could have the second ask a person, and so could the end of an
// observation.
func (g *gate) SubmitNow(r *engine.Request) (x engine.Exchange, now bool, err error) {
	v := g.decide(r)
	if g.setup.Host || v.Action == policy.NeedsPerson && r.Refused == nil {
		return nil, false, nil
	}
	x, err = g.submit(context.Background(), r, v)
	return x, true, err
}

func (g *gate) submit(ctx context.Context, r *engine.Request, v policy.Verdict) (x engine.Exchange, err error) {
	observe := g.observes()
	n, err := g.record(r, v, observe)
	if err != nil {
		return nil, g.unrecorded(err)
	}
	var hold *held
	defer func() {
		if x == nil && hold != nil {
			hold.release()
		}
	}()
	switch {
	case r.Refused != nil:
		return nil, g.deny(n, r.Refused)
	case v.Action == policy.Allow || observe:
	case v.Action == policy.NeedsPerson:
		var instead *approval.Preview
		if hold, instead = g.hold(r, v); hold != nil {
			break // people decide when it has run
		}
		if d := g.ask(ctx, n, r, v, instead); d != nil {
			return nil, g.deny(n, d)
		}
	default:
		return nil, g.deny(n, v.Denial())
	}
	if g.setup.Host {
		if err := g.log.Commit(record.Host); err != nil {
			return nil, g.unrecorded(err)
		}
	}
	if d := g.charge(r, observe); d != nil {
		return nil, g.deny(n, d)
	}
	if hold == nil {
		g.gateway.Metrics.allowed(g.session)
	}
	return &exchange{gate: g, setup: g.setup, number: n, began: g.gateway.Now(), account: g.account, observe: observe, held: hold, raw: r.Raw}, nil
}

// decide asks the newest policy, and then the agent's budgets.
func (g *gate) decide(r *engine.Request) policy.Verdict {
	g.newest()
	return g.budgeted(r, g.ruled(r))
}

// ruled is what the policy says, or said to an equal request.
func (g *gate) ruled(r *engine.Request) policy.Verdict {
	remember := r.Memo != nil && !g.passes
	if remember {
		if v, ok := g.memo[r.Memo]; ok {
			return v
		}
	}
	v := g.policy.Decide(g.input(r))
	if remember {
		if len(g.memo) >= memoSize {
			clear(g.memo)
		}
		g.memo[r.Memo] = v
	}
	return v
}

func (g *gate) input(r *engine.Request) *policy.Input {
	effects := r.Effects
	if len(effects) == 0 {
		effects = []engine.Effect{{Verb: engine.Unknown}}
	}
	return &policy.Input{
		Target: g.target.Name, Effects: effects, Facts: r.Facts, Passing: r.Passing, Database: g.database, User: g.user,
		Session:  policy.Session{Rows: g.given.Load(), Statements: g.statements.Load()},
		Identity: g.flow.Identity, Only: g.flow.Only,
		Agent: policy.Agent{Name: g.flow.Agent, Run: g.flow.Run, Exe: g.flow.Exe, UID: g.flow.UID},
	}
}

// Would implements engine.Gate.
func (g *gate) Would(r *engine.Request) *engine.Denial {
	if r.Refused != nil {
		return g.noted(r, r.Refused)
	}
	g.newest()
	if v, sure := g.policy.Sure(g.input(r)); sure && v.Action == policy.Deny && !g.observes() {
		return g.noted(r, v.Denial())
	}
	return nil
}

// Names implements engine.Gate. An agent that is configured no more is asked all,
// and denied it.
func (g *gate) Names(verb string) bool {
	g.newest()
	return g.caller == nil || g.policy.Names(g.target.Name, verb)
}

// noted puts a request that is refused before it was submitted on record.
func (g *gate) noted(r *engine.Request, d *engine.Denial) *engine.Denial {
	n, err := g.record(r, policy.Verdict{Action: policy.Deny, Rule: d.Rule, Reason: d.Reason}, false)
	if err != nil {
		return g.unrecorded(err)
	}
	return g.deny(n, d)
}

// record puts the request and its verdict in the log, with what the detectors
// find in it masked: the log is no place where secrets gather.
func (g *gate) record(r *engine.Request, v policy.Verdict, observe bool) (uint64, error) {
	logged := *r
	logged.Text = g.maskedText(r.Text)
	if len(r.Params) > 0 {
		logged.Params = slices.Clone(r.Params)
		for i, p := range logged.Params {
			logged.Params[i].Value = slices.Clone(g.mask(p.Value))
		}
	}
	n, err := g.log.Request(&logged)
	if err != nil {
		return 0, err
	}
	observed := observe && v.Action != policy.Allow && r.Refused == nil
	return n, g.log.Verdict(recording.Verdict{
		Request: n, Action: v.Action.String(), Rule: v.Rule, Reason: v.Reason, Observed: observed,
	})
}

func (g *gate) maskedText(s string) string {
	g.text = append(g.text[:0], s...)
	if m := g.mask(g.text); len(m) != len(s) || string(m) != s {
		return string(m)
	}
	return s
}

// deny puts a denial on record and hands it back.
func (g *gate) deny(n uint64, d *engine.Denial) *engine.Denial {
	if err := g.log.Denial(n, d); err != nil {
		return g.unrecorded(err)
	}
	g.gateway.Metrics.denied(g.session, d)
	if d.Code == engine.Exhausted {
		g.gateway.Metrics.budget(g.session, d.Rule, "deny")
	}
	return d
}

// unrecorded is the denial of what cannot be put on record: the disk is full,
// or a quota is used up. The operator reads why; the agent reads that.
func (g *gate) unrecorded(err error) *engine.Denial {
	g.gateway.Metrics.auditErrors.Inc()
	g.gateway.Log.Error("a request cannot be recorded", "session", g.flow.Session, "error", err)
	return &engine.Denial{
		Code:   engine.Unavailable,
		Reason: "the request cannot be put on record, so it was not sent",
		Help:   "an operator finds the reason in the daemon's log",
	}
}

// ask waits for people. Nil means that they said yes, once, to exactly this.
// What they are shown besides the request is preview, which may be nil.
func (g *gate) ask(ctx context.Context, n uint64, r *engine.Request, v policy.Verdict, preview *approval.Preview) *engine.Denial {
	ask := g.question(n, r, v)
	ask.Preview = preview
	id := ""
	ask.Notify = func(a approval.Approval) {
		id = a.ID
		g.log.Approval(recording.Approval{Request: n, ID: a.ID, State: string(a.State)}) //nolint:errcheck // an error is for good: the next append has it too
		if r.Pending != nil {
			r.Pending(engine.Pending{ID: a.ID, Rule: v.Rule, DecideBy: a.DecideBy, Help: v.Note})
		}
	}
	if v.Note != "" {
		g.gateway.Metrics.budget(g.session, v.Rule, "ask")
	}
	began := g.gateway.Now()
	g.wait(true)
	decision, err := g.gateway.Approvals.Submit(ctx, ask)
	g.wait(false)
	g.gateway.Metrics.waited(g.session, g.gateway.Now().Sub(began))
	if err := g.answered(recording.Approval{Request: n, ID: id}, decision, err); err != nil {
		return g.unrecorded(err)
	}
	if err != nil {
		return refusal(err, v)
	}
	return g.still(r, v)
}

func (g *gate) question(n uint64, r *engine.Request, v policy.Verdict) approval.Ask {
	ask := approval.Ask{
		Run: g.flow.Run, Agent: g.flow.Agent, Target: g.target.Name,
		Form: r.Kind, Text: r.Text, Context: g.database + " " + g.user + " " + r.Context,
		Session: g.flow.Session, Request: n,
		Rule: v.Rule, Approvers: v.Approvers, ReasonRequired: v.ReasonRequired, Within: v.Within,
		Behalf: g.flow.Identity, SelfAllowed: v.SelfAllowed,
	}
	for _, uid := range []uint32{g.flow.UID, g.flow.Launcher} {
		if uid != 0 && !slices.Contains(ask.UIDs, uid) {
			ask.UIDs = append(ask.UIDs, uid)
		}
	}
	for _, p := range r.Params {
		ask.Params = append(ask.Params, approval.Param(p))
	}
	for _, e := range r.Effects {
		ask.Effects = append(ask.Effects, e.Verb+" "+e.Object)
	}
	return ask
}

// answered puts on record what came of an approval: a note per vote, so that
// each approver is named. Where a limit kept an approval from being made there
// is nothing to note, and the denial says it.
func (g *gate) answered(note recording.Approval, decision approval.Decision, err error) error {
	if err == nil {
		note.ID, note.State = decision.ID, string(approval.Approved)
		for _, vote := range decision.Votes {
			note.Approver, note.Reason = vote.By, vote.Reason
			if err := g.log.Approval(note); err != nil {
				return err
			}
		}
		return g.log.Approval(recording.Approval{Request: note.Request, ID: note.ID, State: string(approval.Consumed)})
	}
	var no *approval.Refusal
	if errors.As(err, &no) {
		note.ID, note.Approver, note.Reason = no.ID, no.By, no.Reason
	}
	if note.ID == "" {
		return g.log.Err()
	}
	note.State = stateOf(err)
	return g.log.Approval(note)
}

// still asks again when the policy changed while people thought: what it denies
// now stays denied, and where it asks others, these have not said yes.
func (g *gate) still(r *engine.Request, v policy.Verdict) *engine.Denial {
	if g.gateway.setup.Load() == g.setup {
		return nil
	}
	again := g.decide(r)
	switch {
	case again.Action == policy.Deny:
		return again.Denial()
	case again.Action == policy.NeedsPerson && (again.Rule != v.Rule || !slices.Equal(again.Approvers, v.Approvers)):
		return &engine.Denial{
			Code: engine.Expired, Rule: again.Rule, Reason: "the policy changed while the request waited, and asks others now",
			Help: "send the same request again to ask them",
		}
	}
	return nil
}

func stateOf(err error) string {
	switch {
	case errors.Is(err, approval.ErrDenied):
		return string(approval.Denied)
	case errors.Is(err, approval.ErrExpired):
		return string(approval.Expired)
	case errors.Is(err, approval.ErrWithdrawn):
		return string(approval.Withdrawn)
	case errors.Is(err, approval.ErrConsumed):
		return string(approval.Consumed)
	}
	return string(approval.Pending)
}

// refusal is what the agent hears when people did not say yes.
func refusal(err error, v policy.Verdict) *engine.Denial {
	d := &engine.Denial{Code: engine.Limit, Rule: v.Rule, Reason: err.Error(), Help: v.Help}
	var no *approval.Refusal
	switch {
	case errors.As(err, &no) && errors.Is(err, approval.ErrDenied):
		d.Code, d.Reason = engine.ByPerson, "denied by "+no.By
		if no.Reason != "" {
			d.Reason += ": " + no.Reason
		}
	case errors.Is(err, approval.ErrExpired):
		d.Code, d.Reason = engine.Expired, fmt.Sprintf("nobody decided within %s", v.Within)
		d.Help = "send the same request again to ask again"
	case errors.Is(err, approval.ErrWithdrawn):
		d.Code, d.Reason = engine.Cancelled, "cancelled while it waited for approval"
	case errors.Is(err, engine.ErrGone), errors.Is(err, context.Canceled):
		d.Code, d.Reason = engine.Cancelled, "the client left while the request waited for approval"
	}
	return d
}

// Scrub implements engine.Gate.
func (g *gate) Scrub(b []byte) []byte { return g.mask(b) }

// Scrubs implements engine.Gate.
func (g *gate) Scrubs() bool {
	return g.masks != nil && g.masks.Scanner != nil || g.known.Load() != nil
}

// Masked implements engine.Gate.
func (g *gate) Masked() []string { return g.masks.Patterns() }

// Restore implements engine.Gate.
func (g *gate) Restore(f engine.Field, v []byte) (real []byte, sure, ok bool) {
	m := g.masks.of(&f)
	if m == nil || m.Kind != mask.Pseudonym {
		return nil, false, false
	}
	return mask.Restore(f.Type, f.Binary, g.agent.keyOf(m), v)
}

// know makes sure that the secrets of this session never come back: of a key the
// whole text and each line of it.
func (g *gate) know(c secret.Credential) {
	list := []mask.Known{{Secret: c.Password.Reveal(), Placeholder: g.target.Placeholder.Password.Reveal()}}
	for _, s := range []secret.Secret{c.SSH.Key, c.SSH.Passphrase, c.SSH.Authority} {
		list = append(list, mask.Known{Secret: s.Reveal(), Placeholder: []byte("redacted")})
	}
	list = slices.DeleteFunc(list, func(k mask.Known) bool { return len(k.Secret) == 0 })
	if len(list) == 0 {
		return
	}
	known, weak := g.target.matcher.of(list)
	g.known.Store(known)
	if weak {
		g.gateway.Log.Warn("the target's secret is too weak to be recognised in answers; make it longer", "target", g.target.Name)
	}
}

// mask replaces what the detectors find, and the known secret. The slice
// returned may be b.
func (g *gate) mask(b []byte) []byte {
	if len(b) == 0 {
		return b
	}
	if known := g.known.Load(); known != nil {
		b, _ = known.Mask(nil, b)
	}
	if g.masks != nil && g.masks.Scanner != nil {
		b, _ = g.masks.Scanner.Mask(nil, b)
	}
	return b
}
