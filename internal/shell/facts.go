package shell

import (
	"slices"

	"github.com/postern/postern/internal/engine"
)

// The verbs of what a text does.
const (
	VerbExec  = "exec"       // the object is Command.Name
	VerbRead  = "file-read"  // a redirection; the object is the path
	VerbWrite = "file-write" // the same
)

// The facts of a text, for rules.
const (
	FactCommand   = "ssh.command"
	FactCommands  = "ssh.commands"
	FactWords     = "ssh.words"
	FactDynamic   = "ssh.dynamic"
	FactReads     = "ssh.reads"
	FactWrites    = "ssh.writes"
	FactVariables = "ssh.variables"
	FactElevated  = "ssh.elevated"
	FactPivot     = "ssh.pivot"

	FactRepository = "ssh.repository"
)

// Facts is every fact that a text may carry, for engine.Protocol.
var Facts = []engine.Fact{
	{Name: FactCommand, Type: engine.Text, Help: "the command as it was sent"},
	{Name: FactCommands, Type: engine.TextSet, Help: "the command words of all simple commands in it; unknown when one is"},
	{Name: FactWords, Type: engine.TextSet, Help: "all words of them, without quotes; unknown when one is"},
	{Name: FactDynamic, Type: engine.Bool, Help: "a word in it depends on the host: a variable, a substitution, a pattern"},
	{Name: FactReads, Type: engine.TextSet, Help: "the files that redirections read; unknown when one is"},
	{Name: FactWrites, Type: engine.TextSet, Help: "the files that redirections write; unknown when one is"},
	{Name: FactVariables, Type: engine.TextSet, Help: "the variables that it assigns"},
	{Name: FactElevated, Type: engine.Bool, Help: "some of it runs as somebody else, by sudo or its kind; unknown when a command is"},
	{Name: FactPivot, Type: engine.Bool, Help: "it starts a program that runs code or opens connections of its own; unknown for programs that Postern does not know"},
	{Name: FactRepository, Type: engine.Text, Help: "the repository that git fetches from or pushes to, as it is named"},
}

// Effects are what rules decide: exec for each simple command, file-read and
// file-write for each redirection, unknown for what is not known.
func (s *Script) Effects() []engine.Effect {
	var out []engine.Effect
	add := func(verb, object string) {
		if e := (engine.Effect{Verb: verb, Object: object}); !slices.Contains(out, e) {
			out = append(out, e)
		}
	}
	for _, c := range s.Commands {
		if c.Name != "" && !c.instead {
			add(VerbExec, c.Name)
		}
		for _, a := range c.Acts {
			add(a.Verb, a.Object)
		}
		for _, r := range c.Redirects {
			if r.harmless() {
				continue
			}
			if r.Read {
				add(VerbRead, object(r.Path))
			}
			if r.Write {
				add(VerbWrite, object(r.Path))
			}
		}
	}
	switch {
	case len(s.Unknown) > 0:
		add(engine.Unknown, s.Unknown[0])
	case len(out) == 0:
		add(engine.Unknown, "")
	}
	return out
}

// harmless are redirections to what is no file.
func (r Redirect) harmless() bool {
	return r.Path.Known && slices.Contains([]string{"/dev/null", "/dev/stdin", "/dev/stdout", "/dev/stderr", "/dev/zero", "/dev/tty"}, r.Path.Text)
}

// Facts are what conditions see. A fact that is not sure is left out.
func (s *Script) Facts() map[string]any {
	commands, words, reads, writes, variables := []string{}, []string{}, []string{}, []string{}, []string{}
	sure, allWords, allReads, allWrites := len(s.Unknown) == 0, true, true, true
	pivots := map[Pivot]bool{}
	elevated := false
	var repositories []string
	for _, c := range s.Commands {
		commands = append(commands, c.Name)
		pivots[c.Pivot] = true
		for _, a := range c.Acts {
			if (a.Verb == VerbFetch || a.Verb == VerbPush) && a.Object != "" {
				repositories = append(repositories, a.Object)
			}
		}
		elevated = elevated || c.Elevated
		for _, word := range c.Words {
			words, allWords = append(words, word.Text), allWords && word.Known
		}
		for _, r := range c.Redirects {
			if r.Read {
				reads, allReads = append(reads, r.Path.Text), allReads && r.Path.Known
			}
			if r.Write {
				writes, allWrites = append(writes, r.Path.Text), allWrites && r.Path.Known
			}
		}
		for _, a := range c.Assigned {
			variables = append(variables, a.Name)
		}
	}
	out := map[string]any{FactCommand: s.Text}
	put := func(name string, sure bool, value any) {
		if sure {
			out[name] = value
		}
	}
	put(FactCommands, sure, distinct(commands))
	put(FactWords, sure && allWords, distinct(words))
	put(FactReads, sure && allReads, distinct(reads))
	put(FactWrites, sure && allWrites, distinct(writes))
	put(FactVariables, sure, distinct(variables))
	put(FactDynamic, sure || s.Dynamic, s.Dynamic)
	put(FactElevated, sure || elevated, elevated)
	put(FactPivot, pivots[PivotYes] || sure && !pivots[PivotUnknown], pivots[PivotYes])
	if repositories = distinct(repositories); len(repositories) == 1 {
		out[FactRepository] = repositories[0]
	}
	return out
}

func distinct(list []string) []string {
	slices.Sort(list)
	return slices.Compact(list)
}
