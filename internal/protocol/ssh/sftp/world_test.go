package sftp

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/relay/channels"
	"github.com/postern/postern/internal/wiretest"
)

// server is OpenSSH's, of the package openssh-sftp-server.
const server = "/usr/lib/openssh/sftp-server"

// world is a relay between a client and an upstream.
type world struct {
	t    *testing.T
	gate *wiretest.Gate
	home string
	net.Conn
	upstream net.Conn // of a test that plays it
	result   chan error

	mu   sync.Mutex
	said string
}

// end is a connection as one half of a channel.
type end struct {
	io.Reader
	io.Writer
	close func() error
}

func (e end) CloseWrite() error { return e.close() }

// withServer is a relay in front of OpenSSH's server.
func withServer(t *testing.T, gate *wiretest.Gate) *world {
	t.Helper()
	return withCappedServer(t, gate, maxPacket)
}

// capped is a way to a server that gives no more than so many bytes at once, as
// many do.
type capped struct {
	io.Writer
	most uint32
}

// Write takes one packet.
func (c capped) Write(p []byte) (int, error) {
	if at := len(p) - 4; p[4] == typeRead && binary.BigEndian.Uint32(p[at:]) > c.most {
		binary.BigEndian.PutUint32(p[at:], c.most)
	}
	return c.Writer.Write(p)
}

func withCappedServer(t *testing.T, gate *wiretest.Gate, most uint32) *world {
	t.Helper()
	home := t.TempDir()
	home, err := filepath.EvalSymlinks(home)
	must(t, err)
	cmd := exec.Command(server, "-d", home)
	cmd.Dir = home
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() {
		in.Close()
		cmd.Wait()
	})
	w := start(t, gate, end{out, capped{in, most}, in.Close}, func() { in.Close() })
	w.home = home
	return w
}

// withUpstream is a relay whose upstream the test plays.
func withUpstream(t *testing.T, gate *wiretest.Gate) *world {
	t.Helper()
	ours, theirs := net.Pipe()
	w := start(t, gate, end{theirs, theirs, theirs.Close}, func() { theirs.Close() })
	w.upstream = ours
	t.Cleanup(func() { ours.Close() })
	return w
}

func start(t *testing.T, gate *wiretest.Gate, upstream end, hangup func()) *world {
	agent, client := net.Pipe()
	w := &world{t: t, gate: gate, Conn: client, result: make(chan error, 1)}
	var running sync.WaitGroup
	streams := &channels.Streams{
		Agent: end{agent, agent, func() error { return nil }}, Upstream: upstream, Gate: gate,
		Say: func(text string) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.said += text
		},
		Go: func(f func()) { running.Go(f) }, Hangup: sync.OnceFunc(hangup),
	}
	running.Go(func() {
		err := Handler("s1")(t.Context(), streams)
		agent.Close() // as the relay does when the handler has returned
		w.result <- err
	})
	client.SetDeadline(time.Now().Add(time.Minute))
	t.Cleanup(func() {
		client.Close()
		running.Wait()
		if n := gate.Unended(); n > 0 {
			t.Errorf("%d exchanges have not ended", n)
		}
	})
	return w
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// send writes packets; in pieces would do too.
func (w *world) send(packets ...[]byte) {
	w.t.Helper()
	for _, p := range packets {
		if _, err := w.Write(p); err != nil {
			w.t.Fatal(err)
		}
	}
}

// hears reads one packet of an end.
func hears(t *testing.T, from io.Reader) frame {
	t.Helper()
	f, err := read(from, nil)
	if err != nil {
		t.Fatal("reading an answer:", err)
	}
	return f
}

// hello agrees on the version.
func (w *world) hello() {
	w.t.Helper()
	w.send(packet{0, 0, 0, 0, typeInit}.uint32(Version).done())
	if f := hears(w.t, w); f.kind() != typeVersion {
		w.t.Fatalf("the answer to INIT is of type %d", f.kind())
	}
}

// asks sends a request and returns the answer, which must be to it.
func (w *world) asks(q Request) frame {
	w.t.Helper()
	w.send(q.encode())
	f := hears(w.t, w)
	if id := binary.BigEndian.Uint32(f.body()); id != q.ID {
		w.t.Fatalf("an answer to %d, not to %d", id, q.ID)
	}
	return f
}

// status asks for something that is answered with a status.
func (w *world) status(q Request) Status {
	w.t.Helper()
	return statusOf(w.t, w.asks(q))
}

func statusOf(t *testing.T, f frame) Status {
	t.Helper()
	d := decoder{rest: f.body()}
	d.uint32()
	s := Status(d.uint32())
	if f.kind() != typeStatus || d.bad {
		t.Fatalf("an answer of type %d and no status: %q", f.kind(), f.body())
	}
	return s
}

// open returns the handle of a file.
func (w *world) open(path string, flags uint32) string {
	w.t.Helper()
	f := w.asks(Request{Type: typeOpen, ID: 1, Path: path, Flags: flags, Attrs: Attrs{Raw: make([]byte, 4)}})
	d := decoder{rest: f.body()}
	d.uint32()
	handle := d.handle()
	if f.kind() != typeHandle || d.bad {
		w.t.Fatalf("open %s: an answer of type %d: %q", path, f.kind(), f.body())
	}
	return handle
}

func (w *world) write(name, text string) string {
	w.t.Helper()
	path := filepath.Join(w.home, name)
	must(w.t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(w.t, os.WriteFile(path, []byte(text), 0o644))
	return path
}

func (w *world) heard() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.said
}

// effects are those that the gate was asked about, as "verb(object)", without
// doubles.
func effects(gate *wiretest.Gate, home string) (out []string) {
	for _, e := range gate.Events() {
		rest, ok := strings.CutPrefix(e, "submit sftp ")
		if !ok {
			continue
		}
		for _, field := range strings.Fields(rest) {
			if strings.HasPrefix(field, "file-") {
				if field = strings.ReplaceAll(field, home, "~"); !slices.Contains(out, field) {
					out = append(out, field)
				}
			}
		}
	}
	return out
}

// denies is a gate that denies effects of a verb on paths with a suffix.
func denies(verb, suffix string) *wiretest.Gate {
	return &wiretest.Gate{
		Waits: func(*engine.Request) bool { return false },
		Decide: func(_ context.Context, r *engine.Request) error {
			for _, e := range r.Effects {
				if (verb == "" || e.Verb == verb) && strings.HasSuffix(e.Object, suffix) {
					return &engine.Denial{Rule: "no", Reason: "not this file", Help: "ask somebody"}
				}
			}
			return nil
		},
	}
}

func isDenial(t *testing.T, err error, code engine.Code) {
	t.Helper()
	var d *engine.Denial
	if !errors.As(err, &d) || d.Code != code {
		t.Fatalf("the relay ended with %v", err)
	}
}
