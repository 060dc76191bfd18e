package ssh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/relay/channels"
	"github.com/postern/postern/internal/shell"
)

// denies makes the gate deny the requests with an effect of this verb, and of this
// object unless that is empty.
func (w *world) denies(verb, object string) {
	denied := func(r *engine.Request) *engine.Denial {
		for _, e := range r.Effects {
			if e.Verb == verb && (object == "" || e.Object == object) {
				return &engine.Denial{Code: engine.ByPolicy, Rule: "no-" + verb, Reason: verb + " is not for agents", Help: "ask ops"}
			}
		}
		return nil
	}
	w.gate.Decide = func(_ context.Context, r *engine.Request) error {
		if d := denied(r); d != nil {
			return d
		}
		return nil
	}
	w.gate.Sure = denied
}

// submitted are the requests that the gate was asked about.
func (w *world) submitted() (out []string) {
	for _, e := range w.gate.Events() {
		if text, ok := strings.CutPrefix(e, "submit "); ok {
			out = append(out, text)
		}
	}
	return out
}

func TestExec(t *testing.T) {
	w := newWorld(t)
	w.run = func(command string, c ssh.Channel) uint32 {
		in, _ := io.ReadAll(c)
		fmt.Fprintf(c, "%s: %s", command, in)
		io.WriteString(c.Stderr(), "and an error")
		return 42
	}
	out, errOut, status := exec(t, w.mustAgent(), "cd /srv && sudo rm -r old | tee log", "input")
	if out != "cd /srv && sudo rm -r old | tee log: input" || errOut != "and an error" || status != 42 {
		t.Errorf("%q, %q, %d", out, errOut, status)
	}
	want := []string{
		`open "session" session()`,
		`exec "cd /srv && sudo rm -r old | tee log" exec(cd) exec(sudo) exec(rm) exec(tee)`,
	}
	if got := w.submitted(); !slices.Equal(got, want) {
		t.Errorf("decided:\n%s", strings.Join(got, "\n"))
	}
}

// A command that is denied is told so on standard error, and its status is what
// shells have for what they may not run. The upstream is not even dialled.
func TestDeniedExec(t *testing.T) {
	w := newWorld(t)
	w.denies("exec", "rm")
	client := w.mustAgent()
	out, told, status := exec(t, client, "rm -rf /srv", "")
	if out != "" || status != 126 {
		t.Errorf("status %d, %q", status, out)
	}
	for _, part := range []string{"postern: exec is not for agents", `rule "no-exec"`, "ask ops", "session s1"} {
		if !strings.Contains(told, part) {
			t.Errorf("the agent is not told %q: %q", part, told)
		}
	}
	if w.dials != 0 {
		t.Error("the upstream was dialled")
	}
	// The connection goes on.
	if out, _, status := exec(t, client, "ls", ""); out != "ran ls\n" || status != 0 {
		t.Errorf("%q, %d", out, status)
	}
}

