package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"

	"github.com/postern/postern/internal/engine"
)

const (
	// maxWhen bounds the text of a condition, in characters.
	maxWhen = 4096
	// maxCost bounds what one evaluation may take, in CEL's units: about 5 ms
	// on a slow core, and a thousand times what a usual condition takes.
	maxCost = 200_000
)

// The variables of conditions besides the facts, which are below "request.".
var callerVariables = map[string]*cel.Type{
	"agent.name":      cel.StringType,
	"agent.run":       cel.StringType,
	"agent.exe":       cel.StringType,
	"agent.uid":       cel.IntType,
	sessionDatabase:   cel.StringType,
	sessionUser:       cel.StringType,
	sessionRows:       cel.IntType,
	sessionStatements: cel.IntType,
	"target":          cel.StringType,

	identityPrefix + "issuer":  cel.StringType,
	identityPrefix + "subject": cel.StringType,
	identityPrefix + "name":    cel.StringType,
	identityPrefix + "email":   cel.StringType,
	identityPrefix + "owner":   cel.StringType,
	identityPrefix + "groups":  cel.ListType(cel.StringType),
	identityPrefix + "roles":   cel.ListType(cel.StringType),
	identityPrefix + "claims":  cel.MapType(cel.StringType, cel.StringType),
}

const factPrefix = "request."

// identityPrefix begins the names of what is known of an identity; unknown, all
// of it, where there is none.
const identityPrefix = "identity."

const (
	// What a session is, as the agent has named it.
	sessionDatabase = "session.database"
	sessionUser     = "session.user"
	// What it has had so far.
	sessionRows       = "session.rows"
	sessionStatements = "session.statements"
)

// conditions compiles the whens of rules that see the same facts.
type conditions struct {
	env   *cel.Env
	types map[string]*cel.Type // every variable

	passing []string // the facts of a moment
}

func newConditions(facts []engine.Fact) (*conditions, error) {
	c := &conditions{types: map[string]*cel.Type{}}
	for name, t := range callerVariables {
		c.types[name] = t
	}
	for _, f := range facts {
		if f.Passing {
			c.passing = append(c.passing, f.Name)
		}
		t := [...]*cel.Type{
			engine.Bool: cel.BoolType, engine.Int: cel.IntType, engine.Text: cel.StringType,
			engine.TextSet: cel.ListType(cel.StringType),
		}[f.Type]
		if other, ok := c.types[factPrefix+f.Name]; ok && !other.IsExactType(t) {
			return nil, fmt.Errorf("fact %s is of two types", f.Name)
		}
		c.types[factPrefix+f.Name] = t
	}
	opts := []cel.EnvOption{cel.ParserExpressionSizeLimit(maxWhen), cel.ParserRecursionLimit(64)}
	for name, t := range c.types {
		opts = append(opts, cel.Variable(name, t))
	}
	env, err := cel.NewEnv(opts...)
	c.env = env
	return c, err
}

// condition is one compiled when.
type condition struct {
	program cel.Program
	native  native     // nil: the program is run
	facts   []variable // the facts it reads
	named   []variable // what it reads of the session that the agent has named
	caller  bool       // it reads agent or session
	passing bool       // it reads what may be otherwise the next time
}

type variable struct {
	name    string // without "request.", of a fact
	unknown *cel.AttributePatternType
}

// problemError carries what to do about an error.
type problemError struct{ message, help string }

func (e *problemError) Error() string { return e.message }

func (c *conditions) compile(when string) (*condition, error) {
	parsed, issues := c.env.Parse(when)
	if err := issues.Err(); err != nil {
		return nil, celError(err)
	}
	chains, err := c.variables(parsed.NativeRep().Expr())
	if err != nil {
		return nil, err
	}
	checked, issues := c.env.Check(parsed)
	if err := issues.Err(); err != nil {
		return nil, celError(err)
	}
	if !checked.OutputType().IsExactType(cel.BoolType) {
		return nil, &problemError{fmt.Sprintf("when is of type %s", checked.OutputType()), "write a condition that is true or false"}
	}
	program, err := c.env.Program(checked, cel.EvalOptions(cel.OptOptimize|cel.OptPartialEval), cel.CostLimit(maxCost))
	if err != nil {
		return nil, celError(err)
	}
	out := &condition{program: program, native: compileNative(checked.NativeRep().Expr())}
	for _, name := range chains {
		if fact, ok := strings.CutPrefix(name, factPrefix); ok {
			out.facts = append(out.facts, variable{fact, cel.AttributePattern(name)})
			out.passing = out.passing || slices.Contains(c.passing, fact)
			continue
		}
		if name == sessionDatabase || name == sessionUser || strings.HasPrefix(name, identityPrefix) {
			out.named = append(out.named, variable{name, cel.AttributePattern(name)})
		}
		out.caller = out.caller || name != "target"
		out.passing = out.passing || name == sessionRows || name == sessionStatements
	}
	return out, nil
}

// variables returns the variables that an expression reads. It reports names
// that do not exist, with the nearest that does, which CEL does not.
func (c *conditions) variables(e ast.Expr) ([]string, error) {
	var found []string
	var wrong error
	var visit func(e ast.Expr, local []string)
	visit = func(e ast.Expr, local []string) {
		if name, ok := chain(e); ok && !slices.Contains(local, root(name)) {
			switch v := c.prefix(name); {
			case v == "" && wrong == nil:
				wrong = c.undeclared(name)
			case !slices.Contains(found, v):
				found = append(found, v)
			}
			return
		}
		if e.Kind() == ast.CallKind && e.AsCall().FunctionName() == operators.In && wrong == nil {
			wrong = dotted(e.AsCall().Args())
		}
		if e.Kind() == ast.ComprehensionKind {
			l := e.AsComprehension()
			visit(l.IterRange(), local)
			visit(l.AccuInit(), local)
			inner := append(slices.Clone(local), l.IterVar(), l.IterVar2(), l.AccuVar())
			for _, part := range []ast.Expr{l.LoopCondition(), l.LoopStep(), l.Result()} {
				visit(part, inner)
			}
			return
		}
		for _, part := range children(e) {
			visit(part, local)
		}
	}
	visit(e, nil)
	return found, wrong
}

