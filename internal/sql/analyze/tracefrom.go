package analyze

import (
	"slices"

	pg "github.com/pganalyze/pg_query_go/v6"

	"github.com/postern/postern/internal/sql"
)

// query takes a SELECT, VALUES or set operation in an environment that is its
// own.
func (t *tracer) query(s *pg.SelectStmt, e *env) []output {
	defer t.deeper()()
	t.with(s.WithClause, e)
	var out []output
	switch {
	case s.Op != pg.SetOperation_SETOP_NONE && s.Op != pg.SetOperation_SET_OPERATION_UNDEFINED:
		out = merged(t.query(s.Larg, e.inside()), t.query(s.Rarg, e.inside()))
		if s.Op != pg.SetOperation_SETOP_UNION || !s.All {
			t.filter(all(out)) // equal rows are found
		}
	case len(s.ValuesLists) > 0:
		out = t.values(s.ValuesLists, e)
	default:
		for _, n := range s.FromClause {
			e.relations = append(e.relations, t.source(n, e)...)
		}
		t.condition(s.WhereClause, e)
		out = t.targets(s.TargetList, e)
		t.condition(s.HavingClause, e)
	}
	for _, n := range s.GroupClause {
		t.filter(t.key(n, out, e))
	}
	for _, n := range s.WindowClause {
		t.window(n.GetWindowDef(), e)
	}
	for _, n := range s.DistinctClause {
		if inner(n) == nil { // DISTINCT without ON is a list of one empty node
			t.filter(all(out))
			continue
		}
		t.filter(t.key(n, out, e))
	}
	for _, n := range s.SortClause {
		t.filter(t.key(n.GetSortBy().GetNode(), out, e))
	}
	t.filter(t.expression(s.LimitCount, e))
	t.filter(t.expression(s.LimitOffset, e))
	if s.IntoClause != nil {
		t.derive(all(out))
		return nil
	}
	return out
}

// key takes what a query is ordered or grouped by: an expression, or a column of
// the result by its number or name.
func (t *tracer) key(n *pg.Node, out []output, e *env) []sql.Column {
	if c := n.GetAConst(); c != nil {
		t.a.s.ByLiterals = true // ORDER BY 1 is not ORDER BY 2
		i, ok := c.Val.(*pg.A_Const_Ival)
		if !ok || slices.ContainsFunc(out, func(o output) bool { return o.rest }) {
			return all(out)
		}
		if at := int(i.Ival.GetIval()) - 1; at >= 0 && at < len(out) {
			return out[at].from
		}
		return nil
	}
	if set := n.GetGroupingSet(); set != nil { // ROLLUP (1, name)
		return t.keys(set.Content, out, e)
	}
	if row := n.GetRowExpr(); row != nil {
		return t.keys(row.Args, out, e)
	}
	from := t.expression(n, e)
	if names := stringsOf(n.GetColumnRef().GetFields()); len(names) == 1 {
		for _, o := range out {
			if o.name == names[0] || o.name == "" && !o.star {
				from = append(from, o.from...)
			}
		}
	}
	return from
}

func (t *tracer) keys(nodes []*pg.Node, out []output, e *env) (from []sql.Column) {
	for _, n := range nodes {
		from = append(from, t.key(n, out, e)...)
	}
	return from
}

func (t *tracer) window(w *pg.WindowDef, e *env) {
	for _, n := range w.GetPartitionClause() {
		t.filter(t.expression(n, e))
	}
	for _, n := range w.GetOrderClause() {
		t.filter(t.expression(n.GetSortBy().GetNode(), e))
	}
	t.filter(t.expression(w.GetStartOffset(), e))
	t.filter(t.expression(w.GetEndOffset(), e))
}

// merged is the result of a set operation: columns by their place. Where a side
// has any number of columns the places are not known, and each may be all.
func merged(left, right []output) []output {
	rest := func(o output) bool { return o.rest }
	if slices.ContainsFunc(left, rest) || slices.ContainsFunc(right, rest) || len(left) != len(right) {
		return []output{{from: unique(append(all(left), all(right)...)), rest: true}}
	}
	out := make([]output, len(left))
	for i := range left {
		out[i] = output{name: left[i].name, from: unique(slices.Concat(left[i].from, right[i].from))}
	}
	return out
}

func (t *tracer) values(lists []*pg.Node, e *env) (out []output) {
	for _, row := range lists {
		for i, n := range row.GetList().GetItems() {
			if i == len(out) {
				out = append(out, output{})
			}
			out[i].from = unique(append(out[i].from, t.expression(n, e)...))
		}
	}
	return out
}

// targets takes a list of results.
func (t *tracer) targets(list []*pg.Node, e *env) (out []output) {
	for _, n := range list {
		target := n.GetResTarget()
		if x := target.GetVal().GetAIndirection(); x != nil && x.Indirection[len(x.Indirection)-1].GetAStar() != nil {
			out = append(out, output{from: t.expression(target.Val, e), rest: true}) // (c).*
			continue
		}
		if ref := target.GetVal().GetColumnRef(); ref != nil {
			names := stringsOf(ref.Fields)
			if len(names) < len(ref.Fields) {
				out = append(out, t.starred(names, e)...)
				continue
			}
			out = append(out, output{name: names[len(names)-1], from: unique(t.reference(ref, e))})
		} else {
			out = append(out, output{name: columnName(target.GetVal()), from: unique(t.expression(target.GetVal(), e))})
		}
		if name := target.GetName(); name != "" {
			out[len(out)-1].name = name
		}
	}
	return out
}

