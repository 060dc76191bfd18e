package channels

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/postern/postern/internal/engine"
)

// enterHolds is keys of which only Enter has a meaning.
type enterHolds struct {
	line, rest []byte
	holds      bool
}

func (k *enterHolds) Feed(p []byte) (forward []byte, line *engine.Request) {
	k.rest = append(k.rest, p...)
	if k.holds {
		return nil, nil
	}
	i := bytes.IndexByte(k.rest, '\r')
	if i < 0 {
		forward, k.rest = k.rest, nil
		k.line = append(k.line, forward...)
		return forward, nil
	}
	forward, k.rest = k.rest[:i], k.rest[i+1:]
	r := &engine.Request{Kind: "line", Text: string(append(k.line, forward...))}
	k.holds, k.line = true, nil
	return forward, r
}

func (k *enterHolds) Answer(allow bool) []byte {
	k.holds = false
	if allow {
		return []byte("\r")
	}
	k.rest = nil
	return []byte("^C")
}

// typist is a shell at a terminal, and what it has read and shown.
type typist struct {
	ssh.Channel
	t        *testing.T
	requests *requests

	mu    sync.Mutex
	came  *sync.Cond
	read  string // by the shell
	shown string
}

// types opens a shell on a world that is started.
func types(w *world) *typist {
	w.t.Helper()
	y := &typist{t: w.t}
	y.came = sync.NewCond(&y.mu)
	w.programs["shell"] = func(c ssh.Channel, _ <-chan struct{}, _ string) {
		y.take(c, &y.read)
		exit(c, 0)
	}
	y.Channel, y.requests = w.open("session", nil)
	if ok, err := y.SendRequest("pty-req", true, ssh.Marshal(struct{ Term string }{"vt100"})); !ok || err != nil {
		w.t.Fatal(ok, err)
	}
	if ok, err := y.SendRequest("shell", true, nil); !ok || err != nil {
		w.t.Fatal(ok, err)
	}
	go y.take(y, &y.shown)
	return y
}

func (y *typist) take(from io.Reader, into *string) {
	b := make([]byte, 1<<10)
	for {
		n, err := from.Read(b)
		y.mu.Lock()
		*into += string(b[:n])
		y.came.Broadcast()
		y.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (y *typist) types(keys string) {
	y.t.Helper()
	if _, err := io.WriteString(y, keys); err != nil {
		y.t.Fatal(err)
	}
}

// waits until all that the shell has read ends so, and returns it.
func (y *typist) waits(of *string, end string) string {
	y.mu.Lock()
	defer y.mu.Unlock()
	for !strings.HasSuffix(*of, end) {
		y.came.Wait()
	}
	return *of
}

// A line is read by the shell when it was allowed, and one that is denied is taken
// away with all that was typed behind it.
func TestTypedLines(t *testing.T) {
	w := newWorld(t)
	w.gate.Name("line")
	w.gate.Decide = hold().decide
	w.start()
	y := types(w)
	y.types("ls")
	y.waits(&y.read, "ls")
	y.types(" -l\rnever this\rand that\r")
	if got, want := y.waits(&y.read, "^C"), "ls -l\rnever this^C"; got != want {
		t.Errorf("the shell read %q, not %q", got, want)
	}
	want := "\r\npostern: not here\r\npostern: decided by rule \"r1\" of the policy\r\npostern: ask elsewhere\r\npostern: session s1\r\n"
	if got := y.waits(&y.shown, "s1\r\n"); got != want {
		t.Errorf("shown is %q, not %q", got, want)
	}
	y.types("pwd\r")
	y.waits(&y.read, "^Cpwd\r")
	y.CloseWrite()
	<-y.requests.done
	if got := fmt.Sprint(y.requests.all); got != "[exit-status 00000000]" {
		t.Error(got)
	}
	events := strings.Join(w.gate.Events(), "\n")
	for _, line := range []string{"ls -l", "never this", "pwd"} {
		if !strings.Contains(events, fmt.Sprintf("submit line %q", line)) {
			t.Errorf("%q was not decided", line)
		}
	}
}

// While a line waits for a person its writer reads for whom, and what is typed
// behind it waits too.
func TestTypedLineIsApproved(t *testing.T) {
	w, h := newWorld(t), hold()
	w.gate.Name("line")
	w.gate.Decide = h.decide
	w.start()
	y := types(w)
	y.types("ask me\rnext\r")
	<-h.asked
	y.waits(&y.shown, "approve a1\r\n")
	if got := y.waits(&y.read, "ask me"); got != "ask me" { // and not what is typed behind it
		t.Errorf("the shell read %q before the answer", got)
	}
	h.answer <- nil
	y.waits(&y.read, "ask me\rnext\r")
	y.types("ask for the end\r")
	<-h.asked
	y.CloseWrite() // comes after the line
	h.answer <- nil
	<-y.requests.done
	if got, want := y.read, "ask me\rnext\rask for the end\r"; got != want {
		t.Errorf("the shell read %q, not %q", got, want)
	}
}

// Somebody who waits may take the line back by Ctrl-C, hang up, or lose the shell.
func TestTypedLineIsGivenUp(t *testing.T) {
	for name, c := range map[string]struct {
		gives func(y *typist, w *world)
		cause error
	}{
		"by Ctrl-C":         {func(y *typist, _ *world) { y.types("\x03") }, engine.ErrWithdrawn},
		"by typing on":      {func(y *typist, w *world) { y.types(strings.Repeat("x", w.limits.HeldBytes+1)) }, engine.ErrWithdrawn},
		"by hanging up":     {func(y *typist, _ *world) { y.Close() }, engine.ErrGone},
		"by the upstream's": {func(_ *typist, w *world) { w.upstream.Close() }, engine.ErrGone},
	} {
		t.Run(name, func(t *testing.T) {
			w, h := newWorld(t), hold()
			w.gate.Name("line")
			w.gate.Decide = h.decide
			w.start()
			y := types(w)
			y.types("ask me\r")
			<-h.asked
			c.gives(y, w)
			if err := <-h.gone; !errors.Is(err, c.cause) {
				t.Errorf("the wait ended by %v, not %v", err, c.cause)
			}
			if c.cause == engine.ErrWithdrawn {
				y.waits(&y.read, "ask me^C")
				y.types("pwd\r")
				y.waits(&y.read, "^Cpwd\r")
			}
		})
	}
}

// What no rule names is not asked for, and a rule that comes later is heeded.
func TestTypedLinesThatNobodyNames(t *testing.T) {
	w := newWorld(t)
	w.gate.Decide = hold().decide
	w.start()
	y := types(w)
	y.types("never this\r")
	y.waits(&y.read, "never this\r")
	if ok, _ := y.SendRequest("signal", true, nil); !ok {
		t.Error("a signal was refused")
	}
	w.gate.Name("line")
	if ok, _ := y.SendRequest("signal", true, nil); ok {
		t.Error("a signal takes away what is typed, and was not refused")
	}
	y.types("never that\r")
	y.waits(&y.read, "never that^C")
}
