package gateway

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern/postern/internal/approval"
	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/policy"
	"github.com/postern/postern/internal/record"
	"github.com/postern/postern/internal/secret"
	"github.com/postern/postern/internal/wire"
	"github.com/postern/postern/pkg/recording"
)

// world is a gateway with everything real but the network and the protocol.
type world struct {
	t         *testing.T
	dir       string
	store     *record.Store
	approvals *approval.Store
	gateway   *Gateway
	registry  *prometheus.Registry
	log       *locked
	lines     *lines
	listener  *listener
	stop      context.CancelFunc
}

// locked is a buffer that several sessions log to.
type locked struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *locked) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// newWorld starts a gateway; it is drained and closed when the test ends.
func newWorld(t *testing.T, change ...func(*Setup)) *world {
	return newWorldWith(t, record.Options{}, change...)
}

func newWorldWith(t *testing.T, o record.Options, change ...func(*Setup)) *world {
	t.Helper()
	w := &world{
		t: t, dir: t.TempDir(), approvals: approval.New(approval.Options{}), registry: prometheus.NewRegistry(),
		log: &locked{}, lines: &lines{}, listener: &listener{conns: make(chan *claimed), closed: make(chan struct{})},
	}
	var err error
	if w.store, err = record.Open(w.dir, o); err != nil {
		t.Fatal(err)
	}
	options := Options{
		Log: slog.New(slog.NewTextHandler(w.log, nil)), Store: w.store, Approvals: w.approvals,
		Metrics: NewMetrics(w.registry), Now: time.Now,
	}
	w.gateway = New(options, w.setup(change...))
	ctx, stop := context.WithCancel(t.Context())
	w.stop = stop
	var listening sync.WaitGroup
	listening.Go(func() { w.gateway.Listen(ctx, w.listener, claim) })
	t.Cleanup(func() {
		w.listener.Close()
		listening.Wait()
		over, cancel := context.WithCancel(context.Background())
		cancel()
		w.gateway.Drain(over)
		stop()
		if err := w.store.Close(); err != nil {
			t.Error(err)
		}
		if report, err := recording.Verify(w.dir); err != nil || !report.OK() {
			t.Error("the recordings do not verify:", err, report)
		}
	})
	return w
}

// rules is a policy over the verbs of lines.
func rules() []policy.Rule {
	return []policy.Rule{
		{Name: "no-drops", Target: "orders", Verbs: []string{"drop"}, Deny: "nothing is dropped here", Help: "ask for an archive"},
		{Name: "reads", Target: "orders", Verbs: []string{"read"}, Allow: true},
		{Name: "writes", Target: "orders", Verbs: []string{"write"}, Ask: &policy.Ask{Approvers: []string{"dba"}, Within: 10 * time.Minute}},
	}
}

func (w *world) policy(rules ...policy.Rule) *policy.Policy {
	w.t.Helper()
	set, problems := policy.Compile(policy.Config{Policies: []policy.Source{{Name: "p", Rules: rules}}},
		map[string]engine.Protocol{"orders": w.lines.protocol(), "other": w.lines.protocol()})
	if set == nil {
		w.t.Fatal(problems)
	}
	p, _ := set.Policy("p")
	return p
}

// setup is two agents and one target, which speaks lines.
func (w *world) setup(change ...func(*Setup)) *Setup {
	p := w.policy(rules()...)
	s := &Setup{
		Agents: map[string]*Agent{"planner": {Name: "planner", Policy: p}, "coder": {Name: "coder", Policy: p}},
		Targets: []*Target{{
			Name: "orders", Protocol: w.lines.protocol(), Hosts: []HostPort{{"orders-db", 5432}}, Identity: "first",
			Placeholder: secret.Placeholder{User: "app", Password: secret.New([]byte("placeholder-orders"))},
			ServerTLS:   func(engine.Flow) *tls.Config { return nil },
		}},
		Limits: Limits{
			Sessions: 1000, SessionsPerAgent: 900, Idle: time.Hour,
			Limits: engine.Limits{MessageBytes: 1 << 20, HeldBytes: 1 << 16, Handshake: 10 * time.Second, Statements: 10},
		},
		Results: true, MaxSession: 1 << 30,
	}
	for _, c := range change {
		c(s)
	}
	return s
}

// listener hands out the ends of pipes.
type listener struct {
	conns  chan *claimed
	once   sync.Once
	closed chan struct{}
}

