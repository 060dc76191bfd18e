package policy

import (
	"strings"
	"testing"

	"github.com/postern/postern/internal/engine"
)

// What is done with a masked column is allowed by rules that name the verb, and
// by no others.
func TestEffectsOnColumns(t *testing.T) {
	for _, tt := range []struct {
		name   string
		rule   Rule
		object string
		want   string
	}{
		{"* is not filter", Rule{Verbs: []string{"*"}}, "public.customers.email", "deny"},
		{"by its verb", Rule{Verbs: []string{"filter"}}, "public.customers.email", "allow"},
		{"by another verb", Rule{Verbs: []string{"derive"}}, "public.customers.email", "deny"},
		{"of the table", Rule{Verbs: []string{"filter"}, Tables: []string{"customers"}}, "public.customers.email", "allow"},
		{"of another table", Rule{Verbs: []string{"filter"}, Tables: []string{"orders"}}, "public.customers.email", "deny"},
		{"the column", Rule{Verbs: []string{"filter"}, Columns: []string{"customers.email"}}, "public.customers.email", "allow"},
		{"any table's", Rule{Verbs: []string{"filter"}, Columns: []string{"*.email"}}, "public.customers.email", "allow"},
		{"with its schema", Rule{Verbs: []string{"filter"}, Columns: []string{"public.customers.email"}}, "public.customers.email", "allow"},
		{"in another schema", Rule{Verbs: []string{"filter"}, Columns: []string{"sales.customers.email"}}, "public.customers.email", "deny"},
		{"another column", Rule{Verbs: []string{"filter"}, Columns: []string{"customers.name"}}, "public.customers.email", "deny"},
		{"both", Rule{Verbs: []string{"filter"}, Tables: []string{"orders"}, Columns: []string{"*.email"}}, "public.customers.email", "deny"},
		{"its schema not known", Rule{Verbs: []string{"filter"}, Columns: []string{"customers.email"}}, "customers.email", "allow"},
		{"its schema not known but asked", Rule{Verbs: []string{"filter"}, Columns: []string{"public.customers.email"}}, "customers.email", "deny"},
		{"a name with a dot", Rule{Verbs: []string{"filter"}, Columns: []string{"customers.email"}}, `public.customers."e.mail"`, "deny"},
	} {
		tt.rule.Name, tt.rule.Target, tt.rule.Allow = "a", "db", true
		p := compile(t, []Rule{tt.rule})
		v := p.Decide(&Input{Target: "db", Effects: []engine.Effect{{Verb: engine.Filter, Object: tt.object}}})
		if v.Action.String() != tt.want {
			t.Errorf("%s: %s", tt.name, v.Action)
		}
	}
	// A deny that may be meant is one.
	p := compile(t, []Rule{
		{Name: "no", Target: "db", Verbs: []string{"filter"}, Columns: []string{"sales.customers.email"}, Deny: "no"},
		{Name: "yes", Target: "db", Verbs: []string{"filter"}, Allow: true},
	})
	v := p.Decide(&Input{Target: "db", Effects: []engine.Effect{{Verb: engine.Filter, Object: "customers.email"}}})
	if v.Rule != "no" {
		t.Errorf("a deny of a schema that is not known: %+v", v)
	}
	// What the agent is told names the column, and what to do instead.
	v = compile(t, nil).Decide(&Input{Target: "db", Effects: []engine.Effect{{Verb: engine.Filter, Object: "public.customers.email"}}})
	if v.Action == Allow {
		t.Error("allowed by nothing")
	}
}

func TestProblemsOfColumns(t *testing.T) {
	for want, r := range map[string]Rule{
		`the verb "select" does not have`: {Verbs: []string{"select", "filter"}, Columns: []string{"a.b"}},
		`has the pattern "a.b.c.d"`:       {Verbs: []string{"filter"}, Columns: []string{"a.b.c.d"}},
		`has the pattern "a..b"`:          {Verbs: []string{"filter"}, Columns: []string{"a..b"}},
	} {
		r.Name, r.Target, r.Allow = "a", "db", true
		_, problems := Compile(Config{Policies: []Source{{Name: "p", Rules: []Rule{r}}}}, protocols)
		if len(problems) != 1 || !strings.Contains(problems[0].Message, want) {
			t.Errorf("%v, want %s", problems, want)
		}
	}
}
