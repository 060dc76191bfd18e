package policy

import "testing"

func TestObjects(t *testing.T) {
	for _, c := range []struct {
		pattern, object string
		sure, possible  bool
	}{
		{"rm", "rm", true, true},
		{"rm", "RM", false, true},
		{"rm", "rmdir", false, false},
		{"rm", "", false, true},
		{"rm*", "rmdir", true, true},
		{"git-*", "git-receive-pack", true, true},
		{"*:5432", "db.internal:5432", true, true},
		{"*:5432", "db.internal:15432", false, false},
		{"*.internal:*", "db.internal:22", true, true},
		{"[::1]:22", "[::1]:22", true, true},
		{"/srv/*", "/srv/a", true, true},
		{"/srv/*", "/srv/a/b", false, false},
		{"/srv/**", "/srv/a/b", true, true},
		{"/srv/**", "/srv", false, false},
		{"/srv/**/c", "/srv/a/b/c", true, true},
		{"/srv/**.log", "/srv/a/b.c.log", true, true},
		{"/srv/*/*.log", "/srv/a/b.log", true, true},
		{"/srv/*/*.log", "/srv/a/b/c.log", false, false},
		{"*", "a/b", false, false},
		{"*", "anything", true, true},
		{"**", "", true, true},
		{"a*b*c", "aXbYc", true, true},
		{"a*b*c", "aXcYb", false, false},
	} {
		sure, possible := matchObjects([]object{parseObject(c.pattern)}, c.object)
		if sure != c.sure || possible != c.possible {
			t.Errorf("%q on %q: %t, %t", c.pattern, c.object, sure, possible)
		}
	}
	if sure, possible := matchObjects(nil, "x"); !sure || !possible {
		t.Error("no patterns do not match everything")
	}
}
