package shell

import (
	"bytes"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/postern/postern/internal/engine"
)

// FuzzParse: a text never has no effect; what is known is the same whatever is
// assumed of the shell; and a text that a shell is given as one quoted word runs
// what it runs by itself.
func FuzzParse(f *testing.F) {
	corpus, err := os.ReadFile("testdata/commands.txt")
	if err != nil {
		f.Fatal(err)
	}
	for line := range bytes.Lines(corpus) {
		command, _, _ := strings.Cut(string(line), "  ⇒  ")
		f.Add(command)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, bourne := Parse(text, Options{}), Parse(text, Options{Bourne: true})
		if len(s.Effects()) == 0 || len(bourne.Effects()) == 0 {
			t.Fatal("no effects")
		}
		// A text without commands runs Nothing, unless it is unknown to some shell.
		if len(bourne.Unknown) > len(s.Unknown) || len(s.Commands) > 0 && len(s.Commands) != len(bourne.Commands) {
			t.Fatalf("%q and %q", s.Unknown, bourne.Unknown)
		}
		if len(s.Unknown) > 0 && s.Facts()[FactCommands] != nil {
			t.Fatal("the commands are not known, and there is a fact of them")
		}
		if strings.ContainsAny(text, "'\x00\r") || len(text) > maxText/2 || len(bourne.Unknown) > 0 || len(bourne.Commands) > maxCommands/2 {
			return
		}
		if text != "" && strings.Contains("+-", text[:1]) {
			return // it is an option of the shell that reads it
		}
		wrapped := Parse("sh -c '"+text+"'", Options{Bourne: true})
		have := wrapped.Effects()
		for _, e := range bourne.Effects() {
			if e.Verb == engine.Unknown {
				continue // all of its command words are empty: it runs nothing
			}
			if e.Object != Nothing && !contains(have, e) {
				t.Fatalf("sh -c does not %s %q of %q: %q", e.Verb, e.Object, text, have)
			}
		}
	})
}

func contains(list []engine.Effect, e engine.Effect) bool {
	for _, other := range list {
		if other == e {
			return true
		}
	}
	return false
}

func BenchmarkParse(b *testing.B) {
	for _, bench := range []struct{ name, text string }{
		{"simple", "ls -l /srv/data"},
		{"pipeline", "cd /srv && ps aux | grep -v grep | awk '{print $2}' | xargs -r kill"},
		{"ansible", `/bin/sh -c '( umask 77 && mkdir -p "` + "`" + ` echo /root/.ansible/tmp ` + "`" + `"&& mkdir "` + "`" + ` echo /root/.ansible/tmp/ansible-tmp-1 ` + "`" + `" && echo ansible-tmp-1="` + "`" + ` echo /root/.ansible/tmp/ansible-tmp-1 ` + "`" + `" ) && sleep 0'`},
	} {
		b.Run(bench.name, func(b *testing.B) {
			for b.Loop() {
				Parse(bench.text, Options{})
			}
		})
	}
}

// TestLimits: texts that are made to cost much cost little, counted in what is
// allocated and what is read, which no other load of the machine changes.
func TestLimits(t *testing.T) {
	const most = 128 << 20 // bytes; nested evals take half of it
	for name, text := range map[string]string{
		"long":        strings.Repeat("ls;", maxText),
		"commands":    strings.Repeat("ls;", 10*maxCommands),
		"subshells":   strings.Repeat("(", maxOpeners) + "ls" + strings.Repeat(")", maxOpeners),
		"parentheses": strings.Repeat("(", maxText),
		"subst":       strings.Repeat("$(", 900) + "ls" + strings.Repeat(")", 900),
		"backquotes":  strings.Repeat("`", 1000),
		"ifs":         strings.Repeat("if ", 1900) + "ls",
		"nots":        strings.Repeat("! ", 1900) + "ls",
		"blocks":      strings.Repeat("{ ", 1900) + "ls",
		"times":       strings.Repeat("time ", 1900) + "ls",
		"sudos":       strings.Repeat("sudo ", 10000) + "ls",
		"parameters":  "echo " + strings.Repeat("${x:-", 1900) + strings.Repeat("}", 1900),
		"arithmetic":  "echo $((" + strings.Repeat("(", 900) + "1" + strings.Repeat(")", 900) + "))",
		"quotes":      "echo " + strings.Repeat(`"$(`, 900) + strings.Repeat(`)"`, 900),
		"evals":       strings.Repeat("eval ", 5000) + "ls",
		"here":        strings.Repeat("cat <<E\n", 5000),
		"pipes":       strings.Repeat("ls|", 30000) + "ls",
		"functions":   strings.Repeat("f() ", 1900) + "{ ls; }",
		"cases":       strings.Repeat("case a in a) ", 1900),
		"assignments": strings.Repeat("a=(", 1900),
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		s := Parse(text, Options{})
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > most {
			t.Errorf("%s: it allocated %d bytes", name, n)
		}
		if n := s.reading.bytes; n > maxRead+maxText {
			t.Errorf("%s: it read %d bytes", name, n)
		}
		if name != "parameters" && name != "arithmetic" && len(s.Unknown) == 0 {
			t.Errorf("%s: it was read to the end: %d commands", name, len(s.Commands))
		}
	}
}

// TestFacts: a fact that is not sure is missing.
func TestFacts(t *testing.T) {
	facts := Parse("sudo X=1 rm -r /srv/a > /var/log/x 2>&1 < /dev/null", Options{}).Facts()
	for name, want := range map[string]any{
		FactCommands: "rm sudo", FactWords: "-r /srv/a X=1 rm sudo", FactWrites: "/var/log/x", FactReads: "/dev/null",
		FactDynamic: false, FactElevated: true, FactPivot: false, FactVariables: "",
	} {
		got := facts[name]
		if list, ok := got.([]string); ok {
			got = strings.Join(list, " ")
		}
		if got != want {
			t.Errorf("%s is %v, should be %v", name, got, want)
		}
	}
	for text, missing := range map[string]string{
		"$X":            FactCommands,
		"ls $X":         FactWords,
		"ls > $X":       FactWrites,
		"ls < $X":       FactReads,
		"some-program":  FactPivot,
		"ls; $X":        FactPivot,
		"if":            FactElevated,
		"ls\x00":        FactDynamic,
		"eval \"$X\"":   FactVariables,
		". /etc/passwd": FactCommands,
	} {
		if value, ok := Parse(text, Options{}).Facts()[missing]; ok {
			t.Errorf("%s: %s is %v, and is not sure", text, missing, value)
		}
	}
}
