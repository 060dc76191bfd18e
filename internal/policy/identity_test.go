package policy

import (
	"testing"

	"github.com/postern/postern/internal/engine"
)

var dba = &engine.Identity{
	Issuer: "corp", Subject: "1", Name: "alice", Email: "alice@example.test", Groups: []string{"dba", "sre"},
	Roles: []string{"writer"}, Claims: map[string]string{"team": "billing"},
}

var analyst = &engine.Identity{Issuer: "corp", Subject: "2", Name: "bob", Groups: []string{"analyst"}}

// TestRoles: a rule with roles is for whoever has one of them; whose it is not
// known has it where that takes something away.
func TestRoles(t *testing.T) {
	p := compile(t, []Rule{
		{Name: "no-drops", Target: "db", Verbs: []string{"ddl"}, Roles: []string{"intern"}, Deny: "not you"},
		{Name: "writers", Target: "db", Verbs: []string{"update", "ddl"}, Roles: []string{"writer", "owner"}, Allow: true},
		{Name: "big", Target: "db", Verbs: []string{"delete"}, Roles: []string{"writer"}, When: "request.sql.by_key", Allow: true},
		{Name: "reads", Target: "db", Verbs: []string{"select"}, Allow: true},
	})
	intern := &engine.Identity{Roles: []string{"intern", "writer"}}
	for _, c := range []struct {
		who  *engine.Identity
		verb string
		want string
	}{
		{dba, "update", "allow writers"},
		{dba, "select", "allow reads"},
		{dba, "ddl", "allow writers"},
		{dba, "delete", "allow big"},
		{analyst, "update", "deny"},
		{analyst, "delete", "deny"},
		{analyst, "select", "allow reads"},
		{nil, "update", "deny"},
		{nil, "ddl", "deny no-drops"},
		{nil, "select", "allow reads"},
		{intern, "ddl", "deny no-drops"},
		{intern, "update", "allow writers"},
	} {
		in := &Input{Target: "db", Effects: []engine.Effect{{Verb: c.verb, Object: "t"}}, Identity: c.who, Facts: map[string]any{"sql.by_key": true}}
		if got := say(p.Decide(in)); got != c.want {
			t.Errorf("%s by %s: %q, want %q", c.verb, c.who, got, c.want)
		}
	}
	if !p.PerSession("db") {
		t.Error("a policy with roles is said to be the same for everybody")
	}
}

// TestIdentityInConditions: all of it can be asked for, and nothing of it is
// known where there is none.
func TestIdentityInConditions(t *testing.T) {
	for when, want := range map[string][3]string{ // alice, bob, nobody
		`identity.issuer == "corp"`:             {"allow r", "allow r", "deny"},
		`identity.subject == "1"`:               {"allow r", "deny", "deny"},
		`identity.name.startsWith("a")`:         {"allow r", "deny", "deny"},
		`identity.email == ""`:                  {"deny", "allow r", "deny"},
		`identity.owner == ""`:                  {"allow r", "allow r", "deny"},
		`"dba" in identity.groups`:              {"allow r", "deny", "deny"},
		`!("dba" in identity.groups)`:           {"deny", "allow r", "deny"},
		`identity.roles.exists(r, r=="writer")`: {"allow r", "deny", "deny"},
		`identity.claims["team"] == "billing"`:  {"allow r", "deny", "deny"},
		`identity.name == "bob" || true`:        {"allow r", "allow r", "allow r"},
	} {
		p := compile(t, []Rule{{Name: "r", Target: "db", Verbs: []string{"select"}, When: when, Allow: true}})
		for i, who := range []*engine.Identity{dba, analyst, nil} {
			in := &Input{Target: "db", Effects: []engine.Effect{{Verb: "select", Object: "t"}}, Identity: who}
			if got := say(p.Decide(in)); got != want[i] {
				t.Errorf("%s for %s: %q, want %q", when, who, got, want[i])
			}
		}
	}
}

// TestNarrowing: what a run was launched with only takes away.
func TestNarrowing(t *testing.T) {
	p := compile(t, []Rule{
		{Name: "no-ddl", Target: "db", Verbs: []string{"ddl"}, Deny: "no"},
		{Name: "all", Target: "db", Verbs: []string{"*"}, Allow: true},
	})
	reads := []engine.Narrowing{{Target: "db", Verbs: []string{"select", "ddl"}}}
	for _, c := range []struct {
		only  []engine.Narrowing
		verbs []string
		want  string
	}{
		{nil, []string{"update"}, "allow all"},
		{reads, []string{"select"}, "allow all"},
		{reads, []string{"session"}, "allow all"},
		{reads, []string{"update"}, "deny allow"},
		{reads, []string{"select", "update"}, "deny allow"},
		{reads, []string{"ddl"}, "deny no-ddl"}, // it gives nothing
		{reads, nil, "deny allow"},
		{[]engine.Narrowing{{Target: "db"}}, []string{"update"}, "allow all"},
		{[]engine.Narrowing{{Target: "other"}}, []string{"select"}, "deny allow"},
		{[]engine.Narrowing{}, []string{"select"}, "deny allow"},
	} {
		in := &Input{Target: "db", Only: c.only}
		for _, v := range c.verbs {
			in.Effects = append(in.Effects, engine.Effect{Verb: v, Object: "t"})
		}
		v := p.Decide(in)
		if got := say(v); got != c.want {
			t.Errorf("%v: %v: %q, want %q", c.only, c.verbs, got, c.want)
		}
		if v.Rule == Launched {
			if sure, ok := p.Sure(in); len(c.verbs) > 0 && (!ok || sure.Reason != v.Reason) {
				t.Errorf("%v: %v: beforehand %+v, %t", c.only, c.verbs, sure, ok)
			}
			if v.Reason == "" || v.Help == "" {
				t.Errorf("%+v", v)
			}
		}
	}
}
