package channels

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/wiretest"
)

// program is what the upstream runs for a command, which is its name and the
// words after it. gone is closed when the channel is.
type program func(c ssh.Channel, gone <-chan struct{}, arg string)

// world is a client, a relay and an upstream, each a real end of SSH.
type world struct {
	t        *testing.T
	gate     *wiretest.Gate
	programs map[string]program
	handler  Handler                               // of the subsystem "handled"
	dialling func(context.Context) error           // called before the upstream is dialled
	opened   func(n ssh.NewChannel) (handled bool) // by the relay at the upstream, but for sessions
	backward func(n ssh.NewChannel)                // by the upstream at the client
	config   ssh.Config                            // of the client and the upstream
	limits   engine.Limits

	client   *ssh.Client
	agent    net.Conn // the client's end
	upstream *ssh.ServerConn
	far      net.Conn // the upstream's end
	session  *Session
	cancel   context.CancelCauseFunc
	over     chan struct{}
	err      error

	mu    sync.Mutex
	heard []string // by the upstream
	dials int
}

var hostKey = func() ssh.Signer {
	s, err := ssh.NewSignerFromKey(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)))
	if err != nil {
		panic(err)
	}
	return s
}()

// newWorld starts nothing, so that a test can set it up.
func newWorld(t *testing.T) *world {
	return &world{t: t, gate: &wiretest.Gate{}, over: make(chan struct{}), limits: wiretest.Limits, programs: map[string]program{
		"echo":  func(c ssh.Channel, _ <-chan struct{}, arg string) { fmt.Fprint(c, arg); exit(c, 0) },
		"fail":  func(c ssh.Channel, _ <-chan struct{}, arg string) { fmt.Fprint(c.Stderr(), arg); exit(c, 3) },
		"cat":   func(c ssh.Channel, _ <-chan struct{}, _ string) { io.Copy(c, c); exit(c, 0) },
		"zeros": func(c ssh.Channel, _ <-chan struct{}, _ string) { c.Write(make([]byte, 3<<20)); exit(c, 0) },
		"sleep": func(c ssh.Channel, gone <-chan struct{}, _ string) { <-gone; c.Close() },
	}}
}

// exit ends a program as sshd does.
func exit(c ssh.Channel, status uint32) {
	c.SendRequest("exit-status", false, ssh.Marshal(struct{ S uint32 }{status}))
	c.CloseWrite()
	c.Close()
}

// start connects all ends. At the test's end the relay must have ended by itself
// or end with the client, and every exchange once.
func (w *world) start() *world {
	w.t.Helper()
	mine, theirs := wiretest.Pipe()
	w.agent = mine
	server := &ssh.ServerConfig{NoClientAuth: true, Config: ssh.Config{KeyExchanges: []string{"curve25519-sha256"}}}
	server.AddHostKey(hostKey)
	accepted := make(chan Side, 1)
	go func() {
		c, channels, requests, err := ssh.NewServerConn(theirs, server)
		if err != nil {
			w.t.Errorf("the relay's side: %v", err)
			theirs.Close()
		}
		accepted <- Side{c, channels, requests}
	}()
	c, channels, requests, err := ssh.NewClientConn(mine, "agent", w.clientConfig())
	if err != nil {
		w.t.Fatal(err)
	}
	others := make(chan ssh.NewChannel)
	go func() {
		defer close(others)
		for n := range channels {
			if w.backward == nil {
				others <- n
				continue
			}
			go w.backward(n)
		}
	}()
	w.client = ssh.NewClient(c, others, requests)
	s := &Session{
		ID: "s1", Agent: <-accepted, Gate: w.gate, Codec: codec{w}, Dial: w.dial, Limits: w.limits, Log: slog.New(slog.DiscardHandler),
	}
	w.session = s
	ctx, cancel := context.WithCancelCause(context.Background())
	w.cancel = cancel
	go func() {
		defer close(w.over)
		w.err = s.Run(ctx)
	}()
	w.t.Cleanup(w.finish)
	return w
}

func (w *world) clientConfig() *ssh.ClientConfig {
	config := w.config
	config.KeyExchanges = []string{"curve25519-sha256"}
	return &ssh.ClientConfig{Config: config, User: "agent", HostKeyCallback: ssh.FixedHostKey(hostKey.PublicKey())}
}

