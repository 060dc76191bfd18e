package line

import (
	"slices"
	"strings"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/shell"
)

// Verb is what a line does to rules, once for each simple command in it, which is
// the object. It is asked for only where a rule names it.
const Verb = "line"

// Request is what the gate is asked.
func (l *Line) Request() *engine.Request {
	r := &engine.Request{Kind: Verb, Text: l.Text}
	if l.Why != "" {
		r.Text = l.Typed
		r.Effects = []engine.Effect{{Verb: engine.Unknown, Object: l.Why}}
		return r
	}
	script := shell.Parse(l.Text, shell.Options{})
	r.Facts = script.Facts()
	r.Effects = script.Effects()
	for i := range r.Effects {
		if e := &r.Effects[i]; e.Verb == shell.VerbExec {
			e.Verb = Verb
		}
	}
	if why := interactive(l.Text, script); why != "" && len(script.Unknown) == 0 {
		r.Effects = append(r.Effects, engine.Effect{Verb: engine.Unknown, Object: why})
		delete(r.Facts, shell.FactCommands)
		delete(r.Facts, shell.FactWords)
	}
	return r
}

// interactive says what a shell at which somebody types may make of a line that
// one that reads a command does not.
func interactive(text string, s *shell.Script) string {
	switch {
	case strings.ContainsRune(text, '!'):
		return "shells at which somebody types replace ! by earlier lines"
	case comments(text):
		return "some shells at which somebody types take # for no comment"
	case goesOn(text):
		return `\ at its end makes the next line a part of it`
	case slices.ContainsFunc(s.Commands, func(c shell.Command) bool { return len(c.Assigned) > 0 }):
		return "it sets variables of the shell, which may decide what later lines do"
	}
	return ""
}

// comments says whether a # may begin a comment.
func comments(text string) bool {
	for i := range len(text) {
		if text[i] == '#' && (i == 0 || strings.IndexByte(" ;&|()<>`", text[i-1]) >= 0) {
			return true
		}
	}
	return false
}

// goesOn says whether the end of a line is quoted.
func goesOn(text string) bool {
	return (len(text)-len(strings.TrimRight(text, `\`)))%2 == 1
}

// whole says whether a shell waits for no more of a line.
func whole(text string) bool {
	return !goesOn(text) && !shell.Parse(text, shell.Options{}).Broken
}
