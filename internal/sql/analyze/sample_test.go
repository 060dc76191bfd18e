package analyze

import (
	"fmt"
	"strings"
	"testing"

	"github.com/postern/postern/internal/sql"
)

func TestSample(t *testing.T) {
	for text, want := range map[string]string{
		"DELETE FROM orders WHERE state = 'gone'":                                           "SELECT * FROM orders WHERE state = 'gone' LIMIT 5 []",
		"update only sales.orders o set state = $1 where o.id = $2 or $2 < $1 returning id": "SELECT * FROM ONLY sales.orders o WHERE o.id = $1 OR $1 < $2 LIMIT 5 [2 1]",
		"delete from t": "SELECT * FROM t LIMIT 5 []",
		"delete from t where id in (select 'x;y -- ' from u where b = $3)": "SELECT * FROM t WHERE id IN (SELECT 'x;y -- ' FROM u WHERE b = $1) LIMIT 5 [3]",
		"insert into t values (1)":                "none",
		"delete from t using u where t.id = u.id": "none",
		"update t set a = b from u":               "none",
		"with x as (select 1) delete from t":      "none",
		"delete from t; delete from u":            "none",
		"select 1":                                "none",
	} {
		s, err := Sample(text)
		got := "none"
		if s != nil {
			got = fmt.Sprintf("%s %v", s.Query, s.Params)
		}
		if err != nil || got != want {
			t.Errorf("%s: %s, %v, want %s", text, got, err, want)
		}
		if s == nil {
			continue
		}
		read, err := Analyze(s.Query)
		if err != nil || len(read.Kinds) != 1 || read.Kinds[0] != "select" || strings.Contains(fmt.Sprint(read.Effects), sql.Delete) {
			t.Errorf("%s: the sample is %v, %v", text, read, err)
		}
	}
}

// FuzzSample: whatever a statement is, the query for its sample is one SELECT
// that touches no table that the statement does not.
func FuzzSample(f *testing.F) {
	for _, s := range []string{
		"delete from t where a = $1", "update t set a = 1 where b like 'x' and c in (select 1)", "delete from t where current of c",
		"update t as \"a b\" set x = 1 where \"a b\".y = E'\\n' and z @> array[1]", "delete from t where exists (select from u) or (a, b) = (1, 2)",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := Sample(text)
		if err != nil || s == nil {
			return
		}
		read, err := Analyze(s.Query)
		if err != nil {
			return // it will not run either
		}
		of, err := Analyze(text)
		if err != nil {
			t.Skip("too large to be told")
		}
		if len(read.Kinds) != 1 || read.Kinds[0] != "select" {
			t.Fatalf("%q: the sample %q is %v", text, s.Query, read.Kinds)
		}
		for _, e := range read.Effects {
			if e.Verb != sql.Select && e.Verb != sql.Session && !strings.Contains(fmt.Sprint(of.Effects), e.Verb) {
				t.Fatalf("%q: the sample %q has the effect %v", text, s.Query, e)
			}
		}
	})
}
