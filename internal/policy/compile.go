package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/postern/postern/internal/engine"
)

// compiler collects the problems of one Compile.
type compiler struct {
	protocols map[string]engine.Protocol // by target
	byFacts   map[string]*conditions     // by target, "*" for all
	problems  []Problem
}

// Compile checks policies against the protocols of the targets and makes them
// ready to decide. The Set is nil when a Problem is not a Warning.
func Compile(cfg Config, protocols map[string]engine.Protocol) (*Set, []Problem) {
	c := &compiler{protocols: protocols, byFacts: map[string]*conditions{}}
	set := &Set{policies: map[string]*Policy{}}
	for i := range cfg.Policies {
		src := &cfg.Policies[i]
		if _, double := set.policies[src.Name]; double {
			c.wrong(src.Where, "rename one of them", "there are two policies %q", src.Name)
		}
		p := c.policy(src)
		set.policies[src.Name] = p
		c.pivots(src, p)
	}
	if slices.ContainsFunc(c.problems, func(p Problem) bool { return !p.Warning }) {
		return nil, c.problems
	}
	return set, c.problems
}

func (c *compiler) wrong(where, help, message string, args ...any) {
	c.problems = append(c.problems, Problem{Where: where, Message: fmt.Sprintf(message, args...), Help: help})
}

func (c *compiler) policy(src *Source) *Policy {
	p := &Policy{Name: src.Name, targets: map[string]*index{}, masks: slices.Clone(src.Masks)}
	for i := range src.Rules {
		if r := c.rule(&src.Rules[i], i); r != nil {
			c.place(p, &src.Rules[i], r)
		}
	}
	for _, m := range src.Masks {
		if _, ok := c.protocols[m.Target]; !ok && m.Target != "*" {
			c.wrong(src.Where, "add it to targets", "a mask is for target %q, which does not exist", m.Target)
		}
	}
	return p
}

// rule compiles one rule; nil after a problem.
func (c *compiler) rule(src *Rule, id int) *rule {
	r := &rule{id: id, name: src.Name, reason: src.Deny, help: src.Help, roles: src.Roles}
	before := len(c.problems)
	if _, ok := c.protocols[src.Target]; !ok && src.Target != "*" {
		c.wrong(src.Where, "add it to targets", "rule %q is for target %q, which does not exist", src.Name, src.Target)
		return nil
	}
	actions := 0
	if src.Allow {
		actions, r.action = actions+1, Allow
	}
	if src.Deny != "" {
		actions, r.action = actions+1, Deny
	}
	if src.Ask != nil {
		actions, r.action = actions+1, NeedsPerson
		ask := *src.Ask
		ask.Rule = src.Name
		r.ask = &ask
		if len(ask.Approvers) == 0 {
			c.wrong(src.Where, "add approvers", "rule %q asks nobody", src.Name)
		}
	}
	if actions != 1 {
		c.wrong(src.Where, "set one", "rule %q has %d of allow, deny and ask", src.Name, actions)
	}
	if r.action == Deny && r.help == "" {
		r.help = "do without, or ask whoever keeps the policy"
	}
	for _, t := range src.Tables {
		if t == "" || strings.Count(t, `"`)%2 != 0 {
			c.wrong(src.Where, "write table or schema.table", "rule %q has the pattern %q", src.Name, t)
			continue
		}
		r.tables = append(r.tables, parsePattern(t))
	}
	for _, o := range src.Objects {
		r.objects = append(r.objects, parseObject(o))
	}
	if len(src.Tables) > 0 && len(src.Objects) > 0 {
		c.wrong(src.Where, "keep tables for PostgreSQL, objects for SSH", "rule %q has both tables and objects", src.Name)
	}
	c.columns(src, r)
	c.verbs(src)
	if src.When != "" {
		c.when(src, r)
	}
	if len(c.problems) > before {
		return nil
	}
	return r
}

// explicit are the verbs that "*" does not stand for.
func explicit(verb string) bool {
	return verb == engine.Unknown || ofColumn(verb)
}

// ofColumn says whether an effect's object is a column.
func ofColumn(verb string) bool { return verb == engine.Filter || verb == engine.Derive }

// columns takes the patterns of columns, which only two verbs have.
func (c *compiler) columns(src *Rule, r *rule) {
	r.columns = src.Columns
	if len(src.Columns) == 0 {
		return
	}
	for _, v := range src.Verbs {
		if !ofColumn(v) {
			c.wrong(src.Where, "use tables, or a rule of its own for filter and derive", "rule %q has columns, which the verb %q does not have", src.Name, v)
		}
	}
	for _, p := range src.Columns {
		if strings.Count(p, ".") > 2 || strings.Contains("."+p+".", "..") || strings.Contains(p, `"`) {
			c.wrong(src.Where, "write column, table.column or schema.table.column", "rule %q has the pattern %q", src.Name, p)
		}
	}
}

