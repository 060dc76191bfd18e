// Package analyze reads SQL with PostgreSQL's own grammar and says what it would
// do. It is C fed with hostile input, so only the worker cmd/postern-sqlparse
// imports it; everybody else imports internal/sql, which owns the answer's types.
//
// The rule is to say too much rather than too little: a name that may be a
// table is one, a function that is not on a list is an effect, a statement that
// is not known is unknown. Every message of the parse tree is visited; what no
// case treats is descended into, so a subselect is found wherever the grammar
// allows one.
//
// Not seen, because only the catalog tells: what views, triggers, rules, casts
// and user-defined types and operators of known names run, and t.f where f is a
// function over t's rows and not a column of t.
//
// Start with Analyze, then query.go for SELECT and its kin, utility.go for the
// rest, call.go for functions.
package analyze

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	pg "github.com/pganalyze/pg_query_go/v6"
	"github.com/pganalyze/pg_query_go/v6/parser"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/sql"
)

const (
	// maxEffects bounds the effects of one text. What has more is unknown: no
	// person and no rule would look at them.
	maxEffects = 512
	// maxNames bounds tables, columns and functions likewise.
	maxNames = 4096
	// maxDepth bounds nesting. The grammar's own limit is below it.
	maxDepth = 4000
)

// errTooMuch ends an analysis that met one of the limits.
var errTooMuch = errors.New("the statement is too large to analyse")

// Analyze says what a text would do. It fails with *sql.ErrSyntax.
func Analyze(text string) (*sql.Statement, error) {
	if strings.IndexByte(text, 0) >= 0 {
		return nil, &sql.ErrSyntax{Message: "the statement holds a NUL byte"}
	}
	tree, err := pg.Parse(text)
	if err != nil {
		var syntax *parser.Error
		if errors.As(err, &syntax) {
			return nil, &sql.ErrSyntax{Message: syntax.Message, Position: max(syntax.Cursorpos, 0)}
		}
		return nil, fmt.Errorf("parse tree: %w", err)
	}
	s, err := analyze(tree.Stmts, text)
	if err == nil && len(tree.Stmts) == 1 {
		s.Copied = copyOut(text, tree.Stmts[0].GetStmt().GetCopyStmt())
		s.ByLiterals = s.ByLiterals || s.Copied != nil
	}
	return s, err
}

func analyze(stmts []*pg.RawStmt, text string) (s *sql.Statement, err error) {
	defer func() {
		if r := recover(); r != nil {
			if r != errTooMuch { //nolint:errorlint // the very value that was thrown
				panic(r)
			}
			s, err = tooMuch(), nil
		}
	}()
	a := &analyzer{s: &sql.Statement{Limit: -1, Restricted: true}, bound: valuesIn(stmts, text)}
	for _, raw := range stmts {
		a.statement(raw.GetStmt())
	}
	if len(stmts) == 0 {
		a.add(sql.Session, "empty")
	}
	if len(stmts) != 1 {
		a.s.Limit = -1
	}
	return a.finish(), nil
}

// tooMuch stands for a statement that met a limit.
func tooMuch() *sql.Statement {
	s := &sql.Statement{
		Limit: -1, Kinds: []string{"unknown"}, ReturnsRows: true,
		Effects: []engine.Effect{{Verb: engine.Unknown, Object: "a statement this large"}},
	}
	s.Seal()
	return s
}

// analyzer collects what one text does.
type analyzer struct {
	s         *sql.Statement
	columns   map[string]bool
	functions map[string]bool
	plain     []string        // functions on the list of pure ones that this statement calls
	relations map[string]bool // names and aliases of everything in a FROM
	single    map[string]bool // column references of one name, which may be whole rows
	emitted   bool            // this statement has an effect
	uses      map[sql.Use]bool
	equal     map[sql.Equality]bool
	bound     boundValues
	depth     int
	root      proto.Message           // the statement
	byRow     map[*pg.FuncCall]string // what a set_config sets whose name is in a row
}

