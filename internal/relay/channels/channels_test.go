package channels

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/postern/postern/internal/engine"
)

const deniedText = "postern: not here\npostern: decided by rule \"r1\" of the policy\npostern: ask elsewhere\npostern: session s1\n"

func TestExec(t *testing.T) {
	w := newWorld(t).start()
	if r := w.run("echo hello", ""); r != (result{out: "hello"}) {
		t.Errorf("%+v", r)
	}
	if r := w.run("fail words", ""); r != (result{err: "words", status: 3}) {
		t.Errorf("%+v", r)
	}
	if r := w.run("cat", "from here"); r != (result{out: "from here"}) {
		t.Errorf("%+v", r)
	}
	if r := w.run("missing", ""); r.status != -1 || r.out+r.err != "" {
		t.Errorf("%+v", r)
	}
	if w.dials != 1 {
		t.Errorf("%d dials", w.dials)
	}
}

// A command may be over before its request was answered.
func TestFastCommandLosesNothing(t *testing.T) {
	w := newWorld(t)
	w.programs["flash"] = func(c ssh.Channel, _ <-chan struct{}, arg string) {
		fmt.Fprint(c, arg)
		fmt.Fprint(c.Stderr(), arg)
		exit(c, 5)
	}
	w.start()
	for i := range 300 {
		text := fmt.Sprint(i)
		if r := w.run("flash "+text, ""); r != (result{text, text, 5}) {
			t.Fatalf("%d: %+v", i, r)
		}
	}
}

// A command may close its output long before it ends. OpenSSH's multiplexing
// client, whose input has ended too, then closes the channel and would have no
// status; a client that speaks waits for the end of the output.
func TestOutputEndsBeforeTheCommand(t *testing.T) {
	w := newWorld(t)
	ends := make(chan struct{})
	w.programs["silent"] = func(c ssh.Channel, _ <-chan struct{}, arg string) {
		if arg == "reads" {
			c.CloseWrite()
			io.Copy(io.Discard, c)
		} else {
			io.Copy(io.Discard, c)
			c.CloseWrite()
			<-ends
		}
		exit(c, 5)
	}
	w.start()
	c, r := w.open("session", nil)
	c.CloseWrite()
	if ok, err := exec(c, "silent"); !ok || err != nil {
		t.Fatal(ok, err)
	}
	over := make(chan struct{})
	go func() {
		defer close(over)
		io.Copy(io.Discard, c)
		c.Close()
	}()
	if r := w.run("echo meanwhile", ""); r.out != "meanwhile" {
		t.Errorf("%+v", r)
	}
	close(ends)
	<-over
	<-r.done
	if want := []string{"exit-status 00000005"}; !slices.Equal(r.all, want) {
		t.Errorf("%q", r.all)
	}

	c, r = w.open("session", nil)
	if ok, err := exec(c, "silent reads"); !ok || err != nil {
		t.Fatal(ok, err)
	}
	io.Copy(io.Discard, c) // or this would wait for the next line
	c.CloseWrite()
	<-r.done
	if want := []string{"exit-status 00000005"}; !slices.Equal(r.all, want) {
		t.Errorf("%q", r.all)
	}
}

// The input of such a client ends a little later than the output, where the machine is
// busy.
func TestOutputEndsBeforeTheInput(t *testing.T) {
	w := newWorld(t)
	ends := make(chan struct{})
	w.programs["silent"] = func(c ssh.Channel, _ <-chan struct{}, _ string) {
		c.CloseWrite()
		<-ends
		exit(c, 5)
	}
	w.start()
	c, r := w.open("session", nil)
	if ok, err := exec(c, "silent"); !ok || err != nil {
		t.Fatal(ok, err)
	}
	time.AfterFunc(lastWordTime/10, func() { c.CloseWrite() })
	time.AfterFunc(lastWordTime/5, func() { close(ends) })
	io.Copy(io.Discard, c)
	c.Close()
	<-r.done
	if want := []string{"exit-status 00000005"}; !slices.Equal(r.all, want) {
		t.Errorf("%q", r.all)
	}
}

