package postgres

import (
	"slices"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/sql"
)

// What a name stands for upstream is what a request is decided by, so a name is
// followed only where there is no doubt. A Parse may fail, or be discarded
// behind an error, and then the name keeps its older meaning; within its own
// unit that does not matter, since PostgreSQL discards the rest of the unit too.
// SQL's PREPARE and DEALLOCATE share the names of Parse and Close.

// statementFor finds the statement that a Bind of this name is sure to run; it
// returns nil, and why, when there is none.
func (c *codec) statementFor(name string) (*statement, *engine.Denial) {
	s := c.statements[name]
	switch {
	case s == nil:
		return nil, unknownName("prepared statement", name)
	case !s.confirmed && s.unit != c.unit:
		return nil, &engine.Denial{
			Code:   engine.ByPolicy,
			Reason: "it is not known yet what the prepared statement is",
			Help:   "wait for ParseComplete before binding it after a Sync",
		}
	}
	return s, nil
}

// name gives a statement its name, as far as this side knows.
func (c *codec) name(s *statement) {
	s.unit = c.unit
	s.previous = c.statements[s.name]
	c.statements[s.name] = s
}

// unname takes a name back from a statement whose Parse was denied or failed.
// Of several, the newest is taken back first.
func (c *codec) unname(s *statement) {
	switch {
	case c.statements[s.name] != s:
	case s.previous != nil:
		c.statements[s.name] = s.previous
	default:
		delete(c.statements, s.name)
	}
}

// confirm is called when the upstream has taken a Parse.
func (s *statement) confirm() { s.confirmed, s.previous = true, nil }

// forget drops every name whose meaning s may change.
func (c *codec) forget(s *sql.Statement) {
	for _, name := range s.Deallocates {
		if name == "" {
			clear(c.statements)
			clear(c.sqlNames)
		}
		delete(c.statements, name)
		delete(c.sqlNames, name)
	}
	for _, p := range s.Prepares {
		delete(c.statements, p.Name)
		delete(c.sqlNames, p.Name)
	}
	if opaque(s) {
		clear(c.sqlNames)
		for _, known := range c.statements {
			known.suspect, known.fields = true, nil
		}
	}
}

// learn takes note of what SQL has prepared, once it has. Where the same text
// deallocates, the order is not known and nothing is learnt.
func (c *codec) learn(r *resolved) {
	if r == nil || r.stmt == nil || slices.Contains(r.stmt.Deallocates, "") {
		return
	}
	for _, p := range r.source.Prepares {
		if !slices.Contains(r.stmt.Deallocates, p.Name) && len(c.sqlNames) < c.limits.Statements {
			c.sqlNames[p.Name] = p.Statement
		}
	}
}

// prepared finds what EXECUTE runs.
func (c *codec) prepared(name string) *sql.Statement {
	if s, ok := c.sqlNames[name]; ok {
		return s
	}
	if s, ok := c.statements[name]; ok && s.confirmed && !s.suspect {
		return s.sql
	}
	return nil
}

// opaque says whether s may prepare, deallocate, open and close under any name:
// what it runs is not in its text.
func opaque(s *sql.Statement) bool {
	return slices.ContainsFunc(s.Effects, func(e engine.Effect) bool {
		return e.Verb == sql.Do || e.Verb == sql.Call || e.Verb == engine.Unknown
	})
}

// callsFunction says whether s runs code that may open a cursor.
func callsFunction(s *sql.Statement) bool {
	return opaque(s) || slices.ContainsFunc(s.Effects, func(e engine.Effect) bool { return e.Verb == sql.Function })
}

// movesNames says whether a setting changes what unqualified names mean: by the
// search path, or by the role, whose name "$user" in it stands for.
func movesNames(s sql.Setting) bool {
	switch s.Name {
	case "search_path", "role", "session_authorization", "all":
		return true
	}
	return false
}

// endsTransaction says whether s may take back settings and tables.
func endsTransaction(s *sql.Statement) bool {
	return slices.ContainsFunc(s.Transactions, func(t sql.Transaction) bool {
		switch t.Step {
		case sql.Begin, sql.Savepoint, sql.Release:
			return false
		}
		return true
	})
}

// outdate is called when what names mean upstream is about to change: until the
// catalog has been read again, names mean nothing.
func (c *codec) outdate() {
	c.refresh = true
	c.catalog = c.catalog.outdated()
	clear(c.resolved)
}

// throughCursor says whether an answer may come from a cursor over masked
// columns, whatever the text of the request says.
func (c *codec) throughCursor(e *entry) bool {
	if !c.tainted {
		return false
	}
	r := e.resolved
	return e.stale || r == nil || r.stmt == nil || hasKind(r.stmt, "fetch") || hasKind(r.stmt, "move")
}
