package shell

import (
	"bytes"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var (
	made = flag.Int("texts", 400, "how many texts real shells are given")
	seed = flag.Uint64("seed", 2026, "of the texts that are made up")
)

// driver runs each text of a folder by a shell, in a sandbox. What a text would
// run is links to a program that logs its name and words, but for those that
// run others, which are the real ones.
const driver = `
cd "$1" || exit 1
for f in *.text; do
	mkdir -p "scratch-$f"
	(cd "scratch-$f" && exec env -i LOG="$1/$f.log" HOME="$1" PATH="$1/bin" X= USER=u /usr/bin/timeout -k 1 2 /usr/bin/setsid -w $2 -c "$(/usr/bin/cat "../$f")" </dev/null >/dev/null 2>&1)
	/usr/bin/rm -rf "scratch-$f"
done
`

const logger = "#!/bin/dash\nline=\nfor w in \"${0##*/}\" \"$@\"; do line=\"$line$w\037\"; done\nprintf '%s\\n' \"$line\" >> \"$LOG\"\n"

var (
	logged = strings.Fields("rm ls id cat pwd2 uname free f g x y wc grep ps df hostname rmdir touch who date head tail git curl a b c sort sudo doas")
	real   = strings.Fields("env nice nohup timeout setsid stdbuf xargs find sh bash dash zsh flock watch ionice busybox")
)

// ran is what the texts ran in a shell, each as its words.
func ran(t *testing.T, shell string, texts []string) [][][]string {
	t.Helper()
	dir := t.TempDir()
	bin := filepath.Join(dir, "bin")
	must(t, os.Mkdir(bin, 0o755))
	for _, name := range logged {
		must(t, os.WriteFile(filepath.Join(bin, name), []byte(logger), 0o755))
	}
	for _, name := range real {
		path, err := exec.LookPath(name)
		must(t, err)
		must(t, os.Symlink(path, filepath.Join(bin, name)))
	}
	for i, text := range texts {
		must(t, os.WriteFile(filepath.Join(dir, fmt.Sprintf("%05d.text", i)), []byte(text), 0o644))
	}
	cmd := exec.Command("bwrap", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/run", "--tmpfs", "/etc/zsh", "--unshare-all", "--die-with-parent",
		"--bind", dir, dir, "/bin/bash", "-c", driver, "driver", dir, shell)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	all := make([][][]string, len(texts))
	for i := range texts {
		log, err := os.ReadFile(filepath.Join(dir, fmt.Sprintf("%05d.text.log", i)))
		if err != nil {
			continue
		}
		for line := range bytes.Lines(log) {
			if line = bytes.TrimSuffix(line, []byte("\037\n")); len(line) > 0 {
				all[i] = append(all[i], strings.Split(string(line), "\037"))
			}
		}
	}
	return all
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// harmless says that a text may be run in the sandbox and that its log can be
// compared: it waits for nothing, kills nobody, runs no start-up file of the host
// and gives no program another name.
func harmless(text string) bool {
	for _, word := range []string{"kill", "\x00", "coproc", "sleep", "while", "until", "watch", "select", "suspend", "ulimit", "bash -i", "fg", "history", "trap", "-lc", "-a ls", "rsync", "scp"} {
		if strings.Contains(text, word) {
			return false
		}
	}
	return len(text) < 2000
}

// texts are those of the corpus, and others made of their pieces.
func texts(t *testing.T, made int, seed uint64) []string {
	corpus, err := os.ReadFile("testdata/commands.txt")
	must(t, err)
	var out []string
	for line := range strings.Lines(string(corpus)) {
		shown, _, ok := strings.Cut(line, "  ⇒  ")
		if command := unquote(t, shown); ok && harmless(command) {
			out = append(out, command)
		}
	}
	pieces := []string{
		" ", " ", " ", " ", " ", ";", "&&", "||", "|", "&", "\n", "'", "'", "\"", "\"", "\\", "`", "$(", ")", "(", "((", "))", "{ ", "; }", "{", "}", ",", "[[", "]]", "[", "]",
		"$X", "${X}", "$", "$'", "\\x72", "!", "! ", "#", " #", "<", ">", ">&", "&>", "<<E", "\nE\n", "<<<", "<(", "=", "X=", "X=rm", "PATH=", "~", "*", "?", "@(", "!(", "+(",
		"if ", "; then ", "; fi", "for i in ", "; do ", "; done", "case a in a) ", ";; esac", "f() ", "function f ", "time ", "eval ", "exec ", "command ", "sh -c ", "bash -c ", "env ", "xargs ", "find . -exec ",
		" \\;", "sudo ", "nice ", "rm ", "ls ", "id ", "rm", "ls", "x", "a", "-c ", "-n ", "2", "1", "%", "^", "..", "\t", "\r", "é", "\u00a0", "$((", "$[", "${X:-", "|&", "|& ", "$\"", "-- ", "--", "set -- ", "alias ", "and ", "noglob ",
	}
	random := rand.New(rand.NewPCG(6, seed))
	for len(out) < made {
		var b strings.Builder
		if base := out[random.IntN(len(out))]; random.IntN(3) > 0 {
			// A text of the corpus with some pieces put in or something cut out.
			for range 1 + random.IntN(3) {
				at := random.IntN(len(base) + 1)
				if random.IntN(3) == 0 {
					base = base[:at] + base[min(len(base), at+1+random.IntN(4)):]
				} else {
					base = base[:at] + pieces[random.IntN(len(pieces))] + base[at:]
				}
			}
			b.WriteString(base)
		} else {
			for range 2 + random.IntN(14) {
				b.WriteString(pieces[random.IntN(len(pieces))])
			}
		}
		if harmless(b.String()) {
			out = append(out, b.String())
		}
	}
	return out
}

// TestShells runs texts by real shells and compares: whatever ran was said, with
// its words where they were said to be known, or the text was said to be unknown.
func TestShells(t *testing.T) {
	all := texts(t, *made, *seed)
	for _, shell := range []string{"/bin/bash", "/bin/dash", "/usr/bin/zsh", "/bin/busybox ash", "/usr/bin/tcsh", "/usr/bin/fish"} {
		t.Run(strings.ReplaceAll(strings.TrimPrefix(strings.TrimPrefix(shell, "/usr"), "/bin/"), " ", "-"), func(t *testing.T) {
			t.Parallel()
			bourne := !strings.HasSuffix(shell, "tcsh") && !strings.HasSuffix(shell, "fish")
			applets, least := strings.Contains(shell, "busybox"), 100
			if applets {
				least = 30
			}
			some := 0
			for i, commands := range ran(t, shell, all) {
				s := Parse(all[i], Options{Bourne: bourne})
				for _, words := range commands {
					some++
					if len(s.Unknown) == 0 && !said(s, words, bourne) && !(applets && runsCode(s)) {
						t.Errorf("%q ran %q, but was said to run %s", all[i], words, summary(s))
						break
					}
				}
			}
			if some < least {
				t.Errorf("only %d commands ran, not %d", some, least)
			}
		})
	}
}

// runsCode says whether a command was told that may run whatever it is given.
func runsCode(s *Script) bool {
	return slices.ContainsFunc(s.Commands, func(c Command) bool { return c.Pivot != PivotNo })
}

// said says whether a command that ran was among those that were told. Words
// are compared where none of them depends on the host.
func said(s *Script, ran []string, compare bool) bool {
	return slices.ContainsFunc(s.Commands, func(c Command) bool {
		if base(c.Name) != ran[0] && c.Name != ran[0] {
			return false
		}
		if !compare || dynamic(c.Words) {
			return true
		}
		return slices.EqualFunc(c.Words[1:], ran[1:], func(w Word, r string) bool { return w.Text == r })
	})
}