// Clients send what goes ahead of a command without waiting for answers.
func TestManyRequestsAtOnce(t *testing.T) {
	w := newWorld(t)
	h := hold()
	w.gate.Decide = h.decide
	w.start()
	c, r := w.open("session", nil)
	for range maxDeferred {
		c.SendRequest("env", false, ssh.Marshal(struct{ T string }{"ask"}))
	}
	<-h.asked
	if _, err := c.SendRequest("unknown", false, nil); err != nil {
		t.Fatal(err)
	}
	go exec(c, "echo on")
	for range maxDeferred - 1 {
		h.answer <- nil
		<-h.asked
	}
	h.answer <- nil
	out, _ := io.ReadAll(c)
	<-r.done
	if string(out) != "on" {
		t.Errorf("%q %q", out, r.all)
	}
}

func TestDeniedExec(t *testing.T) {
	w := newWorld(t)
	w.gate.Decide = hold().decide
	w.start()
	if r := w.run("never rm", ""); r != (result{err: deniedText, status: 126}) {
		t.Errorf("%+v", r)
	}
	if w.dials != 0 {
		t.Error("the upstream heard of it")
	}
	if r := w.run("echo on", ""); r.out != "on" {
		t.Errorf("%+v", r)
	}
}

// What a client asks for after it was denied, or of a channel that has its
// purpose, is not carried out.
func TestOneCommandPerChannel(t *testing.T) {
	w := newWorld(t)
	w.gate.Decide = hold().decide
	w.start()
	c, _ := w.open("session", nil)
	if ok, err := c.SendRequest("nobody asked", true, nil); ok || err != nil {
		t.Errorf("without a request: %t, %v", ok, err)
	}
	if ok, err := exec(c, "cat"); !ok || err != nil {
		t.Fatalf("%t, %v", ok, err)
	}
	if ok, err := exec(c, "echo second"); ok || err != nil {
		t.Errorf("a second command: %t, %v", ok, err)
	}
	c.CloseWrite()
	io.ReadAll(c)
	w.hearsExactly("open session", "exec cat")
	if _, _, err := w.client.OpenChannel("nobody asked", nil); err == nil {
		t.Error("a channel that nobody was asked about")
	}
}

// TestRequestsWithoutReply: a client may want no answers at all.
func TestRequestsWithoutReply(t *testing.T) {
	w := newWorld(t).start()
	c, r := w.open("session", nil)
	c.SendRequest("env", false, ssh.Marshal(struct{ K, V string }{"LANG", "C"}))
	c.SendRequest("exec", false, ssh.Marshal(struct{ C string }{"echo quiet"}))
	if b, err := io.ReadAll(c); string(b) != "quiet" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	<-r.done
	if len(r.all) != 1 || r.all[0] != "exit-status 00000000" {
		t.Errorf("%q", r.all)
	}
	w.hearsExactly("open session", "env LANG", "exec echo quiet")
}

// TestDeferred: what belongs to a command goes ahead of it, once that is allowed.
func TestDeferred(t *testing.T) {
	w := newWorld(t)
	w.gate.Decide = hold().decide
	w.start()
	for _, command := range []string{"never", "echo x"} {
		c, _ := w.open("session", nil)
		if ok, _ := c.SendRequest("pty-req", true, ssh.Marshal(struct{ T string }{"xterm"})); !ok {
			t.Error("no terminal")
		}
		exec(c, command)
		b, _ := io.ReadAll(c)
		if want := strings.ReplaceAll(deniedText, "\n", "\r\n"); command == "never" && string(b) != want {
			t.Errorf("%q", b)
		}
	}
	w.hearsExactly("open session", "pty-req xterm", "exec echo x")
}

