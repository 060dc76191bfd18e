package sql

import (
	"fmt"
	"reflect"
	"slices"
	"testing"

	"github.com/postern/postern/internal/engine"
)

func object(s *Statement) (out []string) {
	for _, e := range s.Effects {
		out = append(out, e.Verb+" "+e.Object)
	}
	return out
}

// What a session knows of schemas is filled in everywhere, and the statement
// that others share stays as it was.
func TestResolve(t *testing.T) {
	s := &Statement{
		Effects: []engine.Effect{{Verb: Select, Object: "orders"}, {Verb: Delete, Object: "orders"}, {Verb: Select, Object: "temp"}, {Verb: Call, Object: "orders"}, {Verb: Select, Object: "x.orders"}},
		Tables:  []Table{{"", "orders"}, {"", "temp"}, {"x", "orders"}}, Parts: []Part{{Verb: Delete, Table: Table{"", "orders"}}},
	}
	s.Seal()
	before := fmt.Sprint(*s)
	if _, known := s.Facts[FactRelations]; known {
		t.Error("relations are known without their schemas")
	}
	schemas := map[string]string{"orders": "public"}
	r := s.Resolve(func(table string) string { return schemas[table] })
	want := []string{"select public.orders", "delete public.orders", "select temp", "call orders", "select x.orders"}
	if got := object(r); !slices.Equal(got, want) {
		t.Error("the effects are", got)
	}
	if r.Parts[0].Table != (Table{"public", "orders"}) || r.Tables[1] != (Table{"", "temp"}) || fmt.Sprint(*s) != before {
		t.Errorf("%+v", r)
	}
	if same := s.Resolve(func(string) string { return "" }); same != s {
		t.Error("another statement although nothing is known")
	}
	schemas["temp"] = "pg_temp"
	all := s.Resolve(func(table string) string { return schemas[table] })
	if got := all.Facts[FactRelations]; !reflect.DeepEqual(got, []string{"pg_temp.temp", "public.orders", "x.orders"}) {
		t.Error("the relations are", got)
	}
}

// EXECUTE is what was prepared; a name that nobody prepared stays unknown.
func TestExecute(t *testing.T) {
	c := running(t, Options{})
	prepared := map[string]*Statement{
		"whole": classify(t, c, "SELECT * FROM orders"), "named": classify(t, c, "SELECT total FROM orders WHERE id = $1"),
		"wipe": classify(t, c, "DELETE FROM orders"), "nested": classify(t, c, "EXECUTE wipe"),
	}
	by := func(name string) *Statement { return prepared[name] }
	for text, want := range map[string]string{
		"EXECUTE wipe": "[session execute delete orders]", "EXECUTE missing": "[unknown execute missing]", "EXECUTE nested": "[unknown execute nested]",
		"CREATE TABLE t AS EXECUTE whole": "[ddl t unknown execute whole]",
		"EXECUTE wipe; EXECUTE missing":   "[unknown execute missing session execute delete orders]",
	} {
		s := classify(t, c, text)
		if got := fmt.Sprint(object(s.Execute(by))); got != want {
			t.Errorf("%s is %s, want %s", text, got, want)
		}
		if s.ReadsOnly {
			t.Errorf("%s reads only", text)
		}
	}
	kept := classify(t, c, "CREATE TABLE t AS EXECUTE named (1)").Execute(by)
	want := []Use{{Filters, Column{Table{"", "orders"}, "id", false}}, {Derives, Column{Table{"", "orders"}, "total", false}}}
	if !slices.Equal(kept.Uses, want) {
		t.Errorf("a table of what is executed uses %v", kept.Uses)
	}
	s := classify(t, c, "SELECT 1")
	if s.Execute(by) != s {
		t.Error("another statement although nothing is executed")
	}
}

func TestByKey(t *testing.T) {
	c := running(t, Options{})
	keys := func(_, table string) [][]string {
		return map[string][][]string{"orders": {{"id"}, {"shop", "number"}}, "none": {}}[table]
	}
	for text, want := range map[string][2]bool{
		"SELECT a FROM orders WHERE id = $1":                             {true, true},
		"SELECT a FROM orders WHERE shop = 1 AND number = 2":             {true, true},
		"SELECT a FROM orders WHERE shop = 1":                            {false, true},
		"SELECT a FROM orders WHERE id = 1 OR true":                      {false, true},
		"SELECT a FROM orders":                                           {false, true},
		"SELECT a FROM none WHERE id = 1":                                {false, true},
		"SELECT a FROM elsewhere WHERE id = 1":                           {false, false},
		"DELETE FROM orders WHERE id = 1":                                {true, true},
		"DELETE FROM orders WHERE id IN (SELECT id FROM orders)":         {false, true},
		"UPDATE orders SET a = (SELECT max(a) FROM none) WHERE id = 1":   {true, true},
		"INSERT INTO orders VALUES (1)":                                  {true, true},
		"INSERT INTO orders SELECT * FROM none":                          {false, true},
		"DELETE FROM orders WHERE id = 1; DELETE FROM orders":            {false, true},
		"DELETE FROM orders WHERE id = 1; INSERT INTO orders VALUES (1)": {true, true},
		"DO $$ BEGIN END $$":                                             {false, false},
		"SHOW all":                                                       {false, true},
	} {
		byKey, known := ByKey(classify(t, c, text), keys)
		if byKey != want[0] || known != want[1] {
			t.Errorf("%s: %t, known %t", text, byKey, known)
		}
	}
}

func FuzzSplit(f *testing.F) {
	for _, name := range []string{"a", "a.b", `"`, `a"b`, "", `.`, `"."`} {
		f.Add(name, name)
	}
	f.Fuzz(func(t *testing.T, schema, name string) {
		if schema == "" {
			schema = "s" // an empty one stands for none
		}
		if s, n := Split(Object(schema, name)); s != schema || n != name {
			t.Errorf("%q and %q make %s, which splits into %q and %q", schema, name, Object(schema, name), s, n)
		}
		if s, n := Split(Object("", name)); s != "" || n != name {
			t.Errorf("%q makes %s, which splits into %q and %q", name, Object("", name), s, n)
		}
	})
}
