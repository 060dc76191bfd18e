package shell

import (
	"regexp"
	"strings"

	"mvdan.cc/sh/v3/syntax"
)

// call is a simple command as the grammar has it.
func (w *walker) call(c *syntax.CallExpr, redirects []Redirect, p place) {
	out := Command{Redirects: redirects}
	for _, a := range c.Assigns {
		out.Assigned = append(out.Assigned, w.assignment(a, p))
	}
	for _, arg := range c.Args {
		w.substitutions(arg, p)
		out.Words = append(out.Words, w.word(arg))
	}
	w.command(out, p)
}

// declare is export, local, declare and their kind, which bash's grammar knows.
func (w *walker) declare(d *syntax.DeclClause, redirects []Redirect, p place) {
	out := Command{Words: []Word{known(d.Variant.Value)}, Redirects: redirects}
	for _, a := range d.Args {
		if a.Naked && a.Name == nil {
			w.substitutions(a.Value, p)
			word := w.word(a.Value)
			out.Words = append(out.Words, word)
			w.evaluates = w.evaluates || !word.Known || strings.HasPrefix(word.Text, "-")
			if !word.Known {
				w.tainted = true
			}
			continue
		}
		assigned := w.assignment(a, p)
		out.Words = append(out.Words, Word{Text: assigned.Name + "=" + assigned.Value.Text, Known: assigned.Value.Known, Single: true})
		if !a.Naked {
			out.Assigned = append(out.Assigned, assigned)
		}
	}
	if d.Variant.Value == "nameref" {
		w.evaluates, w.tainted = true, true
	}
	w.command(out, p)
}

func (w *walker) assignment(a *syntax.Assign, p place) Assignment {
	w.substitutions(a, p)
	w.assigned(a.Name.Value)
	out := Assignment{Name: a.Name.Value, Value: known("")}
	if a.Index != nil {
		w.expression(a.Index)
	}
	switch {
	case a.Array != nil:
		for _, e := range a.Array.Elems {
			if e.Value != nil {
				w.taint(w.word(e.Value))
			}
		}
		out.Value = Word{Text: "(…)", Single: true}
	case a.Value != nil:
		out.Value = w.word(a.Value)
		out.Value.Single = true // values are not split
		if !arithmeticOnly(a.Value) {
			w.taint(out.Value)
		}
	}
	return out
}

// arithmeticOnly says that a word is one $((…)): its value is a number.
func arithmeticOnly(word *syntax.Word) bool {
	if len(word.Parts) != 1 {
		return false
	}
	_, ok := word.Parts[0].(*syntax.ArithmExp)
	return ok
}

// command adds a command and what it would run in turn.
func (w *walker) command(c Command, p place) {
	c.Via = p.via
	for _, via := range p.via {
		c.Elevated = c.Elevated || elevators[via]
	}
	if len(c.Words) == 0 {
		c.Name, c.Pivot = Nothing, PivotNo
		w.script.add(c)
		return
	}
	first := c.Words[0]
	switch {
	case !first.Known:
		c.Name = ""
		w.script.unknown("which command %s is depends on the host", quote(first.Text))
		w.script.add(c)
		return
	case strings.HasPrefix(first.Text, "%") || strings.HasPrefix(first.Text, "^"):
		w.script.unknown("%s means different things to different shells", quote(first.Text))
	}
	c.Name = name(first.Text)
	c.Pivot = pivot(c)
	at := len(w.script.Commands)
	w.script.add(c)
	if follow, ok := followers[base(c.Name)]; ok && len(p.via) < maxDepth {
		f := &following{w: w, c: c, p: p}
		follow(f)
		if f.pivot && at < len(w.script.Commands) {
			w.script.Commands[at].Pivot = PivotYes
		}
		if f.followed && at < len(w.script.Commands) && base(c.Name) == c.Name {
			w.script.Commands[at].Pivot = PivotNo // what it runs is listed behind it
		}
		if at < len(w.script.Commands) {
			w.script.Commands[at].Acts, w.script.Commands[at].instead = f.acts, f.instead
		}
	} else if len(p.via) >= maxDepth {
		w.script.unknown("commands are nested too deeply")
	}
	if interpreters[base(c.Name)] && p.stdin == fromSession && readsStdin(c) {
		w.script.Stdin = true
	}
	w.variables(c)
}