// chain returns a.b.c for that expression.
func chain(e ast.Expr) (string, bool) {
	switch e.Kind() {
	case ast.IdentKind:
		return e.AsIdent(), true
	case ast.SelectKind:
		if of, ok := chain(e.AsSelect().Operand()); ok {
			return of + "." + e.AsSelect().FieldName(), true
		}
	}
	return "", false
}

func root(name string) string { before, _, _ := strings.Cut(name, "."); return before }

// prefix returns the variable that a chain begins with.
func (c *conditions) prefix(name string) string {
	for {
		if _, ok := c.types[name]; ok {
			return name
		}
		dot := strings.LastIndexByte(name, '.')
		if dot < 0 {
			return ""
		}
		name = name[:dot]
	}
}

func children(e ast.Expr) []ast.Expr {
	switch e.Kind() {
	case ast.CallKind:
		out := slices.Clone(e.AsCall().Args())
		if e.AsCall().IsMemberFunction() {
			out = append(out, e.AsCall().Target())
		}
		return out
	case ast.ListKind:
		return e.AsList().Elements()
	case ast.SelectKind:
		return []ast.Expr{e.AsSelect().Operand()}
	case ast.MapKind:
		var out []ast.Expr
		for _, entry := range e.AsMap().Entries() {
			out = append(out, entry.AsMapEntry().Key(), entry.AsMapEntry().Value())
		}
		return out
	case ast.StructKind:
		var out []ast.Expr
		for _, f := range e.AsStruct().Fields() {
			out = append(out, f.AsStructField().Value())
		}
		return out
	}
	return nil
}

// dotted refuses "public.customers" in request.sql.tables, which is never true
// because that fact has no schemas, and so would make !(…) always true.
func dotted(args []ast.Expr) error {
	if len(args) != 2 || args[0].Kind() != ast.LiteralKind {
		return nil
	}
	name, ok := chain(args[1])
	s, isText := args[0].AsLiteral().(types.String)
	if ok && isText && name == "request.sql.tables" && strings.Contains(string(s), ".") {
		return &problemError{
			fmt.Sprintf("request.sql.tables holds names without schemas, so %q is never in it", s),
			"use request.sql.relations, or leave out the schema",
		}
	}
	return nil
}

func (c *conditions) undeclared(name string) error {
	words := make([]string, 0, len(c.types))
	for w := range c.types {
		words = append(words, w)
	}
	slices.Sort(words)
	if best := closest(name, words); best != "" {
		return &problemError{fmt.Sprintf("there is no %s", name), fmt.Sprintf("did you mean %s?", best)}
	}
	return &problemError{fmt.Sprintf("there is no %s", name), "there are " + strings.Join(words, ", ")}
}

// celError keeps the first line of CEL's message, which draws a caret below.
func celError(err error) error {
	line, _, _ := strings.Cut(err.Error(), "\n")
	line = strings.TrimPrefix(line, "ERROR: <input>:")
	return &problemError{"when: " + line, "see docs/policy.md for what a condition may say"}
}

// eval answers whether the condition holds. What is missing and what fails is
// perhaps.
func (c *condition) eval(in *Input) answer {
	if c.native != nil {
		return c.native(in)
	}
	return c.interpret(in)
}

// interpret runs the program.
func (c *condition) interpret(in *Input) answer {
	var missing []*cel.AttributePatternType
	for i := range c.facts {
		if _, ok := in.fact(c.facts[i].name); !ok {
			missing = append(missing, c.facts[i].unknown)
		}
	}
	for _, v := range c.named {
		if _, known := in.named(v.name); !known {
			missing = append(missing, v.unknown)
		}
	}
	var vars cel.Activation = activation{in}
	if len(missing) > 0 {
		partial, err := cel.PartialVars(vars, missing...)
		if err != nil {
			return perhaps
		}
		vars = partial
	}
	out, _, err := c.program.Eval(vars)
	if err != nil {
		return perhaps
	}
	switch out {
	case types.True:
		return yes
	case types.False:
		return no
	}
	return perhaps
}

// activation resolves variables from an Input without copying it.
type activation struct{ in *Input }

func (activation) Parent() cel.Activation { return nil }

func (a activation) ResolveName(name string) (any, bool) {
	if fact, ok := strings.CutPrefix(name, factPrefix); ok {
		return a.in.fact(fact)
	}
	switch name {
	case "agent.name":
		return a.in.Agent.Name, true
	case "agent.run":
		return a.in.Agent.Run, true
	case "agent.exe":
		return a.in.Agent.Exe, true
	case "agent.uid":
		return int64(a.in.Agent.UID), true
	case sessionRows:
		return a.in.Session.Rows, true
	case sessionStatements:
		return a.in.Session.Statements, true
	case "target":
		return a.in.Target, true
	}
	return a.in.named(name)
}

// helpOf splits an error of compile into what is wrong and what to do.
func helpOf(err error) (message, help string) {
	var p *problemError
	if errors.As(err, &p) {
		return p.message, p.help
	}
	return err.Error(), ""
}
