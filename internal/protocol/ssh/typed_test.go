package ssh

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

// terminal opens a shell on a terminal with these modes, at which a test types.
// What the shell reads it repeats.
func terminal(t *testing.T, w *world, modes ssh.TerminalModes) (*ssh.Session, io.WriteCloser, io.Reader) {
	t.Helper()
	w.run = func(_ string, c ssh.Channel) uint32 {
		io.Copy(c, c)
		return 0
	}
	s, err := w.mustAgent().NewSession()
	if err != nil {
		t.Fatal(err)
	}
	in, err := s.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := s.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.RequestPty("vt100", 24, 80, modes); err != nil {
		t.Fatal(err)
	}
	if err := s.Shell(); err != nil {
		t.Fatal(err)
	}
	return s, in, out
}

// Where a rule names lines, each that is typed at a shell is decided by what it
// would run, and one that is not known is known to be so.
func TestTypedLines(t *testing.T) {
	w := newWorld(t)
	w.gate.Name("line")
	w.denies("unknown", "")
	s, in, out := terminal(t, w, ssh.TerminalModes{ssh.VERASE: 8})
	io.WriteString(in, "lss\b /srv | wc\r\x1b[Acat\r")
	in.Close()
	shown, _ := io.ReadAll(out)
	if err := s.Wait(); err != nil {
		t.Error(err)
	}
	read, told := string(shown), ""
	if from, to := strings.Index(read, "\r\npostern: "), strings.Index(read, "session s1\r\n")+len("session s1\r\n"); from >= 0 && to > from {
		read, told = read[:from]+read[to:], read[from:to] // which may stand within what is repeated
	}
	if read != "lss\b /srv | wc\r\x1b[Acat\x03" || !strings.Contains(told, "postern: unknown is not for agents") {
		t.Errorf("the shell read %q, told is %q", read, told)
	}
	want := []string{
		`open "session" session()`, `shell "shell" shell()`,
		`line "ls /srv | wc" line(ls) line(wc)`,
		`line "^[[Acat" unknown(it was edited by keys that only the shell knows)`,
	}
	if got := w.submitted(); !slices.Equal(got, want) {
		t.Errorf("decided:\n%s", strings.Join(got, "\n"))
	}
}

// Signals may take away what is typed, and what they leave would be another line.
func TestSignalsWhereLinesAreDecided(t *testing.T) {
	for _, named := range []bool{true, false} {
		w := newWorld(t)
		if named {
			w.gate.Name("line")
		}
		s, in, _ := terminal(t, w, nil)
		for _, kind := range []string{requestSignal, requestBreak} {
			ok, err := s.SendRequest(kind, true, ssh.Marshal(struct{ Name string }{"INT"}))
			if err != nil || ok == named {
				t.Errorf("%s where lines are named %v: %v, %v", kind, named, ok, err)
			}
		}
		in.Close()
		s.Wait()
	}
}

// Without a terminal nobody knows where a line ends: what a shell would read is
// decided as a script, whether a shell is allowed or not.
func TestLinesWithoutATerminal(t *testing.T) {
	w := newWorld(t)
	w.gate.Name("line")
	s, err := w.mustAgent().NewSession()
	if err != nil {
		t.Fatal(err)
	}
	s.Stdin = strings.NewReader("id\nls\n")
	out, err := s.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Shell(); err != nil {
		t.Fatal(err)
	}
	if text, _ := io.ReadAll(out); string(text) != "ran id\nls\n\n" {
		t.Errorf("%q", text)
	}
	s.Wait()
	if got := w.submitted(); !slices.Contains(got, "script \"id\\nls\\n\" exec(id) exec(ls)") {
		t.Errorf("decided: %q", got)
	}
}

// TestTerminalIsThere: what is typed is decided as at a terminal only where the
// upstream has one, however much goes ahead of it; sizes of one that is not there
// are refused.
func TestTerminalIsThere(t *testing.T) {
	w := newWorld(t)
	w.gate.Name("line")
	c, requests, err := w.mustAgent().OpenChannel("session", nil)
	if err != nil {
		t.Fatal(err)
	}
	go ssh.DiscardRequests(requests)
	if ok, _ := c.SendRequest("window-change", true, ssh.Marshal(struct{ Columns, Rows, X, Y uint32 }{Columns: 80, Rows: 24})); ok {
		t.Error("the size of no terminal was taken")
	}
	for i := range 200 {
		c.SendRequest("env", true, ssh.Marshal(struct{ Name, Value string }{fmt.Sprint("LC_", i), "C"})) //nolint:errcheck // what is too much is refused
	}
	pty := struct {
		Type                string
		Columns, Rows, X, Y uint32
		Modes               string
	}{Type: "xterm", Columns: 80, Rows: 24}
	if ok, err := c.SendRequest("pty-req", true, ssh.Marshal(pty)); !ok {
		t.Fatal("the terminal was refused:", err)
	}
	if ok, err := c.SendRequest("shell", true, nil); !ok {
		t.Fatal("the shell was refused:", err)
	}
	if got := w.asked(); !slices.Contains(got, "pty-req") {
		t.Errorf("the upstream has no terminal: %q", got)
	}
	c.Close()
}
