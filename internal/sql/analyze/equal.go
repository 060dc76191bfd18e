package analyze

import (
	"slices"
	"strconv"

	pg "github.com/pganalyze/pg_query_go/v6"

	"github.com/postern/postern/internal/sql"
)

// maxLiterals bounds how many literals of a text are known one by one.
const maxLiterals = 100

// boundValues are the parameters and literals of a text: a column that must be equal
// to one, or is set to one, is an Equality only if nothing else uses the value.
type boundValues struct {
	text     string
	literals map[int32]int // by where they begin, which literal
	used     map[int32]int // how often a parameter is there
	equal    map[*pg.ParamRef]bool
}

// valuesIn knows literals in single statements that change or read rows only,
// because nothing else takes parameters in their place.
func valuesIn(stmts []*pg.RawStmt, text string) boundValues {
	v := boundValues{text: text, literals: map[int32]int{}, used: map[int32]int{}, equal: map[*pg.ParamRef]bool{}}
	if len(stmts) != 1 {
		return v
	}
	switch stmts[0].GetStmt().GetNode().(type) {
	case *pg.Node_SelectStmt, *pg.Node_InsertStmt, *pg.Node_UpdateStmt, *pg.Node_DeleteStmt, *pg.Node_MergeStmt:
	default:
		return v
	}
	literals := sql.Literals(text)
	for i, l := range literals[:min(len(literals), maxLiterals)] {
		v.literals[int32(l.From)] = i + 1
	}
	return v
}

// of returns the equality of c with a value, false when it is none that is known.
func (v *boundValues) of(c sql.Column, n *pg.Node) (q sql.Equality, ok bool) {
	value := valueOf(n)
	if value == nil || !keptByCasts(n) {
		return q, false
	}
	q.Column = c
	if p := value.GetParamRef(); p != nil {
		v.equal[p] = true
		q.Param = int(p.Number)
		return q, true
	}
	c1 := value.GetAConst()
	q.Literal = v.literals[c1.GetLocation()]
	if q.Literal == 0 {
		return q, false
	}
	written := sql.Literals(v.text)[q.Literal-1].Value(v.text)
	switch {
	case c1.GetSval() != nil:
		return q, c1.GetSval().Sval == written
	case c1.GetIval() != nil:
		n, err := strconv.ParseInt(written, 10, 32)
		return q, err == nil && int32(n) == c1.GetIval().Ival
	}
	return q, false
}

// keptByCasts says whether the casts around a value leave it whole.
func keptByCasts(n *pg.Node) bool {
	for ; n.GetTypeCast() != nil; n = n.GetTypeCast().Arg {
		t := n.GetTypeCast().TypeName
		switch lastOf(stringsOf(t.GetNames())) {
		case "text", "varchar", "uuid", "int2", "int4", "int8", "bytea", "citext":
		default:
			return false
		}
		if len(t.Typmods)+len(t.ArrayBounds) > 0 || t.Setof || t.PctType {
			return false
		}
	}
	return true
}

// onlyEqual takes the equalities of parameters that are used elsewhere too for
// conditions as any.
func (a *analyzer) onlyEqual() {
	equal := map[int32]int{}
	for p := range a.bound.equal {
		equal[p.Number]++
	}
	a.s.Equalities = slices.DeleteFunc(a.s.Equalities, func(q sql.Equality) bool {
		elsewhere := q.Param > 0 && equal[int32(q.Param)] != a.bound.used[int32(q.Param)]
		if u := (sql.Use{Purpose: sql.Filters, Column: q.Column}); elsewhere && !q.Assigns && !a.uses[u] {
			a.uses[u] = true
			a.s.Uses = append(a.s.Uses, u)
		}
		return elsewhere
	})
}
