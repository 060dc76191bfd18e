package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"golang.org/x/term"
)

// printer writes for people: aligned, and in colour only on a terminal.
type printer struct {
	io.Writer
	colour bool
}

func newPrinter(f *os.File) *printer {
	return &printer{f, term.IsTerminal(int(f.Fd())) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"}
}

// terminal says whether people look at it as it is written.
func (p *printer) terminal() bool {
	f, ok := p.Writer.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

func (p *printer) painted(code, s string) string {
	if !p.colour {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

func (p *printer) red(s string) string    { return p.painted("31", s) }
func (p *printer) green(s string) string  { return p.painted("32", s) }
func (p *printer) yellow(s string) string { return p.painted("33", s) }
func (p *printer) dim(s string) string    { return p.painted("2", s) }

// table aligns rows; the first is the head.
func (p *printer) table(rows [][]string) error {
	w := tabwriter.NewWriter(p, 0, 0, 2, ' ', 0)
	for _, r := range rows {
		fmt.Fprintln(w, strings.Join(r, "\t"))
	}
	return w.Flush()
}

// print writes v as JSON.
func (p *printer) print(v any) error {
	e := json.NewEncoder(p)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// line writes v as one line of JSON.
func (p *printer) line(v any) error {
	e := json.NewEncoder(p)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// safe makes what came from an agent harmless to look at: control characters,
// which a terminal obeys, and invisible or direction-changing ones, which make
// a statement look like another, are shown by their number.
func safe(s string) string {
	var out strings.Builder
	for _, r := range s {
		switch {
		case r == '\n':
			out.WriteString("\\n")
		case r == '\t':
			out.WriteByte(' ')
		case r == unicode.ReplacementChar:
			out.WriteString("\\ufffd")
		case unicode.IsPrint(r) && (r < 0x2000 || !unicode.In(r, unicode.Cf, unicode.Zs, unicode.Co)):
			out.WriteRune(r)
		case r > 0xffff:
			fmt.Fprintf(&out, "\\U%08x", r)
		default:
			fmt.Fprintf(&out, "\\u%04x", r)
		}
	}
	return out.String()
}

// short cuts a text to a width, in runes.
func short(s string, width int) string {
	r := []rune(safe(s))
	if len(r) <= width {
		return string(r)
	}
	return string(r[:width-1]) + "…"
}

func age(d time.Duration) string {
	switch {
	case d < 0:
		return "0s"
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

func bytesOf(n int64) string {
	const unit = 1024
	switch {
	case n < unit:
		return fmt.Sprintf("%d B", n)
	case n < unit*unit:
		return fmt.Sprintf("%.1f KiB", float64(n)/unit)
	case n < unit*unit*unit:
		return fmt.Sprintf("%.1f MiB", float64(n)/unit/unit)
	}
	return fmt.Sprintf("%.1f GiB", float64(n)/unit/unit/unit)
}
