// Package line finds, in what is typed at a shell's terminal, the lines that the
// shell will read, and holds each until it is decided.
//
// What a shell reads is what its line editor makes of the keys, and that is at
// the other end. So a line is known only where every editor agrees, and the
// terminal itself, for shells without one: characters of ASCII that are put
// behind each other, Backspace, Ctrl-U, Ctrl-C, and Ctrl-W where a word is the
// same to all. After any other key (arrows, Tab, Ctrl-R) the line is not known,
// until Ctrl-C takes it away. Keys that may run a line without Enter are held as
// Enter is.
//
// The package does no I/O. Start with Gate.Feed; what a line would do is
// Line.Request.
package line

import (
	"bytes"
	"strings"
)

const (
	// maxLine is what a terminal takes for one line (N_TTY_BUF_SIZE of Linux, with
	// its end); the rest it drops.
	maxLine = 4095
	// maxTyped is how much of the keys of one line is shown to people.
	maxTyped = 4 << 10
	// maxParams is the longest of the sequences that keys send.
	maxParams = 16
)

// Keys.
const (
	ctrlC     = 0x03
	ctrlD     = 0x04
	ctrlH     = 0x08
	newline   = '\n'
	enter     = '\r'
	ctrlO     = 0x0f // runs the line, and gets the next of the history
	ctrlQ     = 0x11
	ctrlU     = 0x15
	ctrlV     = 0x16
	ctrlW     = 0x17
	ctrlX     = 0x18 // begins keys of two, some of which run the line
	ctrlZ     = 0x1a
	escape    = 0x1b
	ctrlSlash = 0x1c
	backspace = 0x7f
)

// Line is what somebody is about to have a shell read.
type Line struct {
	Text  string // where it is known
	Typed string // the keys, for people: ls^[[A
	Why   string // it is not known; empty: it is
}

type state uint8

const (
	plain     state = iota
	quoted          // the next key is taken as it is, perhaps
	escaped         // ESC was typed
	sequence        // ESC [
	singleKey       // ESC O
	prefixed        // Ctrl-X
)

// Gate lets keys through as they come, but for those that have a shell read a
// line: those it holds. It is for one goroutine.
type Gate struct {
	odd   string // why no line can be known
	erase byte

	state  state
	params []byte // of a sequence
	text   []byte // of the line
	typed  []byte
	why    string // the line is not known
	open   string // nor is any, since one before it is not whole
	pasted bool   // what comes is pasted, until it is said to have ended
	waived bool   // that this line is not known was allowed, key by key

	holds bool
	held  byte
	rest  []byte // that was typed behind it
	out   []byte
}

// New returns a gate for a terminal that was asked for with these modes, as SSH
// encodes them (RFC 4254, section 8).
func New(modes []byte) *Gate {
	g := &Gate{}
	g.erase, g.odd = usual(modes)
	return g
}

// Feed takes keys and returns what goes on now, until the next call. Where there
// is a line too, it and all behind it wait for Answer, after which Feed(nil) goes
// on.
func (g *Gate) Feed(p []byte) (forward []byte, l *Line) {
	g.rest = append(g.rest, p...)
	g.out = g.out[:0]
	if g.holds {
		return nil, nil
	}
	for i, b := range g.rest {
		if g.key(b) {
			g.holds, g.held = true, b
			g.rest = append(g.rest[:0], g.rest[i+1:]...)
			return g.out, g.line()
		}
		g.out = append(g.out, b)
	}
	g.rest = g.rest[:0]
	return g.out, nil
}

// Answer ends the wait for a line and returns what goes on: the key that was
// held, or Ctrl-C, which takes the line away, and with it, as terminals do, what
// was typed behind it.
func (g *Gate) Answer(allow bool) []byte {
	if !g.holds {
		return nil
	}
	g.holds = false
	b := g.held
	if !allow {
		g.open, g.pasted = "", false
		g.begin()
		g.rest = g.rest[:0]
		return []byte{ctrlC}
	}
	switch {
	case b == enter || b == newline || b == ctrlO:
		if !whole(string(g.text)) {
			g.open = "it may go on with what the line before it began; Ctrl-C begins anew"
		}
		g.begin()
		if b == ctrlO {
			g.unsure("Ctrl-O gets a line of the shell's history")
		}
	case b == ctrlD:
		g.unsure("a part of it was sent by Ctrl-D")
	default:
		g.state, g.waived = plain, true
	}
	return []byte{b}
}

// begin begins a line.
func (g *Gate) begin() {
	g.text, g.typed, g.why, g.waived, g.state = g.text[:0], g.typed[:0], "", false, plain
	if g.pasted {
		g.why = pasting
	}
}

const pasting = "it is pasted, and the shell may take the lines of what is pasted for one"

func (g *Gate) line() *Line {
	l := &Line{Text: string(g.text), Typed: string(g.typed), Why: g.why}
	for _, why := range []string{g.odd, g.open} {
		if why != "" {
			l.Why = why
		}
	}
	if l.Why != "" {
		l.Text = ""
	}
	return l
}

