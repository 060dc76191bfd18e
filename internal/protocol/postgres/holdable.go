package postgres

import (
	"fmt"
	"slices"
	"strings"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/sql"
)

// Which statements can be run before people decide: those of which a rollback
// leaves nothing. What the text says is looked at when the request is decided,
// what only the table says in the transaction itself.

// changes are the verbs of statements that can be held.
var changes = []string{sql.Insert, sql.Update, sql.Delete}

// unheld is why a statement cannot be held as far as its text tells; empty when
// it can.
func (c *catalog) unheld(s *sql.Statement) string {
	switch {
	case len(s.Kinds) != 1:
		return "it is more than one statement"
	case !slices.Contains(changes, s.Kinds[0]):
		return "it is not a plain INSERT, UPDATE or DELETE"
	case len(s.Parts) != 1 || len(s.Tables) != 1 || s.Parts[0].Table.Name == "" || s.Parts[0].Verb != s.Kinds[0]:
		return "it touches more than one table"
	}
	for _, e := range s.Effects {
		switch e.Verb {
		case sql.Insert, sql.Update, sql.Delete, sql.Select, sql.Filter, sql.Derive:
		default:
			return "it calls " + strings.TrimSpace(e.Verb+" "+e.Object) + ", which a rollback may not undo"
		}
	}
	if r, ok := c.find(s.Parts[0].Table); !ok || r == nil {
		return "its table is not known"
	}
	return ""
}

// unheldNow is the same as far as the session tells.
func (c *codec) unheldNow(kind byte) string {
	switch {
	case c.tx == 'E':
		return "its transaction has failed already"
	case len(c.held.restored) > 0:
		return "it names rows by pseudonyms"
	case c.copyIn:
		return "a COPY is running"
	case kind == 'B' && c.ran != c.unitRan, kind == 'Q' && c.touched:
		return "other statements were sent together with it"
	}
	return ""
}

// holdable puts into r whether it can be held.
func (c *codec) holdable(r *engine.Request, k *resolved) {
	if c.held.kind != 'Q' && c.held.kind != 'B' {
		r.Unheld = "it is not sent as a statement of its own"
		return
	}
	if r.Unheld = c.unheldNow(c.held.kind); r.Unheld == "" {
		r.Unheld = k.unheld
	}
	r.Holds = r.Unheld == ""
}

// checkQuery asks what a table sets off when it is changed: one row, one text,
// which is empty when a rollback undoes all of it. Expressions in the catalog
// name functions by number; those of the server itself are below 10000.
func checkQuery(t sql.Table, verb string) string {
	identifier := func(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }
	literal := func(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
	table := literal(identifier(t.Schema)+"."+identifier(t.Name)) + "::pg_catalog.regclass"
	const foreign = ` OPERATOR(pg_catalog.~) ':(funcid|opfuncid|hashfuncid) [0-9]{5,}'::pg_catalog.text`
	const called = ` OPERATOR(pg_catalog.~) '[{](FUNCEXPR|NEXTVALUEEXPR)'::pg_catalog.text`
	checks := []string{
		`WHEN NOT c.relkind OPERATOR(pg_catalog.=) 'r' THEN 'it is not a plain table'`,
		`WHEN c.relrowsecurity THEN 'it has row security'`,
		`WHEN c.relhasrules THEN 'it has rules'`,
		`WHEN EXISTS (SELECT FROM pg_catalog.pg_trigger t WHERE t.tgrelid OPERATOR(pg_catalog.=) c.oid AND NOT t.tgisinternal) THEN 'it has triggers'`,
		`WHEN EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE i.inhparent OPERATOR(pg_catalog.=) c.oid) THEN 'other tables inherit from it'`,
		`WHEN EXISTS (SELECT FROM pg_catalog.pg_constraint k WHERE k.conrelid OPERATOR(pg_catalog.=) c.oid AND k.conbin::pg_catalog.text` + foreign + `) THEN 'a constraint of it calls a function'`,
		`WHEN EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid OPERATOR(pg_catalog.=) c.oid AND pg_catalog.concat(i.indexprs::pg_catalog.text, i.indpred::pg_catalog.text)` + foreign + `) THEN 'an index of it calls a function'`,
		`WHEN EXISTS (SELECT FROM pg_catalog.pg_attrdef d WHERE d.adrelid OPERATOR(pg_catalog.=) c.oid AND d.adbin::pg_catalog.text` + foreign + `) THEN 'a default of it calls a function'`,
		`WHEN EXISTS (SELECT FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_constraint k ON k.contypid OPERATOR(pg_catalog.=) a.atttypid
 WHERE a.attrelid OPERATOR(pg_catalog.=) c.oid AND NOT k.contypid OPERATOR(pg_catalog.=) 0::pg_catalog.oid AND k.conbin::pg_catalog.text` + foreign + `) THEN 'a type of it calls a function'`,
	}
	if verb == sql.Insert {
		checks = append(checks,
			`WHEN EXISTS (SELECT FROM pg_catalog.pg_attribute a WHERE a.attrelid OPERATOR(pg_catalog.=) c.oid AND NOT a.attidentity OPERATOR(pg_catalog.=) ''::"char") THEN 'it has an identity column, and numbers of a sequence are not given back'`,
			`WHEN EXISTS (SELECT FROM pg_catalog.pg_attrdef d WHERE d.adrelid OPERATOR(pg_catalog.=) c.oid AND d.adbin::pg_catalog.text`+called+
				` AND NOT pg_catalog.pg_get_expr(d.adbin, d.adrelid) OPERATOR(pg_catalog.=) ANY ('{now(),clock_timestamp(),gen_random_uuid()}'::pg_catalog.text[])) THEN 'a default of it calls a function'`)
	} else {
		checks = append(checks, `WHEN EXISTS (SELECT FROM pg_catalog.pg_constraint k WHERE k.confrelid OPERATOR(pg_catalog.=) c.oid
 AND NOT (k.confdeltype OPERATOR(pg_catalog.=) ANY ('{a,r}'::"char"[]) AND k.confupdtype OPERATOR(pg_catalog.=) ANY ('{a,r}'::"char"[]))) THEN 'other tables follow its changes'`)
	}
	return fmt.Sprintf("SELECT (CASE %s ELSE '' END)::pg_catalog.text FROM pg_catalog.pg_class c WHERE c.oid OPERATOR(pg_catalog.=) %s::pg_catalog.oid", strings.Join(checks, " "), table)
}
