package mask

import (
	"bytes"
	"unicode/utf8"
)

// view is the text of a piece of a stream, as detectors are to see it: without
// the control sequences that only change how it looks, and with what backspaces
// took away gone. Behind text that has been given out before.
type view struct {
	text     []byte // what was given out, up to base, then the piece's
	base     int
	same     bool  // the piece is text only
	at       []int // else, by byte of text from base on: where in the piece it is
	controls []span
}

type span struct{ from, to int }

const (
	escape    = 0x1b
	backspace = 0x08

	maxControl = 256 // the longest control sequence that is taken for one
)

// read takes a piece apart. A terminal passes over NUL, so there it does too.
func (v *view) read(before, piece []byte, terminal bool) {
	v.text = append(v.text[:0], before...)
	v.base, v.at, v.controls = len(before), v.at[:0], v.controls[:0]
	plain := plainPrefix(piece, terminal)
	v.text = append(v.text, piece[:plain]...)
	if v.same = plain == len(piece); v.same {
		return
	}
	for i := range plain {
		v.at = append(v.at, i)
	}
	for i := plain; i < len(piece); {
		switch b := piece[i]; {
		case b == escape:
			n, shows := control(piece[i:])
			if n > 0 {
				v.controls = append(v.controls, span{i, i + n})
			}
			if n = max(n, 1); !shows {
				v.add(escape, i) // it parts what is on both sides
			}
			i += n
		case b == backspace:
			v.back()
			i++
		case b == 0 && terminal:
			i++
		default:
			v.add(b, i)
			i++
		}
	}
}

// plainPrefix is how much of a piece is its text as it is.
func plainPrefix(piece []byte, terminal bool) int {
	n := len(piece)
	if i := bytes.IndexByte(piece[:n], escape); i >= 0 {
		n = i
	}
	if i := bytes.IndexByte(piece[:n], backspace); i >= 0 {
		n = i
	}
	if !terminal {
		return n
	}
	if i := bytes.IndexByte(piece[:n], 0); i >= 0 {
		n = i
	}
	return n
}

func (v *view) add(b byte, at int) {
	v.text = append(v.text, b)
	v.at = append(v.at, at)
}

// back takes the last character of the line away, which may have been given out.
func (v *view) back() {
	n := len(v.text)
	if n == 0 || v.text[n-1] < ' ' {
		return
	}
	_, size := utf8.DecodeLastRune(v.text)
	v.text = v.text[:n-size]
	if len(v.text) < v.base {
		v.base = len(v.text)
	}
	v.at = v.at[:len(v.text)-v.base]
}

// where is the place in the piece of a byte of the text.
func (v *view) where(text int) int {
	if v.same {
		return text - v.base
	}
	return v.at[text-v.base]
}

// control returns the length of the control sequence that b begins with, 0 when
// there is none that is whole, and whether text goes on behind it as if it were
// not there: colours and the like, and what erases (ECMA-48, and the private
// modes of xterm). What moves the cursor parts two texts. Of a string, such as a
// title, only the beginning counts as a sequence: what is in it is searched as
// text.
func control(b []byte) (n int, shows bool) {
	if len(b) < 2 {
		return 0, false
	}
	switch c := b[1]; {
	case c == '[':
		i := 2
		for i < len(b) && i < maxControl && b[i] >= 0x20 && b[i] < 0x40 {
			i++
		}
		if i >= len(b) || b[i] < 0x40 || b[i] > 0x7e {
			return 0, false
		}
		return i + 1, bytes.IndexByte([]byte("mKhlnqrtuc"), b[i]) >= 0
	case c == ']', c == 'P', c == 'X', c == '^', c == '_', c == '\\':
		return 2, false
	case c >= 0x20 && c < 0x30: // a character set, and others of three bytes
		if len(b) < 3 || b[2] < 0x30 || b[2] > 0x7e {
			return 0, false
		}
		return 3, c != '#'
	case c == '=', c == '>':
		return 2, true
	case c >= 0x30 && c < 0x7f:
		return 2, false
	}
	return 0, false
}

// unfinished is where a control sequence or a character begins that the piece
// does not end; the piece's length when there is none.
func unfinished(piece []byte) int {
	n := len(piece)
	if i := bytes.LastIndexByte(piece[max(0, n-maxControl):], escape); i >= 0 {
		i += max(0, n-maxControl)
		if size, _ := control(piece[i:]); size == 0 && !ends(piece[i:]) {
			return i
		}
	}
	for i := n - 1; i >= 0 && i >= n-utf8.UTFMax; i-- {
		if utf8.RuneStart(piece[i]) {
			if !utf8.FullRune(piece[i:]) {
				return i
			}
			break
		}
	}
	return n
}

// ends reports whether what begins with ESC is no sequence, whatever follows.
func ends(b []byte) bool {
	switch {
	case len(b) == 1:
		return false
	case b[1] == '[':
		for _, c := range b[2:] {
			if c < 0x20 || c > 0x3f {
				return true
			}
		}
		return len(b) >= maxControl
	case b[1] >= 0x20 && b[1] < 0x30:
		return len(b) > 2
	}
	return true
}
