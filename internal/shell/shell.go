// Package shell reads the text of a command as a POSIX shell would and says
// which simple commands it would run: their words, assignments and
// redirections, through pipelines, lists, subshells, substitutions, functions
// and loops, and through the programs whose business it is to run another
// (sudo, env, xargs, find -exec, sh -c). It runs nothing and has no I/O.
//
// It answers for the worst: every branch counts as taken. What a text leaves to
// the host (the value of a variable, the output of a command, a pattern of file
// names, a script on its disk) is not known, and where that decides which
// command runs, Script.Unknown says why. Reading the same text as bash and as
// dash has to give the same; where it does not, both count, and where shells of
// other families (csh, fish) would run something else, that is unknown too,
// unless Options.Bourne says that there are none.
//
// Assumed of the host: that its start-up files define no function or alias that
// hides a command, and that a name without a slash is the program of that name
// in the directories where systems keep them.
//
// Start with Parse, then walk.go (the grammar), command.go (one simple command)
// and wrappers.go (programs that run others). Rules see Script.Effects and
// Script.Facts.
package shell

import (
	"fmt"
	"slices"
	"strings"

	"mvdan.cc/sh/v3/syntax"
)

// Limits of one text.
const (
	maxText     = 128 << 10 // longer commands are data; Linux has the same limit for one argument
	maxOpeners  = 2000      // parentheses, braces, keywords: nesting costs stack
	maxCommands = 1000      // simple commands: more than that nobody decides with care
	maxRead     = 512 << 10 // of a text and those within it, together
	maxDepth    = 100       // of the grammar, and of commands within commands
)

// Options are what is known of the host's shell.
type Options struct {
	Bourne bool // it is a Bourne shell (sh, dash, bash, ksh, zsh, ash), not csh or fish
}

// Script is all that one text would run.
type Script struct {
	Text     string
	Commands []Command // in order of appearance, nested ones behind what runs them
	Unknown  []string  // why it may run other commands than these, a sentence each; empty: it does not
	Dynamic  bool      // some word depends on the host: a variable, a substitution, a pattern
	Broken   bool      // to bash it is no whole text, or it was not read
	Stdin    bool      // a shell or an interpreter in it takes its standard input for code

	reading *reading
}

// reading is what one Parse has read so far. Texts within texts are read once,
// though both dialects come upon them.
type reading struct {
	seen  map[string]bool
	bytes int
}

// Command is one simple command.
type Command struct {
	Words     []Word // the first is the command word; empty when there are only assignments or redirections
	Name      string // see name; empty when it is not known
	Assigned  []Assignment
	Redirects []Redirect
	Via       []string // what runs it, outermost first: "sudo", "find", "$(", "function f"
	Pivot     Pivot
	Elevated  bool // sudo and its kind: it runs as somebody else
	Acts      []Act

	instead bool // Acts are all that it does: it is no program to rules
}

// Word is one word of a command after quotes are removed. One that is not known
// may become several words, or none, unless it is Single.
type Word struct {
	Text   string // as the program gets it; where that is not known, as it is written
	Known  bool
	Single bool
}

// Assignment is NAME=value, before a command or by itself.
type Assignment struct {
	Name  string
	Value Word
}

// Redirect opens a file, in the shell.
type Redirect struct {
	Path  Word
	Read  bool
	Write bool
}

// Pivot says whether a command can be made to run code of the caller's choice
// that this package does not look into.
type Pivot uint8

const (
	PivotUnknown Pivot = iota // not a program that is known here
	PivotNo
	PivotYes
)

// Nothing is the name of a command without words, which is what `:` does too.
const Nothing = ":"

// Parse never fails: what cannot be read is unknown.
func Parse(text string, o Options) *Script {
	s := &Script{Text: text, reading: &reading{seen: map[string]bool{}}}
	if why := refuse(text); why != "" {
		s.unknown("%s", why)
		s.Broken = true
		return s
	}
	if strings.ContainsRune(text, '\r') {
		s.unknown("it has carriage returns, which shells read differently")
	}
	if !o.Bourne {
		if why := differs(text); why != "" {
			s.unknown("%s", why)
		}
	}
	s.read(text, 0, nil)
	if len(s.Commands) == 0 && len(s.Unknown) == 0 {
		s.add(Command{Name: Nothing, Pivot: PivotNo})
	}
	return s
}

