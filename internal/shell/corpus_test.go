package shell

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write testdata/commands.txt instead of comparing with it")

// summary is what a text would do, in the words of testdata/commands.txt.
func summary(s *Script) string {
	var out []string
	for _, e := range s.Effects() {
		switch object := e.Object; e.Verb {
		case VerbExec:
			out = append(out, object)
		case VerbRead:
			out = append(out, "<"+object)
		case VerbWrite:
			out = append(out, ">"+object)
		case VerbFetch, VerbPush, VerbRemove:
			out = append(out, e.Verb+"="+object)
		default:
			out = append(out, "unknown")
		}
	}
	if s.Facts()[FactPivot] == true {
		out = append(out, "(pivot)")
	}
	if s.Stdin {
		out = append(out, "(stdin)")
	}
	return strings.Join(out, " ")
}

// TestCommands: each line is a command, an arrow, and what it would do: command
// words, files of redirections, and whether there is more that is not known. A
// command that does not fit on a line is quoted as in Go, see unquote.
func TestCommands(t *testing.T) {
	const file = "testdata/commands.txt"
	corpus, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var written bytes.Buffer
	commands := 0
	for line := range strings.Lines(string(corpus)) {
		line = strings.TrimSuffix(line, "\n")
		shown, expected, ok := strings.Cut(line, "  ⇒  ")
		if line == "" || strings.HasPrefix(line, "## ") {
			written.WriteString(line + "\n")
			continue
		}
		if !ok && !*update {
			t.Errorf("%s: no arrow", line)
		}
		command := unquote(t, shown)
		commands++
		got := summary(Parse(command, Options{}))
		fmt.Fprintf(&written, "%s  ⇒  %s\n", shown, got)
		if got != expected && !*update {
			t.Errorf("%s\n\tis      %s\n\tshould be %s\n\t%q", shown, got, expected, Parse(command, Options{}).Unknown)
		}
	}
	if commands < 200 {
		t.Errorf("only %d commands", commands)
	}
	if *update {
		if err := os.WriteFile(file, written.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// unquote returns the command of a line: some are quoted as in Go, between "\q and ".
func unquote(t *testing.T, shown string) string {
	t.Helper()
	if !strings.HasPrefix(shown, `"\q`) {
		return shown
	}
	command, err := strconv.Unquote(`"` + strings.TrimPrefix(shown, `"\q`))
	if err != nil {
		t.Fatal(shown, err)
	}
	return command
}
