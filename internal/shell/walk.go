package shell

import (
	"slices"
	"strings"

	"mvdan.cc/sh/v3/syntax"
)

// walker goes through one text as one dialect reads it.
type walker struct {
	script *Script
	depth  int // of texts within texts
	nested int // of the grammar
	print  *syntax.Printer

	// bash evaluates variables in arithmetic as expressions, in which a
	// subscript may be a command. So where both are there, anything may run.
	evaluates bool // arithmetic over variables, or a builtin that is given names in variables
	tainted   bool // a variable may hold such a subscript
}

// input is where the standard input of a command comes from.
type input uint8

const (
	fromSession input = iota
	fromElsewhere
	fromText // a here-document or here-string whose text is known
)

// place is where a command stands.
type place struct {
	via   []string
	stdin input
	text  string // for fromText
}

func (p place) through(what string) place {
	p.via = append(slices.Clip(slices.Clone(p.via)), what)
	return p
}

func (w *walker) finish() {
	if w.evaluates && w.tainted {
		w.script.unknown("bash takes values of variables in arithmetic for expressions, which may hold commands")
	}
}

func (w *walker) stmts(list []*syntax.Stmt, p place) {
	if w.nested++; w.nested > maxDepth {
		w.script.unknown("commands are nested too deeply")
	} else {
		for _, s := range list {
			w.stmt(s, p)
		}
	}
	w.nested--
}

func (w *walker) stmt(s *syntax.Stmt, p place) {
	if len(w.script.Commands) > maxCommands {
		return
	}
	redirects := w.redirects(s.Redirs, &p)
	if s.Negated && s.Cmd == nil {
		w.script.unknown("a lone ! means different things to different shells")
	}
	switch cmd := s.Cmd.(type) {
	case nil:
		w.command(Command{Name: Nothing, Redirects: redirects}, p)
		return
	case *syntax.CallExpr:
		w.call(cmd, redirects, p)
		return
	case *syntax.DeclClause:
		w.declare(cmd, redirects, p)
		return
	}
	if len(redirects) > 0 {
		w.command(Command{Name: Nothing, Redirects: redirects, Via: p.via}, p)
	}
	if w.nested++; w.nested > maxDepth {
		w.script.unknown("commands are nested too deeply")
	} else {
		w.compound(s.Cmd, p)
	}
	w.nested--
}

func (w *walker) compound(cmd syntax.Command, p place) {
	switch c := cmd.(type) {
	case *syntax.BinaryCmd:
		w.binary(c, p)
	case *syntax.Block:
		w.stmts(c.Stmts, p)
	case *syntax.Subshell:
		w.stmts(c.Stmts, p)
	case *syntax.IfClause:
		for ; c != nil; c = c.Else {
			w.stmts(c.Cond, p)
			w.stmts(c.Then, p)
		}
	case *syntax.WhileClause:
		w.stmts(c.Cond, p)
		w.stmts(c.Do, p)
	case *syntax.ForClause:
		w.loop(c, p)
	case *syntax.CaseClause:
		w.substitutions(c.Word, p)
		for _, item := range c.Items {
			for _, pattern := range item.Patterns {
				w.substitutions(pattern, p)
			}
			w.stmts(item.Stmts, p)
		}
	case *syntax.FuncDecl:
		w.function(c, p)
	case *syntax.TimeClause:
		if c.Stmt != nil {
			w.command(Command{Words: []Word{known("time")}, Name: "time", Pivot: PivotNo}, p)
			w.stmt(c.Stmt, p.through("time"))
		}
	case *syntax.CoprocClause:
		p.stdin = fromElsewhere
		w.stmt(c.Stmt, p.through("coproc"))
	case *syntax.ArithmCmd:
		w.arithmetic(c, p)
		w.command(Command{Name: Nothing}, p)
	case *syntax.LetClause:
		w.arithmetic(c, p)
		w.command(Command{Words: []Word{known("let")}, Name: "let"}, p)
	case *syntax.TestClause:
		w.test(c, p)
	default:
		w.script.unknown("a construct that is not known here")
	}
}

func (w *walker) binary(c *syntax.BinaryCmd, p place) {
	if c.Op != syntax.Pipe && c.Op != syntax.PipeAll {
		w.stmt(c.X, p)
		w.stmt(c.Y, p)
		return
	}
	w.stmt(c.X, p)
	p.stdin = fromElsewhere
	w.stmt(c.Y, p)
}

