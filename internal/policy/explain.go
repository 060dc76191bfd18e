package policy

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/postern/postern/internal/engine"
)

// Match is what one effect of a request met.
type Match struct {
	Effect engine.Effect
	Rule   string // empty: no rule matched
	Action Action
	Missed []Miss // rules that did not match for want of a fact, in their order
}

// Miss is an allowing rule that may have matched, had a fact been known.
type Miss struct {
	Rule  string
	Facts []string
}

// Explain says which rule each effect takes, in their order. Decide sums the
// same up.
func (p *Policy) Explain(in *Input) []Match {
	effects := in.Effects
	if len(effects) == 0 {
		effects = unknowable
	}
	var answers answers
	x := p.targets[in.Target]
	out := make([]Match, len(effects))
	for i := range effects {
		out[i] = Match{Effect: effects[i]}
		if x == nil {
			continue
		}
		r := x.first(&effects[i], in, &answers)
		if r != nil {
			out[i].Rule, out[i].Action = r.name, r.action
		}
		out[i].Missed = x.missed(&effects[i], in, r, &answers)
	}
	return out
}

// missed returns the allowing rules before r whose condition could not be told.
func (x *index) missed(e *engine.Effect, in *Input, r *rule, answers *answers) (out []Miss) {
	for _, other := range x.verbs[e.Verb] {
		if other == r {
			break
		}
		if sure, _ := other.matches(e); !sure || other.action != Allow || other.holds(in, answers) != perhaps {
			continue
		}
		m := Miss{Rule: other.name}
		for _, f := range other.when.facts {
			if _, ok := in.fact(f.name); !ok {
				m.Facts = append(m.Facts, f.name)
			}
		}
		out = append(out, m)
	}
	return out
}

// pivots warns of rules that allow what acts outside of the gateway.
func (c *compiler) pivots(src *Source, p *Policy) {
	found := map[string][]string{} // by rule
	help := map[string]string{}
	for _, target := range slices.Sorted(maps.Keys(c.protocols)) {
		x := p.targets[target]
		if x == nil {
			continue
		}
		for i := range c.protocols[target].Pivots {
			e := &c.protocols[target].Pivots[i]
			for _, name := range x.allowing(e, pivotFacts(c.protocols[target])) {
				if word := strings.TrimSpace(e.Verb + " " + e.Object); !slices.Contains(found[name], word) {
					found[name] = append(found[name], word)
					help[name] = cmp.Or(help[name], c.protocols[target].PivotHelp)
				}
			}
		}
	}
	for i := range src.Rules {
		words := found[src.Rules[i].Name]
		if len(words) == 0 {
			continue
		}
		delete(found, src.Rules[i].Name)
		condition := ""
		if src.Rules[i].When != "" {
			condition = " where its condition holds"
		}
		c.problems = append(c.problems, Problem{
			Where: src.Rules[i].Where, Warning: true,
			Message: fmt.Sprintf("rule %q allows what acts outside of the gateway%s (%s): nothing decides, masks or records what comes of it",
				src.Rules[i].Name, condition, some(words)),
			Help: help[src.Rules[i].Name],
		})
	}
}

// pivotFacts is what is known of a request with a pivot: that it has one, by
// whatever fact the protocol tells it.
func pivotFacts(p engine.Protocol) map[string]any {
	facts := map[string]any{}
	for _, f := range p.Facts {
		if strings.HasSuffix(f.Name, ".pivot") {
			facts[f.Name] = true
		}
	}
	return facts
}

// allowing returns the rules that may allow an effect, whatever the facts but
// for one: it is a pivot, so that conditions on nothing else are decided by it.
func (x *index) allowing(e *engine.Effect, facts map[string]any) (names []string) {
	in := &Input{Facts: facts}
	var answers answers
	for _, r := range x.verbs[e.Verb] {
		sure, possible := r.matches(e)
		if !possible {
			continue
		}
		holds := r.holds(in, &answers)
		switch {
		case holds == no:
		case r.action == Allow && sure:
			if names = append(names, r.name); holds == yes {
				return names
			}
		case r.action != Allow && sure && holds == yes:
			return names
		}
	}
	return names
}

// some shortens a list for people.
func some(words []string) string {
	const shown = 4
	if len(words) <= shown {
		return strings.Join(words, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(words[:shown], ", "), len(words)-shown)
}
