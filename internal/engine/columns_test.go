package engine

import "testing"

func TestMatchColumn(t *testing.T) {
	for _, c := range []struct {
		pattern, schema, table, column string
		want                           bool
	}{
		{"customers.email", "public", "customers", "email", true},
		{"customers.email", "sales", "customers", "email", true},
		{"public.customers.email", "sales", "customers", "email", false},
		{"Customers.EMAIL", "public", "customers", "email", true},
		{"*.ssn", "public", "people", "ssn", true},
		{"*.ssn", "public", "people", "ssn2", false},
		{"ssn", "public", "people", "ssn", true},
		{"hr.*.*", "hr", "people", "salary", true},
		{"hr.*.*", "public", "people", "salary", false},
		{"a.b.c.d", "b", "c", "d", false},
		{"[", "a", "b", "c", false},
	} {
		if got := MatchColumn(c.pattern, c.schema, c.table, c.column); got != c.want {
			t.Errorf("MatchColumn(%q, %q, %q, %q) = %t", c.pattern, c.schema, c.table, c.column, got)
		}
	}
}
