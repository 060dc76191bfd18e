package policy

import (
	"slices"

	"github.com/postern/postern/internal/engine"
)

// unknowable stands in for a request that says nothing of what it does.
var unknowable = []engine.Effect{{Verb: engine.Unknown}}

// Decide gives the verdict on one request. It allocates nothing when no rule
// that it looks at has a `when` and the answer is Allow.
func (p *Policy) Decide(in *Input) Verdict {
	x := p.targets[in.Target]
	if x == nil {
		return p.Admit(in.Target)
	}
	effects := in.Effects
	if len(effects) == 0 {
		effects = unknowable
	}
	if v, denied := in.narrowed(effects); denied {
		return v
	}
	var (
		answers answers
		allowed string
		asks    []*Ask
		asking  engine.Effect // of the first ask
		by      *rule
	)
	for i := range effects {
		e := &effects[i]
		r := x.first(e, in, &answers)
		switch {
		case r == nil:
			return p.unmatched(in.Target, *e)
		case r.action == Deny:
			return r.denies(*e)
		case r.action == NeedsPerson:
			if by == nil {
				by, asking = r, *e
			}
			if !slices.Contains(asks, r.ask) {
				asks = append(asks, r.ask)
			}
		case allowed == "":
			allowed = r.name
		}
	}
	if by != nil {
		return by.asks(asking, asks)
	}
	return Verdict{Action: Allow, Rule: allowed}
}

// first returns the first rule that matches an effect, or nil. What is not
// known makes deny and ask match and allow not.
func (x *index) first(e *engine.Effect, in *Input, answers *answers) *rule {
	for _, r := range x.verbs[e.Verb] {
		sure, possible := r.matches(e)
		if !possible || r.action == Allow && !sure {
			continue
		}
		switch r.holds(in, answers) {
		case yes:
			return r
		case perhaps:
			if r.action != Allow {
				return r
			}
		}
	}
	return nil
}

// Sure says whether the request is denied whatever the facts that are missing
// and the schemas that are not known turn out to be; if so, with which verdict.
func (p *Policy) Sure(in *Input) (Verdict, bool) {
	x := p.targets[in.Target]
	if x == nil {
		return p.Admit(in.Target), true
	}
	if v, denied := in.narrowed(in.Effects); denied {
		return v, true
	}
	var answers answers
	for i := range in.Effects {
		e := &in.Effects[i]
		if e.Verb == engine.Unknown {
			continue // it may become another
		}
		if r, denied := x.surely(e, in, &answers); denied {
			if r == nil {
				return p.unmatched(in.Target, *e), true
			}
			return r.denies(*e), true
		}
	}
	return Verdict{}, false
}

// surely says whether an effect is denied for sure, and by which rule.
func (x *index) surely(e *engine.Effect, in *Input, answers *answers) (first *rule, denied bool) {
	for _, r := range x.verbs[e.Verb] {
		sure, possible := r.matches(e)
		if !possible {
			continue
		}
		holds := r.holds(in, answers)
		if holds == no {
			continue
		}
		if r.action != Deny {
			return nil, false
		}
		if first == nil {
			first = r
		}
		if sure && holds == yes {
			break
		}
	}
	return first, true
}

// answer of a condition.
type answer uint8

const (
	unasked answer = iota
	no
	yes
	perhaps
)

// answers remembers, for one request, what conditions said: a request has many
// effects, and a condition does not depend on them. It is a small direct-mapped
// table so that it lives on the stack.
type answers [32]struct {
	rule   *rule
	answer answer
}

func (r *rule) holds(in *Input, known *answers) answer {
	has := r.has(in.Identity)
	if r.when == nil || has == no {
		return has
	}
	when := r.asked(in, known)
	if when == yes {
		return has
	}
	return when
}

// has says whether an identity has one of the rule's roles. Whose it is not
// known may have it.
func (r *rule) has(i *engine.Identity) answer {
	switch {
	case len(r.roles) == 0:
		return yes
	case i == nil:
		return perhaps
	}
	return answerOf(slices.ContainsFunc(r.roles, func(role string) bool { return slices.Contains(i.Roles, role) }))
}