func (a *analyzer) add(verb, object string) {
	a.emitted = true
	e := engine.Effect{Verb: verb, Object: object}
	if slices.Contains(a.s.Effects, e) {
		return
	}
	if len(a.s.Effects) == maxEffects {
		panic(errTooMuch)
	}
	a.s.Effects = append(a.s.Effects, e)
}

func mark(set *map[string]bool, name string) {
	if *set == nil {
		*set = map[string]bool{}
	}
	if len(*set) == maxNames {
		panic(errTooMuch)
	}
	(*set)[name] = true
}

// statement analyses one statement of the text.
func (a *analyzer) statement(n *pg.Node) {
	m := inner(n)
	a.plain, a.emitted, a.root = nil, false, m
	a.s.Kinds = append(a.s.Kinds, kindOf(m))
	if len(a.s.Kinds) > maxEffects {
		panic(errTooMuch)
	}
	if s, ok := m.(*pg.SelectStmt); ok {
		a.limit(s)
		a.s.ReturnsRows = a.s.ReturnsRows || s.IntoClause == nil
		a.query(s, nil)
	} else {
		a.walk(m, nil)
	}
	if !a.emitted {
		a.tableless()
	}
	a.trace(m)
}

// tableless gives a SELECT without tables its effect. Connection checks, such
// as SELECT 1 and SELECT version(), are session; others read what their
// functions return.
func (a *analyzer) tableless() {
	selects := false
	for _, f := range a.plain {
		if !sessionFunctions[f] {
			a.add(sql.Select, "pg_catalog."+f)
			selects = true
		}
	}
	if !selects {
		a.add(sql.Session, "select")
	}
}

// limit takes the LIMIT of the outermost SELECT.
func (a *analyzer) limit(s *pg.SelectStmt) {
	if s.LimitCount == nil {
		return
	}
	if c := s.LimitCount.GetAConst(); c != nil && !c.Isnull {
		a.s.ByLiterals = true
		if i, ok := c.Val.(*pg.A_Const_Ival); ok && i.Ival.Ival >= 0 {
			a.s.Limit = int64(i.Ival.Ival)
		}
	}
}

func (a *analyzer) finish() *sql.Statement {
	for name := range a.single {
		if a.relations[name] {
			a.s.Star = true
		}
	}
	if a.s.Star {
		mark(&a.columns, "*")
	}
	for name := range a.columns {
		a.s.Columns = append(a.s.Columns, name)
	}
	for name := range a.functions {
		a.s.Functions = append(a.s.Functions, name)
	}
	slices.Sort(a.s.Columns)
	slices.Sort(a.s.Functions)
	for _, p := range a.s.Parts {
		if p.Verb != sql.Insert && !p.Restricted {
			a.s.Restricted = false
		}
	}
	a.onlyEqual()
	a.s.Seal()
	return a.s
}

// scope is the names of the common table expressions that are visible.
type scope struct {
	parent *scope
	name   string
}

func (s *scope) has(name string) bool {
	for ; s != nil; s = s.parent {
		if s.name == name {
			return true
		}
	}
	return false
}

// walk visits a message of the parse tree.
func (a *analyzer) walk(m proto.Message, sc *scope) {
	if a.depth++; a.depth > maxDepth {
		panic(errTooMuch)
	}
	defer func() { a.depth-- }()
	switch m := m.(type) {
	case *pg.Node:
		if in := inner(m); in != nil {
			a.walk(in, sc)
		}
	case *pg.SelectStmt:
		a.query(m, sc)
	case *pg.InsertStmt:
		a.insert(m, sc)
	case *pg.UpdateStmt:
		a.update(m, sc)
	case *pg.DeleteStmt:
		a.delete(m, sc)
	case *pg.MergeStmt:
		a.merge(m, sc)
	case *pg.RangeVar:
		a.read(m, sc)
	case *pg.FuncCall:
		a.call(m)
		a.descend(m, sc)
	case *pg.ColumnRef:
		a.column(m)
	case *pg.A_Expr:
		a.operator(m.Name)
		a.descend(m, sc)
	default:
		a.leaf(m)
		if name := string(m.ProtoReflect().Descriptor().Name()); strings.HasSuffix(name, "Stmt") && name != "RawStmt" {
			a.utility(m, name, sc)
			return
		}
		a.descend(m, sc)
	}
}