// verbs checks that some protocol the rule is for has each verb.
func (c *compiler) verbs(src *Rule) {
	if len(src.Verbs) == 0 {
		c.wrong(src.Where, `add verbs, or "*"`, "rule %q has no verbs", src.Name)
	}
	var known []string
	for target, p := range c.protocols {
		if src.Target == target || src.Target == "*" {
			known = append(known, p.Verbs...)
		}
	}
	slices.Sort(known)
	known = slices.Compact(known)
	for _, v := range src.Verbs {
		if v == "*" || v == engine.Unknown || slices.Contains(known, v) {
			continue
		}
		help := "its verbs are " + strings.Join(known, ", ")
		if best := closest(v, known); best != "" {
			help = fmt.Sprintf("did you mean %q?", best)
		}
		c.wrong(src.Where, help, "rule %q: target %q has no verb %q", src.Name, src.Target, v)
	}
}

func (c *compiler) when(src *Rule, r *rule) {
	where := src.WhenWhere
	if where == "" {
		where = src.Where
	}
	if len(src.When) > maxWhen {
		c.wrong(where, "shorten it", "rule %q: when is longer than %d characters", src.Name, maxWhen)
		return
	}
	conditions, err := c.conditions(src.Target)
	if err == nil {
		r.when, err = conditions.compile(src.When)
	}
	if err != nil {
		message, help := helpOf(err)
		c.wrong(where, help, "rule %q: %s", src.Name, message)
	}
}

// conditions returns the compiler of whens for a target, with the facts of its
// protocol; for "*" with those of all.
func (c *compiler) conditions(target string) (*conditions, error) {
	if known, ok := c.byFacts[target]; ok {
		return known, nil
	}
	var facts []engine.Fact
	for _, t := range slices.Sorted(maps.Keys(c.protocols)) {
		if target == t || target == "*" {
			facts = append(facts, c.protocols[t].Facts...)
		}
	}
	made, err := newConditions(facts)
	if err != nil {
		return nil, err
	}
	c.byFacts[target] = made
	return made, nil
}

// place puts a rule into the index of each target that it is for.
func (c *compiler) place(p *Policy, src *Rule, r *rule) {
	reached := false
	for target, protocol := range c.protocols {
		if src.Target != "*" && src.Target != target {
			continue
		}
		x := p.targets[target]
		if x == nil {
			x = &index{verbs: map[string][]*rule{}, named: map[string]bool{}}
			p.targets[target] = x
		}
		x.opens = x.opens || r.action != Deny
		x.perSession = x.perSession || r.when != nil && r.when.caller || len(r.roles) > 0
		for _, verb := range src.Verbs {
			x.named[verb] = true
		}
		x.passing = x.passing || r.when != nil && r.when.passing
		for _, verb := range append(slices.Clone(protocol.Verbs), engine.Unknown) {
			all := slices.Contains(src.Verbs, "*") && !explicit(verb)
			rules := x.verbs[verb]
			if !all && !slices.Contains(src.Verbs, verb) || len(rules) > 0 && rules[len(rules)-1] == r {
				continue
			}
			x.verbs[verb] = append(rules, r)
			reached = reached || !slices.ContainsFunc(rules, func(e *rule) bool {
				return len(e.tables)+len(e.objects)+len(e.columns)+len(e.roles) == 0 && e.when == nil
			})
		}
	}
	if !reached && len(c.protocols) > 0 {
		c.problems = append(c.problems, Problem{
			Where: src.Where, Warning: true,
			Message: fmt.Sprintf("rule %q is never reached: earlier rules decide all that it matches", src.Name),
			Help:    "move it up or remove it",
		})
	}
}

// closest returns the word that shares the most pairs of letters with w, or
// nothing when that is less than half of them.
func closest(w string, words []string) string {
	best, most := "", 0.5
	for _, candidate := range words {
		shared, n := 0, len(w)+len(candidate)-2
		for i := 0; i+2 <= len(w); i++ {
			if strings.Contains(candidate, w[i:i+2]) {
				shared += 2
			}
		}
		if score := float64(shared) / float64(max(n, 1)); score >= most && score > 0 {
			if best == "" || score > most {
				best, most = candidate, score
			}
		}
	}
	return best
}
