package shell

import (
	"strings"

	"mvdan.cc/sh/v3/syntax"
)

// word evaluates a word as far as its text says what it becomes. Commands
// substituted in it are walked by the caller.
func (w *walker) word(word *syntax.Word) Word {
	if word == nil {
		return known("")
	}
	e := evaluation{out: Word{Known: true, Single: true}}
	for i, part := range word.Parts {
		e.last = i == len(word.Parts)-1
		e.part(part, i == 0)
	}
	if e.braces { // {a,b} is one word in dash and two in bash, {a} is a in csh; {} is itself
		e.out.Known, e.out.Single = false, false
	}
	e.out.Text = e.text.String()
	if !e.out.Known {
		w.script.Dynamic = true
		e.out.Text = w.written(word)
	}
	return e.out
}

type evaluation struct {
	text   strings.Builder
	out    Word
	last   bool // this part of the word is the last one
	open   bool // an unquoted brace with something behind it
	braces bool // and the brace that closes it
}

func (e *evaluation) part(part syntax.WordPart, first bool) {
	switch p := part.(type) {
	case *syntax.Lit:
		e.literal(p.Value, first)
	case *syntax.SglQuoted:
		if p.Dollar { // bash decodes escapes in it, dash takes the dollar as it is
			e.out.Known = false
		}
		e.text.WriteString(p.Value)
	case *syntax.DblQuoted:
		if p.Dollar {
			e.out.Known = false
		}
		for i, inner := range p.Parts {
			e.last = i == len(p.Parts)-1
			e.quoted(inner)
		}
	default:
		// What an expansion outside of quotes becomes is split into words.
		e.out.Known, e.out.Single = false, false
	}
}

// literal is text outside of quotes.
func (e *evaluation) literal(value string, first bool) {
	if first && (value != "" && (value[0] == '~' || value[0] == '=' && len(value) > 1)) {
		e.out.Known = false // a home directory; in zsh the path of a command
	}
	for i := 0; i < len(value); i++ {
		switch c := value[i]; c {
		case '\\':
			i++
			if i == len(value) {
				e.text.WriteByte('\\')
				return
			}
			if value[i] != '\n' {
				e.text.WriteByte(value[i])
			}
			continue
		case '*', '?', '[':
			// By themselves these are names of commands and no patterns.
			if value != "[" && value != "[[" {
				e.out.Known, e.out.Single = false, false
			}
		case '$':
			e.dollar(i+1 == len(value))
		case '{':
			e.open = e.open || i+1 == len(value) || value[i+1] != '}'
		case '}':
			e.braces = e.braces || e.open
		case '~':
			// a=~ and a:~ are expanded in places where assignments are read.
			if i > 0 && (value[i-1] == '=' || value[i-1] == ':') {
				e.out.Known = false
			}
		}
		e.text.WriteByte(value[i])
	}
}

func (e *evaluation) quoted(part syntax.WordPart) {
	lit, ok := part.(*syntax.Lit)
	if !ok {
		e.out.Known = false
		if several(part) {
			e.out.Single = false
		}
		return
	}
	for i := 0; i < len(lit.Value); i++ {
		c := lit.Value[i]
		if c == '\\' && i+1 < len(lit.Value) {
			switch next := lit.Value[i+1]; next {
			case '$', '`', '"', '\\':
				e.text.WriteByte(next)
				i++
				continue
			case '\n':
				i++
				continue
			}
		}
		if c == '$' {
			e.dollar(i+1 == len(lit.Value))
		}
		e.text.WriteByte(c)
	}
}

// dollar is one that begins no expansion of bash's: zsh has more of them.
func (e *evaluation) dollar(end bool) {
	if !end || !e.last {
		e.out.Known, e.out.Single = false, false
	}
}

// several says whether an expansion within double quotes may become more than
// one word, as "$@" and "${a[@]}" do.
func several(part syntax.WordPart) bool {
	p, ok := part.(*syntax.ParamExp)
	if !ok {
		return false
	}
	return p.Param == nil || p.Param.Value == "@" || p.Index != nil || p.Excl || p.Names != 0 || p.Exp != nil || p.Slice != nil
}

// written is how a word stands in the text; short, for people.
func (w *walker) written(word *syntax.Word) string {
	const longest = 200
	var b strings.Builder
	if err := w.printer().Print(&b, word); err != nil || b.Len() > longest {
		return "…"
	}
	return b.String()
}

func (w *walker) printer() *syntax.Printer {
	if w.print == nil {
		w.print = syntax.NewPrinter()
	}
	return w.print
}

// heredoc is the text of a here-document; false when expansions are in it.
func heredoc(r *syntax.Redirect) (string, bool) {
	if r.Hdoc == nil {
		return "", false
	}
	quoted := false
	for _, part := range r.Word.Parts {
		if lit, ok := part.(*syntax.Lit); !ok || strings.Contains(lit.Value, `\`) {
			quoted = true
		}
	}
	var b strings.Builder
	for _, part := range r.Hdoc.Parts {
		lit, ok := part.(*syntax.Lit)
		if !ok {
			return "", false
		}
		b.WriteString(lit.Value)
	}
	text := b.String()
	if !quoted {
		if strings.Contains(text, "\\\n") {
			return "", false
		}
		text = strings.NewReplacer(`\$`, "$", "\\`", "`", `\\`, `\`).Replace(text)
	}
	return text, true
}
