package policy

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/postern/postern/internal/engine"
)

var update = flag.Bool("update", false, "rewrite the table in docs/policy.md")

// truth is the truth table of docs/policy.md. A rule is written
// "action verb,verb [on pattern,pattern] [when condition]"; rules are named a,
// b, c in their order. A request is its effects, "verb object", and after a bar
// its facts; "?" as object means that it is unknown.
var truth = []struct{ name, rules, request, verdict string }{
	{"no rules", "", "select t", "deny"},
	{"no rule matches", "allow select", "update t", "deny"},
	{"a rule matches", "allow select", "select t", "allow a"},
	{"the first match decides", "deny select; allow select", "select t", "deny a"},
	{"the first match decides, the other way", "allow select; deny select", "select t", "allow a"},
	{"a rule for another target does not match", "other: allow select", "select t", "deny"},
	{"a rule for all targets matches", "*: allow select", "select t", "allow a"},

	{"all effects allowed", "allow select; allow update", "select t, update t", "allow a"},
	{"one effect not matched", "allow select", "select t, update t", "deny"},
	{"deny beats allow, in either order", "allow select; deny update", "select t, update t", "deny b"},
	{"deny beats ask", "ask select; deny update", "select t, update t", "deny b"},
	{"no match beats ask", "ask select", "select t, update t", "deny"},
	{"ask beats allow", "allow select; ask update", "select t, update t", "ask b"},
	{"asks accumulate", "ask select; ask update", "select t, update t", "ask a+b"},
	{"one rule asks once", "ask select,update", "select t, update t", "ask a"},

	{"nothing known of the request", "allow *; deny unknown", "", "deny b"},
	{"* is not unknown", "allow *", "unknown ?", "deny"},
	{"* is all other verbs", "allow *", "select t, ddl t", "allow a"},
	{"unknown by name", "allow unknown", "unknown ?", "allow a"},
	{"unknown among others", "allow select; ask unknown", "select t, unknown ?", "ask b"},

	{"when is true", "allow update when by_key", "update t | by_key=true", "allow a"},
	{"when is false", "allow update when by_key", "update t | by_key=false", "deny"},
	{"a false when leaves it to the next rule", "allow update when by_key; ask update", "update t | by_key=false", "ask b"},
	{"unknown fact, allow: no match", "allow update when by_key; ask update", "update t", "ask b"},
	{"unknown fact, negated, allow: no match", "allow update when !by_key; ask update", "update t", "ask b"},
	{"unknown fact, deny: match", "deny update when by_key; allow update", "update t", "deny a"},
	{"unknown fact, negated, deny: match", "deny update when !by_key; allow update", "update t", "deny a"},
	{"unknown fact, ask: match", "ask update when by_key; allow update", "update t", "ask a"},
	{"an unknown fact that does not matter", "allow update when by_key || restricted", "update t | restricted=true", "allow a"},
	{"an unknown fact that does not matter, false", "deny update when by_key && restricted; allow update", "update t | restricted=false", "allow b"},
	{"when fails, allow: no match", "allow update when 1 / limit > 0", "update t | limit=0", "deny"},
	{"when fails, deny: match", "deny update when 1 / limit > 0; allow update", "update t | limit=0", "deny a"},
	{"no LIMIT is an unknown limit", "deny select when limit > 100; allow select", "select t", "deny a"},

	{"allow, the same name", "allow select on customers", "select customers", "allow a"},
	{"allow, name in public", "allow select on customers", "select public.customers", "allow a"},
	{"allow, name in pg_catalog", "allow function on nextval", "function pg_catalog.nextval", "allow a"},
	{"allow, name in another schema", "allow select on customers", "select sales.customers", "deny"},
	{"allow, schema asked and not known", "allow select on public.customers", "select customers", "deny"},
	{"allow, any schema", "allow select on *.customers", "select customers", "allow a"},
	{"allow, glob", "allow select on sales.*", "select sales.orders", "allow a"},
	{"allow, other case", "allow select on customers", "select Customers", "deny"},
	{"allow, object unknown", "allow select on customers", "select ?", "deny"},
	{"allow all tables, object unknown", "allow select on *", "select ?", "allow a"},
	{"deny, the same name", "deny select on customers; allow select", "select customers", "deny a"},
	{"deny, name in another schema", "deny select on customers; allow select", "select sales.customers", "deny a"},
	{"deny, schema not known", "deny select on sales.customers; allow select", "select customers", "deny a"},
	{"deny, schema known and another", "deny select on sales.customers; allow select", "select public.customers", "allow b"},
	{"deny, other case", "deny select on Customers; allow select", "select customers", "deny a"},
	{"deny, object unknown", "deny select on customers; allow select", "select ?", "deny a"},
	{"deny, other name", "deny select on customers; allow select", "select orders", "allow b"},
	{"ask, schema not known", "ask select on sales.customers; allow select", "select customers", "ask a"},
	{"one pattern of several", "allow select on a,b", "select b", "allow a"},
	{"a dot in a name is no schema", "allow select on public.customers", `select "public.customers"`, "deny"},
}

// sql is a protocol like PostgreSQL's, small enough for a test.
var sql = engine.Protocol{
	Name:  "sql",
	Verbs: []string{"select", "insert", "update", "delete", "ddl", "grant", "session", "function", engine.Filter, engine.Derive, engine.Unknown},
	Facts: []engine.Fact{
		{Name: "sql.by_key", Type: engine.Bool},
		{Name: "sql.restricted", Type: engine.Bool},
		{Name: "sql.limit", Type: engine.Int},
		{Name: "sql.kind", Type: engine.Text},
		{Name: "sql.tables", Type: engine.TextSet},
		{Name: "sql.relations", Type: engine.TextSet},
	},
}

