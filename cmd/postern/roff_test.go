package main

import (
	"regexp"
	"strings"
)

// roff writes a manual page (man(7)).
type roff struct{ strings.Builder }

// escaped is text that roff takes as it is.
func escaped(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`, "`", `\(ga`, "^", `\(ha`, "~", `\(ti`).Replace(s)
	if strings.HasPrefix(s, ".") || strings.HasPrefix(s, "'") {
		s = `\&` + s
	}
	return s
}

func (r *roff) line(s string) { r.WriteString(s + "\n") }

func (r *roff) title(name, section, what string) {
	r.line(`.\" Made by "make generate": do not edit.`)
	r.line(`.TH ` + strings.ToUpper(escaped(name)) + ` ` + section + ` "" Postern "` + what + `"`)
	r.line(".nh\n.ad l")
}

func (r *roff) section(name string) { r.line(`.SH "` + strings.ToUpper(escaped(name)) + `"`) }
func (r *roff) subsection(name string) {
	r.line(`.SS "` + strings.ReplaceAll(inline(name), `"`, `\(dq`) + `"`)
}
func (r *roff) paragraph(s string) { r.line(".PP\n" + inline(s)) }

// item is a word and what it means; block is text as it stands.
func (r *roff) item(word, text string) { r.line(".TP\n" + word + "\n" + text) }

func (r *roff) block(text string) {
	r.line(".PP\n.RS 4\n.nf")
	for l := range strings.SplitSeq(strings.TrimRight(text, "\n"), "\n") {
		r.line(escaped(l))
	}
	r.line(".fi\n.RE")
}

var (
	// proofs name tests, which say nothing to who reads a manual.
	proofs   = regexp.MustCompile("\\s*\\([^()]*`Test\\w+`[^()]*\\)")
	links    = regexp.MustCompile(`\[([^\]]+)\]\([^)]*\)`)
	codes    = regexp.MustCompile("``? ?([^`]+?) ?``?")
	strong   = regexp.MustCompile(`\*\*([^*]+)\*\*`)
	emphasis = regexp.MustCompile(`(^|[\s(])\*([^*\s][^*]*)\*`)
)

// inline sets the words of Markdown in bold and italics. Code is set aside
// meanwhile, for its asterisks are its own.
func inline(s string) string {
	var kept []string
	s = links.ReplaceAllString(proofs.ReplaceAllString(s, ""), "$1")
	s = codes.ReplaceAllStringFunc(s, func(m string) string {
		kept = append(kept, `\fB`+escaped(codes.FindStringSubmatch(m)[1])+`\fR`)
		return "\x00"
	})
	s = strings.ReplaceAll(s, `\|`, "|")
	s = escaped(s)
	s = strong.ReplaceAllString(s, `\fB$1\fR`)
	s = emphasis.ReplaceAllString(s, `$1\fI$2\fR`)
	for _, k := range kept {
		s = strings.Replace(s, "\x00", k, 1)
	}
	if strings.HasPrefix(s, ".") || strings.HasPrefix(s, "'") {
		s = `\&` + s
	}
	return s
}

// cells finds the borders of a table's columns.
var cells = regexp.MustCompile(`(?:[^\\]|^)\|`)

// markdown writes a page of docs/ below its title.
func (r *roff) markdown(text string) {
	_, text, _ = strings.Cut(text, "\n")
	paragraph, head := "", []string(nil)
	end := func() {
		switch item, ok := strings.CutPrefix(paragraph, "- "); {
		case ok:
			r.line(".IP \\(bu 2\n" + inline(item))
		case paragraph != "":
			r.paragraph(paragraph)
		}
		paragraph = ""
	}
	lines := strings.Split(text, "\n")
	for i := 0; i < len(lines); i++ {
		l := strings.TrimSpace(lines[i])
		if !strings.HasPrefix(l, "|") {
			head = nil
		}
		switch {
		case strings.HasPrefix(l, "```"):
			end()
			from := i + 1
			for i++; i < len(lines) && !strings.HasPrefix(strings.TrimSpace(lines[i]), "```"); i++ {
			}
			r.block(strings.Join(lines[from:i], "\n"))
		case strings.HasPrefix(l, "## "):
			end()
			r.section(strings.ReplaceAll(l[3:], "`", ""))
		case strings.HasPrefix(l, "### "):
			end()
			r.subsection(l[4:])
		case strings.HasPrefix(l, "|---"):
		case strings.HasPrefix(l, "|"):
			end()
			head = r.row(l, head)
		case l == "":
			end()
		case strings.HasPrefix(l, "- "):
			end()
			paragraph = l
		default:
			paragraph = strings.TrimSpace(paragraph + " " + l)
		}
	}
	end()
}

// row is an item: the first cell, and the others with the words of the head.
func (r *roff) row(l string, head []string) []string {
	l = strings.Trim(l, "|")
	var found []string
	for from := 0; ; {
		at := cells.FindStringIndex(l[from:])
		if at == nil {
			found = append(found, strings.TrimSpace(l[from:]))
			break
		}
		found = append(found, strings.TrimSpace(l[from:from+at[1]-1]))
		from += at[1]
	}
	if head == nil {
		return found
	}
	var text []string
	for i, cell := range found[1:] {
		switch {
		case cell == "" || i+1 >= len(head):
		case i == len(found)-2 || head[i+1] == "":
			text = append(text, inline(cell))
		default:
			text = append(text, `\fI`+escaped(head[i+1])+`:\fR `+inline(cell)+".")
		}
	}
	if len(text) == 0 {
		text = []string{`\&`}
	}
	r.item(inline(found[0]), strings.Join(text, "\n"))
	return head
}
