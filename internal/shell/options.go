package shell

import "strings"

// spec is how a program reads its options, as far as they stand before the
// command that it runs.
type spec struct {
	flags     string // short options without an argument
	args      string // short options with one
	attached  string // short options with one in the same word, or none
	longFlags string // long options without one, or with one in the same word, separated by spaces
	longArgs  string // long options with one, also in the next word
	skip      int    // words between the options and the command
	assigns   bool   // NAME=value may stand before the command
	digits    bool   // -10 is an option
	shell     bool   // without a command it starts a shell
	optional  bool   // without a command it does something harmless
}

// options are those that were found.
type options map[string]Word

// split returns the options and what follows them. It is false when that is not
// sure: an option that is not known here may take the next word for itself.
func (s *spec) split(words []Word) (found options, rest []Word, ok bool) {
	found = options{}
	for len(words) > 0 {
		word := words[0]
		switch {
		case !word.Known:
			return found, words, false
		case word.Text == "--":
			return found, words[1:], true
		case strings.HasPrefix(word.Text, "--"):
			if words, ok = s.long(found, words); !ok {
				return found, words, false
			}
		case len(word.Text) > 1 && word.Text[0] == '-':
			if words, ok = s.short(found, words); !ok {
				return found, words, false
			}
		case s.assigns && strings.IndexByte(word.Text, '=') > 0:
			found["="+word.Text] = word
			words = words[1:]
		default:
			return found, words, true
		}
	}
	return found, nil, true
}

func (s *spec) long(found options, words []Word) ([]Word, bool) {
	name, value, joined := strings.Cut(words[0].Text[2:], "=")
	switch {
	case listed(s.longArgs, name) && joined:
		found["--"+name] = known(value)
		return words[1:], true
	case listed(s.longArgs, name) && len(words) > 1 && words[1].Single:
		found["--"+name] = words[1]
		return words[2:], true
	case listed(s.longFlags, name):
		found["--"+name] = known(value)
		return words[1:], true
	}
	return words, false
}

func (s *spec) short(found options, words []Word) ([]Word, bool) {
	text := words[0].Text
	if s.digits && strings.Trim(text[1:], "0123456789") == "" {
		return words[1:], true
	}
	for i := 1; i < len(text); i++ {
		letter := text[i : i+1]
		switch {
		case strings.Contains(s.flags, letter):
			found["-"+letter] = known("")
		case strings.Contains(s.attached, letter):
			found["-"+letter] = known(text[i+1:])
			return words[1:], true
		case !strings.Contains(s.args, letter):
			return words, false
		case i+1 < len(text):
			found["-"+letter] = known(text[i+1:])
			return words[1:], true
		case len(words) > 1 && words[1].Single:
			found["-"+letter] = words[1]
			return words[2:], true
		default:
			return words, false
		}
	}
	return words[1:], true
}

func listed(words, name string) bool {
	for _, w := range strings.Fields(words) {
		if w == name {
			return true
		}
	}
	return false
}

func (o options) has(names ...string) bool {
	for _, n := range names {
		if _, ok := o[n]; ok {
			return true
		}
	}
	return false
}