func (w *world) finish() {
	w.client.Close()
	<-w.over
	w.cancel(nil)
	if n := w.gate.Unended(); n != 0 {
		w.t.Errorf("%d exchanges were not ended once", n)
	}
	if left := goroutines(); left != "" {
		w.t.Errorf("goroutines are left:\n%s", left)
	}
}

// goroutines returns those of the relay, which ends none before it returns.
func goroutines() string {
	b := make([]byte, 1<<20)
	var left []string
	for g := range strings.SplitSeq(string(b[:runtime.Stack(b, true)]), "\n\n") {
		if strings.Contains(g, "channels.(*Session)") || strings.Contains(g, "channels.(*channel)") || strings.Contains(g, "channels.(*queue)") {
			left = append(left, g)
		}
	}
	return strings.Join(left, "\n\n")
}

func (w *world) dial(ctx context.Context) (Side, error) {
	w.mu.Lock()
	w.dials++
	w.mu.Unlock()
	if w.dialling != nil {
		if err := w.dialling(ctx); err != nil {
			return Side{}, err
		}
	}
	near, far := wiretest.Pipe()
	w.far = far
	server := &ssh.ServerConfig{NoClientAuth: true, Config: w.config}
	server.KeyExchanges = []string{"curve25519-sha256"}
	server.AddHostKey(hostKey)
	ready := make(chan struct{})
	go func() {
		c, channels, requests, err := ssh.NewServerConn(far, server)
		if err != nil {
			w.t.Errorf("the upstream: %v", err)
			close(ready)
			return
		}
		w.upstream = c
		close(ready)
		go w.upstreamGlobals(requests)
		for n := range channels {
			go w.serve(n)
		}
	}()
	config := w.clientConfig()
	config.Config = ssh.Config{KeyExchanges: []string{"curve25519-sha256"}}
	c, channels, requests, err := ssh.NewClientConn(near, "upstream", config)
	<-ready
	return Side{c, channels, requests}, err
}

func (w *world) hear(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.heard = append(w.heard, fmt.Sprintf(format, args...))
}

// hearsExactly forgets what it compares.
func (w *world) hearsExactly(want ...string) {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if !slices.Equal(w.heard, want) {
		w.t.Errorf("the upstream heard %q, not %q", w.heard, want)
	}
	w.heard = nil
}

func (w *world) upstreamGlobals(requests <-chan *ssh.Request) {
	for r := range requests {
		w.hear("global %s", r.Type)
		r.Reply(true, []byte("answer to "+r.Type))
	}
}

func (w *world) serve(n ssh.NewChannel) {
	w.hear("open %s", n.ChannelType())
	if n.ChannelType() != "session" && w.opened != nil && w.opened(n) {
		return
	}
	c, requests, err := n.Accept()
	if err != nil {
		return
	}
	gone := make(chan struct{}) // closed when the channel is
	defer close(gone)
	for r := range requests {
		text := text(r.Payload)
		w.hear("%s %s", r.Type, text)
		name, arg, _ := strings.Cut(text, " ")
		switch r.Type {
		case "exec", "subsystem":
		case "shell":
			name = "shell"
		default:
			r.Reply(true, nil)
			continue
		}
		run := w.programs[name]
		r.Reply(run != nil, nil)
		if run != nil {
			go run(c, gone, arg)
		}
	}
}

// text is the string that a payload begins with.
func text(payload []byte) string {
	var m struct {
		Text string
		Rest []byte `ssh:"rest"`
	}
	if ssh.Unmarshal(payload, &m) != nil {
		return ""
	}
	return m.Text
}

// result is what a client saw of a command.
type result struct {
	out, err string
	status   int
}

// run runs a command as clients do.
func (w *world) run(command, stdin string) result {
	w.t.Helper()
	s, err := w.client.NewSession()
	if err != nil {
		w.t.Fatal(err)
	}
	defer s.Close()
	var out, errs bytes.Buffer
	s.Stdin, s.Stdout, s.Stderr = strings.NewReader(stdin), &out, &errs
	err = s.Run(command)
	r := result{out.String(), errs.String(), 0}
	var exit *ssh.ExitError
	switch {
	case errors.As(err, &exit):
		r.status = exit.ExitStatus()
	case err != nil:
		r.status = -1
	}
	return r
}

