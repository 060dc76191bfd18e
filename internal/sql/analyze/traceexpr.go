package analyze

import (
	"slices"
	"strings"

	pg "github.com/pganalyze/pg_query_go/v6"

	"github.com/postern/postern/internal/sql"
)

// totalFunctions never fail, whatever they are given, and return one row. Of
// others that are given a column the agent may learn of its values by whether
// they fail, or by how many rows come back, though what they return is masked.
var totalFunctions = set(`
	lower upper initcap length char_length character_length octet_length bit_length md5 sha224 sha256 sha384 sha512 reverse
	btrim ltrim rtrim left right concat concat_ws quote_literal quote_nullable quote_ident translate replace strpos position
	starts_with ascii to_json to_jsonb row_to_json array_to_json json_build_array jsonb_build_array
	sum avg stddev stddev_pop stddev_samp variance var_pop var_samp
	array_agg string_agg json_agg jsonb_agg json_agg_strict jsonb_agg_strict count min max any_value
	bool_and bool_or every first_value last_value lag lead row_number rank dense_rank
	hashtext hashtextextended record_out record_send textsend textout array_length cardinality array_to_string
	jsonb_typeof json_typeof jsonb_strip_nulls json_strip_nulls jsonb_pretty pg_column_size
	sign floor ceil ceiling round trunc isfinite`)

// keyedFunctions fail when a key is NULL; the keys are every second argument.
var keyedFunctions = set(`json_build_object jsonb_build_object json_object_agg jsonb_object_agg`)

// textTypes are those to which a cast from any type of table columns succeeds.
var textTypes = set(`text varchar bpchar name`)

// totalOperators compute a value without failing. Comparisons are among them:
// what they return is masked like any value computed from the column.
var totalOperators = set(`|| -> ->> #> #>> = <> != < > <= >= ~~ !~~ ~~* !~~* ~ !~ ~* !~* @> <@ ? ?| ?& ^@ @@ && IS_DISTINCT`)

// expression returns what the value of an expression that is shown may be
// computed from. Where evaluating it may tell more than its value, which is
// masked, it filters.
func (t *tracer) expression(n *pg.Node, e *env) []sql.Column {
	if n == nil || n.Node == nil {
		return nil
	}
	defer t.deeper()()
	switch {
	case n.GetColumnRef() != nil:
		return t.reference(n.GetColumnRef(), e)
	case n.GetAConst() != nil, n.GetParamRef() != nil, n.GetSetToDefault() != nil, n.GetCurrentOfExpr() != nil,
		n.GetSqlvalueFunction() != nil, n.GetString_() != nil:
		return nil
	case n.GetTypeCast() != nil:
		return t.cast(n.GetTypeCast(), e)
	case n.GetFuncCall() != nil:
		return t.call(n.GetFuncCall(), e)
	case n.GetAExpr() != nil:
		return t.operation(n.GetAExpr(), e)
	case n.GetCoalesceExpr() != nil:
		return t.coalesce(n.GetCoalesceExpr(), e)
	case n.GetMinMaxExpr() != nil:
		return t.each(n.GetMinMaxExpr().Args, e)
	case n.GetNullTest() != nil:
		return t.expression(n.GetNullTest().Arg, e)
	case n.GetBooleanTest() != nil:
		return t.expression(n.GetBooleanTest().Arg, e)
	case n.GetRowExpr() != nil:
		return t.each(n.GetRowExpr().Args, e)
	case n.GetAArrayExpr() != nil:
		return t.each(n.GetAArrayExpr().Elements, e)
	case n.GetList() != nil:
		return t.each(n.GetList().Items, e)
	case n.GetSubLink() != nil:
		return t.sublink(n.GetSubLink(), e)
	case n.GetAIndirection() != nil:
		return t.indirection(n.GetAIndirection(), e)
	case n.GetCollateClause() != nil:
		return t.expression(n.GetCollateClause().Arg, e)
	case n.GetNamedArgExpr() != nil:
		return t.expression(n.GetNamedArgExpr().Arg, e)
	case n.GetResTarget() != nil:
		return t.expression(n.GetResTarget().Val, e)
	}
	switch m := inner(n).(type) {
	case *pg.SelectStmt:
		return all(t.query(m, e.inside()))
	case *pg.InsertStmt, *pg.UpdateStmt, *pg.DeleteStmt, *pg.MergeStmt:
		return all(t.statement(m, e.inside()))
	default:
		// CASE, AND and OR, XML, JSON constructors and what comes with later
		// versions: which branch is taken tells of the condition.
		return t.unknown(m, e)
	}
}