func (r *rule) asked(in *Input, known *answers) answer {
	slot := &known[r.id%len(known)]
	if slot.rule != r {
		slot.rule, slot.answer = r, r.when.eval(in)
	}
	return slot.answer
}

// Launched names the rule by which a narrowing denies.
const Launched = "allow"

// Launch is the verdict on a target that the run was launched without.
func Launch(target string) Verdict {
	return Verdict{
		Action: Deny, Rule: Launched, Reason: "this run was launched without target " + target,
		Help: "do without, or have the run launched with more: postern run --allow",
	}
}

// narrowed denies what the run was launched without.
func (in *Input) narrowed(effects []engine.Effect) (Verdict, bool) {
	if in.Only == nil {
		return Verdict{}, false
	}
	v := Launch(in.Target)
	if !engine.Narrowed(in.Only, in.Target, "") {
		return v, true
	}
	for _, e := range effects {
		if !engine.Narrowed(in.Only, in.Target, e.Verb) {
			v.Reason = "this run was launched without it (" + phrase(e) + ")"
			return v, true
		}
	}
	return Verdict{}, false
}

func (r *rule) denies(e engine.Effect) Verdict {
	return Verdict{Action: Deny, Rule: r.name, Reason: r.reason + " (" + phrase(e) + ")", Help: r.help}
}

func (r *rule) asks(e engine.Effect, asks []*Ask) Verdict {
	v := Verdict{
		Action: NeedsPerson, Rule: r.name, Help: r.help, Asks: asks, SelfAllowed: true,
		Reason: phrase(e) + " needs a person's approval",
		Within: asks[0].Within,
	}
	if v.Help == "" {
		v.Help = "wait for the decision, or do without"
	}
	for _, a := range asks {
		for _, who := range a.Approvers {
			if !slices.Contains(v.Approvers, who) {
				v.Approvers = append(v.Approvers, who)
			}
		}
		v.Within = min(v.Within, a.Within)
		v.ReasonRequired = v.ReasonRequired || a.ReasonRequired
		v.SelfAllowed = v.SelfAllowed && a.SelfAllowed
		v.Preview = v.Preview || a.Preview
	}
	return v
}

// Asking is the verdict that one Ask alone makes.
func Asking(rule, reason, help string, ask *Ask) Verdict {
	return Verdict{
		Action: NeedsPerson, Rule: rule, Reason: reason, Help: help, Asks: []*Ask{ask}, Approvers: ask.Approvers,
		Within: ask.Within, ReasonRequired: ask.ReasonRequired, SelfAllowed: ask.SelfAllowed,
	}
}

func (p *Policy) unmatched(target string, e engine.Effect) Verdict {
	v := Verdict{
		Action: Deny,
		Reason: "no rule of policy " + p.Name + " allows " + phrase(e),
		Help:   "do without, or ask whoever keeps policy " + p.Name + " for a rule with target: " + target + " and verbs: [" + e.Verb + "]",
	}
	switch e.Verb {
	case engine.Filter:
		v.Reason = e.Object + " is masked, or newer than what is known of the database, and the statement uses it for more than to be shown, which would tell its values"
		v.Help = "leave it out of conditions, joins, ORDER BY, GROUP BY, DISTINCT and calculations (= with a pseudonym as it was shown is allowed), or ask whoever keeps policy " +
			p.Name + " for a rule with target: " + target + ", verbs: [filter] and columns"
	case engine.Derive:
		v.Reason = e.Object + " is masked, or newer than what is known of the database, and the statement writes it elsewhere or gives it to a function, where it would not be"
		v.Help = "leave it out, or ask whoever keeps policy " + p.Name + " for a rule with target: " + target + ", verbs: [derive] and columns"
	case engine.Unknown:
		v.Reason = "it cannot be told what the request would do"
		if e.Object != "" {
			v.Reason += " (" + e.Object + ")"
		}
		v.Help = "write it as plain statements whose effects can be read from them"
	}
	return v
}

// phrase names an effect for people: "update on public.customers".
func phrase(e engine.Effect) string {
	if e.Object == "" {
		return e.Verb
	}
	return e.Verb + " on " + e.Object
}
