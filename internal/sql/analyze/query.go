package analyze

import (
	pg "github.com/pganalyze/pg_query_go/v6"

	"github.com/postern/postern/internal/sql"
)

// with visits the queries of a WITH clause and returns the scope of what it is
// attached to. A query sees the names before its own; after RECURSIVE, all.
func (a *analyzer) with(w *pg.WithClause, sc *scope) *scope {
	if w == nil {
		return sc
	}
	if w.Recursive {
		for _, n := range w.Ctes {
			sc = &scope{sc, n.GetCommonTableExpr().GetCtename()}
		}
	}
	for _, n := range w.Ctes {
		cte := n.GetCommonTableExpr()
		if cte == nil {
			continue
		}
		a.leaf(cte)
		a.descend(cte, sc)
		if !w.Recursive {
			sc = &scope{sc, cte.Ctename}
		}
	}
	return sc
}

func (a *analyzer) query(s *pg.SelectStmt, sc *scope) {
	sc = a.with(s.WithClause, sc)
	if s.IntoClause != nil {
		a.add(sql.DDL, a.table(s.IntoClause.Rel).String())
	}
	tables := a.from(s.FromClause, sc)
	for range s.LockingClause {
		for _, t := range tables {
			a.add(sql.Lock, t.String())
		}
		if len(tables) == 0 {
			a.add(sql.Lock, "")
		}
	}
	if len(s.FromClause) > 1 {
		a.s.Joins += len(s.FromClause) - 1
	}
	if len(tables) > 0 {
		p := sql.Part{Verb: sql.Select, Restricted: restricts(s.WhereClause)}
		if rv := only(s.FromClause); rv != nil {
			p.Table, p.EqualColumns = tables[0], equalColumns(s.WhereClause, rv, false)
		}
		a.s.Parts = append(a.s.Parts, p)
	}
	a.settingsByRow(s, sc)
	a.descend(s, sc, "with_clause", "into_clause", "locking_clause")
}

// from returns the tables, not CTEs, that a FROM names itself, joins included.
func (a *analyzer) from(items []*pg.Node, sc *scope) []sql.Table {
	var out []sql.Table
	for _, n := range items {
		switch {
		case n.GetRangeVar() != nil:
			if rv := n.GetRangeVar(); rv.Schemaname != "" || !sc.has(rv.Relname) {
				out = append(out, a.table(rv))
			}
		case n.GetJoinExpr() != nil:
			j := n.GetJoinExpr()
			out = append(out, a.from([]*pg.Node{j.Larg, j.Rarg}, sc)...)
		case n.GetRangeTableSample() != nil:
			out = append(out, a.from([]*pg.Node{n.GetRangeTableSample().Relation}, sc)...)
		}
	}
	return out
}

// only returns the table of a FROM that is one table.
func only(items []*pg.Node) *pg.RangeVar {
	if len(items) != 1 {
		return nil
	}
	return items[0].GetRangeVar()
}

func (a *analyzer) insert(s *pg.InsertStmt, sc *scope) {
	sc = a.with(s.WithClause, sc)
	t := a.target(s.Relation, sql.Insert)
	if len(s.Cols) == 0 {
		a.s.Star = true
	}
	a.assigned(s.Cols)
	values := s.SelectStmt.GetSelectStmt()
	a.s.Parts = append(a.s.Parts, sql.Part{
		Verb: sql.Insert, Table: t,
		Written: s.SelectStmt == nil || values != nil && len(values.ValuesLists) > 0,
	})
	if c := s.OnConflictClause; c != nil && c.Action == pg.OnConflictAction_ONCONFLICT_UPDATE {
		a.add(sql.Update, t.String())
		a.assigned(c.TargetList)
	}
	a.returning(s.ReturningList, t)
	a.descend(s, sc, "relation", "with_clause")
}

func (a *analyzer) update(s *pg.UpdateStmt, sc *scope) {
	sc = a.with(s.WithClause, sc)
	t := a.target(s.Relation, sql.Update)
	a.assigned(s.TargetList)
	a.s.Joins += len(s.FromClause)
	a.changes(sql.Update, t, s.Relation, s.WhereClause, len(s.FromClause) > 0)
	a.returning(s.ReturningList, t)
	a.descend(s, sc, "relation", "with_clause")
}

func (a *analyzer) delete(s *pg.DeleteStmt, sc *scope) {
	sc = a.with(s.WithClause, sc)
	t := a.target(s.Relation, sql.Delete)
	a.s.Joins += len(s.UsingClause)
	a.changes(sql.Delete, t, s.Relation, s.WhereClause, len(s.UsingClause) > 0)
	a.returning(s.ReturningList, t)
	a.descend(s, sc, "relation", "with_clause")
}

