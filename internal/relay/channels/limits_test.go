package channels

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/wiretest"
)

// A denial cuts what flows, and is the last word: no exit status of the
// upstream's follows it.
func TestDenialWhileDataFlows(t *testing.T) {
	pieces := 2
	w := newWorld(t)
	w.gate.Rows = &pieces
	told := make(chan struct{})
	w.programs["drip"] = func(c ssh.Channel, gone <-chan struct{}, _ string) {
		for c.SendRequest("keepalive@openssh.com", true, nil); ; { // the request has been answered
			if _, err := fmt.Fprint(c, "x"); err != nil {
				break
			}
			c.SendRequest("keepalive@openssh.com", true, nil)
		}
		exit(c, 0)
		close(told)
	}
	w.start()
	c, r := w.open("session", nil)
	exec(c, "drip")
	go io.Copy(io.Discard, c)
	text, _ := io.ReadAll(c.Stderr())
	<-r.done
	<-told
	if !strings.HasPrefix(string(text), "postern: no rows are left\npostern: decided by rule \"budget test\"") {
		t.Errorf("%q", text)
	}
	// A keepalive that was on its way may come behind it; another status may not.
	var statuses []string
	for _, request := range r.all {
		if strings.HasPrefix(request, "exit-") {
			statuses = append(statuses, request)
		}
	}
	if len(statuses) != 1 || statuses[0] != "exit-status 0000007e" {
		t.Errorf("%q", r.all)
	}
}

// An agent that does not read what it is denied does not keep the upstream's half.
func TestDenialThatIsNotRead(t *testing.T) {
	pieces := 200
	w := newWorld(t)
	w.gate.Rows = &pieces
	over := make(chan struct{})
	w.programs["flood"] = func(c ssh.Channel, gone <-chan struct{}, _ string) {
		for {
			if _, err := c.Write(make([]byte, 32<<10)); err != nil {
				break
			}
		}
		close(over)
	}
	w.start()
	c, r := w.open("session", nil)
	exec(c, "flood")
	n, _ := io.Copy(io.Discard, io.LimitReader(c, 1))
	for n < 200*32<<10 { // as far as there is something
		m, err := io.Copy(io.Discard, io.LimitReader(c, 32<<10))
		if n += m; err != nil || m == 0 {
			break
		}
	}
	<-over
	<-r.done
}

// endless is a stream whose end is denied.
type endless struct{ denial *engine.Denial }

func (s endless) Write(b []byte) ([]byte, *engine.Denial) { return nil, nil }
func (s endless) Held() bool                              { return true }
func (s endless) Flush() ([]byte, *engine.Denial)         { return nil, s.denial }
func (s endless) Close() ([]byte, *engine.Denial)         { return nil, s.denial }

// What is held back may be denied when nothing follows it: the stream ends then,
// without waiting for more.
func TestDenialOfWhatWasHeldBack(t *testing.T) {
	r, w := net.Pipe()
	d := &engine.Denial{Reason: "no"}
	p := &pump{to: io.Discard}
	p.belongs(endless{d}, r.Close)
	go w.Write([]byte("x"))
	p.run(r)
	if p.denied() != d {
		t.Error("the stream ended without its denial")
	}
}

// Requests that an agent does not wait for are bounded, and the flood is its own.
func TestFloodOfRequests(t *testing.T) {
	for what, flood := range map[string]func(ssh.Channel){
		"many": func(c ssh.Channel) {
			for range 2 * maxQueued {
				c.SendRequest("window-change", false, nil)
			}
		},
		"large": func(c ssh.Channel) {
			for range 4 {
				c.SendRequest("env", false, make([]byte, wiretest.Limits.HeldBytes/2))
			}
		},
	} {
		t.Run(what, func(t *testing.T) {
			w := newWorld(t)
			h := hold()
			w.gate.Decide = h.decide
			w.start()
			c, r := w.open("session", nil)
			exec(c, "ask")
			<-h.asked
			go flood(c)
			text, _ := io.ReadAll(c.Stderr())
			<-r.done
			if !strings.Contains(string(text), "postern: too many requests wait on one channel\n") {
				t.Errorf("%q", text)
			}
			if err := <-h.gone; !errors.Is(err, engine.ErrGone) {
				t.Error(err)
			}
			if r := w.run("echo on", ""); r.out != "on" {
				t.Errorf("%+v", r)
			}
		})
	}
}

