package policy

import (
	"fmt"
	"strings"
	"testing"

	"github.com/postern/postern/internal/engine"
)

// TestExplain: each effect has its rule, and what an allowing rule lacked.
func TestExplain(t *testing.T) {
	p := compile(t, example())
	in := &Input{
		Target:  "db",
		Effects: []engine.Effect{{Verb: "select", Object: "orders"}, {Verb: "update", Object: "orders"}, {Verb: "unknown"}},
		Facts:   map[string]any{"sql.tables": []string{"orders"}},
	}
	got := fmt.Sprint(p.Explain(in))
	want := "[{{select orders} reads allow []} {{update orders} other-writes-need-a-person ask [{narrow-writes [sql.by_key]}]} {{unknown }  deny []}]"
	if got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	if got := p.Explain(&Input{Target: "nowhere"}); len(got) != 1 || got[0].Action != Deny || got[0].Rule != "" {
		t.Errorf("%v", got)
	}
}

// TestPivotWarnings: a rule that lets through what acts outside of the gateway
// is warned of, unless a rule before it keeps that from it.
func TestPivotWarnings(t *testing.T) {
	protocol := engine.Protocol{
		Verbs:  []string{"select", "admin", "copy-program"},
		Facts:  []engine.Fact{{Name: "sql.pivot", Type: engine.Bool}, {Name: "sql.tables", Type: engine.TextSet}},
		Pivots: []engine.Effect{{Verb: "copy-program"}, {Verb: "admin", Object: "dblink"}},
	}
	allow := Rule{Name: "a", Target: "*", Verbs: []string{"*"}, Allow: true}
	with := func(change func(*Rule)) Rule { r := allow; change(&r); return r }
	deny := Rule{Name: "d", Target: "*", Verbs: []string{"*"}, Deny: "no", When: "request.sql.pivot"}
	for _, c := range []struct {
		name  string
		rules []Rule
		want  string // in the warning; empty: none
	}{
		{"all", []Rule{allow}, `rule "a" allows what acts outside of the gateway (copy-program, admin dblink)`},
		{"reads only", []Rule{with(func(r *Rule) { r.Verbs = []string{"select"} })}, ""},
		{"other functions", []Rule{with(func(r *Rule) { r.Verbs, r.Tables = []string{"admin"}, []string{"pg_sleep"} })}, ""},
		{"that function", []Rule{with(func(r *Rule) { r.Verbs, r.Tables = []string{"admin"}, []string{"dblink"} })}, "(admin dblink)"},
		{"under a condition", []Rule{with(func(r *Rule) { r.When = `"t" in request.sql.tables` })}, "where its condition holds"},
		{"without pivots", []Rule{with(func(r *Rule) { r.When = `!request.sql.pivot` })}, ""},
		{"denied before", []Rule{deny, allow}, ""},
		{"denied after", []Rule{allow, deny}, `rule "a"`},
		{"asked before", []Rule{{Name: "p", Target: "*", Verbs: []string{"admin", "copy-program"}, Ask: &Ask{Approvers: []string{"dba"}}}, allow}, ""},
	} {
		set, problems := Compile(Config{Policies: []Source{{Name: "p", Rules: c.rules}}}, map[string]engine.Protocol{"db": protocol})
		if set == nil {
			t.Fatalf("%s: %v", c.name, problems)
		}
		var told []string
		for _, p := range problems {
			if strings.Contains(p.Message, "outside of the gateway") {
				told = append(told, p.String())
			}
		}
		text := strings.Join(told, "\n")
		if (text == "") != (c.want == "") || !strings.Contains(text, c.want) || len(told) > 1 {
			t.Errorf("%s: %q, want %q", c.name, text, c.want)
		}
	}
}
