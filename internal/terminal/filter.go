package terminal

import (
	"bytes"
	"strconv"
	"unicode"
	"unicode/utf8"
)

// maxDigits is how long a parameter may be: no terminal has 100,000 columns.
const maxDigits = 5

// The sequences that draw, by what ends them.
const (
	drawing    = "@ABCDEFGHIJKLMPSTXZ`abdefmr" // CSI
	saving     = "su"                          // CSI, without parameters: with some they mean something else
	escapes    = "78DEM"                       // ESC: the cursor saved, restored, moved
	charsets   = "()"                          // ESC, then:
	charset    = "0AB"                         // line drawing, British, ASCII
	insertMode = 4                             // CSI h and l
)

// Private modes that draw: CSI ? … h and l. Others change what the keyboard and
// the mouse send, and some of those would be sent to whoever looks.
const (
	originMode = 6
	wrapMode   = 7
	cursorMode = 25
)

var alternate = []int{47, 1047, 1049}

// cleared is what a terminal is told in place of a reset, which would change
// settings of the person's.
const cleared = "\x1b[m\x1b[H\x1b[2J"

// Filter lets through what draws. The zero value is ready.
type Filter struct {
	p   parser
	out []byte

	other       int // the mode by which the alternate screen was entered, 0: it was not
	origin      bool
	noWrap      bool
	hidden      bool // the cursor
	inserting   bool
	region      bool // a part of the screen scrolls
	coloured    bool
	linedrawing bool
}

// Write takes a piece and returns what may be shown of it, until the next call.
func (f *Filter) Write(b []byte) []byte {
	f.out = f.out[:0]
	f.p.parse(b, f)
	return f.out
}

// Close returns what puts a terminal back as it was before the first piece, as
// far as it was as usual then.
func (f *Filter) Close() []byte {
	f.out = f.out[:0]
	add := func(set bool, s string) {
		if set {
			f.out = append(f.out, s...)
		}
	}
	add(f.other != 0, "\x1b[?"+strconv.Itoa(f.other)+"l")
	add(f.origin || f.region, "\x1b7\x1b[?6l\x1b[r\x1b8\x1b[?6l")
	add(f.noWrap, "\x1b[?7h")
	add(f.inserting, "\x1b[4l")
	add(f.linedrawing, "\x0f\x1b(B\x1b)B")
	add(f.coloured, "\x1b[m")
	add(f.hidden, "\x1b[?25h")
	out := f.out
	*f = Filter{}
	return out
}

func (f *Filter) char(r rune) {
	if !unicode.Is(unicode.Bidi_Control, r) { // they would show one text as another
		f.out = utf8.AppendRune(f.out, r)
	}
}

func (f *Filter) control(b byte) {
	switch b {
	case backspace, '\t', '\n', '\v', '\f', '\r':
	case 0x0e, 0x0f: // the other character set
		f.linedrawing = true
	default:
		return
	}
	f.out = append(f.out, b)
}

func (f *Filter) escaped(between []byte, final byte) {
	switch {
	case len(between) == 0 && final == 'c':
		f.out = append(f.out, cleared...)
	case len(between) == 0 && bytes.IndexByte([]byte(escapes), final) >= 0:
		f.out = append(f.out, escape, final)
	case len(between) == 1 && bytes.IndexByte([]byte(charsets), between[0]) >= 0 && bytes.IndexByte([]byte(charset), final) >= 0:
		f.linedrawing = true
		f.out = append(f.out, escape, between[0], final)
	}
}

func (f *Filter) sequence(private byte, params, between []byte, final byte) {
	if len(between) > 0 || private != 0 && private != '?' || !short(params) {
		return
	}
	mode := final == 'h' || final == 'l'
	switch {
	case mode:
		f.modes(private == '?', params, final)
	case private != 0:
	case final == 'J' && string(params) == "3": // it forgets what was scrolled out, which is the person's
	case final == 'T' && bytes.IndexByte(params, ';') >= 0: // it is about the mouse
	case bytes.IndexByte([]byte(drawing), final) >= 0, len(params) == 0 && bytes.IndexByte([]byte(saving), final) >= 0:
		f.region = f.region || final == 'r'
		f.coloured = f.coloured || final == 'm'
		f.out = append(f.out, escape, '[')
		f.out = append(append(f.out, params...), final)
	}
}

// short says whether parameters are numbers of a usable length.
func short(params []byte) bool {
	n := 0
	for _, b := range params {
		if n++; b == ';' || b == ':' {
			n = 0
		}
		if b < '0' || b > ';' || n > maxDigits {
			return false
		}
	}
	return true
}

// modes sets those that draw, of several that are set at once.
func (f *Filter) modes(private bool, params []byte, final byte) {
	on := final == 'h'
	for param := range bytes.SplitSeq(params, []byte(";")) {
		mode, err := strconv.Atoi(string(param))
		if err != nil || !f.mode(private, mode, on) {
			continue
		}
		f.out = append(f.out, escape, '[')
		if private {
			f.out = append(f.out, '?')
		}
		f.out = append(strconv.AppendInt(f.out, int64(mode), 10), final)
	}
}

// mode notes a mode, and says whether it draws.
func (f *Filter) mode(private bool, mode int, on bool) bool {
	switch {
	case !private:
		f.inserting = f.inserting && mode != insertMode || mode == insertMode && on
		return mode == insertMode
	case mode == alternate[0], mode == alternate[1], mode == alternate[2]:
		if f.other = 0; on {
			f.other = mode
		}
	case mode == originMode:
		f.origin = on
	case mode == wrapMode:
		f.noWrap = !on
	case mode == cursorMode:
		f.hidden = !on
	default:
		return false
	}
	return true
}
