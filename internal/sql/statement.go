package sql

import (
	"slices"
	"strings"

	"github.com/postern/postern/internal/engine"
)

// Seal completes a Statement whose other fields are set: it removes double
// effects and derives the facts and ReadsOnly and DDL. Whoever makes a
// Statement calls it last.
func (s *Statement) Seal() {
	s.Effects = distinct(s.Effects)
	if len(s.Effects) == 0 {
		s.Effects = []engine.Effect{{Verb: engine.Unknown}}
	}
	s.ReadsOnly, s.DDL = true, false
	for _, e := range s.Effects {
		switch e.Verb {
		case Select, Session:
		case DDL, Grant, Truncate:
			s.DDL, s.ReadsOnly = true, false
		default:
			s.ReadsOnly = false
		}
	}
	s.Facts = s.facts()
}

func (s *Statement) facts() map[string]any {
	tables, relations := []string{}, []string{}
	resolved := true
	for _, t := range s.Tables {
		tables = append(tables, t.Name)
		if t.Schema == "" {
			resolved = false
		}
		relations = append(relations, t.String())
	}
	functions := []string{}
	for _, f := range s.Functions {
		_, name := Split(f)
		functions = append(functions, name)
	}
	facts := map[string]any{
		FactTables:     unique(tables),
		FactColumns:    unique(s.Columns),
		FactFunctions:  unique(functions),
		FactRestricted: s.Restricted,
		FactJoins:      int64(s.Joins),
		FactStatements: int64(len(s.Kinds)),
		FactKind:       s.kind(),
		FactParameters: int64(s.Parameters),
	}
	if resolved {
		facts[FactRelations] = unique(relations)
	}
	if s.Limit >= 0 {
		facts[FactLimit] = s.Limit
	}
	if pivot, known := pivots(s.Effects); known {
		facts[FactPivot] = pivot
	}
	for _, e := range s.Effects {
		// What could not be followed may touch anything: only the facts about
		// the text itself stand.
		if e.Verb == engine.Unknown || e.Verb == Do {
			for _, name := range []string{FactTables, FactRelations, FactColumns, FactFunctions, FactRestricted, FactLimit, FactJoins} {
				delete(facts, name)
			}
			break
		}
	}
	return facts
}

func (s *Statement) kind() string {
	switch {
	case len(s.Kinds) == 0:
		return ""
	case slices.ContainsFunc(s.Kinds, func(k string) bool { return k != s.Kinds[0] }):
		return "batch"
	}
	return s.Kinds[0]
}

// Resolve returns the Statement with the schemas of its unqualified tables
// filled in: schema is asked for each such name and answers "" when it does not
// know. The result is s when nothing changed; otherwise the caller keeps it, so
// that equal statements keep being equal pointers.
func (s *Statement) Resolve(schema func(table string) string) *Statement {
	found := map[string]string{} // unqualified object to qualified
	for _, t := range s.Tables {
		if t.Schema == "" {
			if in := schema(t.Name); in != "" {
				found[t.String()] = Table{Schema: in, Name: t.Name}.String()
			}
		}
	}
	if len(found) == 0 {
		return s
	}
	qualify := func(t Table) Table {
		if q, ok := found[t.String()]; ok && t.Schema == "" {
			t.Schema, _ = Split(q)
		}
		return t
	}
	r := *s
	r.Tables, r.Parts, r.Effects = slices.Clone(s.Tables), slices.Clone(s.Parts), slices.Clone(s.Effects)
	for i, t := range r.Tables {
		r.Tables[i] = qualify(t)
	}
	for i, p := range r.Parts {
		r.Parts[i].Table = qualify(p.Table)
	}
	for i, e := range r.Effects {
		if q, ok := found[e.Object]; ok && ofRelation(e.Verb) {
			r.Effects[i].Object = q
		}
	}
	r.qualifyColumns(qualify)
	r.Prepares = slices.Clone(s.Prepares)
	for i, p := range r.Prepares {
		r.Prepares[i].Statement = p.Statement.Resolve(schema)
	}
	r.Seal()
	return &r
}

// qualifyColumns replaces the tables of columns. What it changes are copies.
func (s *Statement) qualifyColumns(qualify func(Table) Table) {
	s.Uses, s.Equalities, s.Outputs = slices.Clone(s.Uses), slices.Clone(s.Equalities), slices.Clone(s.Outputs)
	for i := range s.Uses {
		s.Uses[i].Column.Table = qualify(s.Uses[i].Column.Table)
	}
	for i := range s.Equalities {
		s.Equalities[i].Column.Table = qualify(s.Equalities[i].Column.Table)
	}
	for i, o := range s.Outputs {
		s.Outputs[i].From = slices.Clone(o.From)
		for j := range o.From {
			s.Outputs[i].From[j].Table = qualify(o.From[j].Table)
		}
	}
}

// ofRelation says whether an effect's object is a relation.
func ofRelation(verb string) bool {
	switch verb {
	case Call, Do, Set, Session, Listen, Notify, Function, Admin, Filter, Derive, Replication, engine.Unknown:
		return false
	}
	return true
}

