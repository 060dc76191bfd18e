package sql

import "strings"

// Literal is where a string or a number stands in a text, in bytes.
type Literal struct{ From, To int }

// Literals returns the strings in single quotes and the numbers of a text, in
// order; nil when the text has no shape, so that it is not beyond doubt where
// they are. Texts of one shape have as many, and their strings are the same.
func Literals(text string) []Literal {
	var room [stackShape]byte
	if _, ok := appendShape(room[:0], text); !ok {
		return nil
	}
	var out []Literal
	for i := 0; i < len(text); {
		n := i + 1
		switch c := text[i]; {
		case c >= '0' && c <= '9':
			length, _ := number(text, i)
			n = i + length
			out = append(out, Literal{i, n})
		case c == '\'':
			n = closing(text, i)
			out = append(out, Literal{i, n})
		case c == '"':
			n = closing(text, i)
		case isIdentifierStart(c), c == '$':
			for n < len(text) && (isIdentifierStart(text[n]) || text[n] >= '0' && text[n] <= '9') {
				n++
			}
		}
		i = n
	}
	return out
}

// Value is what the literal stands for.
func (l Literal) Value(text string) string {
	s := text[l.From:l.To]
	if s[0] != '\'' {
		return s
	}
	return strings.ReplaceAll(s[1:len(s)-1], "''", "'")
}
