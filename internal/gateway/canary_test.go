package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/secret"
	"github.com/postern/postern/internal/wire"
	"github.com/postern/postern/pkg/recording"
)

const canary = "canary-pJ8-wq3-Zt5-kV1"

// The secret reaches the upstream and nothing else, although the upstream sends
// it back wherever it can.
func TestCanary(t *testing.T) {
	upstream := newUpstream(t)
	w := newWorld(t, func(s *Setup) {
		s.Targets[0].Dial = &HostPort{"127.0.0.1", upstream.port}
		s.Targets[0].ClientTLS = func(string) *tls.Config { return nil }
		s.Targets[0].Credential = func(context.Context, *engine.Flow) (secret.Credential, error) {
			return secret.Credential{User: "orders_rw", Password: secret.New([]byte(canary))}, nil
		}
	})
	w.lines.relay = echoing
	c := w.login("planner", "s1")
	heard, err := io.ReadAll(c.r)
	if err != nil {
		t.Fatal(err)
	}
	w.gateway.running.Wait()
	if got := <-upstream.heard; got != canary {
		t.Errorf("the upstream heard %q", got)
	}
	if !strings.Contains(string(heard), "row placeholder-orders") || !strings.Contains(string(heard), "text login placeholder-orders refused") {
		t.Errorf("the client heard %q", heard)
	}
	places := map[string]string{"client": string(heard), "log": w.log.String(), "metrics": w.exported()}
	filepath.WalkDir(w.dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			b, err := os.ReadFile(path)
			if err != nil {
				t.Error(err)
			}
			places[path] = string(b)
		}
		return nil
	})
	if len(places) < 5 { // journal, lock, session
		t.Error("looked at", len(places), "places")
	}
	for place, text := range places {
		if strings.Contains(text, canary) {
			t.Errorf("the secret is in %s", place)
		}
	}
	if !strings.Contains(places[w.path("s1")], "the upstream said placeholder-orders") {
		t.Error("the end's text is not on record")
	}
}

// fakeUpstream takes one login.
type fakeUpstream struct {
	port  uint16
	heard chan string
}

func newUpstream(t *testing.T) *fakeUpstream {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	u := &fakeUpstream{port: l.Addr().(*net.TCPAddr).AddrPort().Port(), heard: make(chan string, 1)}
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		b, _ := io.ReadAll(conn) // until the session hangs up
		u.heard <- string(b)
	}()
	return u
}

// echoing logs in and then plays an upstream that quotes the password in a row,
// in an error, in a stream, in text outside any exchange, and in what ends the
// session. Parameters that hold it are what an agent could only have guessed.
func echoing(ctx context.Context, c *wire.Conn, up engine.Upstream, gate engine.Gate) error {
	conn, login, err := up.Conn(ctx)
	if err != nil {
		return err
	}
	conn.Write(login.Credential.Password.Reveal())
	conn.Close()
	x, err := gate.Submit(ctx, &engine.Request{
		Kind: "line", Text: "read " + canary, Params: []engine.Param{{Value: []byte(canary)}},
		Effects: []engine.Effect{{Verb: "read", Object: "a"}},
	})
	if err != nil {
		return err
	}
	masker := x.Result([]engine.Field{{Name: "v", Type: "text"}})[0]
	v, _ := masker.Mask([]byte(canary))
	fmt.Fprintf(c, "row %s\n", v)
	x.Row(rowOf(v))
	fmt.Fprintf(c, "text %s\n", x.Text([]byte("login "+canary+" refused")))
	x.Data(engine.Upward, []byte(canary), 0)
	fmt.Fprintf(c, "notice %s\n", gate.Scrub([]byte(canary)))
	x.End(engine.Outcome{Status: engine.Failed})
	return errors.New("the upstream said " + canary)
}

// An upstream that a panicking protocol left open is closed.
func TestPanicHangsUp(t *testing.T) {
	upstream := newUpstream(t)
	w := newWorld(t, func(s *Setup) {
		s.Targets[0].Dial = &HostPort{"127.0.0.1", upstream.port}
		s.Targets[0].Credential = func(context.Context, *engine.Flow) (secret.Credential, error) { return secret.Credential{}, nil }
	})
	var left *wire.Conn
	w.lines.relay = func(ctx context.Context, _ *wire.Conn, up engine.Upstream, _ engine.Gate) error {
		var err error
		if left, _, err = up.Conn(ctx); err != nil {
			return err
		}
		panic("logged in")
	}
	w.login("planner", "s1").ends()
	select {
	case <-upstream.heard:
	case <-time.After(10 * time.Second):
		t.Error("it is still open")
	}
	runtime.KeepAlive(left) // or the collector would close it
}

// Why the upstream was not reached is on record, and not in the error that a
// protocol may tell the agent.
func TestUpstreamUnreachable(t *testing.T) {
	w := newWorld(t, func(s *Setup) {
		s.Targets[0].Hosts = append(s.Targets[0].Hosts, HostPort{"localhost", 1})
	})
	told := make(chan string, 1)
	w.lines.relay = func(ctx context.Context, _ *wire.Conn, up engine.Upstream, _ engine.Gate) error {
		_, _, err := up.Conn(ctx)
		told <- fmt.Sprint(err)
		return fmt.Errorf("login: %w", err)
	}
	c := w.connectWith(&claimed{flow: engine.Flow{
		Session: "s1", Agent: "planner", Name: "localhost", Original: netip.MustParseAddrPort("198.18.0.8:1"),
	}})
	c.says("hello app")
	c.hears("welcome")
	c.ends()
	w.gateway.running.Wait()
	r, err := recording.Open(w.path("s1"))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	last := ""
	for ev, err := r.Next(); err == nil; ev, err = r.Next() {
		last = describe(ev.Body)
	}
	if got := <-told; got != "the upstream cannot be reached" {
		t.Error("the protocol is told", got)
	}
	if line := `postern_upstream_dial_failures_total{target="orders"} 1`; !strings.Contains(w.exported(), line) {
		t.Error("not exported:", line)
	}
	if !strings.Contains(last, "which is loopback") {
		t.Error("a name that resolves to loopback was dialled:", last)
	}
}

// What a name may not resolve to: package dial has the list. A target that
// lists an address, or is dialled elsewhere, means it.
func TestForbiddenAddresses(t *testing.T) {
	named := &Target{Hosts: []HostPort{{"db.example", 5432}, {"127.0.0.9", 5432}}}
	for address, forbidden := range map[string]bool{
		"127.0.0.1": true, "::1": true, "169.254.169.254": true, "fe80::1": true, "fd00:ec2::254": true, "0.0.0.0": true,
		"::": true, "224.0.0.1": true, "ff02::1": true, "10.0.0.1": false, "192.0.2.1": false, "2001:db8::1": false,
		"::ffff:169.254.169.254": true, "64:ff9b::a9fe:a9fe": true, "64:ff9b::7f00:9": true, "2002:7f00:1::": true, "255.255.255.255": true,
		"198.18.0.7": true, "fd50:6f73:7465::c612:7": true, // nobody is dialled at an address of the resolver's own
		"127.0.0.9": false, "127.0.0.10": true, // listed, and next to it
	} {
		if why := named.forbidden(netip.MustParseAddr(address)); (why != "") != forbidden {
			t.Errorf("%s: %q", address, why)
		}
	}
	meant := &Target{Dial: &HostPort{"localhost", 5432}}
	if why := meant.forbidden(netip.MustParseAddr("127.0.0.1")); why != "" {
		t.Error("an address under dial is forbidden:", why)
	}
}