func (a *analyzer) changes(verb string, t sql.Table, rv *pg.RangeVar, where *pg.Node, joined bool) {
	a.s.Parts = append(a.s.Parts, sql.Part{
		Verb: verb, Table: t,
		Restricted: restricts(where), EqualColumns: equalColumns(where, rv, joined),
	})
}

func (a *analyzer) merge(s *pg.MergeStmt, sc *scope) {
	sc = a.with(s.WithClause, sc)
	t := a.target(s.Relation, sql.Merge)
	for _, n := range s.MergeWhenClauses {
		w := n.GetMergeWhenClause()
		switch w.GetCommandType() {
		case pg.CmdType_CMD_INSERT:
			a.add(sql.Insert, t.String())
		case pg.CmdType_CMD_UPDATE:
			a.add(sql.Update, t.String())
		case pg.CmdType_CMD_DELETE:
			a.add(sql.Delete, t.String())
		}
		a.assigned(w.GetTargetList())
		if w.GetCommandType() == pg.CmdType_CMD_INSERT && len(w.GetTargetList()) == 0 {
			a.s.Star = true
		}
	}
	a.s.Joins++
	a.s.Parts = append(a.s.Parts, sql.Part{Verb: sql.Merge, Table: t})
	a.returning(s.ReturningList, t)
	a.descend(s, sc, "relation", "with_clause")
}

// returning makes RETURNING a read: it shows what stood in the rows.
func (a *analyzer) returning(list []*pg.Node, t sql.Table) {
	if len(list) > 0 {
		a.add(readVerb(t), t.String())
		a.s.ReturnsRows = true
	}
}

// assigned takes the columns of a target list.
func (a *analyzer) assigned(list []*pg.Node) {
	for _, n := range list {
		if name := n.GetResTarget().GetName(); name != "" {
			mark(&a.columns, name)
		}
	}
}

// target takes the table that a statement changes. It is never a CTE.
func (a *analyzer) target(rv *pg.RangeVar, verb string) sql.Table {
	t := a.table(rv)
	a.add(verb, t.String())
	if isCatalog(t) {
		a.add(sql.Admin, t.String()) // an UPDATE of pg_settings is a SET
	}
	return t
}

// read takes a relation that is read from.
func (a *analyzer) read(rv *pg.RangeVar, sc *scope) {
	if rv.Alias != nil {
		a.leaf(rv.Alias)
	}
	if rv.Schemaname == "" && sc.has(rv.Relname) {
		mark(&a.relations, rv.Relname)
		return
	}
	t := a.table(rv)
	a.add(readVerb(t), t.String())
}

// tableOf names a relation. A name that only a system catalog has is that
// catalog: pg_catalog comes first in every usual search_path.
func tableOf(rv *pg.RangeVar) sql.Table {
	t := sql.Table{Schema: rv.GetSchemaname(), Name: rv.GetRelname()}
	if t.Schema == "" && catalogRelations[t.Name] {
		t.Schema = "pg_catalog"
	}
	if t.Schema == "" && rv.GetRelpersistence() == "t" {
		t.Schema = "pg_temp"
	}
	return t
}

// table names a relation and remembers it.
func (a *analyzer) table(rv *pg.RangeVar) sql.Table {
	t := tableOf(rv)
	mark(&a.relations, t.Name)
	if rv.GetAlias() != nil {
		a.leaf(rv.Alias)
	}
	for _, known := range a.s.Tables {
		if known == t {
			return t
		}
	}
	if len(a.s.Tables) == maxNames {
		panic(errTooMuch)
	}
	a.s.Tables = append(a.s.Tables, t)
	return t
}

// column takes a reference such as c, t.c, s.t.c, t.* or *.
func (a *analyzer) column(ref *pg.ColumnRef) {
	if len(ref.Fields) == 0 {
		return
	}
	last := ref.Fields[len(ref.Fields)-1]
	if last.GetAStar() != nil {
		a.s.Star = true
		return
	}
	name := last.GetString_().GetSval()
	mark(&a.columns, name)
	switch {
	case len(ref.Fields) == 1:
		mark(&a.single, name)
	case rowFunctions[name]:
		// t.to_jsonb is to_jsonb(t) unless t has such a column.
		a.s.Star = true
	}
}

// indirection takes (x).f, which is a field or the function f called with x.
func (a *analyzer) indirection(m *pg.A_Indirection) {
	for _, n := range m.Indirection {
		switch {
		case n.GetAStar() != nil:
			a.s.Star = true
		case n.GetString_() != nil:
			name := n.GetString_().Sval
			mark(&a.columns, name)
			if f := m.Arg.GetFuncCall(); (!ofStandard(stringsOf(f.GetFuncname())) || isKnown(name)) && !a.expanded(m, name) {
				a.function([]string{name})
			}
			if rowFunctions[name] {
				a.s.Star = true
			}
		}
	}
}
