package gateway

import (
	"fmt"
	"maps"
	"slices"

	"github.com/postern/postern/internal/budget"
	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/policy"
)

// Budget is a limit of an agent's policy, and who is asked when much of it is
// used; nil: nobody is.
type Budget struct {
	budget.Limit
	Ask *policy.Ask
}

func limitsOf(budgets []Budget) []budget.Limit {
	out := make([]budget.Limit, len(budgets))
	for i, b := range budgets {
		out[i] = b.Limit
		if b.Ask == nil {
			out[i].AskAt = 0
		}
	}
	return out
}

// costs is what a request takes before it has run, and what it must find of the
// rest: whether it will have an answer is not known yet.
func costs(r *engine.Request) (takes, needs budget.Amounts) {
	takes[budget.Statements] = int64(max(r.Count, 1))
	takes[budget.Writes] = int64(r.Writes)
	if len(r.Effects) == 0 {
		takes[budget.Writes] = max(takes[budget.Writes], 1)
	}
	needs = takes
	needs[budget.Rows], needs[budget.Bytes] = 1, 1
	return takes, needs
}

// budgeted is what the policy says to a request when what is left of the
// agent's budgets is considered too.
func (g *gate) budgeted(r *engine.Request, v policy.Verdict) policy.Verdict {
	if g.account == nil || v.Action == policy.Deny || r.Upkeep || r.Refused != nil {
		return v
	}
	_, needs := costs(r)
	s := g.account.Look(needs)
	switch {
	case s == nil:
	case s.State == budget.Spent:
		d := exhausted(s)
		return policy.Verdict{Action: policy.Deny, Code: d.Code, Rule: d.Rule, Reason: d.Reason, Help: d.Help}
	case v.Action == policy.Allow:
		reason := fmt.Sprintf("%d%% of the %s of budget %s are used", s.Limit.AskAt, s.Kind, s.Limit.Name)
		v = policy.Asking(ruleOf(s), reason, "wait for the decision, or until more is free again", g.budgets[s.Index].Ask)
		v.Note = s.String()
	}
	return v
}

// ruleOf is what a budget is called where a rule is expected.
func ruleOf(s *budget.Standing) string { return "budget " + s.Limit.Name }

func exhausted(s *budget.Standing) *engine.Denial {
	return &engine.Denial{
		Code: engine.Exhausted, Rule: ruleOf(s),
		Reason: fmt.Sprintf("the %s of budget %s are used up", s.Kind, s.Limit.Name),
		Help:   s.String(),
	}
}

// charge takes a request that is about to go upstream from the budgets. Another
// session of the agent may have been faster.
func (g *gate) charge(r *engine.Request, observe bool) *engine.Denial {
	if r.Upkeep {
		return nil
	}
	takes, _ := costs(r)
	if observe {
		g.account.Owe(takes)
	} else if s := g.account.Take(takes); s != nil {
		return exhausted(s)
	}
	g.statements.Add(int64(max(r.Count, 1)))
	return nil
}

// charge takes a part of the answer from the budgets. What there is not enough
// left for does not go on to the agent.
func (x *exchange) charge(rows, bytes int) *engine.Denial {
	takes := budget.Amounts{budget.Rows: int64(rows), budget.Bytes: int64(bytes)}
	if x.observe {
		x.account.Owe(takes)
	} else if s := x.account.Take(takes); s != nil {
		d := exhausted(s)
		x.gate.gateway.Metrics.budget(x.gate.session, d.Rule, "cut")
		x.check(x.gate.log.Denial(x.number, d))
		return d
	}
	x.gate.given.Add(int64(rows))
	return nil
}

// Standing is how an agent stands with one budget of its policy.
type Standing struct {
	Agent string
	budget.Standing
}

// Budgets says how every agent stands, in the order of the policies.
func (g *Gateway) Budgets() []Standing {
	var out []Standing
	agents := g.setup.Load().Agents
	for _, name := range slices.Sorted(maps.Keys(agents)) {
		for _, s := range g.Ledger.Account(name, "*", limitsOf(agents[name].Budgets)).Standings() {
			out = append(out, Standing{name, s})
		}
	}
	return out
}