// open opens a channel whose requests are collected.
func (w *world) open(kind string, extra []byte) (ssh.Channel, *requests) {
	w.t.Helper()
	c, in, err := w.client.OpenChannel(kind, extra)
	if err != nil {
		w.t.Fatal(err)
	}
	r := &requests{done: make(chan struct{})}
	go func() {
		defer close(r.done)
		for q := range in {
			r.mu.Lock()
			r.all = append(r.all, fmt.Sprintf("%s %x", q.Type, q.Payload))
			r.mu.Unlock()
			q.Reply(true, nil)
		}
	}()
	return c, r
}

type requests struct {
	done chan struct{} // closed when the channel is
	mu   sync.Mutex
	all  []string
}

// exec asks for a command on a channel that is open.
func exec(c ssh.Channel, command string) (bool, error) {
	return c.SendRequest("exec", true, ssh.Marshal(struct{ C string }{command}))
}

// codec is a protocol of few words. Commands that begin with "never" it refuses.
type codec struct{ *world }

func (codec) Global(from From, kind string, payload []byte) Step {
	switch {
	case from == Upstream, kind == "keepalive@openssh.com":
		return Step{Do: Grant}
	case kind == "tcpip-forward":
		return Step{Do: Forward, Request: &engine.Request{Kind: "forward-remote", Text: text(payload)}, Then: func(bool) {}, Answer: func(b []byte) []byte { return b }}
	}
	return Step{}
}

func (w codec) Open(from From, kind string, extra []byte) (Step, ChannelCodec) {
	r := &engine.Request{Kind: kind, Text: text(extra)}
	switch {
	case from == Agent && kind == "session":
		return Step{Do: Grant}, w
	case from == Agent && kind == "led":
		return Step{Do: Forward, Request: r, Forward: &Destination{text(extra), 5432}}, w
	case from == Agent && kind == "direct-tcpip", from == Upstream && kind == "forwarded-tcpip":
		return Step{Do: Forward, Main: true, Request: r}, w
	case kind == "nobody asked":
		return Step{Do: Forward, Main: true}, w
	}
	return Step{}, w
}

func (w codec) Request(kind string, payload []byte) Step {
	switch kind {
	case "exec", "subsystem":
		s := Step{Do: Forward, Main: true, Request: &engine.Request{Kind: kind, Text: text(payload)}}
		if kind == "subsystem" {
			s.Handler = w.handler
		}
		return s
	case "shell":
		return Step{Do: Forward, Main: true, Request: &engine.Request{Kind: kind}, Keys: &enterHolds{}, LineVerb: "line"}
	case "nobody asked":
		return Step{Do: Forward, Main: true}
	case "env":
		return Step{Do: Forward, Request: &engine.Request{Kind: kind, Text: text(payload)}}
	case "pty-req":
		return Step{Do: Defer, Needed: "terminal", Terminal: &engine.Terminal{Type: text(payload), Columns: 80, Rows: 24}}
	case "window-change", "signal":
		return Step{Do: Echo, Interrupts: kind == "signal"}
	}
	return Step{}
}

func (codec) Answer(kind string, payload []byte, clean func([]byte) []byte) ([]byte, bool, *Ended) {
	switch kind {
	case "exit-status":
		return payload, true, &Ended{Tag: fmt.Sprintf("exit %d", payload[len(payload)-1]), OK: payload[len(payload)-1] == 0}
	case "exit-signal":
		return clean(payload), true, &Ended{Tag: "signal"}
	case "keepalive@openssh.com":
		return payload, true, nil
	}
	return nil, false, nil
}

// held decides by a person: what begins with "ask" waits for the channel it is
// given, or for the end of ctx.
type held struct {
	answer chan error
	asked  chan *engine.Request
	gone   chan error // why a wait ended
}

func hold() *held {
	return &held{make(chan error), make(chan *engine.Request, 16), make(chan error, 16)}
}

func (h *held) decide(ctx context.Context, r *engine.Request) error {
	switch {
	case strings.HasPrefix(r.Text, "never"):
		return &engine.Denial{Code: engine.ByPolicy, Rule: "r1", Reason: "not here", Help: "ask elsewhere"}
	case !strings.HasPrefix(r.Text, "ask"):
		return nil
	}
	if r.Pending != nil {
		r.Pending(engine.Pending{ID: "a1", Rule: "r2", DecideBy: time.Unix(0, 0).UTC()})
	}
	h.asked <- r
	select {
	case err := <-h.answer:
		return err
	case <-ctx.Done():
		h.gone <- context.Cause(ctx)
		return &engine.Denial{Code: engine.Cancelled, Reason: "nobody waits"}
	}
}
