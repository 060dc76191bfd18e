package engine

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestParseNarrowing(t *testing.T) {
	for in, want := range map[string]Narrowing{
		"orders":                  {Target: "orders"},
		"orders:select":           {Target: "orders", Verbs: []string{"select"}},
		" orders : select, copy ": {Target: "orders", Verbs: []string{"select", "copy"}},
	} {
		got, err := ParseNarrowing(in)
		if err != nil || got.Target != want.Target || !slices.Equal(got.Verbs, want.Verbs) {
			t.Errorf("%q: %+v, %v", in, got, err)
		}
	}
	for _, in := range []string{"", ":", ":select", "orders:", "orders:select,", "orders:,select", "orders:" + strings.Repeat("a,", 256) + "a"} {
		if got, err := ParseNarrowing(in); err == nil {
			t.Errorf("%.20q: %+v", in, got)
		}
	}
	if err := CheckNarrowing([]Narrowing{{Target: "a"}, {Target: "b"}}); err != nil {
		t.Error(err)
	}
	for name, list := range map[string][]Narrowing{
		"twice": {{Target: "a"}, {Target: "b"}, {Target: "a", Verbs: []string{"select"}}}, "nothing": {{}}, "many": make([]Narrowing, 257),
	} {
		if CheckNarrowing(list) == nil {
			t.Error(name, "passed")
		}
	}
}

func TestNarrowed(t *testing.T) {
	only := []Narrowing{{Target: "orders", Verbs: []string{"select"}}, {Target: "web"}}
	for _, c := range []struct {
		only         []Narrowing
		target, verb string
		want         bool
	}{
		{nil, "orders", "drop", true},
		{[]Narrowing{}, "orders", "select", false},
		{only, "orders", "select", true},
		{only, "orders", "session", true},
		{only, "orders", "", true},
		{only, "orders", "update", false},
		{only, "orders", Unknown, false},
		{only, "orders", Filter, false},
		{only, "web", "anything", true},
		{only, "other", "select", false},
		{only, "other", "session", false},
		{only, "other", "", false},
	} {
		if got := Narrowed(c.only, c.target, c.verb); got != c.want {
			t.Errorf("%v: %s on %s: %t", c.only, c.verb, c.target, got)
		}
	}
}

func TestIdentityExpires(t *testing.T) {
	now := time.Unix(1000, 0)
	for _, c := range []struct {
		i    *Identity
		want bool
	}{
		{nil, false},
		{&Identity{}, false},
		{&Identity{Expires: now.Add(1)}, false},
		{&Identity{Expires: now}, true},
	} {
		if got := c.i.Expired(now); got != c.want {
			t.Errorf("%+v: %t", c.i, got)
		}
	}
	if (&Identity{Issuer: "a", Subject: "b"}).Key() == (&Identity{Issuer: "b", Subject: "a"}).Key() {
		t.Error("two issuers' subjects are one")
	}
}
