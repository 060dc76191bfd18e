package shell

import "strings"

// differs says where a text would run something else in csh or fish than in a
// Bourne shell, or "". It is a list of what is known to differ in how quotes end
// and words begin; where those refuse a text they run nothing of it.
func differs(text string) string {
	quote := byte(0)
	for i := 0; i < len(text); i++ {
		c, next := text[i], byte(0)
		if i+1 < len(text) {
			next = text[i+1]
		}
		if c == '!' && next != 0 && !strings.ContainsRune(" \t\n=(", rune(next)) {
			return "csh replaces ! by earlier commands, even in quotes"
		}
		switch quote {
		case '\'':
			if c == '\\' && next == '\'' {
				return `fish does not end a quote at \'`
			}
			if c == '\n' {
				return "csh ends a quote at the end of a line"
			}
			if c == '\'' {
				quote = 0
			}
		case '"':
			switch {
			case c == '\n':
				return "csh ends a quote at the end of a line"
			case c == '\\' && (next == '"' || next == '`'):
				return `csh does not read \ in double quotes`
			case c == '\\':
				i++
			case c == '"':
				quote = 0
			}
		default:
			switch {
			case c == '\\' && next != 0 && strings.IndexByte("xXuUc01234567", next) >= 0:
				return `fish reads a character's number after \`
			case c == '\\':
				i++
			case c == '\'' || c == '"':
				quote = c
			}
		}
	}
	return ""
}
