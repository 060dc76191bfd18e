package sql

// Numbers in a text rarely matter for what it does, so texts that differ in
// nothing else share one entry of the cache. That is safe only where it is
// beyond doubt where a number begins and ends, so a text with anything
// difficult in it (backslashes, dollar quotes, prefixed strings, comments,
// bytes beyond ASCII, numbers with exponents or underscores) has no shape, and
// is known by its exact text only.

const (
	// maxShape is the longest text that has a shape. Longer ones are seldom
	// repeated with other numbers.
	maxShape = 4096
	// maxInteger is how many digits are an integer to the grammar whatever they
	// are; longer ones may overflow into a decimal and are kept as they are.
	maxInteger = 9
)

// The bytes that stand for numbers. They cannot be in a text that has a shape.
const (
	integerMark = 0x01
	decimalMark = 0x02
)

// appendShape appends the shape of a text and reports whether there is one.
// The shape is no longer than the text.
func appendShape(dst []byte, text string) ([]byte, bool) {
	if len(text) > maxShape {
		return dst, false
	}
	for i := 0; i < len(text); {
		c := text[i]
		switch {
		case c >= '0' && c <= '9':
			n, mark := number(text, i)
			if n == 0 {
				return dst, false
			}
			if mark == 0 {
				dst = append(dst, text[i:i+n]...)
			} else {
				dst = append(dst, mark)
			}
			i += n
		case isIdentifierStart(c):
			n := i + 1
			for n < len(text) && (isIdentifierStart(text[n]) || text[n] >= '0' && text[n] <= '9') {
				n++
			}
			// What follows at once may change what a quote or a dollar means.
			if n < len(text) && (text[n] == '\'' || text[n] == '"' || text[n] == '$' || text[n] == '&' && quoted(text, n+1)) {
				return dst, false
			}
			dst = append(dst, text[i:n]...)
			i = n
		case c == '\'', c == '"':
			n := closing(text, i)
			if n == 0 {
				return dst, false
			}
			dst = append(dst, text[i:n]...)
			i = n
		case c == '$':
			n := i + 1
			for n < len(text) && text[n] >= '0' && text[n] <= '9' {
				n++
			}
			if n == i+1 || n < len(text) && (isIdentifierStart(text[n]) || text[n] == '$' || text[n] == '.') {
				return dst, false
			}
			dst = append(dst, text[i:n]...)
			i = n
		case !plain(text, i):
			return dst, false
		default:
			dst = append(dst, c)
			i++
		}
	}
	return dst, true
}

// plain says whether the byte at i is an operator, punctuation or white space
// that begins nothing difficult.
func plain(text string, i int) bool {
	c := text[i]
	next := byte(0)
	if i+1 < len(text) {
		next = text[i+1]
	}
	switch {
	case c == ' ', c == '\n', c == '\t', c == '\r':
		return true
	case c < ' ', c >= 0x7f, c == '\\', c == '`':
		return false
	case c == '-' && next == '-', c == '/' && next == '*':
		return false
	case c == '.' && (next >= '0' && next <= '9' || next == '.'):
		return false
	}
	return true
}

// number measures the number at i: its length, and what stands for it, or 0
// when it stays. The length is 0 when its end is in doubt.
func number(text string, i int) (n int, mark byte) {
	j := i
	for j < len(text) && text[j] >= '0' && text[j] <= '9' {
		j++
	}
	mark = integerMark
	if j-i > maxInteger {
		mark = 0
	}
	if j < len(text) && text[j] == '.' {
		k := j + 1
		for k < len(text) && text[k] >= '0' && text[k] <= '9' {
			k++
		}
		if k == j+1 {
			return 0, 0
		}
		j, mark = k, decimalMark
	}
	if j < len(text) && (isIdentifierStart(text[j]) || text[j] == '.' || text[j] == '$' || text[j] == '\'' || text[j] == '"') {
		return 0, 0
	}
	return j - i, mark
}

// closing returns the index after the quoted text that begins at i, or 0.
func closing(text string, i int) int {
	quote := text[i]
	for j := i + 1; j < len(text); j++ {
		switch c := text[j]; {
		case c == '\\', c >= 0x7f, c < ' ' && c != '\n' && c != '\t' && c != '\r':
			return 0
		case c != quote:
		case j+1 < len(text) && text[j+1] == quote:
			j++
		default:
			return j + 1
		}
	}
	return 0
}

func quoted(text string, i int) bool { return i < len(text) && (text[i] == '\'' || text[i] == '"') }

func isIdentifierStart(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_'
}