func TestFloodOfGlobalRequests(t *testing.T) {
	w := newWorld(t)
	h := hold()
	w.gate.Decide = h.decide
	w.start()
	go w.client.SendRequest("tcpip-forward", true, ssh.Marshal(struct{ H string }{"ask"}))
	<-h.asked
	for range 2 * maxQueued {
		w.client.SendRequest("tcpip-forward", false, nil)
	}
	<-w.over
	var d *engine.Denial
	if !errors.As(w.err, &d) || d.Code != engine.Limit {
		t.Error(w.err)
	}
}

// An upstream whose requests are more than may wait loses its channel.
func TestFloodByTheUpstream(t *testing.T) {
	w := newWorld(t)
	w.programs["asks"] = func(c ssh.Channel, gone <-chan struct{}, _ string) {
		c.SendRequest("keepalive@openssh.com", false, make([]byte, w.limits.HeldBytes+1))
		<-gone
		c.Close()
	}
	w.start()
	if r := w.run("asks", ""); r.status != 255 || !strings.HasPrefix(r.err, "postern: too many requests of the upstream wait") {
		t.Errorf("%+v", r)
	}
	if r := w.run("echo on", ""); r.out != "on" {
		t.Errorf("%+v", r)
	}
}

func TestTooManyChannels(t *testing.T) {
	w := newWorld(t).start()
	var all []ssh.Channel
	for range maxChannels {
		c, _ := w.open("session", nil)
		all = append(all, c)
	}
	_, _, err := w.client.OpenChannel("session", nil)
	var no *ssh.OpenChannelError
	if !errors.As(err, &no) || no.Reason != ssh.ResourceShortage {
		t.Errorf("%v", err)
	}
	for _, c := range all {
		c.Close()
	}
}

// TestQuiesce: a connection without channels takes none once it was told so; one
// with a channel goes on.
func TestQuiesce(t *testing.T) {
	w := newWorld(t).start()
	c, r := w.open("session", nil)
	if w.session.Quiesce() {
		t.Error("quiescent, with a channel open")
	}
	if other, _, err := w.client.OpenChannel("session", nil); err != nil {
		t.Error("it takes no more channels:", err)
	} else {
		other.Close()
	}
	c.Close()
	<-r.done
	for !w.session.Quiesce() {
		time.Sleep(time.Millisecond) // until the channels have ended
	}
	if _, _, err := w.client.OpenChannel("session", nil); err == nil {
		t.Error("it took a channel")
	}
}

// TestForwarded: both directions of a forwarded connection end by themselves.
func TestForwarded(t *testing.T) {
	w := newWorld(t)
	h := hold()
	w.gate.Decide = h.decide
	echo := func(n ssh.NewChannel) bool {
		c, requests, err := n.Accept()
		if err != nil {
			return true
		}
		go ssh.DiscardRequests(requests)
		b, _ := io.ReadAll(c)
		fmt.Fprintf(c, "%s of %s", b, text(n.ExtraData()))
		c.CloseWrite()
		c.Close()
		return true
	}
	refuse := false
	w.opened = func(n ssh.NewChannel) bool {
		if refuse {
			n.Reject(ssh.ConnectionFailed, "port closed")
			return true
		}
		return echo(n)
	}
	w.backward = func(n ssh.NewChannel) { echo(n) }
	w.start()
	host := func(h string) []byte { return ssh.Marshal(struct{ H string }{h}) }
	speak := func(c ssh.Channel, in <-chan *ssh.Request, err error) string {
		t.Helper()
		if err != nil {
			return err.Error()
		}
		go ssh.DiscardRequests(in)
		fmt.Fprint(c, "half")
		c.CloseWrite()
		b, _ := io.ReadAll(c)
		return string(b)
	}
	if s := speak(w.client.OpenChannel("direct-tcpip", host("here"))); s != "half of here" {
		t.Errorf("%q", s)
	}
	if s := speak(w.upstream.OpenChannel("forwarded-tcpip", host("back"))); s != "half of back" {
		t.Errorf("%q", s)
	}
	if ok, answer, err := w.client.SendRequest("tcpip-forward", true, host("bind")); !ok || err != nil || string(answer) != "answer to tcpip-forward" {
		t.Errorf("%t, %q, %v", ok, answer, err)
	}
	if ok, _, err := w.client.SendRequest("tcpip-forward", true, host("never")); ok || err != nil {
		t.Errorf("%t, %v", ok, err)
	}
	if ok, _, err := w.client.SendRequest("anything", true, nil); ok || err != nil {
		t.Errorf("%t, %v", ok, err)
	}
	w.hearsExactly("open direct-tcpip", "global tcpip-forward")
	refuse = true
	for kind, want := range map[string]string{
		"direct-tcpip": `ssh: rejected: connect failed ("postern: the upstream refused the channel: connect failed: port closed (session s1)")`,
		"x11":          `ssh: rejected: unknown channel type ("postern: channels of this kind are not passed on")`,
	} {
		if s := speak(w.client.OpenChannel(kind, host("here"))); s != want {
			t.Errorf("%q", s)
		}
	}
	if s := speak(w.client.OpenChannel("direct-tcpip", host("never"))); s != `ssh: rejected: administratively prohibited ("postern: not here; rule r1; ask elsewhere (session s1)")` {
		t.Errorf("%q", s)
	}
	if s := speak(w.upstream.OpenChannel("x11", nil)); !strings.Contains(s, "unknown channel type") {
		t.Errorf("%q", s)
	}
}