// claimed is a connection with the kernel's record of it.
type claimed struct {
	net.Conn
	flow engine.Flow
	err  error
}

func claim(c net.Conn) (engine.Flow, error) {
	k := c.(*claimed)
	return k.flow, k.err
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error   { l.once.Do(func() { close(l.closed) }); return nil }
func (l *listener) Addr() net.Addr { return &net.TCPAddr{} }

// client is the agent's end of a connection.
type client struct {
	t    *testing.T
	conn net.Conn
	r    *bufio.Reader
}

// connect makes a connection of an agent, whose session has this id.
func (w *world) connect(agent, session string) *client {
	return w.connectWith(&claimed{flow: engine.Flow{
		Session: session, Agent: agent, Name: "orders-db", PID: 77, Original: netip.MustParseAddrPort("198.18.0.7:5432"),
	}})
}

func (w *world) connectWith(k *claimed) *client {
	near, far := net.Pipe()
	k.Conn = far
	w.listener.conns <- k
	w.t.Cleanup(func() { near.Close() })
	return &client{w.t, near, bufio.NewReader(near)}
}

// login is connect and the greeting.
func (w *world) login(agent, session string) *client {
	w.t.Helper()
	c := w.connect(agent, session)
	c.says("hello app")
	c.hears("welcome")
	return c
}

func (c *client) says(line string) {
	c.t.Helper()
	if _, err := io.WriteString(c.conn, line+"\n"); err != nil {
		c.t.Fatalf("say %q: %v", line, err)
	}
}

func (c *client) hears(want string) {
	c.t.Helper()
	if got := c.line(); got != want {
		c.t.Fatalf("the client hears %q, want %q", got, want)
	}
}

func (c *client) line() string {
	c.t.Helper()
	line, err := c.r.ReadString('\n')
	if err != nil {
		c.t.Fatalf("the client hears %q and then %v", line, err)
	}
	return strings.TrimSuffix(line, "\n")
}

// asks is a request and its whole answer.
func (c *client) asks(line, answer string) {
	c.t.Helper()
	c.says(line)
	c.hears(answer)
}

// ends is the end of the connection, and nothing before it.
func (c *client) ends() {
	c.t.Helper()
	if rest, err := io.ReadAll(c.r); err != nil || len(rest) > 0 {
		c.t.Fatalf("the client hears %q, %v instead of the end", rest, err)
	}
}

// events are those of one session's recording, as text.
func (w *world) events(session string) []string {
	w.t.Helper()
	synctest.Wait()
	var out []string
	r, err := recording.Open(w.path(session))
	if err != nil {
		w.t.Fatal(err)
	}
	defer r.Close()
	for {
		ev, err := r.Next()
		if err == io.EOF {
			return out
		}
		if err != nil {
			w.t.Fatal(err)
		}
		out = append(out, describe(ev.Body))
	}
}

func (w *world) path(session string) string {
	w.t.Helper()
	for s, err := range recording.Sessions(w.dir, recording.Filter{}) {
		if err != nil {
			w.t.Fatal(err)
		}
		if s.Session == session {
			return s.Path
		}
	}
	w.t.Fatalf("no session %s on record", session)
	return ""
}

func describe(b recording.Body) string {
	switch e := b.(type) {
	case *recording.Opened:
		return fmt.Sprintf("opened %s %s", e.Agent, e.Target)
	case *recording.Identity:
		return strings.TrimSpace(fmt.Sprintf("identity %s %s %v", e.Issuer, e.Name, e.Allowed))
	case *recording.Intent:
		return "intent " + e.User
	case *recording.Request:
		return fmt.Sprintf("request %d %s", e.ID, e.Text)
	case *recording.Verdict:
		s := fmt.Sprintf("verdict %d %s %s", e.Request, e.Action, e.Rule)
		if e.Observed {
			s += " observed"
		}
		return s
	case *recording.Approval:
		return strings.TrimSpace(fmt.Sprintf("approval %d %s %s %s", e.Request, e.State, e.Approver, e.Reason))
	case *recording.Denial:
		return fmt.Sprintf("denial %d %s %s", e.Request, e.Code, e.Rule)
	case *recording.Outcome:
		return fmt.Sprintf("outcome %d %s", e.Request, e.Status)
	case *recording.End:
		return strings.TrimSpace("end " + e.Error)
	}
	return b.Kind().String()
}

// recorded compares a session's whole recording. The text of an end is compared
// up to the length of what is wanted.
func (w *world) recorded(session string, want ...string) {
	w.t.Helper()
	got := w.events(session)
	if n := len(want) - 1; len(got) == len(want) && strings.HasPrefix(got[n], want[n]) {
		got[n] = want[n]
	}
	if !slices.Equal(got, want) {
		w.t.Errorf("session %s has on record\n\t%s\nwant\n\t%s", session, strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

// lines is a protocol: a greeting, then one request per line, whose first word
// is its verb.
type lines struct {
	forward  func(line string) // called for what goes upstream, before it is noted
	quiesces func() bool       // nil: it never does
	relay    func(ctx context.Context, client *wire.Conn, up engine.Upstream, gate engine.Gate) error

	mu        sync.Mutex
	forwarded []string
	cancel    context.CancelCauseFunc // of the request that is submitted now
}

func (l *lines) protocol() engine.Protocol {
	return engine.Protocol{Name: "lines", Verbs: []string{"read", "write", "drop"}, New: func(engine.Env) (engine.Engine, error) { return l, nil }}
}

func (l *lines) Quiesce() bool { return l.quiesces != nil && l.quiesces() }

func (l *lines) sent() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.forwarded)
}

func (l *lines) withdraw(cause error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cancel(cause)
}

var errBye = errors.New("the client left")

func readLine(c *wire.Conn) (string, error) {
	for {
		if n := bytes.IndexByte(c.Buffered(), '\n'); n >= 0 {
			line := string(c.Buffered()[:n])
			c.Discard(n + 1)
			return line, nil
		}
		if _, err := c.Fill(1 << 20); err != nil {
			return "", err
		}
	}
}

func (l *lines) Greet(_ context.Context, c *wire.Conn) (engine.Intent, error) {
	line, err := readLine(c)
	switch {
	case err != nil:
		return engine.Intent{}, err
	case line == "panic":
		panic("in the greeting")
	case line != "hello app":
		fmt.Fprintln(c, "who?")
		return engine.Intent{}, &engine.Denial{Code: engine.Misuse, Reason: "not the placeholder"}
	}
	return engine.Intent{Purpose: "session", User: "app", Database: "orders"}, nil
}

func (l *lines) Refuse(c *wire.Conn, d *engine.Denial) { fmt.Fprintln(c, "refused", d.Code, d.Reason) }

func (l *lines) Relay(ctx context.Context, c *wire.Conn, up engine.Upstream, gate engine.Gate) error {
	told := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(told)
		if d, ok := context.Cause(ctx).(*engine.Denial); ok {
			fmt.Fprintln(c, "bye", d.Code, d.Reason)
		}
		c.Close()
	})
	defer stop()
	fmt.Fprintln(c, "welcome")
	if l.relay != nil {
		err := l.relay(ctx, c, up, gate)
		if ctx.Err() != nil {
			<-told
		}
		return err
	}
	for {
		line, err := readLine(c)
		switch {
		case err != nil:
			return errBye
		case line == "panic":
			panic("in the relay")
		}
		if err := l.request(ctx, c, gate, line); err != nil {
			return err
		}
	}
}

func (l *lines) request(ctx context.Context, c *wire.Conn, gate engine.Gate, line string) error {
	verb, object, _ := strings.Cut(line, " ")
	r := &engine.Request{
		Kind: "line", Text: line, Memo: line,
		Pending: func(p engine.Pending) { fmt.Fprintln(c, "pending", p.Rule) },
	}
	if verb != "mystery" {
		r.Effects = []engine.Effect{{Verb: verb, Object: object}}
	}
	if verb == "garbled" {
		r.Refused = &engine.Denial{Code: engine.Malformed, Reason: "cannot be read"}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	l.mu.Lock()
	l.cancel = cancel
	l.mu.Unlock()
	x, err := gate.Submit(ctx, r)
	if d, ok := err.(*engine.Denial); ok {
		fmt.Fprintln(c, "denied", d.Code, d.Reason)
		return nil
	}
	if err != nil {
		return err
	}
	if l.forward != nil {
		l.forward(line)
	}
	l.mu.Lock()
	l.forwarded = append(l.forwarded, line)
	l.mu.Unlock()
	x.End(engine.Outcome{Status: engine.OK})
	fmt.Fprintln(c, "ok", line)
	return nil
}