// unsure says that the line is not known from here on.
func (g *Gate) unsure(why string) {
	if g.why == "" {
		g.why = why
	}
}

// key takes a key, and says whether it is held.
func (g *Gate) key(b byte) (hold bool) {
	g.show(b)
	if b == ctrlC && g.state != quoted || b < ' ' && g.state != quoted && g.state != prefixed {
		g.state = plain // it breaks a sequence off
	}
	switch g.state {
	case quoted:
		return g.afterQuote(b)
	case escaped:
		return g.afterEscape(b)
	case sequence, singleKey:
		return g.inSequence(b)
	case prefixed:
		return g.mayRun()
	}
	if b < ' ' || b >= backspace {
		return g.special(b)
	}
	if g.text = append(g.text, b); len(g.text) > maxLine {
		g.text = g.text[:maxLine]
		g.unsure("it is longer than a terminal takes")
	}
	return false
}

// show keeps what was typed, as people write keys.
func (g *Gate) show(b byte) {
	switch {
	case b == enter || b == newline || len(g.typed) > maxTyped:
	case b < ' ':
		g.typed = append(g.typed, '^', b+'@')
	case b == backspace:
		g.typed = append(g.typed, "^?"...)
	default:
		g.typed = append(g.typed, b)
	}
}

// mayRun is a key of which nobody here knows that it runs nothing.
func (g *Gate) mayRun() (hold bool) {
	g.unsure("keys with Alt, Escape or Ctrl-X may run a line")
	g.state = plain
	return !g.waived
}

// special is a key that is no character of ASCII.
func (g *Gate) special(b byte) (hold bool) {
	switch b {
	case enter, newline:
		return g.why != "" || g.odd != "" || g.open != "" || len(bytes.Trim(g.text, " ")) > 0
	case ctrlO:
		return true
	case ctrlC:
		g.open, g.pasted = "", false
		g.begin()
	case ctrlD:
		return g.why != "" || g.odd != "" || g.open != "" || len(g.text) > 0
	case ctrlU:
		g.text = g.text[:0]
	case ctrlW:
		g.word()
	case g.erase:
		g.text = g.text[:max(0, len(g.text)-1)]
	case ctrlZ, ctrlSlash:
		if len(g.text) > 0 {
			g.unsure("some shells drop what was typed before Ctrl-Z and Ctrl-\\")
		}
	case ctrlV, ctrlQ:
		g.unsure("a key was quoted")
		g.state = quoted
	case escape:
		g.unsure("it was edited by keys that only the shell knows")
		g.state, g.params = escaped, g.params[:0]
	case ctrlX:
		g.unsure("it was edited by keys that only the shell knows")
		g.state = prefixed
	default:
		g.unsure("it was edited by keys that only the shell knows")
		if b > backspace {
			g.why = "it has characters beyond ASCII, which some shells take for keys"
		}
	}
	return false
}

// word takes the last word away. To terminals it begins behind what is neither
// letter, digit nor underscore, to bash behind a space; where these are not the
// same the line is not known.
func (g *Gate) word() {
	t := g.text
	n := len(bytes.TrimRight(t, " "))
	spaces := bytes.LastIndexByte(t[:n], ' ') + 1
	for i := spaces; i < n; i++ {
		if b := t[i]; b != '_' && (b < '0' || b > '9' && b < 'A' || b > 'Z' && b < 'a' || b > 'z') {
			g.unsure("what Ctrl-W takes away differs between shells")
			return
		}
	}
	g.text = t[:spaces]
}

// afterQuote is a key that may be quoted, or not, where the key before it means
// something else.
func (g *Gate) afterQuote(b byte) (hold bool) {
	g.state = plain
	switch b {
	case escape:
		g.state, g.params = escaped, g.params[:0]
	case ctrlX:
		g.state = prefixed
	case enter, newline:
		g.open = "it may go on with the line before it, whose end was quoted; Ctrl-C begins anew"
		return true
	case ctrlO, ctrlD:
		return true
	}
	return false
}

func (g *Gate) afterEscape(b byte) (hold bool) {
	switch b {
	case '[':
		g.state = sequence
	case 'O':
		g.state = singleKey
	case escape:
	default:
		return g.mayRun()
	}
	return false
}

// inSequence lets keys through that move the cursor or are functions without a
// meaning to shells.
func (g *Gate) inSequence(b byte) (hold bool) {
	if b < '@' && g.state == sequence && len(g.params) < maxParams {
		g.params = append(g.params, b)
		return false
	}
	harmless := "ABCDEFHPQRSZ"
	switch {
	case g.state == sequence && b == '~':
		if number, _, _ := strings.Cut(string(g.params), ";"); len(number) == 0 || len(number) > 3 || number == "27" {
			return g.mayRun() // 27 is any key, Enter too, to shells that have asked for such
		}
		switch string(g.params) {
		case "200":
			g.why, g.pasted = pasting, true
		case "201":
			g.pasted = false
		}
	case strings.IndexByte(harmless, b) < 0:
		return g.mayRun()
	}
	g.state = plain
	return false
}
