package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postern/postern/pkg/control"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// daemon is a server on a real socket with made-up parts behind it.
type daemon struct {
	t      *testing.T
	socket string
	client *control.Client
	server *Server

	mu     sync.Mutex
	peer   Peer
	err    error // of asking who the peer is
	called []string
	log    bytes.Buffer
	fails  error // of what is asked
	watch  func(ctx context.Context, f func(control.Approval) error) error
}

func (d *daemon) Write(p []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.log.Write(p)
}

func (d *daemon) call(what string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.called = append(d.called, what)
	return d.fails
}

func (d *daemon) calls() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.called)
}

func (d *daemon) asks(p Peer, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.peer, d.err = p, err
}

var root = Peer{PID: 7, Name: "ada (root)"}

func newDaemon(t *testing.T) *daemon {
	t.Helper()
	d := &daemon{t: t, socket: filepath.Join(t.TempDir(), "control.sock"), peer: root}
	d.watch = func(context.Context, func(control.Approval) error) error { return nil }
	d.client = control.New(d.socket)
	d.server = New(Options{
		Log: slog.New(slog.NewTextHandler(d, nil)),
		Peer: func(*net.UnixConn) (Peer, error) {
			d.mu.Lock()
			defer d.mu.Unlock()
			return d.peer, d.err
		},
		Status: func() control.Status { d.call("status"); return control.Status{Version: "1", Sessions: 3} },
		Activity: func() (control.Activity, error) {
			return control.Activity{Traffic: []control.Traffic{{Agent: "planner"}}}, d.call("activity")
		},
		Budgets:   func() []control.Budget { d.call("budgets"); return []control.Budget{{Name: "hourly"}} },
		Sessions:  func() []control.Session { d.call("sessions"); return []control.Session{{ID: "s1"}} },
		Approvals: func(Peer) ([]control.Approval, error) { return []control.Approval{{ID: "a1"}}, d.call("approvals") },
		Watch: func(ctx context.Context, _ Peer, f func(control.Approval) error) error {
			d.call("watch")
			return d.watch(ctx, f)
		},
		Decide: func(id string, by Peer, approve bool, reason string) (control.Approval, error) {
			return control.Approval{ID: id, DecidedBy: by.Name, Reason: reason}, d.call(fmt.Sprintf("decide %s %t %s %s", id, approve, by.Name, reason))
		},
		Reload:   func() (control.Reloaded, error) { return control.Reloaded{Generation: 2, Ended: 1}, d.call("reload") },
		Refresh:  func(_ context.Context, target string) error { return d.call("refresh " + target) },
		Secrets:  func() control.Secrets { d.call("secrets"); return control.Secrets{} },
		People:   d.people(),
		TryLogin: func(_ context.Context, target string) error { return d.call("login " + target) },
		Catalog: func(target string) (control.Catalog, error) {
			return control.Catalog{Path: []string{"public"}}, d.call("catalog " + target)
		},
	})
	l, err := Listen(d.socket)
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- d.server.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error("the server ended with", err)
		}
	})
	return d
}

// everything asks all there is to ask, and returns the errors by what was asked.
func (d *daemon) everything() map[string]error {
	ctx, c := d.t.Context(), d.client
	errs := map[string]error{}
	_, errs["status"] = c.Status(ctx)
	_, errs["sessions"] = c.Sessions(ctx)
	_, errs["activity"] = c.Activity(ctx)
	_, errs["budgets"] = c.Budgets(ctx)
	_, errs["approvals"] = c.Approvals(ctx)
	errs["watch"] = c.Watch(ctx, func(control.Approval) error { return nil })
	_, errs["approve"] = c.Approve(ctx, "a1", "r")
	_, errs["deny"] = c.Deny(ctx, "a1", "r")
	_, errs["reload"] = c.Reload(ctx)
	errs["refresh"] = c.RefreshSecrets(ctx, "orders")
	_, errs["catalog"] = c.Catalog(ctx, "orders")
	errs["login"] = c.TryLogin(ctx, "orders")
	_, errs["secrets"] = c.Secrets(ctx)
	return errs
}