var protocols = map[string]engine.Protocol{"db": sql, "other": sql}

func parseRules(t *testing.T, text string) []Rule {
	t.Helper()
	var rules []Rule
	for i, s := range strings.Split(text, "; ") {
		if s == "" {
			continue
		}
		r := Rule{Where: fmt.Sprintf("rule %d", i+1), Name: string(rune('a' + i)), Target: "db"}
		if target, rest, ok := strings.Cut(s, ": "); ok {
			r.Target, s = target, rest
		}
		s, r.When, _ = strings.Cut(s, " when ")
		for _, fact := range []string{"by_key", "restricted", "limit"} {
			r.When = strings.ReplaceAll(r.When, fact, "request.sql."+fact)
		}
		s, tables, onTables := strings.Cut(s, " on ")
		if onTables {
			r.Tables = strings.Split(tables, ",")
		}
		action, verbs, _ := strings.Cut(s, " ")
		r.Verbs = strings.Split(verbs, ",")
		switch action {
		case "allow":
			r.Allow = true
		case "deny":
			r.Deny = "not here"
		case "ask":
			r.Ask = &Ask{Approvers: []string{"dba", "lead-" + r.Name}, Within: time.Duration(i+1) * time.Minute}
		default:
			t.Fatalf("rule %q", s)
		}
		rules = append(rules, r)
	}
	return rules
}

func parseRequest(t *testing.T, text string) *Input {
	t.Helper()
	in := &Input{Target: "db", Facts: map[string]any{}}
	effects, facts, _ := strings.Cut(text, " | ")
	for _, s := range strings.Split(effects, ", ") {
		if verb, object, ok := strings.Cut(s, " "); ok {
			in.Effects = append(in.Effects, engine.Effect{Verb: verb, Object: strings.Trim(object, "?")})
		}
	}
	for _, s := range strings.Fields(facts) {
		name, value, _ := strings.Cut(s, "=")
		switch value {
		case "true", "false":
			in.Facts["sql."+name] = value == "true"
		default:
			in.Facts["sql."+name] = int64(value[0] - '0')
		}
	}
	return in
}

func compile(t testing.TB, rules []Rule) *Policy {
	t.Helper()
	set, problems := Compile(Config{Policies: []Source{{Where: "p", Name: "p", Rules: rules}}}, protocols)
	for _, p := range problems {
		if !p.Warning {
			t.Fatal(p)
		}
	}
	p, ok := set.Policy("p")
	if !ok {
		t.Fatal("no policy")
	}
	return p
}

// say writes a verdict as the table does.
func say(v Verdict) string {
	s := v.Action.String()
	if v.Action == NeedsPerson {
		var names []string
		for _, a := range v.Asks {
			names = append(names, a.Rule)
		}
		return s + " " + strings.Join(names, "+")
	}
	return strings.TrimSpace(s + " " + v.Rule)
}

func TestTruth(t *testing.T) {
	for _, row := range truth {
		t.Run(row.name, func(t *testing.T) {
			p, in := compile(t, parseRules(t, row.rules)), parseRequest(t, row.request)
			v := p.Decide(in)
			if got := say(v); got != row.verdict {
				t.Fatalf("got %q, want %q", got, row.verdict)
			}
			if v.Action != Allow && (v.Reason == "" || v.Help == "") {
				t.Errorf("verdict without words: %+v", v)
			}
			// What is sure to be denied is denied.
			if sure, ok := p.Sure(in); ok && (v.Action != Deny || sure.Action != Deny || sure.Reason == "") {
				t.Errorf("sure of %+v", sure)
			}
		})
	}
}

// The order of effects changes neither the action nor who is asked.
func TestOrderOfEffects(t *testing.T) {
	for _, row := range truth {
		p, in := compile(t, parseRules(t, row.rules)), parseRequest(t, row.request)
		forward := p.Decide(in)
		for i, j := 0, len(in.Effects)-1; i < j; i, j = i+1, j-1 {
			in.Effects[i], in.Effects[j] = in.Effects[j], in.Effects[i]
		}
		backward := p.Decide(in)
		if forward.Action != backward.Action || len(forward.Asks) != len(backward.Asks) || forward.Within != backward.Within {
			t.Errorf("%s: %+v, backward %+v", row.name, forward, backward)
		}
	}
}

func TestDocs(t *testing.T) {
	const file, begin, end = "../../docs/policy.md", "<!-- truth table: made by go test ./internal/policy -update -->\n", "<!-- end of truth table -->\n"
	src, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(src), begin)
	table, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no place for the table", file)
	}
	var want strings.Builder
	want.WriteString("| case | rules | request | verdict |\n|---|---|---|---|\n")
	for _, row := range truth {
		cell := func(s string) string {
			if s == "" {
				return ""
			}
			return "`" + strings.ReplaceAll(s, "|", `\|`) + "`"
		}
		fmt.Fprintf(&want, "| %s | %s | %s | **%s** |\n", row.name, cell(row.rules), cell(row.request), row.verdict)
	}
	if table == want.String() {
		return
	}
	if !*update {
		t.Fatal("the table in docs/policy.md is not the test's; run with -update")
	}
	if err := os.WriteFile(file, []byte(before+begin+want.String()+end+after), 0o644); err != nil {
		t.Fatal(err)
	}
}
