package analyze

import (
	"slices"

	pg "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/postern/postern/internal/sql"
)

// tracer follows columns through one statement. It finds what each column of a
// result may be computed from, and the columns that are used for more than to
// be shown: what filters, orders, groups and joins tells of a value though it is
// masked where it is shown, and so does what is written elsewhere.
//
// The text does not say which columns a table has, so a name that is not
// qualified may be any table's in its FROM. All that it may be counts: the
// session, which knows the catalog, drops those that there are not. What is not
// understood counts as a filter.
type tracer struct {
	a     *analyzer
	seen  map[sql.Use]bool
	depth int
}

// trace takes the columns of one statement.
func (a *analyzer) trace(m proto.Message) {
	if a.uses == nil {
		a.uses = map[sql.Use]bool{}
	}
	t := &tracer{a: a, seen: a.uses}
	outputs := t.statement(m, &env{})
	a.s.Outputs = nil
	if len(a.s.Kinds) != 1 || slices.ContainsFunc(outputs, func(o output) bool { return o.rest }) {
		return
	}
	for _, o := range outputs {
		a.s.Outputs = append(a.s.Outputs, sql.Output{From: o.from})
	}
}

func (a *analyzer) equality(q sql.Equality) {
	if a.equal[q] {
		return
	}
	if a.equal == nil {
		a.equal = map[sql.Equality]bool{}
	}
	if len(a.equal) == maxNames {
		panic(errTooMuch)
	}
	a.equal[q] = true
	a.s.Equalities = append(a.s.Equalities, q)
}

// output is a column of a query.
type output struct {
	name string // empty: it may have any
	from []sql.Column
	rest bool // it stands for any number of columns
	star bool // for those of the tables in from, by their own names
}

// relation is what a FROM names.
type relation struct {
	schema, name string // by which its columns are qualified
	table        *sql.Table
	columns      []output // unless it is a table
}

// column returns what a column of this name may come from, and whether it is
// sure that there is one.
func (r *relation) column(name string, qualified bool) (from []sql.Column, sure bool) {
	if r.table != nil {
		return []sql.Column{{Table: *r.table, Name: name, Sure: qualified}}, false
	}
	star := false
	for _, o := range r.columns {
		switch {
		case o.star:
			star = true
			for _, c := range o.from {
				from = append(from, sql.Column{Table: c.Table, Name: name})
			}
		case o.name == name, o.name == "":
			from, sure = append(from, o.from...), sure || o.name == name
		}
	}
	// r.f may be f(r). What a star stands for has columns of any name, so there
	// only the names of functions that take a record are taken for them.
	if qualified && !sure && (!star || rowFunctions[name] || isKnown(name)) {
		from = append(from, r.row()...)
	}
	return from, sure
}

// row returns all the columns.
func (r *relation) row() []sql.Column {
	if r.table != nil {
		return []sql.Column{{Table: *r.table, Name: "*", Sure: true}}
	}
	return all(r.columns)
}

// outputs returns the columns that a star stands for.
func (r *relation) outputs() []output {
	if r.table != nil {
		return []output{{from: r.row(), rest: true, star: true}}
	}
	return r.columns
}

func all(outputs []output) []sql.Column {
	var from []sql.Column
	for _, o := range outputs {
		from = append(from, o.from...)
	}
	return unique(from)
}

// unique sorts out doubles, so that what grows with the text stays that small.
func unique(columns []sql.Column) []sql.Column {
	if len(columns) < 2 {
		return columns
	}
	known := make(map[sql.Column]bool, len(columns))
	return slices.DeleteFunc(slices.Clone(columns), func(c sql.Column) bool {
		double := known[c]
		known[c] = true
		return double
	})
}

// env is what names mean in one query.
type env struct {
	relations []*relation
	outer     *env
	ctes      *cte
}

// cte is a common table expression that is visible.
type cte struct {
	name    string
	outputs []output
	before  *cte
}

func (e *env) cte(name string) (*cte, bool) {
	for c := e.ctes; c != nil; c = c.before {
		if c.name == name {
			return c, true
		}
	}
	return nil, false
}

// inside is for a query within an expression of this one.
func (e *env) inside() *env { return &env{outer: e, ctes: e.ctes} }

// beside is for a query in its FROM, which does not see the others there.
func (e *env) beside() *env { return &env{outer: e.outer, ctes: e.ctes} }

// reference returns what a column reference may mean.
func (t *tracer) reference(ref *pg.ColumnRef, e *env) []sql.Column {
	names := stringsOf(ref.Fields)
	starred := len(names) < len(ref.Fields)
	switch {
	case starred && len(names) == 0:
		return all(e.star())
	case starred:
		return e.whole(names)
	case len(names) == 1:
		return e.unqualified(names[0])
	}
	return e.qualified(names[:len(names)-1], names[len(names)-1])
}

