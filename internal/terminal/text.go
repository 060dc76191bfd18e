package terminal

import (
	"bytes"
	"strconv"
)

// maxText is the longest line, in characters; one that is longer goes on as
// another.
const maxText = 1 << 10

// Text makes lines of what is written to a terminal, as they look in the end:
// overwritten, erased and mended within the line. Where the cursor is moved to
// another one, a new one begins. The zero value is ready.
type Text struct {
	p      parser
	line   []rune
	column int
	lines  []string
}

// Write takes a piece and returns the lines that it ends, without their ends.
// They have no control characters.
func (t *Text) Write(b []byte) []string {
	t.lines = nil
	t.p.parse(b, t)
	return t.lines
}

// Rest returns the line that has no end yet, and forgets it.
func (t *Text) Rest() string {
	s := string(t.line)
	t.line, t.column = t.line[:0], 0
	return s
}

func (t *Text) end() {
	t.lines = append(t.lines, t.Rest())
}

// elsewhere is called when the cursor leaves the line.
func (t *Text) elsewhere() {
	if len(t.line) > 0 {
		t.end()
	}
	t.column = 0
}

func (t *Text) char(r rune) {
	if t.column >= maxText {
		t.end()
	}
	t.fill(t.column)
	if t.column < len(t.line) {
		t.line[t.column] = r
	} else {
		t.line = append(t.line, r)
	}
	t.column++
}

// fill makes the line reach a column.
func (t *Text) fill(column int) {
	for len(t.line) < column {
		t.line = append(t.line, ' ')
	}
}

func (t *Text) control(b byte) {
	const tab = 8
	switch b {
	case '\n', '\v', '\f':
		t.end()
	case '\r':
		t.column = 0
	case backspace:
		t.column = max(0, t.column-1)
	case '\t':
		t.column = min(t.column+tab-t.column%tab, maxText)
		t.fill(t.column)
	}
}

func (t *Text) escaped(between []byte, final byte) {
	if len(between) == 0 && bytes.IndexByte([]byte("cDEM8"), final) >= 0 {
		t.elsewhere()
	}
}

func (t *Text) sequence(private byte, params, between []byte, final byte) {
	if private != 0 || len(between) > 0 {
		return
	}
	n, err := strconv.Atoi(string(params))
	if err != nil || n < 0 {
		n = 0
	}
	t.move(min(n, maxText), final)
}

// move carries out what moves the cursor or erases.
func (t *Text) move(n int, final byte) {
	many := max(n, 1)
	behind := t.line[min(t.column, len(t.line)):]
	switch final {
	case 'C', 'a':
		t.column = min(t.column+many, maxText)
	case 'D':
		t.column = max(t.column-many, 0)
	case 'G', '`':
		t.column = many - 1
	case 'K':
		t.erase(n)
	case 'X':
		for i := range min(many, len(behind)) {
			behind[i] = ' '
		}
	case 'P':
		t.line = append(t.line[:len(t.line)-len(behind)], behind[min(many, len(behind)):]...)
	case '@':
		rest := append([]rune(nil), behind...)
		t.line = t.line[:len(t.line)-len(behind)]
		t.fill(t.column + many)
		t.line = append(t.line, rest...)
		t.line = t.line[:min(len(t.line), maxText)]
	case 'A', 'B', 'E', 'F', 'H', 'f', 'd', 'e', 'u':
		t.elsewhere()
	}
}

// erase is CSI K: to the line's end, to its beginning, all of it.
func (t *Text) erase(n int) {
	at := min(t.column, len(t.line))
	switch n {
	case 0:
		t.line = t.line[:at]
	case 1:
		for i := range min(at+1, len(t.line)) {
			t.line[i] = ' '
		}
	case 2:
		t.line = t.line[:0]
	}
}
