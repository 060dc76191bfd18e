package postgres

import (
	"slices"
	"strings"
	"testing"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/sql"
)

// reading plays the upstream's answer to a reading of the catalog.
func reading(t *testing.T, patterns ...string) *catalog {
	t.Helper()
	r := newReading(patterns, 1)
	for b := catalogAnswer(patterns, 'I'); len(b) > 0; {
		n, _, err := split(b)
		if err != nil {
			t.Fatal(err)
		}
		switch b[0] {
		case 'D':
			err = r.row(b[headerBytes:n])
		case 'C':
			err = r.endResult()
		}
		if err != nil {
			t.Fatal(err)
		}
		b = b[n:]
	}
	c, _, err := r.finish()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// What a statement uses a masked column for is an effect; which columns are
// masked, under which names, the catalog says.
func TestEffectsOnMaskedColumns(t *testing.T) {
	c := reading(t, emails...)
	for _, tt := range []struct{ used, want string }{
		{"customers.email", "filter public.customers.email"},
		{"customers.email!", "filter public.customers.email"},
		{"public.customers.email", "filter public.customers.email"},
		{"customers.id!", ""},
		{"customers.*!", "filter public.customers.email"},
		{"customers.to_jsonb!", "filter public.customers.email"}, // a function of the row
		{"customers.to_jsonb", ""},                               // not qualified: no such column
		{"customers.ctid!", ""},
		{"orders.email", ""},
		{"orders.*!", ""},
		{"customers_old.email", "filter public.customers_old.email"}, // a partition
		{"mailing.address", "filter public.mailing.address"},         // a view over it
		{"mailing.*!", "filter public.mailing.address"},
		{"sales.customers.email", "filter sales.customers.email"}, // newer than the catalog
		{"sales.customers.id", "filter sales.customers.id"},
		{"sales.customers.*!", "filter sales.customers.*"},
		{"newer.total", "filter newer.total"},
		{"pg_class.relname", ""},
		{"pg_catalog.pg_class.email", ""},
	} {
		column := sql.Column{}
		name, sure := strings.CutSuffix(tt.used, "!")
		parts := strings.Split(name, ".")
		column.Name, column.Sure = parts[len(parts)-1], sure
		column.Table.Name = parts[len(parts)-2]
		if len(parts) == 3 {
			column.Table.Schema = parts[0]
		}
		for purpose, verb := range map[sql.Purpose]string{sql.Filters: "filter", sql.Derives: "derive"} {
			s := &sql.Statement{Uses: []sql.Use{{Purpose: purpose, Column: column}}}
			var got []string
			for _, e := range c.effects(s, nil) {
				got = append(got, e.Verb+" "+e.Object)
			}
			if want := strings.Replace(tt.want, "filter", verb, 1); strings.Join(got, ", ") != want {
				t.Errorf("%s of %s: %v, want %q", verb, tt.used, got, want)
			}
		}
	}
	compared := &sql.Statement{Equalities: []sql.Equality{
		{Column: sql.Column{Table: sql.Table{Name: "customers"}, Name: "email"}, Param: 1},
		{Column: sql.Column{Table: sql.Table{Name: "customers_old"}, Name: "email"}, Param: 2, Assigns: true},
	}}
	if got := c.effects(compared, nil); len(got) != 1 || got[0].Verb != sql.Filter {
		t.Errorf("compared with a parameter: %v", got)
	}
	// A name that is not qualified is of the table that has it, and of none that a
	// pattern would mask it in if it had.
	joined := &sql.Statement{Uses: []sql.Use{
		{Purpose: sql.Filters, Column: sql.Column{Table: sql.Table{Name: "customers"}, Name: "email"}},
		{Purpose: sql.Filters, Column: sql.Column{Table: sql.Table{Name: "orders"}, Name: "email"}},
	}}
	if got := reading(t, "*.email").effects(joined, nil); len(got) != 1 || got[0].Object != "public.customers.email" {
		t.Errorf("of two tables of which one has the column: %v", got)
	}
	joined.Uses = joined.Uses[1:]
	if got := reading(t, "*.email").effects(joined, nil); len(got) != 1 || got[0].Object != "public.orders.email" {
		t.Errorf("a column that has appeared since: %v", got)
	}
	if got := reading(t).effects(compared, nil); got != nil {
		t.Errorf("nothing is masked, but %v", got)
	}
	if got := c.outdated().effects(compared, nil); len(got) != 1 {
		t.Errorf("with an outdated catalog: %v", got)
	}
}

// A computed column is masked for what it is computed from, not for what else
// the statement names.
func TestOutputsOfMaskedColumns(t *testing.T) {
	c := reading(t, emails...)
	column := func(table, name string) sql.Column {
		return sql.Column{Table: sql.Table{Name: table}, Name: name, Sure: true}
	}
	s := &sql.Statement{Outputs: []sql.Output{
		{},
		{From: []sql.Column{column("customers", "id")}},
		{From: []sql.Column{column("orders", "id"), column("customers", "email")}},
		{From: []sql.Column{column("customers", "row_to_json")}},
	}}
	var masked []bool
	for _, names := range c.outputs(s) {
		masked = append(masked, len(names) > 0)
	}
	if want := []bool{false, false, true, true}; !slices.Equal(masked, want) {
		t.Errorf("masked: %v, want %v", masked, want)
	}
	for name, from := range map[string]sql.Column{
		"a relation that is newer than the catalog": column("newer", "total"),
		"a column that is newer than the catalog":   {Table: sql.Table{Name: "mailing"}, Name: "phone"},
	} {
		newer := &sql.Statement{Outputs: []sql.Output{{}, {From: []sql.Column{from}}}}
		if got := c.outputs(newer); got != nil {
			t.Errorf("%s: %v", name, got)
		}
	}
	s.Effects = append(s.Effects, effect(sql.Function, "public.f"))
	if got := c.outputs(s); got != nil {
		t.Errorf("what a function returns may come from anywhere, but: %v", got)
	}
}

func effect(verb, object string) engine.Effect { return engine.Effect{Verb: verb, Object: object} }

// What is written like a column may be a function that takes the row, where there
// is one of that name.
func TestFunctionsWrittenLikeColumns(t *testing.T) {
	for _, patterns := range [][]string{emails, nil} {
		c := reading(t, patterns...)
		for _, tt := range []struct{ column, want string }{{"total_of", "function total_of"}, {"total", ""}, {"id", ""}} {
			var got []string
			for _, e := range c.calls(&sql.Statement{Columns: []string{tt.column}}) {
				got = append(got, e.Verb+" "+e.Object)
			}
			if strings.Join(got, ", ") != tt.want {
				t.Errorf("%s: %v", tt.column, got)
			}
		}
	}
	blind := &catalog{blind: true}
	if e := blind.calls(&sql.Statement{Columns: []string{"id"}}); len(e) != 1 || e[0].Verb != engine.Unknown {
		t.Errorf("without a catalog: %v", e)
	}
	if e := blind.calls(&sql.Statement{}); e != nil {
		t.Errorf("no column, and %v", e)
	}
}