// places are the directories where systems keep programs: a name with one of
// them is the same program as the name alone.
var places = regexp.MustCompile(`^/+(?:usr/+)?(?:local/+)?s?bin/+([^/]+)$`)

// name is what rules call a command: the word itself without a directory in
// which systems keep programs. With another directory it is another program.
func name(word string) string {
	if m := places.FindStringSubmatch(word); m != nil && m[1] != "." && m[1] != ".." {
		return m[1]
	}
	return word
}

// base is the last part of a name, for what is looked into whatever directory a
// program is in.
func base(name string) string {
	if at := strings.LastIndexByte(name, '/'); at >= 0 {
		return name[at+1:]
	}
	return name
}

func quote(s string) string {
	const longest = 60
	if len(s) > longest {
		s = strings.ToValidUTF8(s[:longest], "") + "…"
	}
	return "«" + s + "»"
}

// variables looks at builtins that take names of variables: bash evaluates
// subscripts in them, and they assign.
func (w *walker) variables(c Command) {
	args := c.Words[1:]
	switch c.Name {
	case "read", "mapfile", "readarray", "getopts", "unset", "let", "wait", "export", "readonly", "declare", "typeset", "local",
		"integer", "float", "nameref", "set", "vared", "zparseopts", "setenv":
	case "printf", "print":
		if len(args) == 0 || args[0].Known && !strings.HasPrefix(args[0].Text, "-") {
			return
		}
	case "test", "[":
		w.testBuiltin(args)
		return
	default:
		return
	}
	for _, a := range args {
		if !a.Known {
			w.evaluates = true
			continue
		}
		for _, part := range strings.FieldsFunc(a.Text, func(r rune) bool { return r == '=' || r == '[' || r == '+' }) {
			w.assigned(part)
			break
		}
	}
	if c.Name == "read" || c.Name == "mapfile" || c.Name == "readarray" {
		w.tainted = true
		if len(args) == 0 {
			return
		}
		if c.Name != "read" && anyOption(args, "C") {
			w.script.unknown("%s -C runs what it is given", c.Name)
		}
	}
}

// testBuiltin looks for test -v, whose operand may have a subscript.
func (w *walker) testBuiltin(args []Word) {
	unknowns, operator := 0, false
	for _, a := range args {
		switch {
		case !a.Known && !a.Single:
			w.evaluates = true
		case !a.Known:
			unknowns++
		case a.Text == "-v" || a.Text == "-R":
			w.evaluates = true
		case strings.HasPrefix(a.Text, "-") || a.Text == "=" || a.Text == "==" || a.Text == "!=":
			operator = true
		}
	}
	if unknowns > 1 && !operator {
		w.evaluates = true
	}
}

// anyOption says whether a short option is among the words, alone or in a group.
func anyOption(args []Word, letter string) bool {
	for _, a := range args {
		if a.Known && len(a.Text) > 1 && a.Text[0] == '-' && a.Text[1] != '-' && strings.Contains(a.Text[1:], letter) {
			return true
		}
	}
	return false
}

// readsStdin says whether an interpreter is given no program but its standard
// input.
func readsStdin(c Command) bool {
	for _, a := range c.Words[1:] {
		if !a.Known || a.Text == "-" || a.Text == "-s" || a.Text == "/dev/stdin" {
			return true
		}
		if !strings.HasPrefix(a.Text, "-") {
			return false
		}
		switch a.Text {
		case "-c", "-e", "-m", "-E", "-r", "-p":
			return false
		}
	}
	return true
}