// TestLed: a connection within the connection is served as the target's, which
// is reached by the way that it came.
func TestLed(t *testing.T) {
	w := newWorld(t)
	w.gate.Targets = func(host string, port uint16) (engine.Reentry, *engine.Denial) {
		if host != "db" || port != 5432 {
			return nil, &engine.Denial{Reason: "no target is configured for " + host}
		}
		return func(ctx context.Context, conn net.Conn, dial func(context.Context) (net.Conn, error)) {
			up, err := dial(ctx)
			if err != nil {
				return
			}
			b := make([]byte, 4)
			io.ReadFull(conn, b)
			up.Write([]byte(strings.ToUpper(string(b))))
			io.ReadFull(up, b)
			conn.Write(b)
			up.Close()
		}, nil
	}
	w.opened = func(n ssh.NewChannel) bool {
		c, requests, _ := n.Accept()
		go ssh.DiscardRequests(requests)
		io.Copy(c, c)
		c.Close()
		return true
	}
	w.start()
	c, r := w.open("led", ssh.Marshal(struct{ H string }{"db"}))
	fmt.Fprint(c, "ping")
	if b, err := io.ReadAll(c); string(b) != "PING" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	<-r.done
	if _, _, err := w.client.OpenChannel("led", ssh.Marshal(struct{ H string }{"other"})); err == nil || !strings.Contains(err.Error(), "no target is configured for other") {
		t.Error(err)
	}
}

// TestLedHalf: of a connection within the connection the agent may end its half
// and still hear what is said to it, though that comes later.
func TestLedHalf(t *testing.T) {
	w := newWorld(t)
	w.gate.Targets = func(string, uint16) (engine.Reentry, *engine.Denial) {
		return func(_ context.Context, conn net.Conn, _ func(context.Context) (net.Conn, error)) {
			conn.SetDeadline(time.Now().Add(time.Minute))
			b, err := io.ReadAll(conn)
			if err == nil {
				_, err = conn.Write(append([]byte("heard "), b...))
			}
			if err != nil {
				t.Error(err)
			}
			conn.SetDeadline(time.Unix(1, 0))
			if _, err := conn.Write(b); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("after its deadline it is written: %v", err)
			}
		}, nil
	}
	w.start()
	c, r := w.open("led", ssh.Marshal(struct{ H string }{"db"}))
	fmt.Fprint(c, "all")
	c.CloseWrite()
	if b, err := io.ReadAll(c); string(b) != "heard all" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	<-r.done
}

