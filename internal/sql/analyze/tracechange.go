package analyze

import (
	"slices"

	pg "github.com/pganalyze/pg_query_go/v6"

	"github.com/postern/postern/internal/sql"
)

// The statements that change rows. What is written to a column is derived from
// what it is computed of, unless that is the column itself.

func (t *tracer) insert(s *pg.InsertStmt, e *env) []output {
	t.with(s.WithClause, e)
	target := aliased(t.target(s.Relation), s.GetRelation().GetAlias())
	written := t.inserted(s, *target, e)
	own := &env{relations: []*relation{target}, outer: e.outer, ctes: e.ctes}
	if c := s.OnConflictClause; c != nil {
		// Whether there is such a row already is what the clause asks.
		for _, n := range c.GetInfer().GetIndexElems() {
			if name := n.GetIndexElem().GetName(); name != "" {
				t.filter(own.unqualified(name))
			}
			t.filter(t.expression(n.GetIndexElem().GetExpr(), own))
		}
		t.condition(c.GetInfer().GetWhereClause(), own)
		both := &env{outer: e.outer, ctes: e.ctes, relations: []*relation{
			target, {name: "excluded", columns: []output{{from: written}}},
		}}
		t.assignments(c.TargetList, *target, both)
		t.condition(c.WhereClause, both)
	}
	return t.targets(s.ReturningList, own)
}

// inserted takes the rows of an INSERT and returns what they come from.
func (t *tracer) inserted(s *pg.InsertStmt, target relation, e *env) []sql.Column {
	values := s.GetSelectStmt().GetSelectStmt()
	if values == nil {
		return nil
	}
	if len(values.ValuesLists) == 0 {
		from := all(t.query(values, e.inside()))
		t.derive(from)
		return from
	}
	own := e.inside()
	t.with(values.WithClause, own)
	var written []sql.Column
	for _, row := range values.ValuesLists {
		for i, n := range row.GetList().GetItems() {
			if i < len(s.Cols) {
				t.assigned(target, s.Cols[i].GetResTarget().GetName(), 0, n)
			} else if len(s.Cols) == 0 {
				t.assigned(target, "", i+1, n)
			}
			written = append(written, t.expression(n, own)...)
		}
	}
	t.derive(written)
	return unique(written)
}

func (t *tracer) update(s *pg.UpdateStmt, e *env) []output {
	t.with(s.WithClause, e)
	own, target := t.changed(s.Relation, s.FromClause, e)
	t.condition(s.WhereClause, own)
	t.assignments(s.TargetList, *target, own)
	return t.targets(s.ReturningList, own)
}

func (t *tracer) delete(s *pg.DeleteStmt, e *env) []output {
	t.with(s.WithClause, e)
	own, _ := t.changed(s.Relation, s.UsingClause, e)
	t.condition(s.WhereClause, own)
	return t.targets(s.ReturningList, own)
}

func (t *tracer) merge(s *pg.MergeStmt, e *env) []output {
	t.with(s.WithClause, e)
	own, target := t.changed(s.Relation, []*pg.Node{s.SourceRelation}, e)
	t.condition(s.JoinCondition, own)
	for _, n := range s.MergeWhenClauses {
		w := n.GetMergeWhenClause()
		t.condition(w.GetCondition(), own)
		t.assignments(w.GetTargetList(), *target, own)
		t.derive(t.each(w.GetValues(), own))
	}
	return t.targets(s.ReturningList, own)
}

func (t *tracer) target(rv *pg.RangeVar) *relation {
	table := tableOf(rv)
	return t.table(&table)
}

// changed is what names mean in a statement that changes one table and reads
// others.
func (t *tracer) changed(rv *pg.RangeVar, others []*pg.Node, e *env) (*env, *relation) {
	target := aliased(t.target(rv), rv.GetAlias())
	own := &env{relations: []*relation{target}, outer: e.outer, ctes: e.ctes}
	for _, n := range others {
		if n != nil {
			own.relations = append(own.relations, t.source(n, own)...)
		}
	}
	return own, target
}

// assignments takes the SET of an UPDATE.
func (t *tracer) assignments(list []*pg.Node, target relation, e *env) {
	for _, n := range list {
		set := n.GetResTarget()
		value := set.GetVal()
		if multi := value.GetMultiAssignRef(); multi != nil {
			value = multi.Source
		}
		t.assigned(target, set.GetName(), 0, value)
		from := t.expression(value, e)
		if target.table != nil {
			from = slices.DeleteFunc(slices.Clone(from), func(c sql.Column) bool {
				return c.Table == *target.table && c.Name == set.GetName()
			})
		}
		t.derive(from)
	}
}

// assigned notes that a column, or the one at a place, is set to a value that is
// bound or written out.
func (t *tracer) assigned(target relation, column string, place int, value *pg.Node) {
	if target.table == nil || column == "" && place == 0 {
		return
	}
	q, ok := t.a.bound.of(sql.Column{Table: *target.table, Name: column, Sure: true}, value)
	if q.Assigns, q.Place = true, place; ok {
		t.a.equality(q)
	}
}