// A request that waits for a person holds up its channel and nothing else.
func TestPending(t *testing.T) {
	w := newWorld(t)
	h := hold()
	w.gate.Decide = h.decide
	w.programs["ask"] = w.programs["cat"]
	w.start()
	c, r := w.open("session", nil)
	told := make(chan string)
	go func() {
		b, _ := io.ReadAll(c.Stderr())
		told <- string(b)
	}()
	if ok, err := exec(c, "ask me"); !ok || err != nil {
		t.Fatalf("%t, %v", ok, err)
	}
	<-h.asked
	c.Write([]byte("said before"))
	for range 40 {
		c.SendRequest("window-change", false, nil)
	}
	if ok, _, err := w.client.SendRequest("keepalive@openssh.com", true, nil); !ok || err != nil {
		t.Errorf("keepalive: %t, %v", ok, err)
	}
	if r := w.run("echo meanwhile", ""); r.out != "meanwhile" {
		t.Errorf("%+v", r)
	}
	w.hearsExactly("open session", "exec echo meanwhile")
	h.answer <- nil
	c.Write([]byte(" and after"))
	c.CloseWrite()
	if b, err := io.ReadAll(c); string(b) != "said before and after" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	if text := <-told; !strings.HasPrefix(text, "postern: waiting for approval a1 (rule \"r2\"), until 1970") {
		t.Errorf("%q", text)
	}
	<-r.done
	if r.all[0] != "exit-status 00000000" {
		t.Errorf("%q", r.all)
	}
}

// An approval is told that its client has gone, by the channel or altogether.
func TestAgentGoneWhilePending(t *testing.T) {
	for what, leave := range map[string]func(*world, ssh.Channel){
		"channel":    func(_ *world, c ssh.Channel) { c.Close() },
		"connection": func(w *world, _ ssh.Channel) { w.agent.Close() },
	} {
		t.Run(what, func(t *testing.T) {
			w := newWorld(t)
			h := hold()
			w.gate.Decide = h.decide
			w.start()
			c, _ := w.open("session", nil)
			exec(c, "ask me")
			<-h.asked
			leave(w, c)
			if err := <-h.gone; !errors.Is(err, engine.ErrGone) {
				t.Errorf("%v", err)
			}
			if w.dials != 0 {
				t.Error("the upstream was dialled")
			}
		})
	}
}