func (t *tracer) each(nodes []*pg.Node, e *env) (from []sql.Column) {
	for _, n := range nodes {
		from = append(from, t.expression(n, e)...)
	}
	return unique(from)
}

func (t *tracer) cast(c *pg.TypeCast, e *env) []sql.Column {
	from := t.expression(c.Arg, e)
	names := stringsOf(c.GetTypeName().GetNames())
	if !textTypes[lastOf(names)] || !builtin(names) || len(c.GetTypeName().GetArrayBounds()) > 0 {
		t.filter(from)
	}
	return from
}

// call takes a function call. What a function of somebody's is given, it may
// write anywhere.
func (t *tracer) call(f *pg.FuncCall, e *env) []sql.Column {
	from := t.each(f.Args, e)
	name := stringsOf(f.Funcname)
	switch last := lastOf(name); {
	case builtin(name) && totalFunctions[last]:
	case builtin(name) && keyedFunctions[last] && !f.FuncVariadic:
		for i := 0; i < len(f.Args); i += 2 {
			t.filter(t.expression(f.Args[i], e))
		}
	case builtin(name) && pureFunctions[last], ofStandard(name):
		t.filter(from)
	default:
		t.derive(from)
	}
	for _, n := range f.AggOrder {
		order := t.expression(n.GetSortBy().GetNode(), e)
		if !f.AggWithinGroup {
			t.filter(order)
		}
		from = append(from, order...) // percentile_disc shows a value of it
	}
	t.condition(f.AggFilter, e)
	t.window(f.Over, e)
	return unique(from)
}

func lastOf(name []string) string {
	if len(name) == 0 {
		return ""
	}
	return name[len(name)-1]
}

func (t *tracer) operation(x *pg.A_Expr, e *env) []sql.Column {
	left, right := t.expression(x.Lexpr, e), t.expression(x.Rexpr, e)
	from := unique(append(slices.Clip(left), right...))
	op := strings.Join(stringsOf(x.Name), ".")
	switch x.Kind {
	case pg.A_Expr_Kind_AEXPR_NULLIF, pg.A_Expr_Kind_AEXPR_SIMILAR:
		t.filter(from)
	case pg.A_Expr_Kind_AEXPR_DISTINCT, pg.A_Expr_Kind_AEXPR_NOT_DISTINCT:
	case pg.A_Expr_Kind_AEXPR_BETWEEN, pg.A_Expr_Kind_AEXPR_NOT_BETWEEN, pg.A_Expr_Kind_AEXPR_BETWEEN_SYM,
		pg.A_Expr_Kind_AEXPR_NOT_BETWEEN_SYM:
	default:
		switch {
		case !builtin(stringsOf(x.Name)) || !knownOperators[op]:
			t.derive(from)
		case !totalOperators[op]:
			t.filter(from)
		case strings.Contains(op, "~"):
			t.filter(right) // a pattern may be malformed
		}
	}
	return from
}

// coalesce evaluates an argument only when those before it are NULL.
func (t *tracer) coalesce(c *pg.CoalesceExpr, e *env) []sql.Column {
	from := t.each(c.Args, e)
	for _, arg := range c.Args[min(1, len(c.Args)):] {
		if arg.GetAConst() == nil && arg.GetParamRef() == nil && arg.GetColumnRef() == nil {
			t.filter(from)
			break
		}
	}
	return from
}

func (t *tracer) sublink(s *pg.SubLink, e *env) []sql.Column {
	tested := t.expression(s.Testexpr, e)
	shown := all(t.statement(inner(s.Subselect), e.inside()))
	if s.SubLinkType == pg.SubLinkType_EXISTS_SUBLINK {
		return nil
	}
	from := unique(append(tested, shown...))
	if op := stringsOf(s.OperName); len(op) > 0 && (!builtin(op) || !knownOperators[lastOf(op)]) {
		t.derive(from)
	}
	return from
}

// indirection takes (x).f and x[i].
func (t *tracer) indirection(x *pg.A_Indirection, e *env) []sql.Column {
	var from []sql.Column
	names := stringsOf(x.GetArg().GetColumnRef().GetFields())
	field := ""
	if len(x.Indirection) > 0 {
		field = x.Indirection[0].GetString_().GetSval()
	}
	if len(names) == 1 && field != "" && e.named(names) != nil {
		from = e.qualified(names, field)
	} else {
		from = t.expression(x.Arg, e)
	}
	for _, n := range x.Indirection {
		switch {
		case n.GetAIndices() != nil:
			from = append(from, t.expression(n.GetAIndices().Lidx, e)...)
			from = append(from, t.expression(n.GetAIndices().Uidx, e)...)
		case n.GetString_() != nil && !totalFunctions[n.GetString_().Sval] && isKnown(n.GetString_().Sval):
			t.filter(from)
		}
	}
	return unique(from)
}

