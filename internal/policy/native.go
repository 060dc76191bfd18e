package policy

import (
	"slices"

	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
)

// Most conditions are made of a few facts, comparisons with constants, "in", !, &&
// and ||. These are evaluated here, without CEL's interpreter: a policy of fifty
// rules may ask fifty of them for one request. What else there is in a
// condition, CEL evaluates all of it. TestNativeAgrees holds the two together.

// native is such a condition. Like CEL's, its && and || are decided by either side.
type native func(in *Input) answer

// compileNative returns nil for what is not of that kind. The expression has
// passed CEL's check, so that its types fit.
func compileNative(e ast.Expr) native {
	switch e.Kind() {
	case ast.IdentKind, ast.SelectKind:
		if name, ok := factOf(e); ok {
			return func(in *Input) answer {
				v, known := in.fact(name)
				b, isBool := v.(bool)
				if !known || !isBool {
					return perhaps
				}
				return answerOf(b)
			}
		}
	case ast.LiteralKind:
		if b, ok := e.AsLiteral().(types.Bool); ok {
			return func(*Input) answer { return answerOf(bool(b)) }
		}
	case ast.CallKind:
		return compileCall(e.AsCall())
	}
	return nil
}

func answerOf(b bool) answer {
	if b {
		return yes
	}
	return no
}

// factOf returns the fact that an expression is.
func factOf(e ast.Expr) (string, bool) {
	if e.Kind() == ast.SelectKind && e.AsSelect().IsTestOnly() {
		return "", false // has()
	}
	name, ok := chain(e)
	if !ok || len(name) <= len(factPrefix) || name[:len(factPrefix)] != factPrefix {
		return "", false
	}
	return name[len(factPrefix):], true
}

func compileCall(call ast.CallExpr) native {
	args := call.Args()
	switch call.FunctionName() {
	case operators.LogicalNot:
		if of := compileNative(args[0]); of != nil {
			return func(in *Input) answer { return [...]answer{no: yes, yes: no, perhaps: perhaps}[of(in)] }
		}
	case operators.LogicalAnd, operators.LogicalOr:
		decides := no
		if call.FunctionName() == operators.LogicalOr {
			decides = yes
		}
		return compileBoth(args, decides)
	case operators.In:
		return compileIn(args)
	case operators.Equals, operators.NotEquals, operators.Less, operators.LessEquals, operators.Greater, operators.GreaterEquals:
		return compileComparison(call.FunctionName(), args)
	}
	return nil
}

// compileBoth is && and ||: one side that is what decides is enough.
func compileBoth(args []ast.Expr, decides answer) native {
	left, right := compileNative(args[0]), compileNative(args[1])
	if left == nil || right == nil {
		return nil
	}
	return func(in *Input) answer {
		a := left(in)
		if a == decides {
			return a
		}
		b := right(in)
		if b == decides || a != perhaps {
			return b
		}
		return perhaps
	}
}

// compileIn is a text in a fact that is a list.
func compileIn(args []ast.Expr) native {
	name, ok := factOf(args[1])
	text, isText := literal(args[0]).(types.String)
	if !ok || !isText {
		return nil
	}
	word := string(text)
	return func(in *Input) answer {
		v, _ := in.fact(name)
		list, known := v.([]string)
		if !known {
			return perhaps
		}
		return answerOf(slices.Contains(list, word))
	}
}

// compileComparison is of a fact and a constant, in this order.
func compileComparison(operator string, args []ast.Expr) native {
	name, ok := factOf(args[0])
	if !ok {
		return nil
	}
	switch constant := literal(args[1]).(type) {
	case types.Int:
		number := int64(constant)
		return func(in *Input) answer {
			v, _ := in.fact(name)
			n, known := v.(int64)
			if !known {
				return perhaps
			}
			return compared(operator, n, number)
		}
	case types.String:
		text := string(constant)
		return func(in *Input) answer {
			v, _ := in.fact(name)
			s, known := v.(string)
			if !known {
				return perhaps
			}
			return compared(operator, s, text)
		}
	}
	return nil
}

func literal(e ast.Expr) ref.Val {
	if e.Kind() != ast.LiteralKind {
		return nil
	}
	return e.AsLiteral()
}

func compared[T int64 | string](operator string, a, b T) answer {
	switch operator {
	case operators.Equals:
		return answerOf(a == b)
	case operators.NotEquals:
		return answerOf(a != b)
	case operators.Less:
		return answerOf(a < b)
	case operators.LessEquals:
		return answerOf(a <= b)
	case operators.Greater:
		return answerOf(a > b)
	}
	return answerOf(a >= b)
}