func (t *tracer) starred(by []string, e *env) []output {
	if len(by) == 0 {
		return e.star()
	}
	if r := e.named(by); r != nil {
		return r.outputs()
	}
	return []output{{from: e.everything(), rest: true}}
}

// with puts the queries of a WITH into the environment.
func (t *tracer) with(w *pg.WithClause, e *env) {
	if w.GetRecursive() {
		t.recursive(w.Ctes, e)
		return
	}
	for _, n := range w.GetCtes() {
		c := n.GetCommonTableExpr()
		before := e.ctes
		out := renamed(t.statement(inner(c.GetCtequery()), e.beside()), stringsOf(c.GetAliascolnames()))
		e.ctes = &cte{name: c.GetCtename(), outputs: out, before: before}
	}
}

// recursive takes WITH RECURSIVE, in which each query may read all of them, those
// behind it and itself too. What a column of one is computed from may, through
// the others, be a column of any.
func (t *tracer) recursive(list []*pg.Node, e *env) {
	before := e.ctes
	var from []sql.Column
	for range 2 { // at first what they read from tables, then what they read from each other
		e.ctes = before
		for _, n := range list {
			e.ctes = &cte{name: n.GetCommonTableExpr().GetCtename(), outputs: []output{{from: from, rest: true}}, before: e.ctes}
		}
		for _, n := range list {
			c := n.GetCommonTableExpr()
			out := all(t.statement(inner(c.GetCtequery()), e.beside()))
			if c.GetSearchClause() != nil || c.GetCycleClause() != nil {
				t.filter(out)
			}
			from = unique(append(from, out...))
		}
	}
}

// renamed gives the first columns other names.
func renamed(out []output, names []string) []output {
	if len(names) == 0 {
		return out
	}
	out = slices.Clone(out)
	for i, name := range names {
		if i >= len(out) || out[i].rest {
			return []output{{from: all(out), rest: true}}
		}
		out[i].name = name
	}
	return out
}

// source returns the relations that an item of a FROM makes visible.
func (t *tracer) source(n *pg.Node, e *env) []*relation {
	defer t.deeper()()
	switch {
	case n.GetRangeVar() != nil:
		return []*relation{t.named(n.GetRangeVar(), e)}
	case n.GetRangeSubselect() != nil:
		s := n.GetRangeSubselect()
		own := e.beside()
		if s.Lateral {
			own = e.inside()
		}
		return []*relation{aliased(&relation{columns: t.statement(inner(s.Subquery), own)}, s.Alias)}
	case n.GetJoinExpr() != nil:
		return t.join(n.GetJoinExpr(), e)
	case n.GetRangeTableSample() != nil:
		s := n.GetRangeTableSample()
		for _, arg := range append(slices.Clone(s.Args), s.Repeatable) {
			t.filter(t.expression(arg, e))
		}
		return t.source(s.Relation, e)
	case n.GetRangeFunction() != nil:
		// How many rows it returns tells of what it is given.
		f := n.GetRangeFunction()
		from := t.unknown(f, e)
		r := aliased(&relation{}, f.Alias)
		r.columns = []output{{from: from, rest: true}}
		return []*relation{r}
	}
	r := &relation{columns: []output{{from: t.unknown(inner(n), e), rest: true}}}
	switch {
	case n.GetRangeTableFunc() != nil:
		r = aliased(r, n.GetRangeTableFunc().Alias)
	case n.GetJsonTable() != nil:
		r = aliased(r, n.GetJsonTable().Alias)
	}
	return []*relation{r}
}

// named is a table or a common table expression.
func (t *tracer) named(rv *pg.RangeVar, e *env) *relation {
	r := &relation{schema: rv.GetSchemaname(), name: rv.GetRelname()}
	if c, ok := e.cte(rv.GetRelname()); ok && rv.GetSchemaname() == "" {
		r.columns = c.outputs
	} else {
		table := tableOf(rv)
		r.table = &table
	}
	return aliased(r, rv.GetAlias())
}

// aliased gives a relation the name that the text gives it.
func aliased(r *relation, alias *pg.Alias) *relation {
	if alias == nil {
		return r
	}
	r.schema, r.name = "", alias.Aliasname
	if names := stringsOf(alias.Colnames); len(names) > 0 {
		r.columns, r.table = renamed(r.outputs(), names), nil
	}
	return r
}

func (t *tracer) join(j *pg.JoinExpr, e *env) []*relation {
	left := t.source(j.Larg, e)
	// The right side sees the left one only when it is lateral; own is where
	// both are, for the condition.
	own := &env{relations: append(slices.Clip(e.relations), left...), outer: e.outer, ctes: e.ctes}
	right := t.source(j.Rarg, own)
	own.relations = append(own.relations, right...)
	both := slices.Concat(left, right)
	sides := &env{relations: both, outer: e.outer, ctes: e.ctes}
	t.condition(j.Quals, own)
	for _, n := range j.UsingClause {
		for _, r := range both {
			from, _ := r.column(n.GetString_().GetSval(), false)
			t.filter(from)
		}
	}
	if j.IsNatural {
		t.filter(all(sides.star()))
	}
	if j.Alias != nil {
		return []*relation{aliased(&relation{columns: sides.star()}, j.Alias)}
	}
	if j.JoinUsingAlias != nil {
		both = append(both, &relation{name: j.JoinUsingAlias.Aliasname, columns: sides.star()})
	}
	return both
}
