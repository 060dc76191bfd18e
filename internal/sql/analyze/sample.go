package analyze

import (
	"fmt"
	"slices"

	pg "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/postern/postern/internal/sql"
)

// Sample makes a query for some of the rows that the one UPDATE or DELETE of a
// text is about to change: the same table, the same condition. It is nil for
// everything else, also for those that join.
func Sample(text string) (*sql.Sample, error) {
	tree, err := pg.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("parse tree: %w", err)
	}
	if len(tree.Stmts) != 1 {
		return nil, nil
	}
	var table *pg.RangeVar
	var where *pg.Node
	switch stmt := tree.Stmts[0].GetStmt(); {
	case stmt.GetUpdateStmt() != nil:
		u := stmt.GetUpdateStmt()
		if len(u.FromClause) > 0 || u.WithClause != nil {
			return nil, nil
		}
		table, where = u.Relation, u.WhereClause
	case stmt.GetDeleteStmt() != nil:
		d := stmt.GetDeleteStmt()
		if len(d.UsingClause) > 0 || d.WithClause != nil {
			return nil, nil
		}
		table, where = d.Relation, d.WhereClause
	default:
		return nil, nil
	}
	s := &sql.Sample{}
	if where != nil {
		where = proto.CloneOf(where)
		renumber(where.ProtoReflect(), &s.Params)
	}
	star := pg.MakeResTargetNodeWithVal(pg.MakeColumnRefNode([]*pg.Node{pg.MakeAStarNode()}, -1), -1)
	query := &pg.SelectStmt{
		TargetList: []*pg.Node{star}, FromClause: []*pg.Node{{Node: &pg.Node_RangeVar{RangeVar: table}}},
		WhereClause: where, LimitCount: pg.MakeAConstIntNode(sql.SampleRows, -1), LimitOption: pg.LimitOption_LIMIT_OPTION_COUNT,
		Op: pg.SetOperation_SETOP_NONE,
	}
	s.Query, err = pg.Deparse(&pg.ParseResult{Version: tree.Version, Stmts: []*pg.RawStmt{{Stmt: &pg.Node{Node: &pg.Node_SelectStmt{SelectStmt: query}}}}})
	if err != nil {
		return nil, fmt.Errorf("write the query of a sample: %w", err)
	}
	return s, nil
}

// renumber counts the parameters of an expression from 1 on, and notes which
// they were.
func renumber(m protoreflect.Message, params *[]int) {
	if p, ok := m.Interface().(*pg.ParamRef); ok {
		at := slices.Index(*params, int(p.Number))
		if at < 0 {
			at = len(*params)
			*params = append(*params, int(p.Number))
		}
		p.Number = int32(at + 1)
		return
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsList() && f.Message() != nil:
			for i := range v.List().Len() {
				renumber(v.List().Get(i).Message(), params)
			}
		case f.Message() != nil && !f.IsMap():
			renumber(v.Message(), params)
		}
		return true
	})
}
