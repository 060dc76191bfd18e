package control

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// daemon answers at a socket with h until the test ends.
func daemon(t testing.TB, h http.HandlerFunc) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "control.sock")
	l, err := net.Listen("unix", socket)
	must(t, err)
	server := http.Server{Handler: h}
	done := make(chan struct{})
	go func() { server.Serve(l); close(done) }()
	t.Cleanup(func() { server.Close(); <-done })
	return socket
}

// What each method asks is the protocol: daemons of every version know it.
func TestProtocol(t *testing.T) {
	var asked string
	answer := ""
	c := New(daemon(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		asked = r.Method + " " + r.RequestURI + " " + string(b)
		io.WriteString(w, answer)
	}))
	ctx := t.Context()
	moment := time.Date(2026, 3, 14, 9, 0, 0, 0, time.UTC)
	for _, call := range []struct {
		want   string
		answer any
		do     func() (any, error)
	}{
		{
			"GET /v1/status ",
			Status{Version: "1", Started: moment, Agents: []Agent{{Name: "planner", Until: moment}}, Kernel: []Check{{Name: "k", OK: true}}},
			func() (any, error) { return c.Status(ctx) },
		},
		{"GET /v1/sessions ", []Session{{ID: "s1", PID: 1, FromAgent: 2}}, func() (any, error) { return c.Sessions(ctx) }},
		{"GET /v1/activity ", Activity{At: moment, Traffic: []Traffic{{Agent: "planner", Allowed: 7, Bypass: 1}}, Bypass: map[string]uint64{"udp": 1}}, func() (any, error) { return c.Activity(ctx) }},
		{"GET /v1/approvals ", []Approval{{ID: "a1", State: "pending", Params: []string{"1"}, DecideBy: moment}}, func() (any, error) { return c.Approvals(ctx) }},
		{`POST /v1/approvals/a1/approve {"reason":"r"}`, Approval{ID: "a1"}, func() (any, error) { return c.Approve(ctx, "a1", "r") }},
		{`POST /v1/approvals/a%2F1%3F/deny {"reason":""}`, Approval{ID: "a/1?"}, func() (any, error) { return c.Deny(ctx, "a/1?", "") }},
		{"POST /v1/reload ", Reloaded{Generation: 3, Ended: 1, Warnings: []string{"w"}}, func() (any, error) { return c.Reload(ctx) }},
		{
			"GET /v1/targets/a%2Fb/catalog ",
			Catalog{Read: moment, Path: []string{"public"}, Relations: map[string]Relation{"public.t": {Columns: []string{"id"}, Keys: [][]string{{"id"}}}}},
			func() (any, error) { return c.Catalog(ctx, "a/b") },
		},
		{"POST /v1/targets/a%2Fb/login ", nil, func() (any, error) { return nil, c.TryLogin(ctx, "a/b") }},
		{"POST /v1/secrets/refresh ", nil, func() (any, error) { return nil, c.RefreshSecrets(ctx, "") }},
	} {
		b, err := json.Marshal(call.answer)
		must(t, err)
		answer = string(b)
		got, err := call.do()
		must(t, err)
		if asked != call.want {
			t.Errorf("asked %q, want %q", asked, call.want)
		}
		if !reflect.DeepEqual(got, call.answer) {
			t.Errorf("%s comes back as %+v", answer, got)
		}
	}
}

func TestErrors(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		body   string
		want   Error
	}{
		"a refusal": {403, `{"status":403,"title":"this takes root","detail":"use sudo"}`, Error{Status: 403, Title: "this takes root", Detail: "use sudo"}},
		"problems":  {422, `{"title":"t","problems":["a","b"]}`, Error{Status: 422, Title: "t", Problems: []string{"a", "b"}}},
		"no JSON":   {500, "oops", Error{Status: 500, Title: "500 Internal Server Error"}},
		"nothing":   {404, "", Error{Status: 404, Title: "404 Not Found"}},
	} {
		client := New(daemon(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(c.status)
			io.WriteString(w, c.body)
		}))
		_, err := client.Status(t.Context())
		var e *Error
		if !errors.As(err, &e) || !reflect.DeepEqual(*e, c.want) {
			t.Errorf("%s: %+v", name, err)
		}
		if err := client.Watch(t.Context(), func(Approval) error { t.Error("called"); return nil }); !errors.As(err, &e) {
			t.Errorf("%s: the watch ends with %v", name, err)
		}
	}
	if got := (&Error{Title: "t"}).Error() + (&Error{Title: "t", Detail: "d"}).Error(); got != "tt: d" {
		t.Error(got)
	}
}

// Whether the daemon runs is an answer of its own.
func TestNotRunning(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "control.sock")
	left := filepath.Join(t.TempDir(), "left.sock")
	l, err := net.Listen("unix", left)
	must(t, err)
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	must(t, l.Close())
	for _, socket := range []string{missing, left} {
		if _, err := New(socket).Status(t.Context()); !errors.Is(err, ErrNotRunning) || !strings.Contains(err.Error(), socket) {
			t.Error(err)
		}
	}
}

func TestBadAnswers(t *testing.T) {
	for name, body := range map[string]string{"no JSON": "hello", "another type": `["a"]`, "cut": `{"version":"1`, "nothing": ""} {
		c := New(daemon(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, body) }))
		if s, err := c.Status(t.Context()); err == nil {
			t.Errorf("%s was taken for %+v", name, s)
		}
		if body == "" {
			continue // is a watch that ends
		}
		if err := c.Watch(t.Context(), func(Approval) error { return nil }); err == nil {
			t.Errorf("%s was taken for an approval", name)
		}
	}
	// An answer without an end is read up to a limit.
	endless := New(daemon(t, func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, `{"version":"`)
		for b := []byte(strings.Repeat("x", 1<<20)); ; {
			if _, err := w.Write(b); err != nil {
				return
			}
		}
	}))
	if _, err := endless.Status(t.Context()); err == nil {
		t.Error("an endless answer was taken")
	}
	if err := endless.Watch(t.Context(), func(Approval) error { return nil }); err == nil {
		t.Error("an endless line was taken")
	}
}

// A watch ends with its context, its callback or its daemon.
func TestWatchEnds(t *testing.T) {
	streaming := func(lines string, stay bool) *Client {
		return New(daemon(t, func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, lines)
			must(t, http.NewResponseController(w).Flush())
			if stay {
				<-r.Context().Done()
			}
		}))
	}
	two := `{"id":"a1"}` + "\n" + `{"id":"a2"}` + "\n"
	var seen []string
	err := streaming(two, false).Watch(t.Context(), func(a Approval) error { seen = append(seen, a.ID); return nil })
	if err != nil || strings.Join(seen, " ") != "a1 a2" {
		t.Error("with its daemon:", err, seen)
	}
	enough := errors.New("enough")
	n := 0
	if err := streaming(two, true).Watch(t.Context(), func(Approval) error { n++; return enough }); err != enough || n != 1 {
		t.Error("with its callback:", err, n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err = streaming(two, true).Watch(ctx, func(a Approval) error {
		if a.ID == "a2" {
			cancel()
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Error("with its context:", err)
	}
}