func TestRootIsAnswered(t *testing.T) {
	d := newDaemon(t)
	for what, err := range d.everything() {
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	want := []string{"status", "sessions", "activity", "budgets", "approvals", "watch", "decide a1 true ada (root) r", "decide a1 false ada (root) r", "reload", "refresh orders", "catalog orders", "login orders", "secrets"}
	if got := d.calls(); !slices.Equal(got, want) {
		t.Errorf("called %q", got)
	}
	s, err := d.client.Status(t.Context())
	must(t, err)
	a, err := d.client.Approve(t.Context(), "a 2/..", "because")
	must(t, err)
	r, err := d.client.Reload(t.Context())
	must(t, err)
	if s.Version != "1" || s.Sessions != 3 || a.ID != "a 2/.." || a.DecidedBy != root.Name || a.Reason != "because" || r.Generation != 2 || r.Ended != 1 {
		t.Errorf("%+v\n%+v\n%+v", s, a, r)
	}
}

// Agents are refused whatever their uid, and so is everybody but root, and who
// cannot be told; nothing behind the socket is asked.
func TestRefusals(t *testing.T) {
	for name, c := range map[string]struct {
		peer Peer
		err  error
		want string
	}{
		"an agent as root":       {Peer{PID: 7, Agent: true}, nil, "policy cgroup"},
		"an agent":               {Peer{PID: 7, UID: 1000, Agent: true}, nil, "policy cgroup"},
		"a user":                 {Peer{PID: 7, UID: 1000}, nil, "takes root"},
		"nobody":                 {Peer{PID: 7, UID: 65534}, nil, "takes root"},
		"one who cannot be told": {Peer{}, errors.New("the process is gone"), "cannot be told"},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDaemon(t)
			d.asks(c.peer, c.err)
			asked := d.everything()
			if c.err != nil || c.peer.Agent {
				maps.Copy(asked, d.ofPeople())
			} else {
				for _, what := range []string{"approvals", "watch", "approve", "deny"} { // they decide as who they are
					if err := asked[what]; err != nil {
						t.Errorf("%s: %v", what, err)
					}
					delete(asked, what)
				}
				d.forget()
			}
			for what, err := range asked {
				var refused *control.Error
				if !errors.As(err, &refused) || refused.Status != http.StatusForbidden || !strings.Contains(refused.Title, c.want) {
					t.Errorf("%s: %v", what, err)
				}
			}
			if called := d.calls(); len(called) > 0 {
				t.Error("called", called)
			}
			d.mu.Lock()
			defer d.mu.Unlock()
			if warned := strings.Count(d.log.String(), "an agent asked"); (warned == 22) != c.peer.Agent {
				t.Errorf("%d warnings in the log", warned)
			}
		})
	}
}

