package ssh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/postern/postern/internal/engine"
)

// Each way of forwarding is a verb of its own; a connection from the upstream's
// side is served as any of the agent's.
func TestForwarding(t *testing.T) {
	w := newWorld(t)
	served := make(chan string, 1)
	w.gate.Targets = func(host string, port uint16) (engine.Reentry, *engine.Denial) {
		if host != "db.internal" {
			return nil, &engine.Denial{Code: engine.ByPolicy, Reason: "no target is configured for " + host}
		}
		return func(_ context.Context, c net.Conn, _ func(context.Context) (net.Conn, error)) {
			defer c.Close()
			b := make([]byte, 5)
			io.ReadFull(c, b)
			served <- fmt.Sprintf("%s:%d %s", host, port, b)
		}, nil
	}
	client := w.mustAgent()
	c, err := client.Dial("tcp", "db.internal:5432")
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(c, "hello")
	if got := <-served; got != "db.internal:5432 hello" {
		t.Error(got)
	}
	c.Close()
	_, err = client.Dial("tcp", "intranet:80")
	var no *ssh.OpenChannelError
	if !errors.As(err, &no) || no.Reason != ssh.Prohibited || !strings.Contains(no.Message, "no target is configured for intranet") {
		t.Error(err)
	}
	for _, kind := range []string{"tun@openssh.com", "unheard-of", "direct-streamlocal@openssh.com", "forwarded-tcpip", "x11", "auth-agent@openssh.com"} {
		client.OpenChannel(kind, []byte("\x00"))
	}
	got := w.submitted()
	want := []string{
		`forward "connect to db.internal:5432" forward-local(db.internal:5432)`, `forward "connect to intranet:80" forward-local(intranet:80)`,
		`forward "tunnel" tunnel()`, `open "unheard-of"`, `open "direct-streamlocal@openssh.com"`, `open "forwarded-tcpip"`, `open "x11"`, `open "auth-agent@openssh.com"`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("decided:\n%s", strings.Join(got, "\n"))
	}
}

// What comes back from the upstream's side comes only where it was asked for.
func TestForwardingBack(t *testing.T) {
	w := newWorld(t)
	w.denies("forward-remote", "0.0.0.0:80")
	client := w.mustAgent()
	ask := func(host string, port uint32) bool {
		ok, _, err := client.SendRequest(globalForward, true, ssh.Marshal(bind{host, port}))
		if err != nil {
			t.Fatal(err)
		}
		return ok
	}
	if ask("0.0.0.0", 80) {
		t.Error("it was denied, and is granted")
	}
	if !ask("localhost", 8080) {
		t.Error("it was allowed, and is refused")
	}
	opened := client.HandleChannelOpen("forwarded-tcpip")
	for _, c := range []struct {
		port uint32
		fine bool
	}{{8080, true}, {8081, false}} {
		result := make(chan error, 1)
		go func() {
			_, requests, err := w.far.OpenChannel("forwarded-tcpip", ssh.Marshal(connection{"localhost", c.port, "10.0.0.9", 1234}))
			if err == nil {
				go ssh.DiscardRequests(requests)
			}
			result <- err
		}()
		if c.fine {
			n := <-opened
			ch, requests, err := n.Accept()
			if err != nil {
				t.Fatal(err)
			}
			go ssh.DiscardRequests(requests)
			defer ch.Close()
		}
		if err := <-result; (err == nil) != c.fine {
			t.Errorf("port %d: %v", c.port, err)
		}
	}
}

func TestGlobalRequests(t *testing.T) {
	w := newWorld(t)
	client := w.mustAgent()
	for kind, fine := range map[string]bool{keepalive: true, noMoreSessions: true, "unheard-of": false, "hostkeys-prove-00@openssh.com": false, globalForward: false, globalCancelSocket: false} {
		if ok, _, err := client.SendRequest(kind, true, []byte{0}); ok != fine || err != nil {
			t.Errorf("%s: %v %v", kind, ok, err)
		}
	}
	if w.dials != 0 {
		t.Error("the upstream was dialled")
	}
}

// TestForwardingByAnotherName: a host or a path that is written in another way is
// decided as the one that it is, or refused.
func TestForwardingByAnotherName(t *testing.T) {
	w := newWorld(t)
	client := w.mustAgent()
	client.Dial("tcp", "DB.internal.:5432") //nolint:errcheck // it is no target
	if got := w.submitted(); !slices.ContainsFunc(got, func(s string) bool { return strings.Contains(s, "forward-local(db.internal:5432)") }) {
		t.Errorf("decided: %q", got)
	}
	for _, path := range []string{"/run/app/../docker.sock", "/run//docker.sock", "/run/docker.sock/", "docker.sock", ""} {
		extra := ssh.Marshal(struct {
			Path, Reserved string
			Port           uint32
		}{Path: path})
		if _, _, err := client.OpenChannel("direct-streamlocal@openssh.com", extra); err == nil {
			t.Errorf("connected to %q", path)
		}
		if ok, _, _ := client.SendRequest("streamlocal-forward@openssh.com", true, ssh.Marshal(struct{ Path string }{path})); ok {
			t.Errorf("listens at %q", path)
		}
	}
	if got := strings.Join(w.submitted(), "\n"); strings.Contains(got, "forward-socket") {
		t.Errorf("decided as if it were one: %s", got)
	}
}
