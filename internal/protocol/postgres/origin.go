package postgres

import (
	"slices"
	"strings"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/sql"
)

// What the catalog says of columns: where those of a result come from, and which
// of those that a statement uses are masked.

// origin says where a column comes from. Derived is every masked column for one
// that cannot be told.
func (c *catalog) origin(table uint32, attr int16) (f engine.Field) {
	if len(c.patterns) == 0 || table < firstUserOID {
		return f
	}
	r, ok := c.relations[table]
	if !ok {
		f.Derived = append(slices.Clip(c.masked), "unknown relation")
		return f
	}
	f.Schema, f.Table = r.schema, r.name
	column, known := r.columns[attr]
	switch {
	case attr < 0: // a system column
	case r.hidden, attr == 0 && len(r.masked) > 0: // a view, or the whole row (SELECT t FROM t)
		f.Derived = c.masked
	case attr > 0 && !known: // it has appeared since
		f.Derived = append(slices.Clip(c.masked), "unknown column")
	default:
		f.Column = column
		if parent := r.heirs[attr]; parent != nil {
			f.Schema, f.Table = parent.schema, parent.name
		}
	}
	return f
}

// derivedFrom names the masked columns that a computed value of s may come
// from: none, or all of them, since one is enough to mask it.
func (c *catalog) derivedFrom(s *sql.Statement) []string {
	if len(c.masked) == 0 {
		return nil
	}
	touches, names := false, map[string]bool{}
	for _, t := range s.Tables {
		schema := t.Schema
		if schema == "" {
			schema = c.schemaOf(t.Name)
		}
		r, ok := c.byName[sql.Object(schema, t.Name)]
		switch {
		case schema == "pg_catalog" || schema == "information_schema":
		case !ok, r.hidden:
			return c.masked
		case len(r.masked) > 0:
			touches = true
			for attr := range r.masked {
				names[r.columns[attr]] = true
			}
		}
	}
	if readsUnseen(s) {
		return c.masked
	}
	if !touches {
		return nil
	}
	if s.Star {
		return c.masked
	}
	for _, name := range s.Columns {
		if names[name] {
			return c.masked
		}
	}
	return nil
}

// effects are those of s on masked columns: which rows come back, in which order,
// and whether the statement fails, tells of a value though it is masked where it
// is shown; and what is written elsewhere is masked no more.
func (c *catalog) effects(s *sql.Statement) []engine.Effect {
	if len(c.patterns) == 0 {
		return nil
	}
	var out []engine.Effect
	for _, u := range s.Used() {
		verb := sql.Filter
		if u.Purpose == sql.Derives {
			verb = sql.Derive
		}
		for _, column := range c.maskedOf(u.Column) {
			if e := (engine.Effect{Verb: verb, Object: column}); !slices.Contains(out, e) {
				out = append(out, e)
			}
		}
	}
	return out
}

// outputs names, per column of the result of s, the masked columns that it may
// be computed from; nil where the statement does not tell.
func (c *catalog) outputs(s *sql.Statement) [][]string {
	if s.Outputs == nil || len(c.patterns) == 0 || readsUnseen(s) {
		return nil
	}
	out := make([][]string, len(s.Outputs))
	for i, o := range s.Outputs {
		for _, column := range o.From {
			out[i] = append(out[i], c.maskedOf(column)...)
		}
	}
	return out
}

// readsUnseen says whether s may read tables that its text does not name.
func readsUnseen(s *sql.Statement) bool {
	return slices.ContainsFunc(s.Effects, func(e engine.Effect) bool {
		switch e.Verb {
		case engine.Unknown, sql.Do, sql.Call, sql.Function, sql.Admin:
			return true
		}
		return false
	})
}

// maskedOf returns the masked columns that a column of a statement may be.
func (c *catalog) maskedOf(column sql.Column) []string {
	schema := column.Table.Schema
	if schema == "" {
		schema = c.schemaOf(column.Table.Name)
	}
	if schema == "pg_catalog" || schema == "information_schema" {
		return nil
	}
	r, ok := c.byName[sql.Object(schema, column.Table.Name)]
	if !ok {
		return c.maskedByName(column)
	}
	if column.Name != "*" {
		for attr, name := range r.columns {
			if name != column.Name {
				continue
			}
			if r.masked[attr] || r.hidden {
				return []string{r.column(name)}
			}
			return nil
		}
		if !column.Sure || systemColumns[column.Name] {
			return nil
		}
	}
	var all []string
	for attr, name := range r.columns {
		if r.masked[attr] || r.hidden {
			all = append(all, r.column(name))
		}
	}
	slices.Sort(all)
	return all
}

// systemColumns are those that every table has besides its own.
var systemColumns = map[string]bool{"ctid": true, "tableoid": true, "xmin": true, "xmax": true, "cmin": true, "cmax": true}

// maskedByName is for a relation that the catalog does not have, because it is
// newer: what the patterns say of its name counts. A pattern's schema is left out
// where the text leaves it out.
func (c *catalog) maskedByName(column sql.Column) []string {
	t := column.Table
	for _, p := range c.patterns {
		parts := strings.Split(p, ".")
		if column.Name == "*" {
			parts[len(parts)-1] = "*"
		}
		if t.Schema == "" {
			parts = parts[max(0, len(parts)-2):]
		}
		if engine.MatchColumn(strings.Join(parts, "."), t.Schema, t.Name, column.Name) {
			return []string{t.String() + "." + sql.Object("", column.Name)}
		}
	}
	return nil
}