// condition takes an expression that decides which rows there are.
func (t *tracer) condition(n *pg.Node, e *env) {
	if n == nil || n.Node == nil {
		return
	}
	defer t.deeper()()
	if b := n.GetBoolExpr(); b != nil {
		for _, arg := range b.Args {
			t.condition(arg, e)
		}
		return
	}
	if x := n.GetAExpr(); x != nil && t.equality(x, e) {
		return
	}
	t.filter(t.expression(n, e))
}

// equality takes a comparison of a column with values that are written out or
// bound, which a session may allow where it allows no other. It reports whether
// it was one.
func (t *tracer) equality(x *pg.A_Expr, e *env) bool {
	if lastOf(stringsOf(x.Name)) != "=" || !builtin(stringsOf(x.Name)) {
		return false
	}
	var column *pg.Node
	var values []*pg.Node
	switch {
	case x.Kind == pg.A_Expr_Kind_AEXPR_IN:
		column, values = x.Lexpr, x.Rexpr.GetList().GetItems()
	case x.Kind != pg.A_Expr_Kind_AEXPR_OP:
		return false
	case x.Rexpr.GetColumnRef() != nil:
		column, values = x.Rexpr, []*pg.Node{x.Lexpr}
	default:
		column, values = x.Lexpr, []*pg.Node{x.Rexpr}
	}
	ref := column.GetColumnRef()
	if ref == nil || len(values) == 0 || slices.ContainsFunc(values, func(n *pg.Node) bool { return valueOf(n) == nil }) {
		return false
	}
	columns := unique(t.reference(ref, e))
	if !e.ofTables(stringsOf(ref.Fields)) {
		t.filter(columns) // it may be computed
		return true
	}
	for _, c := range columns {
		t.equal(c, values)
	}
	return true
}

// ofTables says whether a column of this name can only be one of a table's own.
func (e *env) ofTables(names []string) bool {
	if len(names) > 1 {
		r := e.named(names[:len(names)-1])
		return r != nil && r.table != nil
	}
	for ; e != nil; e = e.outer {
		for _, r := range e.relations {
			if from, _ := r.column(names[0], false); r.table == nil && len(from) > 0 {
				return false
			}
		}
	}
	return true
}

// equal notes that a column is compared with values.
func (t *tracer) equal(c sql.Column, values []*pg.Node) {
	for _, n := range values {
		if q, ok := t.a.bound.of(c, n); ok {
			t.a.equality(q)
		} else {
			t.filter([]sql.Column{c})
		}
	}
}

// valueOf returns a constant or a parameter, with the casts taken away that
// drivers write around it.
func valueOf(n *pg.Node) *pg.Node {
	for n.GetTypeCast() != nil {
		n = n.GetTypeCast().Arg
	}
	if n.GetAConst() == nil && n.GetParamRef() == nil {
		return nil
	}
	return n
}

// columnName is the name that a column of a result has when the text gives it
// none, as FigureColname in PostgreSQL's parse_target.c finds it. Empty: it is
// not followed, and may be any.
func columnName(n *pg.Node) string {
	switch {
	case n.GetColumnRef() != nil:
		return lastOf(stringsOf(n.GetColumnRef().Fields))
	case n.GetFuncCall() != nil:
		return lastOf(stringsOf(n.GetFuncCall().Funcname))
	case n.GetTypeCast() != nil:
		if arg := n.GetTypeCast().Arg; arg.GetColumnRef() != nil || arg.GetFuncCall() != nil {
			return columnName(arg)
		}
		return ""
	case n.GetCollateClause() != nil:
		return columnName(n.GetCollateClause().Arg)
	case n.GetAExpr() != nil:
		if n.GetAExpr().Kind == pg.A_Expr_Kind_AEXPR_NULLIF {
			return "nullif"
		}
		return unnamed
	case n.GetAConst() != nil, n.GetParamRef() != nil, n.GetBoolExpr() != nil, n.GetNullTest() != nil, n.GetBooleanTest() != nil:
		return unnamed
	case n.GetCoalesceExpr() != nil:
		return "coalesce"
	case n.GetAArrayExpr() != nil:
		return "array"
	case n.GetRowExpr() != nil:
		return "row"
	}
	return ""
}

const unnamed = "?column?"
