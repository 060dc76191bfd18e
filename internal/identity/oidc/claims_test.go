package oidc

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"testing"
)

func TestClaims(t *testing.T) {
	p, _, _ := world(t, func(i *Issuer) {
		i.Claims = map[string]string{
			"subject":    `claims.repository + "@" + string(claims.run)`,
			"name":       `"CI of " + claims.repository`,
			"owner":      `claims.owner`,
			"groups":     `claims.roles.map(r, "role:" + r)`,
			"extra.ref":  `claims.nested.ref`,
			"extra.deep": `claims.nested.list[1]`,
		}
	})
	token := func(change map[string]any) string {
		all := map[string]any{
			"repository": "orders", "run": 42, "owner": "acme", "roles": []string{"deploy"},
			"nested": map[string]any{"ref": "main", "list": []any{1, "two"}}, "email": nil,
		}
		for name, v := range change {
			all[name] = v
		}
		return good(all)
	}
	got, err := verify(p, token(nil))
	if err != nil {
		t.Fatal(err)
	}
	if got.Subject != "orders@42" || got.Name != "CI of orders" || got.Owner != "acme" || got.Email != "" ||
		!slices.Equal(got.Groups, []string{"role:deploy"}) || got.Extra["ref"] != "main" || got.Extra["deep"] != "two" || len(got.Extra) != 2 {
		t.Errorf("got %s", text(got))
	}
	for field, change := range map[string]map[string]any{
		"owner":      {"owner": nil},
		"subject":    {"run": nil},
		"groups":     {"roles": "deploy"},
		"extra.ref":  {"nested": map[string]any{"ref": []string{canary}, "list": []any{1, "two"}}},
		"extra.deep": {"nested": map[string]any{"ref": "main", "list": []any{canary}}},
	} {
		_, err := verify(p, token(change))
		if !errors.Is(err, ErrClaims) || !strings.Contains(err.Error(), "claims."+field) {
			t.Errorf("%s: %v", field, err)
		} else if strings.Contains(err.Error(), canary) {
			t.Errorf("%s: a claim is told: %v", field, err)
		}
	}
}

func TestDefaultClaims(t *testing.T) {
	p, _, _ := world(t)
	for name, c := range map[string]struct {
		change map[string]any
		want   func(Identity) bool
	}{
		"nothing but sub":       {map[string]any{"preferred_username": nil, "email": nil, "groups": nil}, func(i Identity) bool { return i.Subject == "u-1" && i.Name == "" && i.Groups == nil }},
		"name":                  {map[string]any{"preferred_username": nil, "name": "Alice A."}, func(i Identity) bool { return i.Name == "Alice A." }},
		"name made readable":    {map[string]any{"preferred_username": "al\u202eice\n"}, func(i Identity) bool { return i.Name == "alice" }},
		"email verified":        {map[string]any{"email_verified": true}, func(i Identity) bool { return i.Email != "" }},
		"email not verified":    {map[string]any{"email_verified": false}, func(i Identity) bool { return i.Email == "" }},
		"not verified, as text": {map[string]any{"email_verified": "false"}, func(i Identity) bool { return i.Email == "" }},
		"one group as text":     {map[string]any{"groups": "dba"}, func(i Identity) bool { return slices.Equal(i.Groups, []string{"dba"}) }},
		"a group twice":         {map[string]any{"groups": []string{"a", "b", "a"}}, func(i Identity) bool { return slices.Equal(i.Groups, []string{"a", "b"}) }},
		"other claims are elsewhere": {map[string]any{"_claim_names": map[string]any{"address": "s"}, "_claim_sources": map[string]any{"s": map[string]any{"JWT": "x"}}}, func(i Identity) bool {
			return len(i.Groups) == 2
		}},
		"no jti":         {map[string]any{"jti": nil}, func(i Identity) bool { return strings.HasPrefix(i.TokenID, "sha256:") && len(i.TokenID) == 31 }},
		"jti is hostile": {map[string]any{"jti": "a\nb"}, func(i Identity) bool { return strings.HasPrefix(i.TokenID, "sha256:") }},
	} {
		got, err := verify(p, good(c.change))
		if err != nil || !c.want(got) {
			t.Errorf("%s: %s, %v", name, text(got), err)
		}
	}
}

// A mapping cannot be made to cost much by what is in a token.
func TestMappingCostsAreBounded(t *testing.T) {
	p, _, _ := world(t, func(i *Issuer) {
		i.Claims = map[string]string{"owner": `claims.l.map(a, claims.l.map(b, claims.l.map(c, string(a + b + c)).size()).size()).size() > 0 ? "x" : ""`}
	})
	if _, err := verify(p, good(map[string]any{"l": slices.Repeat([]int{1}, 1000)})); !errors.Is(err, ErrClaims) {
		t.Errorf("got %v", err)
	}
}

func TestGroupsAtTheLimit(t *testing.T) {
	p, _, _ := world(t)
	groups := func(n int) (out []string) {
		for range n {
			out = append(out, strconv.Itoa(len(out)))
		}
		return out
	}
	if got, err := verify(p, good(map[string]any{"groups": groups(maxGroups)})); err != nil || len(got.Groups) != maxGroups {
		t.Errorf("%d groups, %v", len(got.Groups), err)
	}
	if _, err := verify(p, good(map[string]any{"groups": groups(maxGroups + 1)})); !errors.Is(err, ErrClaims) {
		t.Errorf("one more: %v", err)
	}
}
