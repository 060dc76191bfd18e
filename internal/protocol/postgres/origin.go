package postgres

import (
	"slices"

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
	case r.hidden, r.derived[attr], attr == 0 && r.masks(): // of a view, or the whole row (SELECT t FROM t)
		f.Derived = c.masked
	case attr > 0 && !known: // it has appeared since
		f.Derived = append(slices.Clip(c.masked), "unknown column")
	default:
		f.Column = column
		if from, ok := r.sources[attr]; ok {
			f.Schema, f.Table, f.Column = from.of.schema, from.of.name, from.column
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
		r, ok := c.find(t)
		switch {
		case ok && r == nil: // the server's own
		case !ok, r.hidden:
			return c.masked
		case r.masks():
			touches = true
			for attr, name := range r.columns {
				names[name] = names[name] || r.hides(attr)
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

// calls are the functions that s calls by the name of a column of a row, as far
// as that may be one. While the catalog could not be read, any name may.
func (c *catalog) calls(s *sql.Statement) []engine.Effect {
	if c.blind && len(s.Columns) > 0 {
		return []engine.Effect{{Verb: engine.Unknown, Object: "whether " + s.Columns[0] + " is a column"}}
	}
	var out []engine.Effect
	for _, name := range s.Columns {
		if c.functions[name] {
			out = append(out, engine.Effect{Verb: sql.Function, Object: sql.Object("", name)})
		}
	}
	return out
}

// effects are those of s on masked columns: which rows come back, in which order,
// and whether the statement fails, tells of a value though it is masked where it
// is shown; and what is written elsewhere is masked no more. Comparisons that are
// excused have none.
func (c *catalog) effects(s *sql.Statement, excused func(sql.Equality) bool) []engine.Effect {
	if len(c.patterns) == 0 {
		return nil
	}
	var out []engine.Effect
	uses := s.Used(excused)
	columns := make([]sql.Column, len(uses))
	for i, u := range uses {
		columns[i] = u.Column
	}
	known, _ := c.known(columns)
	for _, u := range uses {
		verb := sql.Filter
		if u.Purpose == sql.Derives {
			verb = sql.Derive
		}
		for _, column := range c.maskedOf(u.Column, known) {
			if e := (engine.Effect{Verb: verb, Object: column}); !slices.Contains(out, e) {
				out = append(out, e)
			}
		}
	}
	return out
}

// outputs names, per column of the result of s, the masked columns that it may
// be computed from; nil where the statement does not tell, or names what the
// catalog does not have.
func (c *catalog) outputs(s *sql.Statement) [][]string {
	if s.Outputs == nil || len(c.patterns) == 0 || readsUnseen(s) {
		return nil
	}
	out := make([][]string, len(s.Outputs))
	for i, o := range s.Outputs {
		known, all := c.known(o.From)
		for _, column := range o.From {
			if !all || !known[column.Name] && !column.Sure {
				return nil // it has appeared since, or is the alias of a row
			}
			out[i] = append(out[i], c.maskedOf(column, known)...)
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

// lacks says whether s names a relation that the catalog does not have, though
// something of it is masked.
func (c *catalog) lacks(s *sql.Statement) bool {
	return len(c.patterns) > 0 && c.byName != nil && slices.ContainsFunc(s.Tables, func(t sql.Table) bool {
		_, ok := c.find(t)
		return !ok
	})
}

// known returns the names of columns that some of their tables have, and whether
// all the tables are known.
func (c *catalog) known(columns []sql.Column) (names map[string]bool, all bool) {
	names, all = map[string]bool{}, true
	for _, column := range columns {
		r, ok := c.find(column.Table)
		all = all && ok
		names[column.Name] = names[column.Name] || ok && (r == nil || r.has(column.Name))
	}
	return names, all
}

// find returns the relation of a name, nil for one of the server's own.
func (c *catalog) find(t sql.Table) (r *relation, ok bool) {
	if t.Schema == "" {
		t.Schema = c.schemaOf(t.Name)
	}
	if t.Schema == "pg_catalog" || t.Schema == "information_schema" {
		return nil, true
	}
	r, ok = c.byName[sql.Object(t.Schema, t.Name)]
	return r, ok
}

// has says whether a relation has a column, in its row or of the system's.
func (r *relation) has(column string) bool {
	if column == "*" || systemColumns[column] {
		return true
	}
	for _, name := range r.columns {
		if name == column {
			return true
		}
	}
	return false
}

// maskedOf returns the masked columns that a column of a statement may be, where
// known are the names that some table in question has. A relation that the
// catalog does not have, because it is newer, has masked columns only.
func (c *catalog) maskedOf(column sql.Column, known map[string]bool) []string {
	r, ok := c.find(column.Table)
	if !ok {
		return []string{column.Table.String() + "." + sql.Object("", column.Name)}
	}
	if r == nil {
		return nil
	}
	if column.Name != "*" {
		for attr, name := range r.columns {
			if name != column.Name {
				continue
			}
			if r.hides(attr) {
				return []string{r.column(name)}
			}
			return nil
		}
		switch {
		case systemColumns[column.Name]:
			return nil
		case column.Sure: // a function of the row
		case !known[column.Name] && c.matches(r, column.Name):
			return []string{r.column(column.Name)} // it has appeared since, by its name a masked one
		default:
			return nil
		}
	}
	var all []string
	for attr, name := range r.columns {
		if r.hides(attr) {
			all = append(all, r.column(name))
		}
	}
	slices.Sort(all)
	return all
}

// systemColumns are those that every table has besides its own.
var systemColumns = map[string]bool{"ctid": true, "tableoid": true, "xmin": true, "xmax": true, "cmin": true, "cmax": true}