func (e *env) star() (out []output) {
	for _, r := range e.relations {
		out = append(out, r.outputs()...)
	}
	return out
}

func (e *env) unqualified(name string) (from []sql.Column) {
	for ; e != nil; e = e.outer {
		found := false
		for _, r := range e.relations {
			c, sure := r.column(name, false)
			from, found = append(from, c...), found || sure
			if r.name == name {
				from = append(from, r.row()...)
			}
		}
		if found {
			break
		}
	}
	return from
}

func (e *env) qualified(by []string, name string) []sql.Column {
	if r := e.named(by); r != nil {
		from, _ := r.column(name, true)
		return from
	}
	return e.everything()
}

func (e *env) whole(by []string) []sql.Column {
	if r := e.named(by); r != nil {
		return r.row()
	}
	return e.everything()
}

// named finds a relation by "table" or "schema", "table".
func (e *env) named(by []string) *relation {
	table, schema := by[len(by)-1], ""
	if len(by) > 1 {
		schema = by[len(by)-2]
	}
	for ; e != nil; e = e.outer {
		for _, r := range e.relations {
			if r.name == table && (schema == "" || r.schema == schema) {
				return r
			}
		}
	}
	return nil
}

// everything is for a name that is not followed.
func (e *env) everything() (from []sql.Column) {
	for ; e != nil; e = e.outer {
		for _, r := range e.relations {
			from = append(from, r.row()...)
		}
	}
	return from
}

func (t *tracer) filter(columns []sql.Column) { t.use(sql.Filters, columns) }

func (t *tracer) derive(columns []sql.Column) { t.use(sql.Derives, columns) }

func (t *tracer) use(p sql.Purpose, columns []sql.Column) {
	for _, c := range columns {
		u := sql.Use{Purpose: p, Column: c}
		if t.seen[u] {
			continue
		}
		if len(t.seen) == maxNames {
			panic(errTooMuch)
		}
		t.seen[u] = true
		t.a.s.Uses = append(t.a.s.Uses, u)
	}
}

// deeper bounds the depth of the tree.
func (t *tracer) deeper() func() {
	if t.depth++; t.depth > maxDepth {
		panic(errTooMuch)
	}
	return func() { t.depth-- }
}

// statement returns the columns of a statement's result.
func (t *tracer) statement(m proto.Message, e *env) []output {
	defer t.deeper()()
	switch m := m.(type) {
	case *pg.SelectStmt:
		return t.query(m, e)
	case *pg.InsertStmt:
		return t.insert(m, e)
	case *pg.UpdateStmt:
		return t.update(m, e)
	case *pg.DeleteStmt:
		return t.delete(m, e)
	case *pg.MergeStmt:
		return t.merge(m, e)
	case *pg.PrepareStmt:
		t.statement(inner(m.Query), e)
	case *pg.DeclareCursorStmt:
		t.statement(inner(m.Query), e)
	case *pg.ExplainStmt:
		t.statement(inner(m.Query), e)
	case *pg.CopyStmt:
		return t.copy(m, e)
	case *pg.CreateTableAsStmt:
		t.derive(all(t.statement(inner(m.Query), e)))
	case *pg.ViewStmt:
		t.derive(all(t.statement(inner(m.Query), e)))
	case *pg.CallStmt:
		t.call(m.Funccall, e)
	case nil:
	default:
		t.other(m)
	}
	return nil
}

// other takes a statement of another kind: an index, a check or a default that
// uses a column tells of what is in it.
func (t *tracer) other(m proto.Message) {
	e := &env{}
	for i := range t.a.s.Tables {
		e.relations = append(e.relations, t.table(&t.a.s.Tables[i]))
	}
	t.filter(t.unknown(m, e))
}

func (t *tracer) table(table *sql.Table) *relation {
	return &relation{schema: table.Schema, name: table.Name, table: table}
}

// unknown returns every column in a part of the tree that is not followed. All
// of them filter.
func (t *tracer) unknown(m proto.Message, e *env) (from []sql.Column) {
	defer t.deeper()()
	if elem, ok := m.(*pg.IndexElem); ok && elem.Name != "" {
		from = append(from, e.unqualified(elem.Name)...)
	}
	children(m, func(_ protoreflect.Name, child proto.Message) {
		switch child := child.(type) {
		case *pg.Node:
			from = append(from, t.expression(child, e)...)
		case *pg.SelectStmt:
			from = append(from, all(t.query(child, e.inside()))...)
		default:
			from = append(from, t.unknown(child, e)...)
		}
	})
	from = unique(from)
	t.filter(from)
	return from
}
