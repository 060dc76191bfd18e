package analyze

import (
	pg "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// What tools write in a roundabout way, and what can be told of it all the same.

// settingsByRow finds set_config(name, …) in a SELECT that reads one row of
// pg_settings, by its name: pg_dump sets so what older servers do not have.
// Whatever stands for pg_settings, the name is the one that is compared.
func (a *analyzer) settingsByRow(s *pg.SelectStmt, sc *scope) {
	rv := only(s.FromClause)
	if rv == nil || rv.Relname != "pg_settings" || rv.Schemaname != "" && rv.Schemaname != "pg_catalog" || rv.Schemaname == "" && sc.has(rv.Relname) {
		return
	}
	e := s.WhereClause.GetAExpr()
	if e == nil || e.Kind != pg.A_Expr_Kind_AEXPR_OP || len(e.Name) != 1 || e.Name[0].GetString_().GetSval() != "=" || !bareColumn(e.Lexpr, "name") {
		return
	}
	setting, ok := constantText(e.Rexpr)
	if !ok {
		return
	}
	for _, n := range s.TargetList {
		if f := n.GetResTarget().GetVal().GetFuncCall(); f != nil && bareColumn(argument(f, 0), "name") {
			if a.byRow == nil {
				a.byRow = map[*pg.FuncCall]string{}
			}
			a.byRow[f] = setting
		}
	}
}

// bareColumn says whether a node is the bare name of that column.
func bareColumn(n *pg.Node, name string) bool {
	fields := n.GetColumnRef().GetFields()
	return len(fields) == 1 && fields[0].GetString_().GetSval() == name
}

// expanded says whether (q.c).f is a field of what information_schema's
// _pg_expandarray returns, as JDBC asks for the columns of a key: q is a
// subselect, nothing else in the statement has that name, and c is the call.
func (a *analyzer) expanded(m *pg.A_Indirection, field string) bool {
	fields := m.Arg.GetColumnRef().GetFields()
	if field != "x" && field != "n" || len(m.Indirection) != 1 || len(fields) != 2 {
		return false
	}
	q, c := fields[0].GetString_().GetSval(), fields[1].GetString_().GetSval()
	n := naming{name: q, use: m}
	n.visit(a.root, 0)
	return n.count == 1 && n.of != nil && standardCall(n.of.Subquery.GetSelectStmt(), c)
}

// naming looks for what has a name in a statement.
type naming struct {
	name  string
	use   *pg.A_Indirection
	of    *pg.RangeSubselect // whose alias it is
	count int                // of what has the name, outside of that subselect
}

func (n *naming) visit(m proto.Message, depth int) {
	if depth > maxDepth {
		panic(errTooMuch)
	}
	switch m := m.(type) {
	case *pg.RangeSubselect:
		// What is named inside is not seen outside, unless the use is inside.
		if m.GetAlias().GetAliasname() == n.name && !m.Lateral && len(m.Alias.Colnames) == 0 && !within(m.Subquery, n.use, depth) {
			n.of = m
			n.count++
			return
		}
	case *pg.Alias:
		if m.Aliasname == n.name {
			n.count++
		}
	case *pg.RangeVar:
		if m.Relname == n.name {
			n.count++
		}
	case *pg.CommonTableExpr:
		if m.Ctename == n.name {
			n.count++
		}
	}
	children(m, func(_ protoreflect.Name, child proto.Message) { n.visit(child, depth+1) })
}

// within says whether a message is somewhere in another.
func within(in, use proto.Message, depth int) (found bool) {
	if depth > maxDepth {
		panic(errTooMuch)
	}
	if in == use {
		return true
	}
	children(in, func(_ protoreflect.Name, child proto.Message) { found = found || within(child, use, depth+1) })
	return found
}

// standardCall says whether the column of a SELECT is a call of _pg_expandarray.
func standardCall(s *pg.SelectStmt, column string) bool {
	found := false
	for _, n := range s.GetTargetList() {
		t := n.GetResTarget()
		switch {
		case t.GetName() == column && !found:
			name := stringsOf(t.GetVal().GetFuncCall().GetFuncname())
			if found = ofStandard(name) && name[1] == "_pg_expandarray"; !found {
				return false
			}
		case t.GetName() == column:
			return false
		case t.GetName() == "" && t.GetVal().GetColumnRef() != nil:
			last := t.GetVal().GetColumnRef().Fields
			if n := last[len(last)-1]; n.GetAStar() != nil || n.GetString_().GetSval() == column {
				return false
			}
		}
	}
	return found
}

// settingName is what set_config sets.
func (a *analyzer) settingName(f *pg.FuncCall) (string, bool) {
	if name, ok := a.byRow[f]; ok {
		return name, true
	}
	return constantText(argument(f, 0))
}
