package analyze

import (
	"slices"
	"strings"

	pg "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// restricts says whether a condition can be relied on to leave rows out: a
// comparison of a column with something that is not that column. It cannot see
// that id > -1 holds for every row; it does see WHERE true, 1=1, id=id and
// "or true".
func restricts(where *pg.Node) bool { return where != nil && restricting(where, false) }

// restricting answers for the condition, or for its opposite when negated.
func restricting(n *pg.Node, negated bool) bool {
	switch {
	case n.GetBoolExpr() != nil:
		b := n.GetBoolExpr()
		if b.Boolop == pg.BoolExprType_NOT_EXPR {
			return len(b.Args) == 1 && restricting(b.Args[0], !negated)
		}
		loose := func(n *pg.Node) bool { return !restricting(n, negated) }
		if (b.Boolop == pg.BoolExprType_AND_EXPR) != negated {
			return slices.ContainsFunc(b.Args, func(n *pg.Node) bool { return restricting(n, negated) })
		}
		return !slices.ContainsFunc(b.Args, loose)
	case n.GetAExpr() != nil:
		return comparison(n.GetAExpr())
	case n.GetColumnRef() != nil:
		return true // a boolean column
	case n.GetCurrentOfExpr() != nil:
		return !negated
	case n.GetNullTest() != nil:
		// IS NOT NULL holds for every row of most columns.
		t := n.GetNullTest()
		return isColumn(t.Arg) && (t.Nulltesttype == pg.NullTestType_IS_NULL) != negated
	case n.GetBooleanTest() != nil:
		t := n.GetBooleanTest()
		return !negated && t.Booltesttype == pg.BoolTestType_IS_TRUE && restricting(t.Arg, false)
	case n.GetSubLink() != nil:
		s := n.GetSubLink()
		return s.SubLinkType == pg.SubLinkType_ANY_SUBLINK && !negated && isColumn(s.Testexpr) &&
			disjoint(columnsOf(s.Testexpr), columnsOf(s.Subselect))
	}
	return false
}

// comparison says whether an expression compares a column with something else.
func comparison(e *pg.A_Expr) bool {
	op := strings.Join(stringsOf(e.Name), ".")
	switch op {
	case "+", "-", "*", "/", "%", "^", "||":
		return false
	case "~~", "~~*", "~", "~*":
		if c := e.Rexpr.GetAConst(); c != nil && strings.Trim(c.GetSval().GetSval(), "%.*^$()") == "" {
			return false // LIKE '%'
		}
	}
	left, right := columnsOf(e.Lexpr), columnsOf(e.Rexpr)
	if !disjoint(left, right) {
		return false
	}
	// Arithmetic on a column may cancel it, as in id * 0 = 0.
	return len(left) > 0 && !arithmetic(e.Lexpr) || len(right) > 0 && !arithmetic(e.Rexpr)
}

func arithmetic(n *pg.Node) bool {
	e := n.GetAExpr()
	if e == nil {
		return false
	}
	switch strings.Join(stringsOf(e.Name), ".") {
	case "->", "->>", "#>", "#>>":
		return false
	}
	return true
}

func isColumn(n *pg.Node) bool {
	for n.GetTypeCast() != nil {
		n = n.GetTypeCast().Arg
	}
	return n.GetColumnRef() != nil
}

// columnsOf returns the last names of all column references below n.
func columnsOf(n *pg.Node) []string {
	var out []string
	var visit func(proto.Message)
	visit = func(m proto.Message) {
		if ref, ok := m.(*pg.ColumnRef); ok {
			name := "*"
			if f := ref.Fields; len(f) > 0 && f[len(f)-1].GetString_() != nil {
				name = f[len(f)-1].GetString_().Sval
			}
			if len(out) < maxNames {
				out = append(out, name)
			}
			return
		}
		children(m, func(_ protoreflect.Name, child proto.Message) { visit(child) })
	}
	if n != nil {
		visit(n)
	}
	return out
}

func disjoint(a, b []string) bool {
	return !slices.ContainsFunc(a, func(s string) bool { return slices.Contains(b, s) })
}

// equalColumns returns the columns of a table that the whole of a condition
// binds to constants or parameters. Where other tables are joined only columns
// that are qualified with this one's name count.
func equalColumns(where *pg.Node, rv *pg.RangeVar, joined bool) []string {
	var out []string
	add := func(column, value *pg.Node) {
		name, ok := columnOf(column, rv, joined)
		if ok && isConstant(value) && !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	var visit func(*pg.Node)
	visit = func(n *pg.Node) {
		if b := n.GetBoolExpr(); b != nil && b.Boolop == pg.BoolExprType_AND_EXPR {
			for _, arg := range b.Args {
				visit(arg)
			}
			return
		}
		e := n.GetAExpr()
		if e == nil || strings.TrimPrefix(strings.Join(stringsOf(e.Name), "."), "pg_catalog.") != "=" {
			return
		}
		switch e.Kind {
		case pg.A_Expr_Kind_AEXPR_OP:
			left, right := e.Lexpr.GetRowExpr(), e.Rexpr.GetRowExpr()
			if left != nil && right != nil && len(left.Args) == len(right.Args) {
				for i := range left.Args {
					add(left.Args[i], right.Args[i])
				}
				return
			}
			add(e.Lexpr, e.Rexpr)
			add(e.Rexpr, e.Lexpr)
		case pg.A_Expr_Kind_AEXPR_IN:
			if items := e.Rexpr.GetList().GetItems(); len(items) == 1 {
				add(e.Lexpr, items[0])
			}
		}
	}
	if where != nil {
		visit(where)
	}
	return out
}

// columnOf returns the name of a column of the table rv.
func columnOf(n *pg.Node, rv *pg.RangeVar, joined bool) (string, bool) {
	ref := n.GetColumnRef()
	if ref == nil {
		return "", false
	}
	names := stringsOf(ref.Fields)
	if len(names) != len(ref.Fields) {
		return "", false // a star
	}
	visible := rv.GetRelname()
	if alias := rv.GetAlias(); alias != nil {
		if len(alias.Colnames) > 0 {
			return "", false
		}
		visible = alias.Aliasname
	}
	switch {
	case len(names) == 1 && !joined:
		return names[0], true
	case len(names) == 2 && names[0] == visible:
		return names[1], true
	case len(names) == 3 && rv.GetAlias() == nil && names[0] == rv.GetSchemaname() && names[1] == visible:
		return names[2], true
	}
	return "", false
}

// isConstant says whether a value is the same for every row.
func isConstant(n *pg.Node) bool {
	switch {
	case n.GetAConst() != nil, n.GetParamRef() != nil:
		return true
	case n.GetTypeCast() != nil:
		return isConstant(n.GetTypeCast().Arg)
	case n.GetAExpr() != nil:
		e := n.GetAExpr()
		return e.Kind == pg.A_Expr_Kind_AEXPR_OP && (e.Lexpr == nil || isConstant(e.Lexpr)) && isConstant(e.Rexpr)
	}
	return false
}
