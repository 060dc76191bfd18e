package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/cedar-policy/cedar-go"
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/policy"
	"github.com/postern/postern/internal/sql"
)

// ruleCount is how many rules there are: one per table.
const ruleCount = 50

// request is one decision, in the forms of the three.
type request struct {
	allowed bool // what all of them are to say
	postern *policy.Input
	opa     ast.Value
	cedar   cedar.Request
}

// requests are updates of tables that rules name, the last of which too, of one
// that none does, and by no key.
func requests() ([]request, error) {
	var out []request
	for _, r := range []struct {
		table int
		byKey bool
	}{{0, true}, {49, true}, {25, true}, {7, false}, {60, true}, {33, true}, {49, false}, {12, true}} {
		table := fmt.Sprintf("t%d", r.table)
		input, err := ast.InterfaceToValue(map[string]any{
			"verb": "update", "table": table, "by_key": r.byKey, "statements": 1, "tables": []string{table},
		})
		if err != nil {
			return nil, err
		}
		out = append(out, request{
			allowed: r.byKey && r.table < ruleCount,
			postern: &policy.Input{
				Target: "db", Effects: []engine.Effect{{Verb: sql.Update, Object: table}},
				Facts: map[string]any{sql.FactByKey: r.byKey, sql.FactStatements: int64(1), sql.FactTables: []string{table}},
			},
			opa: input,
			cedar: cedar.Request{
				Principal: cedar.NewEntityUID("Agent", "planner"), Action: cedar.NewEntityUID("Action", "update"), Resource: cedar.NewEntityUID("Table", cedar.String(table)),
				Context: cedar.NewRecord(cedar.RecordMap{
					"by_key": cedar.Boolean(r.byKey), "statements": cedar.Long(1), "tables": cedar.NewSet(cedar.String(table)),
				}),
			},
		})
	}
	return out, nil
}

// decisions are two rows: rules that name their table, and rules that name it in
// their condition, so that each has to be evaluated.
func decisions() ([]row, error) {
	all, err := requests()
	if err != nil {
		return nil, err
	}
	var rows []row
	for _, r := range []struct {
		name  string
		inner bool
	}{{"rules-50", false}, {"conditions-50", true}} {
		deciders, err := deciders(r.inner)
		if err != nil {
			return nil, err
		}
		made := row{name: r.name, goal: 10 * time.Microsecond}
		for _, d := range deciders {
			made.engines = append(made.engines, engineOf(d, all))
		}
		rows = append(rows, made)
	}
	return rows, nil
}

// decider says whether a request is allowed.
type decider struct {
	name   string
	allows func(*request) (bool, error)
}

var errDiffers = errors.New("it decides otherwise than the others")

func engineOf(d decider, all []request) way {
	return way{d.name, func(i, n int) error {
		for k := range n {
			r := &all[(i+k)%len(all)]
			allowed, err := d.allows(r)
			if err != nil {
				return err
			}
			if allowed != r.allowed {
				return errDiffers
			}
		}
		return nil
	}}
}

func deciders(inner bool) ([]decider, error) {
	p, err := posternRules(inner)
	if err != nil {
		return nil, err
	}
	q, err := opaRules(inner)
	if err != nil {
		return nil, err
	}
	c, err := cedarRules(inner)
	if err != nil {
		return nil, err
	}
	return []decider{{"postern", p}, {"opa", q}, {"cedar", c}}, nil
}

func posternRules(inner bool) (func(*request) (bool, error), error) {
	src := policy.Source{Name: "p"}
	for i := range ruleCount {
		r := policy.Rule{Name: fmt.Sprintf("r%d", i), Target: "db", Verbs: []string{sql.Update}, Allow: true, When: "request.sql.by_key && request.sql.statements == 1"}
		if inner {
			r.When = fmt.Sprintf(`"t%d" in request.sql.tables && `, i) + r.When
		} else {
			r.Tables = []string{fmt.Sprintf("t%d", i)}
		}
		src.Rules = append(src.Rules, r)
	}
	set, problems := policy.Compile(policy.Config{Policies: []policy.Source{src}}, map[string]engine.Protocol{"db": {Verbs: sql.Verbs, Facts: sql.Facts}})
	if set == nil {
		return nil, fmt.Errorf("the rules of Postern: %v", problems)
	}
	p, _ := set.Policy("p")
	return func(r *request) (bool, error) { return p.Decide(r.postern).Action == policy.Allow, nil }, nil
}

func opaRules(inner bool) (func(*request) (bool, error), error) {
	var b strings.Builder
	b.WriteString("package p\ndefault allow := false\n")
	for i := range ruleCount {
		table := fmt.Sprintf(`input.table == "t%d"`, i)
		if inner {
			table = fmt.Sprintf(`"t%d" in input.tables`, i)
		}
		fmt.Fprintf(&b, "allow if { input.verb == \"update\"; %s; input.by_key; input.statements == 1 }\n", table)
	}
	query, err := rego.New(rego.Query("data.p.allow"), rego.Module("p.rego", b.String())).PrepareForEval(context.Background())
	if err != nil {
		return nil, err
	}
	return func(r *request) (bool, error) {
		results, err := query.Eval(context.Background(), rego.EvalParsedInput(r.opa))
		return results.Allowed(), err
	}, nil
}

func cedarRules(inner bool) (func(*request) (bool, error), error) {
	var b strings.Builder
	for i := range ruleCount {
		resource, condition := fmt.Sprintf(`resource == Table::"t%d"`, i), ""
		if inner {
			resource, condition = "resource", fmt.Sprintf(`context.tables.contains("t%d") && `, i)
		}
		fmt.Fprintf(&b, "permit (principal, action == Action::\"update\", %s) when { %scontext.by_key && context.statements == 1 };\n", resource, condition)
	}
	set, err := cedar.NewPolicySetFromBytes("p.cedar", []byte(b.String()))
	if err != nil {
		return nil, err
	}
	entities := cedar.EntityMap{}
	return func(r *request) (bool, error) {
		decision, _ := cedar.Authorize(set, entities, r.cedar)
		return decision == cedar.Allow, nil
	}, nil
}