// leaf takes what a message says besides its children.
func (a *analyzer) leaf(m proto.Message) {
	switch m := m.(type) {
	case *pg.ParamRef:
		a.s.Parameters = max(a.s.Parameters, int(m.Number))
		a.bound.used[m.Number]++
	case *pg.Alias:
		mark(&a.relations, m.Aliasname)
		if len(m.Colnames) > 0 {
			a.s.Star = true // the columns have other names from here on
		}
	case *pg.CommonTableExpr:
		mark(&a.relations, m.Ctename)
	case *pg.JoinExpr:
		a.s.Joins++
		for _, n := range m.UsingClause {
			mark(&a.columns, n.GetString_().GetSval())
		}
		a.s.Star = a.s.Star || m.IsNatural
	case *pg.A_Indirection:
		a.indirection(m)
	case *pg.SortBy:
		a.operator(m.UseOp)
	case *pg.SubLink:
		a.operator(m.OperName)
	case *pg.RangeTableSample:
		if method := stringsOf(m.Method); len(method) != 1 || method[0] != "system" && method[0] != "bernoulli" {
			a.function(method)
		}
	}
}

// descend visits the children of a message, but not those in skip.
func (a *analyzer) descend(m proto.Message, sc *scope, skip ...protoreflect.Name) {
	children(m, func(name protoreflect.Name, child proto.Message) {
		if !slices.Contains(skip, name) {
			a.walk(child, sc)
		}
	})
}

// children calls f with the messages in m, in the order of the grammar's own
// declaration: protobuf's Range has none that can be relied on.
func children(m proto.Message, f func(protoreflect.Name, proto.Message)) {
	r := m.ProtoReflect()
	if _, ok := m.(*pg.Node); ok {
		// Its oneof has some 270 fields; which is set need not be asked of each.
		if fd := r.WhichOneof(nodeOneof); fd != nil && fd.Kind() == protoreflect.MessageKind {
			f(fd.Name(), r.Get(fd).Message().Interface())
		}
		return
	}
	for _, fd := range messageFields(r.Descriptor()) {
		switch {
		case !r.Has(fd):
		case fd.IsList():
			list := r.Get(fd).List()
			for j := range list.Len() {
				f(fd.Name(), list.Get(j).Message().Interface())
			}
		default:
			f(fd.Name(), r.Get(fd).Message().Interface())
		}
	}
}

// nodeOneof is the one field that a Node has set.
var nodeOneof = (*pg.Node)(nil).ProtoReflect().Descriptor().Oneofs().Get(0)

// fieldsOf remembers messageFields by the full name of the message.
var fieldsOf sync.Map

// messageFields returns the fields of a message that are messages themselves.
func messageFields(d protoreflect.MessageDescriptor) []protoreflect.FieldDescriptor {
	if known, ok := fieldsOf.Load(d.FullName()); ok {
		return known.([]protoreflect.FieldDescriptor)
	}
	var out []protoreflect.FieldDescriptor
	for i := range d.Fields().Len() {
		if fd := d.Fields().Get(i); fd.Kind() == protoreflect.MessageKind {
			out = append(out, fd)
		}
	}
	fieldsOf.Store(d.FullName(), out)
	return out
}

// inner takes a message out of its Node; nil when there is none.
func inner(n *pg.Node) proto.Message {
	if n == nil || n.Node == nil {
		return nil
	}
	r := n.ProtoReflect()
	return r.Get(r.WhichOneof(nodeOneof)).Message().Interface()
}

func stringsOf(nodes []*pg.Node) []string {
	var out []string
	for _, n := range nodes {
		if s := n.GetString_(); s != nil {
			out = append(out, s.Sval)
		}
	}
	return out
}