func (w *walker) loop(c *syntax.ForClause, p place) {
	switch l := c.Loop.(type) {
	case *syntax.WordIter:
		w.assigned(l.Name.Value)
		for _, item := range l.Items {
			w.substitutions(item, p)
			w.taint(w.word(item))
		}
		if len(l.Items) == 0 || c.Select {
			w.tainted = true
		}
	case *syntax.CStyleLoop:
		w.arithmetic(c.Loop, p)
	}
	w.stmts(c.Do, p)
	if c.Braces {
		w.script.unknown("a loop that only some shells understand")
	}
}

// function walks the body as if it were called: whether it is depends on more
// than the text, and its arguments are its callers'.
func (w *walker) function(f *syntax.FuncDecl, p place) {
	name := "function"
	if f.Name != nil {
		name += " " + f.Name.Value
	} else {
		w.script.unknown("a function that only zsh understands")
	}
	p.stdin = fromElsewhere
	w.stmt(f.Body, p.through(name))
}

// redirects are the files that a command's redirections open, and what they make
// of its standard input.
func (w *walker) redirects(list []*syntax.Redirect, p *place) (out []Redirect) {
	for _, r := range list {
		w.substitutions(r.Word, *p)
		if r.Hdoc != nil {
			w.substitutions(r.Hdoc, *p)
		}
		stdin := r.N == nil || r.N.Value == "0"
		if r.N != nil && strings.HasPrefix(r.N.Value, "{") {
			w.assigned(strings.Trim(r.N.Value, "{}"))
		}
		switch r.Op {
		case syntax.Hdoc, syntax.DashHdoc:
			if text, ok := heredoc(r); ok && stdin {
				p.stdin, p.text = fromText, text
			} else if stdin {
				p.stdin = fromElsewhere
			}
		case syntax.WordHdoc:
			if text := w.word(r.Word); text.Known && stdin {
				p.stdin, p.text = fromText, text.Text+"\n"
			} else if stdin {
				p.stdin = fromElsewhere
			}
		default:
			out = w.file(out, r, stdin, p)
		}
	}
	return out
}

func (w *walker) file(out []Redirect, r *syntax.Redirect, stdin bool, p *place) []Redirect {
	word := w.word(r.Word)
	if word.Known && word.Text == "!" {
		word.Known = false // >! overwrites in csh and zsh
	}
	descriptor := word.Known && strings.Trim(word.Text, "0123456789-") == ""
	switch r.Op {
	case syntax.RdrIn, syntax.RdrInOut, syntax.DplIn:
		if stdin {
			p.stdin = fromElsewhere
		}
		if r.Op == syntax.DplIn && (descriptor || !word.Known) {
			return out
		}
		out = append(out, Redirect{Path: word, Read: true, Write: r.Op == syntax.RdrInOut})
	case syntax.DplOut:
		if descriptor {
			return out
		}
		out = append(out, Redirect{Path: word, Write: true})
	default:
		out = append(out, Redirect{Path: word, Write: true})
	}
	if strings.HasPrefix(word.Text, "/dev/tcp/") || strings.HasPrefix(word.Text, "/dev/udp/") {
		w.script.unknown("bash connects to %s", word.Text)
	}
	return out
}

// substitutions walks the commands within a word.
func (w *walker) substitutions(node syntax.Node, p place) {
	if node == nil {
		return
	}
	if word, ok := node.(*syntax.Word); ok && word == nil {
		return
	}
	syntax.Walk(node, func(n syntax.Node) bool {
		switch n := n.(type) {
		case *syntax.CmdSubst:
			w.stmts(n.Stmts, p.through("$("))
			if n.ReplyVar || n.TempFile {
				w.script.unknown("a substitution that only some shells understand")
			}
			return false
		case *syntax.ProcSubst:
			w.stmts(n.Stmts, p.through(n.Op.String()))
			return false
		case *syntax.ExtGlob:
			w.script.unknown("a pattern with parentheses, in which zsh runs code")
			return false
		case *syntax.ArithmExp:
			w.expression(n.X)
		case *syntax.ParamExp:
			w.parameter(n)
		case *syntax.SglQuoted:
			w.subscript(n.Value)
		case *syntax.Lit:
			w.subscript(n.Value)
		}
		return true
	})
}