// TestHandled: a handler that knows the bytes moves them, and its denial is told.
func TestHandled(t *testing.T) {
	w := newWorld(t)
	w.handler = func(_ context.Context, s *Streams) error {
		b, err := io.ReadAll(s.Agent)
		if err != nil {
			return err
		}
		if string(b) == "bad" {
			return &engine.Denial{Reason: "bad words"}
		}
		s.Upstream.Write([]byte(strings.ToUpper(string(b))))
		s.Upstream.CloseWrite()
		_, err = io.Copy(s.Agent, s.Upstream)
		return err
	}
	w.start()
	for said, want := range map[string]string{"good": "GOOD", "bad": "postern: bad words\npostern: session s1\n"} {
		c, r := w.open("session", nil)
		if ok, err := c.SendRequest("subsystem", true, ssh.Marshal(struct{ S string }{"cat"})); !ok || err != nil {
			t.Fatalf("%t, %v", ok, err)
		}
		fmt.Fprint(c, said)
		c.CloseWrite()
		out, _ := io.ReadAll(c)
		text, _ := io.ReadAll(c.Stderr())
		<-r.done
		if string(out)+string(text) != want {
			t.Errorf("%s: %q, %q", said, out, text)
		}
	}
}

// TestRekeyWhilePending: keys are exchanged though a request waits.
func TestRekeyWhilePending(t *testing.T) {
	w := newWorld(t)
	w.config.RekeyThreshold = 16 << 10
	h := hold()
	w.gate.Decide = h.decide
	w.programs["ask"] = w.programs["cat"]
	w.start()
	c, _ := w.open("session", nil)
	go io.Copy(io.Discard, c.Stderr())
	exec(c, "ask")
	<-h.asked
	text := strings.Repeat("0123456789abcdef", 4<<10)
	go fmt.Fprint(c, text)
	if r := w.run("cat", text); r.out != text {
		t.Errorf("%d bytes", len(r.out))
	}
	h.answer <- nil
	b := make([]byte, len(text))
	if _, err := io.ReadFull(c, b); err != nil || string(b) != text {
		t.Errorf("%v", err)
	}
	c.Close()
}

// TestAnything: clients that do anything in any order leave nothing behind, and
// every exchange ends once.
func TestAnything(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := newWorld(t)
			random := rand.New(rand.NewPCG(seed, 1))
			w.gate.Decide = func(_ context.Context, r *engine.Request) error {
				if strings.HasPrefix(r.Text, "never") {
					return &engine.Denial{Reason: "no"}
				}
				return nil
			}
			w.start()
			var all sync.WaitGroup
			for range 8 {
				mine := rand.New(rand.NewPCG(seed, random.Uint64()))
				all.Go(func() { w.anything(mine) })
			}
			switch seed % 4 {
			case 0:
				w.agent.Close()
			case 1:
				w.cancel(&engine.Denial{Code: engine.Ended, Reason: "over"})
			}
			all.Wait()
		})
	}
}

func (w *world) anything(random *rand.Rand) {
	for range 10 {
		kind := [...]string{"session", "session", "session", "direct-tcpip", "x11"}[random.IntN(5)]
		c, in, err := w.client.OpenChannel(kind, nil)
		if err != nil {
			continue
		}
		go ssh.DiscardRequests(in)
		go io.Copy(io.Discard, c)
		go io.Copy(io.Discard, c.Stderr())
		for range random.IntN(8) {
			switch command := [...]string{"cat", "zeros", "sleep", "never", "missing"}[random.IntN(5)]; random.IntN(6) {
			case 0:
				c.Write(make([]byte, random.IntN(100<<10)))
			case 1:
				c.SendRequest("window-change", random.IntN(2) == 0, nil)
			case 2:
				c.SendRequest("pty-req", true, nil)
			case 3:
				c.SendRequest("unheard of", true, nil)
			case 4:
				exec(c, command)
			case 5:
				c.CloseWrite()
			}
		}
		c.Close()
	}
}

// TestAgentThatReadsNothing: a session ends though what it said to its agent last
// is never read.
func TestAgentThatReadsNothing(t *testing.T) {
	w := newWorld(t).start()
	for range maxChannels {
		w.open("session", nil)
	}
	w.agent.(*wiretest.End).Stall(true)
	for range 64 { // each is refused, which takes room that is not made
		go w.client.OpenChannel("session", nil) //nolint:errcheck // it is never answered
	}
	time.Sleep(100 * time.Millisecond)
	w.cancel(&engine.Denial{Code: engine.Ended, Reason: "an operator ends it"})
	<-w.over
}