// A terminal and an environment go ahead of what they are for, and nowhere when
// that is denied.
func TestWhatGoesAhead(t *testing.T) {
	w := newWorld(t)
	w.denies("shell", "")
	client := w.mustAgent()
	prepared := func() *ssh.Session {
		s, err := client.NewSession()
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Setenv("LC_ALL", "C.UTF-8"); err != nil {
			t.Fatal(err)
		}
		if err := s.RequestPty("xterm", 24, 80, ssh.TerminalModes{}); err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := prepared()
	shown, _ := s.StdoutPipe()
	if err := s.Shell(); err != nil {
		t.Fatal(err)
	}
	text, _ := io.ReadAll(shown)
	if !strings.Contains(string(text), "postern: shell is not for agents\r\n") {
		t.Errorf("on the terminal: %q", text)
	}
	if w.dials != 0 {
		t.Error("the upstream was dialled")
	}
	s = prepared()
	if out, err := s.Output("top"); string(out) != "ran top\n" || err != nil {
		t.Error(string(out), err)
	}
	if got := w.asked(); !slices.Equal(got, []string{"login deploy by password", "open session", "env LC_ALL", "pty-req", "exec top"}) {
		t.Errorf("the upstream was asked %q", got)
	}
}

// What changes what programs do is decided; what only says how people read is not.
func TestEnvironment(t *testing.T) {
	w := newWorld(t)
	w.denies("env", "LD_PRELOAD")
	client := w.mustAgent()
	s, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []struct {
		name, value string
		fine        bool
	}{
		{"LANG", "de_DE.UTF-8", true},
		{"GIT_PROTOCOL", "version=2", true},
		{"LD_PRELOAD", "/tmp/x.so", false},
		{"LC_ALL", "() { :; }; echo", true},
		{"A=B", "", false},
		{"", "", false},
	} {
		if err := s.Setenv(v.name, v.value); (err == nil) != v.fine {
			t.Errorf("%s: %v", v.name, err)
		}
	}
	if err := s.Run("true"); err != nil {
		t.Error(err)
	}
	want := []string{
		`open "session" session()`, `env "GIT_PROTOCOL=version=2" env(GIT_PROTOCOL)`, `env "LD_PRELOAD=/tmp/x.so" env(LD_PRELOAD)`,
		`env "LC_ALL=() { :; }; echo" env(LC_ALL)`, `request "env"`, `request "env"`, `exec "true" exec(true)`,
	}
	if got := w.submitted(); !slices.Equal(got, want) {
		t.Errorf("decided:\n%s", strings.Join(got, "\n"))
	}
}

// A channel is for one thing: what would come after it is refused.
func TestOneThingPerChannel(t *testing.T) {
	w := newWorld(t)
	hold := make(chan struct{})
	w.run = func(string, ssh.Channel) uint32 { <-hold; return 0 }
	client := w.mustAgent()
	ch, requests, err := client.OpenChannel("session", nil)
	if err != nil {
		t.Fatal(err)
	}
	go ssh.DiscardRequests(requests)
	text := func(s string) []byte { return ssh.Marshal(struct{ S string }{s}) }
	if ok, err := ch.SendRequest("exec", true, []byte{0}); !ok || err != nil {
		t.Error(ok, err)
	}
	told, _ := io.ReadAll(ch.Stderr())
	if !strings.Contains(string(told), "does not have the form that SSH gives it") {
		t.Errorf("%q", told)
	}
	ch, requests, err = client.OpenChannel("session", nil)
	if err != nil {
		t.Fatal(err)
	}
	go ssh.DiscardRequests(requests)
	for _, r := range []struct {
		kind    string
		payload []byte
		fine    bool
	}{
		{"exec", text("sleep"), true},
		{"exec", text("id"), false},
		{"shell", nil, false},
		{"subsystem", text("sftp"), false},
		{"env", append(text("LANG"), text("C")...), false},
		{"auth-agent-req@openssh.com", nil, false},
		{"x11-req", nil, false},
		{"pty-req", slices.Concat(text("xterm"), make([]byte, 16), text("")), false},
		{"unheard-of", nil, false},
		{keepalive, nil, true},
	} {
		if ok, err := ch.SendRequest(r.kind, true, r.payload); ok != r.fine || err != nil {
			t.Errorf("%s: %v %v", r.kind, ok, err)
		}
	}
	close(hold)
	ch.Close()
}

// Where no shell is allowed, what would be its input is decided as a script and
// run as a command, so that what was decided is what is run.
func TestScript(t *testing.T) {
	w := newWorld(t)
	w.denies("shell", "")
	client := w.mustAgent()
	shell := func(input string) (string, string, error) {
		s, err := client.NewSession()
		if err != nil {
			t.Fatal(err)
		}
		var out, errOut strings.Builder
		s.Stdin, s.Stdout, s.Stderr = strings.NewReader(input), &out, &errOut
		if err := s.Shell(); err != nil {
			t.Fatal(err)
		}
		err = s.Wait()
		return out.String(), errOut.String(), err
	}
	script := "cd /srv\nread x\n'\nrm -r old\n'\n"
	if out, told, err := shell(script); err != nil || out != "ran "+script+"\n" {
		t.Errorf("%q, %q, %v", out, told, err)
	}
	if got := w.submitted(); got[len(got)-1] != `script "cd /srv\nread x\n'\nrm -r old\n'\n" exec(cd) exec(read) exec(`+"\nrm -r old\n"+`) unknown(csh ends a quote at the end of a line)` {
		t.Errorf("decided: %s", got)
	}
	if _, told, err := shell(strings.Repeat("x", w.env.Limits.HeldBytes+1)); err == nil || !strings.Contains(told, "a script of more than 65536 bytes is not decided") {
		t.Error(told, err)
	}
	for _, asked := range w.asked() {
		if asked == "shell" {
			t.Error("a shell was started")
		}
	}
}

// A script that was cut off is not run up to where it was.
func TestScriptCutOff(t *testing.T) {
	w := newWorld(t)
	w.denies("shell", "")
	client := w.mustAgent()
	s, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	in, err := s.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Shell(); err != nil {
		t.Fatal(err)
	}
	io.WriteString(in, "cp -r /srv /srv.old\nfind /srv -mtime +3")
	client.Close()
	w.wait()
	if w.dials != 0 {
		t.Error("it was run")
	}
}

// A shell that is allowed is one: what is typed goes to it.
func TestShell(t *testing.T) {
	w := newWorld(t)
	w.run = func(_ string, c ssh.Channel) uint32 {
		in, _ := io.ReadAll(c)
		fmt.Fprintf(c, "got %s", in)
		return 7
	}
	s, err := w.mustAgent().NewSession()
	if err != nil {
		t.Fatal(err)
	}
	s.Stdin = strings.NewReader("id\n")
	out, err := s.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Shell(); err != nil {
		t.Fatal(err)
	}
	text, _ := io.ReadAll(out)
	var exit *ssh.ExitError
	if err := s.Wait(); string(text) != "got id\n" || !errors.As(err, &exit) || exit.ExitStatus() != 7 {
		t.Errorf("%q %v", text, err)
	}
}

// A request that waits for a person says so where people see it.
func TestWaitingIsTold(t *testing.T) {
	w := newWorld(t)
	w.gate.Decide = func(_ context.Context, r *engine.Request) error {
		if r.Kind == "exec" {
			r.Pending(engine.Pending{ID: "a1", Rule: "careful"})
		}
		return nil
	}
	out, told, status := exec(t, w.mustAgent(), "systemctl restart nginx", "")
	if out != "ran systemctl restart nginx\n" || status != 0 || !strings.Contains(told, "waiting for approval a1") {
		t.Errorf("%q, %q, %d", out, told, status)
	}
}

// What an upstream says besides the streams is what has a meaning, and no place to
// say anything else.
func TestNothingBesidesTheStreams(t *testing.T) {
	word := func(s string) []byte { return ssh.Marshal(struct{ S string }{s}) }
	clean := func([]byte) []byte { return []byte("[hidden]") }
	signal := func(name string) []byte {
		return append(append(word(name), 0), append(word(canary), word(canary)...)...)
	}
	s := &session{codec: newCodec("s1")}
	for _, c := range []struct {
		kind    string
		payload []byte
		send    bool
	}{
		{answerSignal, signal(canary), true},
		{answerSignal, signal("KILL"), true},
		{answerStatus, append([]byte{0, 0, 0, 1}, canary...), false},
		{requestEOW, []byte(canary), true},
		{requestFlow, append([]byte{1}, canary...), false},
		{requestFlow, []byte{1}, true},
		{canary, nil, false},
	} {
		out, send, ended := s.Answer(c.kind, c.payload, clean)
		if send != c.send || strings.Contains(string(out), canary) || ended != nil && strings.Contains(ended.Tag, canary) {
			t.Errorf("%s %q: %v %q %v", c.kind, c.payload, send, out, ended)
		}
	}
	k := newCodec("s1")
	for _, kind := range []string{channelForwarded, channelX11, channelAgent, channelForwardedSocket} {
		k.may(kind, map[string]string{channelForwarded: "localhost:80", channelForwardedSocket: "/run/x"}[kind], true)
	}
	for kind, extra := range map[string][]byte{
		channelForwarded:       ssh.Marshal(connection{"localhost", 80, canary, 1}),
		channelX11:             ssh.Marshal(bind{canary, 1}),
		channelAgent:           []byte(canary),
		channelForwardedSocket: append(word("/run/x"), word(canary)...),
	} {
		step, _ := k.Open(channels.Upstream, kind, extra)
		if step.Request.Refused != nil || step.Payload == nil || strings.Contains(string(step.Payload), canary) {
			t.Errorf("%s: %+v", kind, step)
		}
	}
	if step := k.Global(channels.Agent, globalForward, ssh.Marshal(bind{"", 0})); step.Answer([]byte(canary)) != nil {
		t.Error("an answer that is no port passes")
	}
	if step := k.Global(channels.Agent, globalForward, ssh.Marshal(bind{"", 80})); step.Answer != nil {
		t.Error("an answer passes that nobody waits for")
	}
}

// How a command ended is told as it was, by a signal too, whose words are cleaned.
func TestExitSignal(t *testing.T) {
	w := newWorld(t)
	w.gate.Hide = canary
	w.run = func(_ string, c ssh.Channel) uint32 {
		c.SendRequest("exit-signal", false, ssh.Marshal(struct {
			Name string
			Core bool
			Text string
			Lang string
		}{"KILL", false, "killed with " + canary, ""}))
		c.Close()
		return 0
	}
	s, err := w.mustAgent().NewSession()
	if err != nil {
		t.Fatal(err)
	}
	err = s.Run("sleep")
	var exit *ssh.ExitError
	if !errors.As(err, &exit) || exit.Signal() != "KILL" || strings.Contains(exit.Msg(), canary) {
		t.Error(err)
	}
}

// What is no text is told to the gateway, which would break it; how a program
// ended is, too.
func TestRawAndExit(t *testing.T) {
	c := newCodec("s")
	text := func(s string) []byte { return ssh.Marshal(struct{ Text string }{s}) }
	for command, raw := range map[string]bool{"git-upload-pack '/a'": true, "ls": false, "rsync --server . /a; ls": false} {
		if step := (&session{codec: c}).Request(requestExec, text(command)); step.Request.Raw != raw {
			t.Errorf("%s: %t", command, step.Request.Raw)
		}
	}
	if step := (&session{codec: c, terminal: true}).Request(requestShell, nil); step.Request.Raw {
		t.Error("a shell is no text")
	}
	for kind, extra := range map[string][]byte{channelDirectSocket: ssh.Marshal(socket{Path: "/run/x"}), channelTunnel: nil} {
		if step, _ := c.Open(channels.Agent, kind, extra); !step.Request.Raw {
			t.Error(kind, "is text")
		}
	}
	s := &session{codec: c}
	if _, _, ended := s.Answer(answerStatus, ssh.Marshal(struct{ Code uint32 }{3}), nil); ended.Exit == nil || *ended.Exit != (engine.Exit{Status: 3}) {
		t.Errorf("%+v", ended)
	}
	_, _, ended := s.Answer(answerSignal, ssh.Marshal(struct {
		Name    string
		Core    bool
		Message string
		Lang    string
	}{Name: "TERM"}), func(b []byte) []byte { return b })
	if ended.Exit == nil || *ended.Exit != (engine.Exit{Signal: "TERM"}) {
		t.Errorf("%+v", ended)
	}
}

// TestScpBesideItself: scp takes slashes at the end of a path off before it names
// the file, and so does what is decided of several.
func TestScpBesideItself(t *testing.T) {
	for text, want := range map[string]string{
		"scp -f /etc/shadow/ /etc/shadow/": "/etc", "scp -f /srv/a /srv/b//": "/srv", "scp -f /srv/a /etc/b": "",
	} {
		if got := command(shell.Parse(text, shell.Options{}).Scp()); got.Path != want {
			t.Errorf("%s: below %q, not %q", text, got.Path, want)
		}
	}
}
