package policy

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/postern/postern/internal/engine"
)

// example is the policy of the shipped postern.yaml.
func example() []Rule {
	return []Rule{
		{Name: "no-ddl", Target: "db", Verbs: []string{"ddl", "grant"}, Deny: "schema changes go through a migration pull request"},
		{Name: "session", Target: "db", Verbs: []string{"session"}, Allow: true},
		{Name: "reads", Target: "db", Verbs: []string{"select"}, Allow: true},
		{
			Name: "narrow-writes", Target: "db", Verbs: []string{"insert", "update", "delete"},
			When: `request.sql.by_key && !("customers" in request.sql.tables)`, Allow: true,
		},
		{
			Name: "other-writes-need-a-person", Target: "db", Verbs: []string{"insert", "update", "delete"},
			Ask: &Ask{Approvers: []string{"dba"}, Within: 10 * time.Minute, ReasonRequired: true},
		},
	}
}

func TestExample(t *testing.T) {
	p := compile(t, example())
	write := func(byKey any, table string) *Input {
		in := &Input{
			Target: "db", Effects: []engine.Effect{{Verb: "delete", Object: table}},
			Facts: map[string]any{"sql.tables": []string{table}},
		}
		if byKey != nil {
			in.Facts["sql.by_key"] = byKey
		}
		return in
	}
	for _, c := range []struct {
		name string
		in   *Input
		want string
	}{
		{"by key", write(true, "orders"), "allow narrow-writes"},
		{"by key, customers", write(true, "customers"), "ask other-writes-need-a-person"},
		{"not by key", write(false, "orders"), "ask other-writes-need-a-person"},
		{"unknown key", write(nil, "orders"), "ask other-writes-need-a-person"},
		{"ddl", &Input{Target: "db", Effects: []engine.Effect{{Verb: "ddl", Object: "t"}}}, "deny no-ddl"},
	} {
		if got := say(p.Decide(c.in)); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

func TestWords(t *testing.T) {
	p := compile(t, append(example(), Rule{
		Name: "no-functions", Target: "db", Verbs: []string{"function"},
		Deny: "functions may write", Help: "write the statement out",
	}))
	for _, c := range []struct{ verb, object, reason, help string }{
		{"ddl", "public.t", "schema changes go through a migration pull request (ddl on public.t)", "do without, or ask whoever keeps the policy"},
		{"function", "f", "functions may write (function on f)", "write the statement out"},
		{"unknown", "execute s", "it cannot be told what the request would do (execute s)", "write it as plain statements whose effects can be read from them"},
		{"nonsense", "t", "no rule of policy p allows nonsense on t", "do without, or ask whoever keeps policy p for a rule with target: db and verbs: [nonsense]"},
		{"update", "t", "update on t needs a person's approval", "wait for the decision, or do without"},
	} {
		v := p.Decide(&Input{Target: "db", Effects: []engine.Effect{{Verb: c.verb, Object: c.object}}})
		if v.Reason != c.reason || v.Help != c.help {
			t.Errorf("%s: %q; %q", c.verb, v.Reason, v.Help)
		}
	}
	if v := p.Decide(&Input{Target: "nowhere"}); v.Action != Deny || v.Denial().Reason != "policy p allows nothing on target nowhere" {
		t.Errorf("%+v", v)
	}
}

func TestAsksSumUp(t *testing.T) {
	p := compile(t, []Rule{
		{Name: "a", Target: "db", Verbs: []string{"update"}, Ask: &Ask{Approvers: []string{"dba", "lead"}, Within: time.Hour, SelfAllowed: true}},
		{Name: "b", Target: "db", Verbs: []string{"delete"}, Ask: &Ask{Approvers: []string{"lead", "privacy"}, Within: time.Minute, ReasonRequired: true}},
	})
	v := p.Decide(&Input{Target: "db", Effects: []engine.Effect{{Verb: "update"}, {Verb: "delete"}}})
	if fmt.Sprint(v.Approvers) != "[dba lead privacy]" || v.Within != time.Minute || !v.ReasonRequired || v.SelfAllowed || len(v.Asks) != 2 {
		t.Errorf("%+v", v)
	}
}

func TestAdmitAndMasks(t *testing.T) {
	set, problems := Compile(Config{Policies: []Source{{
		Name: "p",
		Rules: []Rule{
			{Name: "a", Target: "db", Verbs: []string{"select"}, Ask: &Ask{Approvers: []string{"x"}}},
			{Name: "b", Target: "other", Verbs: []string{"select"}, Deny: "no"},
		},
		Masks: []Mask{{Target: "db", Columns: []string{"a.b"}}, {Target: "*", Detect: []string{"pii"}}, {Target: "other"}},
	}}}, protocols)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	p, _ := set.Policy("p")
	for target, want := range map[string]Action{"db": Allow, "other": Deny, "nowhere": Deny} {
		if v := p.Admit(target); v.Action != want {
			t.Errorf("%s: %+v", target, v)
		}
	}
	if m := p.Masks("db"); len(m) != 2 || m[0].Columns[0] != "a.b" || m[1].Detect[0] != "pii" {
		t.Errorf("%+v", m)
	}
}

func TestPerSession(t *testing.T) {
	for when, want := range map[string]bool{
		"":                            false,
		"request.sql.by_key":          false,
		"target == 'db'":              false,
		"agent.uid == 1000":           true,
		"session.database == 'sales'": true,
		"session.user == 'deploy'":    true,
		"request.sql.tables.exists(agent, agent == 'x')": false,
	} {
		p := compile(t, []Rule{{Name: "a", Target: "db", Verbs: []string{"select"}, When: when, Allow: true}})
		if got := p.PerSession("db"); got != want {
			t.Errorf("%q: %v", when, got)
		}
	}
}

// TestNames: what "*" stands for is not named.
func TestNames(t *testing.T) {
	p := compile(t, []Rule{{Name: "all", Target: "*", Verbs: []string{"*"}, Allow: true}, {Name: "a", Target: "db", Verbs: []string{"select"}, Deny: "no"}})
	for verb, want := range map[string]bool{"select": true, "insert": false, "*": true} {
		if got := p.Names("db", verb); got != want {
			t.Errorf("%s: %v", verb, got)
		}
	}
	if p.Names("other", "select") || (&Policy{}).Names("db", "select") {
		t.Error("another target's")
	}
}

func TestConditions(t *testing.T) {
	in := &Input{
		Target: "db", Effects: []engine.Effect{{Verb: "select"}}, Database: "sales",
		Agent: Agent{Name: "planner", Run: "r1", Exe: "/usr/bin/psql", UID: 1000},
		Facts: map[string]any{"sql.kind": "select", "sql.limit": int64(10), "sql.by_key": true, "sql.tables": []string{"a", "b"}},
	}
	for when, want := range map[string]Action{
		`agent.name == "planner" && agent.run == "r1"`:            Allow,
		`agent.exe.endsWith("/psql") && agent.uid == 1000`:        Allow,
		`session.database == "sales" && target == "db"`:           Allow,
		`request.sql.limit <= 10 && request.sql.kind == "select"`: Allow,
		`request.sql.tables.all(t, t in ["a", "b"])`:              Allow,
		`request.sql.tables.exists(t, t.matches("^c"))`:           Deny,
		`"a" in request.sql.tables`:                               Allow,
		`size(request.sql.tables) == 3`:                           Deny,
		`request.sql.relations.exists(t, t == "x.y")`:             Deny, // unknown
	} {
		p := compile(t, []Rule{{Name: "a", Target: "db", Verbs: []string{"select"}, When: when, Allow: true}})
		if v := p.Decide(in); v.Action != want {
			t.Errorf("%s: %s", when, v.Action)
		}
	}
}

func TestProblems(t *testing.T) {
	allow := func(change func(*Rule)) Rule {
		r := Rule{Where: "f:1:1", Name: "a", Target: "db", Verbs: []string{"select"}, Allow: true}
		change(&r)
		return r
	}
	when := func(s string) Rule { return allow(func(r *Rule) { r.When, r.WhenWhere = s, "f:2:7" }) }
	for _, c := range []struct {
		rule Rule
		want string
	}{
		{allow(func(r *Rule) { r.Target = "dbx" }), `f:1:1: rule "a" is for target "dbx", which does not exist`},
		{allow(func(r *Rule) { r.Verbs = []string{"selct"} }), `did you mean "select"?`},
		{allow(func(r *Rule) { r.Verbs = []string{"zzz"} }), `its verbs are ddl, delete, derive, filter, function,`},
		{allow(func(r *Rule) { r.Verbs = nil }), `rule "a" has no verbs`},
		{allow(func(r *Rule) { r.Deny = "x" }), `rule "a" has 2 of allow, deny and ask`},
		{allow(func(r *Rule) { r.Allow = false }), `rule "a" has 0 of allow, deny and ask`},
		{allow(func(r *Rule) { r.Allow, r.Ask = false, &Ask{} }), `rule "a" asks nobody`},
		{allow(func(r *Rule) { r.Tables = []string{`a"b`} }), `has the pattern`},
		{when("request.sql.bykey"), `f:2:7: rule "a": there is no request.sql.bykey; did you mean request.sql.by_key?`},
		{when("zzz.qqq == 1"), `there is no zzz.qqq; there are agent.exe, `},
		{when("request.sql.limit"), `when is of type int; write a condition`},
		{when("request.sql.by_key &&"), `when: 1:22: Syntax error`},
		{when(`request.sql.limit == "x"`), `found no matching overload`},
		{when(`"public.customers" in request.sql.tables`), `use request.sql.relations`},
		{when(`!("public.customers" in request.sql.tables)`), `use request.sql.relations`},
		{when(`has(request.sql.limit)`), `when:`},
		{when(strings.Repeat("true && ", 1000) + "true"), `longer than`},
		{when("request.sql.kind.matches('(')"), `when:`},
	} {
		set, problems := Compile(Config{Policies: []Source{{Name: "p", Rules: []Rule{c.rule}}}}, protocols)
		if set != nil || len(problems) != 1 || !strings.Contains(problems[0].String(), c.want) {
			t.Errorf("got %v, want %s", problems, c.want)
		}
	}
}

func TestShadowedRule(t *testing.T) {
	rules := parseRules(t, "allow select; deny select on customers; deny select,update")
	_, problems := Compile(Config{Policies: []Source{{Name: "p", Rules: rules}}}, protocols)
	if len(problems) != 1 || !problems[0].Warning || !strings.Contains(problems[0].String(), `rule "b" is never reached`) {
		t.Errorf("%v", problems)
	}
}

func TestAllProblemsAtOnce(t *testing.T) {
	_, problems := Compile(Config{Policies: []Source{
		{Where: "f:1", Name: "p", Rules: []Rule{{Name: "a", Target: "x"}, {Name: "b", Target: "db", Verbs: []string{"q"}}}},
		{Where: "f:2", Name: "p", Masks: []Mask{{Target: "y"}}},
	}}, protocols)
	if len(problems) != 5 {
		t.Errorf("%d: %v", len(problems), problems)
	}
}

// A condition that would take long is cut off, and cut off counts as unknown.
func TestCostOfConditions(t *testing.T) {
	many := make([]string, 3000)
	for i := range many {
		many[i] = strings.Repeat("x", 50)
	}
	in := &Input{Target: "db", Effects: []engine.Effect{{Verb: "select"}}, Facts: map[string]any{"sql.tables": many}}
	when := `request.sql.tables.all(a, request.sql.tables.all(b, request.sql.tables.all(c, a + b + c != "")))`
	for _, r := range []Rule{{Allow: true}, {Deny: "no"}} {
		r.Name, r.Target, r.Verbs, r.When = "a", "db", []string{"select"}, when
		p := compile(t, []Rule{r})
		start := time.Now()
		if v := p.Decide(in); v.Action != Deny {
			t.Errorf("%+v", v)
		}
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("took %s", took)
		}
	}
}

func TestSure(t *testing.T) {
	for _, c := range []struct {
		name, rules, request string
		want                 bool
	}{
		{"no rule", "allow select", "update t", true},
		{"a plain deny", "deny update", "update t", true},
		{"a plain ask", "ask update", "update t", false},
		{"an unknown fact may allow", "allow update when by_key", "update t", false},
		{"a known fact does not allow", "allow update when by_key", "update t | by_key=false", true},
		{"deny or nothing", "deny update when by_key", "update t", true},
		{"deny or allow", "deny update when by_key; allow update", "update t", false},
		{"the schema may be right", "allow update on public.t", "update t", false},
		{"the name is not", "allow update on public.u", "update t", true},
		{"unknown may become anything", "", "unknown ?", false},
		{"one of several", "allow select", "select t, ddl t", true},
	} {
		p, in := compile(t, parseRules(t, "other: allow select; "+c.rules)), parseRequest(t, c.request)
		p.targets["db"] = orEmpty(p.targets["db"])
		if _, got := p.Sure(in); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

func orEmpty(x *index) *index {
	if x == nil {
		return &index{}
	}
	return x
}

func TestNoAllocations(t *testing.T) {
	p := compile(t, example())
	in := &Input{Target: "db", Effects: []engine.Effect{{Verb: "select", Object: "public.t"}, {Verb: "session", Object: "begin"}}}
	if n := testing.AllocsPerRun(1000, func() {
		if p.Decide(in).Action != Allow {
			t.Fatal("denied")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func fifty() []Rule {
	var rules []Rule
	for i := range 45 {
		rules = append(rules, Rule{
			Name: fmt.Sprint("r", i), Target: []string{"db", "other", "*"}[i%3],
			Verbs: [][]string{{"select"}, {"update", "delete"}, {"ddl"}}[i%3], Tables: []string{fmt.Sprintf("schema%d.t*", i)}, Allow: true,
		})
	}
	return append(rules, example()...)
}

func BenchmarkFiftyRules(b *testing.B) {
	p := compile(b, fifty())
	for name, in := range map[string]*Input{
		"select": {Target: "db", Effects: []engine.Effect{{Verb: "select", Object: "public.orders"}}},
		"update": {
			Target: "db", Effects: []engine.Effect{{Verb: "update", Object: "public.orders"}, {Verb: "select", Object: "public.orders"}},
			Facts: map[string]any{"sql.by_key": true, "sql.tables": []string{"orders"}},
		},
		"unknown": {
			Target: "db", Effects: []engine.Effect{{Verb: "update", Object: "public.orders"}},
			Facts: map[string]any{"sql.tables": []string{"orders"}},
		},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				p.Decide(in)
			}
		})
	}
}

// The two questions of a pattern never contradict each other, and possible is
// not narrower than sure.
func FuzzPattern(f *testing.F) {
	f.Add("public.cust*", "customers")
	f.Add(`"a.b"`, `"a.b"`)
	f.Add("*.t", "s.t")
	f.Fuzz(func(t *testing.T, text, object string) {
		if text == "" || strings.Count(text, `"`)%2 != 0 {
			return
		}
		p := parsePattern(text)
		sure, possible := p.match(object)
		if sure && !possible {
			t.Errorf("%q surely and not possibly matches %q", text, object)
		}
		if _, anything := p.match(""); !anything {
			t.Errorf("%q cannot be an unknown object", text)
		}
	})
}