// refuse says why a text is not looked at.
func refuse(text string) string {
	switch {
	case len(text) > maxText:
		return fmt.Sprintf("the command is longer than %d bytes", maxText)
	case strings.IndexByte(text, 0) >= 0:
		return "the command has a NUL byte, at which programs may cut it"
	}
	openers := strings.Count(text, "(") + strings.Count(text, "{") + strings.Count(text, "`") + strings.Count(text, "!")
	for _, keyword := range []string{"if", "while", "until", "for", "case", "time", "coproc", "function", "select"} {
		openers += strings.Count(text, keyword)
	}
	if openers > maxOpeners {
		return "the command is nested too deeply, or too long"
	}
	return ""
}

// read adds what text would run: as bash reads it, and what dash would run
// besides.
func (s *Script) read(text string, depth int, via []string) {
	if depth > maxDepth {
		s.unknown("commands are nested too deeply")
		return
	}
	key := strings.Join(via, "\x00") + "\x00\x00" + text
	if s.reading.seen[key] {
		return
	}
	s.reading.seen[key] = true
	if s.reading.bytes += len(text); s.reading.bytes > maxRead {
		s.unknown("the commands in it are too long")
		return
	}
	file, err := parse(text, syntax.LangBash)
	posix, posixErr := parse(text, syntax.LangPOSIX)
	s.Broken = s.Broken || err != nil
	switch {
	case err == nil:
		w := &walker{script: s, depth: depth}
		w.stmts(file.Stmts, place{via: via})
		w.finish()
	case posixErr == nil:
		s.unknown("bash does not read it: %s", reason(err))
	default:
		// A shell runs the lines before the one that it does not understand.
		s.unknown("it is not what a shell understands: %s", reason(err))
	}
	if posixErr == nil {
		s.readPosix(posix, depth, via, err == nil)
	}
}

// readPosix adds what is not there yet: shells agree on nearly all texts.
func (s *Script) readPosix(file *syntax.File, depth int, via []string, both bool) {
	other := &Script{Text: s.Text, reading: s.reading}
	w := &walker{script: other, depth: depth}
	w.stmts(file.Stmts, place{via: via})
	w.finish()
	for _, c := range other.Commands {
		if !slices.ContainsFunc(s.Commands, c.same) {
			s.add(c)
		}
	}
	for _, why := range other.Unknown {
		s.unknown("%s", why)
	}
	s.Dynamic = s.Dynamic || other.Dynamic
	s.Stdin = s.Stdin || other.Stdin
}

func parse(text string, variant syntax.LangVariant) (f *syntax.File, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%v", r)
		}
	}()
	return syntax.NewParser(syntax.Variant(variant)).Parse(strings.NewReader(text), "")
}

func reason(err error) string {
	const longest = 120
	text := strings.ToValidUTF8(err.Error(), "?")
	if len(text) > longest {
		text = strings.ToValidUTF8(text[:longest], "") + " …"
	}
	return text
}

func (s *Script) unknown(format string, args ...any) {
	const most = 16
	why := fmt.Sprintf(format, args...)
	if len(s.Unknown) < most && !slices.Contains(s.Unknown, why) {
		s.Unknown = append(s.Unknown, why)
	}
}

func (s *Script) add(c Command) {
	if len(s.Commands) >= maxCommands {
		s.unknown("it has more than %d commands", maxCommands)
		return
	}
	s.Commands = append(s.Commands, c)
}

// same says whether two commands do the same, as far as rules see.
func (c Command) same(d Command) bool {
	return c.Name == d.Name && c.Pivot == d.Pivot && c.Elevated == d.Elevated &&
		slices.Equal(c.Words, d.Words) && slices.Equal(c.Assigned, d.Assigned) && slices.Equal(c.Redirects, d.Redirects) && slices.Equal(c.Acts, d.Acts)
}

func known(text string) Word { return Word{Text: text, Known: true, Single: true} }