// The channel that made the relay dial may go; the others have the upstream too.
func TestDialOutlivesItsChannel(t *testing.T) {
	w := newWorld(t)
	dialling, on := make(chan struct{}), make(chan struct{})
	w.dialling = func(ctx context.Context) error {
		close(dialling)
		select {
		case <-on:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	h := hold()
	w.gate.Decide = h.decide
	w.start()
	c, r := w.open("session", nil)
	go exec(c, "echo first")
	<-dialling
	c.Close()
	<-r.done
	close(on)
	if r := w.run("echo second", ""); r.out != "second" {
		t.Errorf("%+v", r)
	}
	// What the upstream opens later is not decided by the context of the first.
	w.backward = nil
	_, _, err := w.upstream.OpenChannel("forwarded-tcpip", ssh.Marshal(struct{ H string }{"never"}))
	var no *ssh.OpenChannelError
	if !errors.As(err, &no) || no.Reason != ssh.Prohibited {
		t.Errorf("%v", err)
	}
}

func TestUnreachable(t *testing.T) {
	w := newWorld(t)
	w.dialling = func(context.Context) error { return errors.New("no route to 10.0.0.7") }
	w.start()
	for range 2 {
		r := w.run("echo x", "")
		if r.status != 255 || !strings.HasPrefix(r.err, "postern: the upstream cannot be reached\n") || strings.Contains(r.err, "10.0.0.7") {
			t.Errorf("%+v", r)
		}
	}
	if _, _, err := w.client.OpenChannel("direct-tcpip", nil); err == nil || !strings.Contains(err.Error(), "cannot be reached") {
		t.Errorf("%v", err)
	}
	if w.dials != 1 {
		t.Errorf("%d dials", w.dials)
	}
}

// All that came of an upstream whose connection broke reaches the agent before
// its connection ends.
func TestUpstreamGone(t *testing.T) {
	w := newWorld(t)
	h := hold()
	w.gate.Decide = h.decide
	const size = 1 << 20
	w.programs["dies"] = func(c ssh.Channel, _ <-chan struct{}, _ string) {
		c.Write(bytes.Repeat([]byte("x"), size))
		w.far.Close()
	}
	w.start()
	waits, _ := w.open("session", nil)
	exec(waits, "ask")
	<-h.asked
	c, _ := w.open("session", nil)
	if ok, err := exec(c, "dies"); !ok || err != nil {
		t.Fatalf("%t, %v", ok, err)
	}
	text, _ := io.ReadAll(waits.Stderr())
	if !strings.Contains(string(text), "postern: the upstream's connection ended\n") {
		t.Errorf("who waits is told %q", text)
	}
	if n, err := io.Copy(io.Discard, c); n != size || err != nil {
		t.Errorf("%d bytes arrive, %v", n, err)
	}
	if err := w.client.Wait(); !errors.Is(err, io.EOF) {
		t.Errorf("%v", err)
	}
	<-w.over
	if w.err != nil {
		t.Error(w.err)
	}
}

// What an agent has sent goes on, though it has left since.
func TestAgentGoneFirst(t *testing.T) {
	for what, leave := range map[string]func(*world){
		"channel":    func(*world) {},
		"connection": func(w *world) { w.client.Close() },
	} {
		t.Run(what, func(t *testing.T) {
			w := newWorld(t)
			got, left := make(chan int), make(chan struct{})
			w.opened = func(n ssh.NewChannel) bool {
				c, requests, _ := n.Accept()
				go ssh.DiscardRequests(requests)
				<-left
				b, _ := io.ReadAll(c)
				c.Close()
				got <- len(b)
				return true
			}
			w.start()
			c, _ := w.open("direct-tcpip", nil)
			const size = 1 << 20
			c.Write(make([]byte, size))
			c.Close()
			leave(w)
			close(left)
			if n := <-got; n != size {
				t.Errorf("%d bytes arrive", n)
			}
		})
	}
}

func TestEndedByOperator(t *testing.T) {
	w := newWorld(t)
	w.start()
	c, r := w.open("session", nil)
	exec(c, "sleep")
	d := &engine.Denial{Code: engine.Ended, Reason: "the daemon restarts"}
	w.cancel(d)
	text, _ := io.ReadAll(c.Stderr())
	<-r.done
	if string(text) != "postern: the daemon restarts\npostern: session s1\n" || len(r.all) != 1 || r.all[0] != "exit-status 000000ff" {
		t.Errorf("%q, %q", text, r.all)
	}
	<-w.over
	if !errors.Is(w.err, d) {
		t.Error(w.err)
	}
}

// TestOtherChannelsGoOn while one is not read, by either end.
func TestOtherChannelsGoOn(t *testing.T) {
	w := newWorld(t)
	w.programs["deaf"] = func(ssh.Channel, <-chan struct{}, string) {}
	w.start()
	unread, _ := w.open("session", nil)
	exec(unread, "zeros")
	deaf, _ := w.open("session", nil)
	exec(deaf, "deaf")
	go deaf.Write(make([]byte, 4<<20))
	for i := range 20 {
		if r := w.run("cat", fmt.Sprint(i)); r.out != fmt.Sprint(i) {
			t.Errorf("%+v", r)
		}
	}
	if n, err := io.Copy(io.Discard, unread); n != 3<<20 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
}

// TestTransfer moves much both ways at once, with new keys all the time.
func TestTransfer(t *testing.T) {
	w := newWorld(t)
	w.config.RekeyThreshold = 256 << 10
	w.start()
	text := strings.Repeat("0123456789abcdef", 1<<16)
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			if r := w.run("cat", text); r.out != text || r.status != 0 {
				t.Errorf("%d bytes, %d", len(r.out), r.status)
			}
		})
	}
	all.Wait()
}
