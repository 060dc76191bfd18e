package line

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"
)

// What goes on is what was typed, in its order, but for what a denial takes away;
// how it is cut changes nothing; and no key that runs a line goes on behind
// characters without having been asked about.
func FuzzLines(f *testing.F) {
	for _, c := range cases {
		f.Add([]byte(c.keys), 3, true)
	}
	f.Fuzz(func(t *testing.T, keys []byte, size int, allow bool) {
		whole, lines := typed(New(nil), string(keys), len(keys)+1, always(true))
		if whole != string(keys) {
			t.Fatalf("%q became %q", keys, whole)
		}
		cut, again := typed(New(nil), string(keys), size%64, always(true))
		if cut != whole || known(again) != known(lines) {
			t.Fatalf("%q: %q and %q, in pieces %q and %q", keys, whole, known(lines), cut, known(again))
		}
		denied, _ := typed(New(nil), string(keys), size%64, always(false))
		since := 0 // printable characters since a line began
		for _, b := range []byte(denied) {
			switch {
			case b == enter || b == newline || b == ctrlO:
				if since > 0 {
					t.Fatalf("%q went on, all of it denied: %q", b, denied)
				}
			case b == ctrlC, b == ctrlU:
				since = 0
			case b > ' ' && b < backspace:
				since++
			case b == backspace:
				since = max(0, since-1)
			case b == ctrlW:
				since = 0
			}
		}
		for _, l := range lines {
			if r := l.Request(); len(r.Effects) == 0 {
				t.Fatalf("%q would do nothing", l.Text)
			}
		}
	})
}

// reader is a program that prints each line that it reads at a terminal.
func reader(t *testing.T, script string, keys string) string {
	t.Helper()
	out, err := os.CreateTemp(t.TempDir(), "lines")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("bash", "--norc", "-c", script)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "TERM=xterm", "INPUTRC=/dev/null", "LC_ALL=C.UTF-8"}
	cmd.ExtraFiles = []*os.File{out}
	terminal, err := pty.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	shown := make(chan struct{})
	ready := make(chan struct{})
	go func() {
		defer close(shown)
		var all []byte
		b := make([]byte, 1024)
		for told := false; ; {
			n, err := terminal.Read(b)
			if all = append(all, b[:n]...); !told && bytes.Contains(all, []byte("ready")) {
				told = true
				close(ready)
			}
			if err != nil {
				return
			}
		}
	}()
	select {
	case <-ready:
	case <-time.After(20 * time.Second):
		t.Fatal("the shell does not begin")
	}
	if _, err := io.WriteString(terminal, keys+"end of it\r"); err != nil {
		t.Fatal(err)
	}
	kill := time.AfterFunc(20*time.Second, func() { cmd.Process.Kill() })
	defer kill.Stop()
	cmd.Wait() //nolint:errcheck // what it has written says more
	<-shown
	text, err := os.ReadFile(out.Name())
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSuffix(strings.TrimSuffix(string(text), "end of it\n"), "\n")
}

// What is said to be known is what bash reads by its line editor, and what a
// program reads from a terminal that edits lines itself.
func TestEditorsAgree(t *testing.T) {
	const loop = `printf 'ready> '; while IFS= read -r $E l; do printf '%s\n' "$l" >&3; [ "$l" = "end of it" ] && exit; done`
	sure := 0
	for _, c := range cases {
		if strings.ContainsAny(c.keys, "\x03\x04\x1a\x1c") || strings.Contains(c.want, "?") || len(c.keys) > 100 || !strings.HasSuffix(c.keys, "\r") {
			continue // signals end these readers; of what is not known nothing is said
		}
		_, lines := typed(New(nil), c.keys, 1, always(true))
		want := strings.ReplaceAll(known(lines), "|", "\n")
		for name, editor := range map[string]string{"bash": "E='-e';", "the terminal": "E=;"} {
			got := strings.Trim(reader(t, editor+loop, c.keys), " \n")
			if got != strings.TrimSpace(want) {
				t.Errorf("%s, by %s: %q, want %q", c.name, name, got, want)
			}
		}
		sure++
	}
	if sure < 6 {
		t.Errorf("only %d were tried", sure)
	}
}