// A watch is told each change when it comes, beside other clients, and ends with
// its client.
func TestWatch(t *testing.T) {
	d := newDaemon(t)
	changes, ended := make(chan string), make(chan struct{})
	d.watch = func(ctx context.Context, f func(control.Approval) error) error {
		defer close(ended)
		for {
			select {
			case id := <-changes:
				if err := f(control.Approval{ID: id}); err != nil {
					return err
				}
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	seen, done := make(chan string), make(chan error)
	go func() {
		done <- d.client.Watch(ctx, func(a control.Approval) error { seen <- a.ID; return nil })
	}()
	for _, id := range []string{"a1", "a2", "a3"} {
		changes <- id
		if got := <-seen; got != id {
			t.Errorf("saw %s, want %s", got, id)
		}
		if _, err := d.client.Status(t.Context()); err != nil {
			t.Error("beside a watch:", err)
		}
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	<-ended
}

// A reload that is refused says every problem; other errors say theirs.
func TestErrors(t *testing.T) {
	d := newDaemon(t)
	d.fails = fmt.Errorf("config: %w", Problems{"line 3: unknown key", "line 9: no such target"})
	var e *control.Error
	if _, err := d.client.Reload(t.Context()); !errors.As(err, &e) || e.Status != 422 || !slices.Equal(e.Problems, []string{"line 3: unknown key", "line 9: no such target"}) {
		t.Errorf("%+v", e)
	}
	if !strings.Contains(e.Error(), "the old configuration stays in force") || !strings.Contains(e.Error(), "2 problems") {
		t.Error(e)
	}
	d.fails = errors.New("it is decided already")
	if _, err := d.client.Approve(t.Context(), "a1", ""); !errors.As(err, &e) || e.Status != 409 || e.Detail != "it is decided already" || e.Problems != nil {
		t.Errorf("%+v", e)
	}
	if err := d.client.RefreshSecrets(t.Context(), ""); !errors.As(err, &e) || e.Status != 502 {
		t.Errorf("%+v", e)
	}
	if _, err := d.client.Catalog(t.Context(), "x"); !errors.As(err, &e) || e.Status != 404 {
		t.Errorf("%+v", e)
	}
	if err := d.client.TryLogin(t.Context(), "x"); !errors.As(err, &e) || e.Status != 502 {
		t.Errorf("%+v", e)
	}
	if _, err := d.client.Activity(t.Context()); !errors.As(err, &e) || e.Status != 500 {
		t.Errorf("%+v", e)
	}
	if got := (Problems{"one"}).Error(); got != "one" {
		t.Error(got)
	}
}

// post is a request that the client would not make.
func (d *daemon) post(method, path, body string) (int, string) {
	d.t.Helper()
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", d.socket) },
	}}
	req, err := http.NewRequest(method, "http://postern"+path, strings.NewReader(body))
	must(d.t, err)
	resp, err := client.Do(req)
	must(d.t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	must(d.t, err)
	return resp.StatusCode, resp.Header.Get("Content-Type") + " " + string(b)
}

func TestBodies(t *testing.T) {
	d := newDaemon(t)
	for name, body := range map[string]string{
		"too long": `{"reason":"` + strings.Repeat("x", maxBody) + `"}`, "an unknown field": `{"reason":"r","approve":true}`,
		"no JSON": "yes", "nothing": "", "another type": `{"reason":7}`, "cut": `{"reason":"r`,
	} {
		status, answer := d.post("POST", "/v1/approvals/a1/approve", body)
		if status != http.StatusBadRequest || !strings.HasPrefix(answer, "application/problem+json ") {
			t.Errorf("%s: %d %s", name, status, answer)
		}
	}
	for request, want := range map[string]int{
		"GET /": 404, "GET /v1/run": 404, "POST /v1/status": 405, "GET /v1/reload": 405, "GET /v1/approvals/a1/approve": 405, "POST /v1/approvals/a1": 404,
	} {
		method, path, _ := strings.Cut(request, " ")
		if status, _ := d.post(method, path, ""); status != want {
			t.Errorf("%s is answered with %d", request, status)
		}
	}
	if called := d.calls(); len(called) > 0 {
		t.Error("called", called)
	}
}

// A client that connects and says nothing holds up nobody.
func TestSilentClients(t *testing.T) {
	d := newDaemon(t)
	for range 50 {
		c, err := net.Dial("unix", d.socket)
		must(t, err)
		defer c.Close()
	}
	began := time.Now()
	if _, err := d.client.Status(t.Context()); err != nil || time.Since(began) > readTimeout/2 {
		t.Error(err, time.Since(began))
	}
}

func TestListen(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "control.sock")
	left, err := net.Listen("unix", path)
	must(t, err)
	left.(*net.UnixListener).SetUnlinkOnClose(false)
	if _, err := Listen(path); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Error("beside another daemon:", err)
	}
	must(t, left.Close())
	l, err := Listen(path)
	if err != nil {
		t.Fatal("in place of a daemon that died: ", err)
	}
	defer l.Close()
	if st, err := os.Stat(path); err != nil || st.Mode() != os.ModeSocket|socketMode {
		t.Error("the socket has mode", st.Mode(), err)
	}
	if _, err := Listen(filepath.Join(dir, "nowhere", "control.sock")); err == nil {
		t.Error("listens where there is no folder")
	}
}