// Execute returns the Statement with each name that it EXECUTEs followed to the
// statement prepared under it. Names that prepared does not know keep their
// unknown effect. The result is s when nothing changed.
func (s *Statement) Execute(prepared func(name string) *Statement) *Statement {
	r := *s
	r.Executes = nil
	keeps := slices.Contains(s.Kinds, "create table as") // what comes back is written, so it has to be known
	for _, name := range s.Executes {
		p := prepared(name)
		if p == nil || len(p.Executes) > 0 || keeps && p.Outputs == nil {
			r.Executes = append(r.Executes, name)
			continue
		}
		unknown := engine.Effect{Verb: engine.Unknown, Object: ExecuteObject(name)}
		r.Effects = slices.DeleteFunc(slices.Clone(r.Effects), func(e engine.Effect) bool { return e == unknown })
		r.Effects = append(r.Effects, engine.Effect{Verb: Session, Object: "execute"})
		r.Effects = append(r.Effects, p.Effects...)
		r.Tables = slices.Concat(r.Tables, p.Tables)
		r.Columns = unique(slices.Concat(r.Columns, p.Columns))
		r.Functions = unique(slices.Concat(r.Functions, p.Functions))
		r.Parts = slices.Concat(r.Parts, p.Parts)
		r.Uses = slices.Concat(r.Uses, p.Used(nil)) // its parameters are those of EXECUTE
		if keeps {
			r.Uses = append(r.Uses, p.written()...)
		}
		r.Settings = slices.Concat(r.Settings, p.Settings)
		r.Star = r.Star || p.Star
		r.Restricted = r.Restricted && p.Restricted
		r.ReturnsRows = r.ReturnsRows || p.ReturnsRows
		r.Joins += p.Joins
		r.Parameters = max(r.Parameters, p.Parameters)
		if len(s.Kinds) == 1 {
			r.Limit = p.Limit
		} else {
			r.Limit = -1
		}
	}
	if len(r.Executes) == len(s.Executes) {
		return s
	}
	r.Seal()
	return &r
}

// written is what a statement whose result is written to a table derives.
func (s *Statement) written() (uses []Use) {
	for _, o := range s.Outputs {
		for _, c := range o.From {
			uses = append(uses, Use{Derives, c})
		}
	}
	return uses
}

// use is what an equality is where the value does not matter.
func (q Equality) use() []Use {
	if q.Assigns {
		return nil
	}
	return []Use{{Purpose: Filters, Column: q.Column}}
}

// Used returns the uses of s, its comparisons with values among them unless they
// are excused. excused may be nil.
func (s *Statement) Used(excused func(Equality) bool) []Use {
	uses := slices.Clip(s.Uses)
	for _, q := range s.Equalities {
		if excused == nil || !excused(q) {
			uses = append(uses, q.use()...)
		}
	}
	return uses
}

// ExecuteObject is the object of the unknown effect of EXECUTE name.
func ExecuteObject(name string) string { return "execute " + quote(name) }

// ByKey says whether every row that s changes, or reads when it changes none,
// is named by a unique key or is a new row written out in an INSERT. keys
// returns the unique keys of a table, each a list of columns that cannot be
// NULL, and nil when it does not know them. The answer counts only when known.
func ByKey(s *Statement, keys func(schema, table string) [][]string) (byKey, known bool) {
	for _, e := range s.Effects {
		if e.Verb == engine.Unknown || e.Verb == Do || e.Verb == Call {
			return false, false
		}
	}
	changes := slices.ContainsFunc(s.Parts, func(p Part) bool { return p.Verb != Select })
	byKey, known = len(s.Parts) > 0, true
	for _, p := range s.Parts {
		switch {
		case p.Verb == Select && changes:
		case p.Verb == Insert:
			byKey = byKey && p.Written
		case p.Verb == Merge, len(p.EqualColumns) == 0:
			return false, true
		default:
			k := keys(p.Table.Schema, p.Table.Name)
			if k == nil {
				known = false
			}
			byKey = byKey && slices.ContainsFunc(k, func(key []string) bool {
				return len(key) > 0 && !slices.ContainsFunc(key, func(c string) bool { return !slices.Contains(p.EqualColumns, c) })
			})
		}
	}
	return byKey && known, known
}

// Split takes an object apart into schema, empty when there is none, and name.
func Split(object string) (schema, name string) {
	quoted := false
	for i := 0; i < len(object); i++ {
		switch object[i] {
		case '"':
			quoted = !quoted
		case '.':
			if !quoted {
				return unquote(object[:i]), unquote(object[i+1:])
			}
		}
	}
	return "", unquote(object)
}

// Object joins a schema, which may be empty, and a name to an object.
func Object(schema, name string) string { return Table{schema, name}.String() }

// SelectColumns is a query for the named columns of a table, for all of them when
// none is named.
func SelectColumns(t Table, names []string) string {
	identifier := func(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }
	list := "*"
	for i, name := range names {
		if i == 0 {
			list = identifier(name)
		} else {
			list += ", " + identifier(name)
		}
	}
	from := identifier(t.Name)
	if t.Schema != "" {
		from = identifier(t.Schema) + "." + from
	}
	return "SELECT " + list + " FROM " + from
}

func quote(name string) string {
	if !strings.ContainsAny(name, `."`) {
		return name
	}
	return `"` + strings.ReplaceAll(name, `"`, `""`) + `"`
}

func unquote(name string) string {
	if len(name) < 2 || name[0] != '"' {
		return name
	}
	return strings.ReplaceAll(name[1:len(name)-1], `""`, `"`)
}

func distinct(effects []engine.Effect) []engine.Effect {
	out := make([]engine.Effect, 0, len(effects))
	for _, e := range effects {
		if !slices.Contains(out, e) {
			out = append(out, e)
		}
	}
	return out
}

func unique(names []string) []string {
	out := slices.Clone(names)
	if out == nil {
		out = []string{}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
