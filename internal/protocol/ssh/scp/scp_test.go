package scp

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/relay/channels"
	"github.com/postern/postern/internal/wiretest"
)

// TestMain is also the program that scp starts in place of ssh: it joins its
// standard input and output with the test's.
func TestMain(m *testing.M) {
	socket := os.Getenv("POSTERN_TEST_SOCKET")
	if socket == "" {
		os.Exit(m.Run())
	}
	c, err := net.Dial("unix", socket)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Fprintln(c, os.Args[len(os.Args)-1])
	go func() {
		io.Copy(c, os.Stdin)
		c.(*net.UnixConn).CloseWrite()
	}()
	io.Copy(os.Stdout, c)
}

type half struct {
	io.Reader
	io.Writer
	close func() error
}

func (e half) CloseWrite() error { return e.close() }

// world is a host behind the relay, and the client's side before it.
type world struct {
	t      *testing.T
	gate   *wiretest.Gate
	host   string // the folder of the server
	local  string // that of the client
	socket string

	mu   sync.Mutex
	said string
	err  error
}

func start(t *testing.T, gate *wiretest.Gate) *world {
	t.Helper()
	w := &world{t: t, gate: gate, host: t.TempDir(), local: t.TempDir()}
	w.socket = filepath.Join(w.local, ".socket")
	l, err := net.Listen("unix", w.socket)
	must(t, err)
	var running sync.WaitGroup
	running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() { w.serve(c.(*net.UnixConn)) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		running.Wait()
		if n := gate.Unended(); n > 0 {
			t.Errorf("%d exchanges have not ended", n)
		}
	})
	return w
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// serve runs the command that a client sent, behind the relay.
func (w *world) serve(c *net.UnixConn) {
	defer c.Close()
	agent := bufio.NewReader(c)
	command, err := agent.ReadString('\n')
	if err != nil {
		return
	}
	words := strings.Fields(command)
	what := Command{Path: words[len(words)-1], Exact: true, Sends: slices.Contains(words, "-f"), Directory: slices.Contains(words, "-d")}
	cmd := exec.Command("/bin/sh", "-c", "exec "+command)
	in, _ := cmd.StdinPipe()
	out, _ := cmd.StdoutPipe()
	if err := cmd.Start(); err != nil {
		return
	}
	defer cmd.Wait()
	defer in.Close()
	var reading sync.WaitGroup
	defer reading.Wait()
	defer c.Close()
	err = Handler(what, "s1")(context.Background(), &channels.Streams{
		Agent: half{agent, c, func() error { return nil }}, Upstream: half{out, in, in.Close}, Gate: w.gate,
		Say: func(text string) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.said += text
		},
		Go: func(f func()) { reading.Go(f) }, Hangup: func() { in.Close(); cmd.Process.Kill() },
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	w.err = err
}

// scp runs the real client.
func (w *world) scp(args ...string) (string, error) {
	w.t.Helper()
	cmd := exec.Command("scp", append([]string{"-O", "-S", os.Args[0]}, args...)...)
	cmd.Env = append(os.Environ(), "POSTERN_TEST_SOCKET="+w.socket)
	cmd.Dir = w.local
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (w *world) file(dir, name, text string) string {
	w.t.Helper()
	path := filepath.Join(dir, name)
	must(w.t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(w.t, os.WriteFile(path, []byte(text), 0o644))
	return path
}

func (w *world) has(path, text string) {
	w.t.Helper()
	if got, err := os.ReadFile(path); err != nil || string(got) != text {
		w.t.Errorf("%s has %d bytes: %v", path, len(got), err)
	}
}

// denies is a gate that denies what is done to paths that end so.
func denies(suffix string) *wiretest.Gate {
	return &wiretest.Gate{Decide: func(_ context.Context, r *engine.Request) error {
		for _, e := range r.Effects {
			if strings.HasSuffix(e.Object, suffix) {
				return &engine.Denial{Rule: "no", Reason: "not this file"}
			}
		}
		return nil
	}}
}

// TestBothWays: files and directories arrive as they were, with times, and are on
// record with their hashes.
func TestBothWays(t *testing.T) {
	gate := denies("none")
	w := start(t, gate)
	big := strings.Repeat("0123456789abcdef", 100000)
	w.file(w.local, "big", big)
	w.file(w.local, "tree/a", "a")
	w.file(w.local, "tree/deep/b", "")
	if out, err := w.scp("-p", "big", "host:"+w.host+"/big"); err != nil || out != "" {
		t.Fatal(out, err)
	}
	w.has(w.host+"/big", big)
	sum := sha256.Sum256([]byte(big))
	gate.Saw(t,
		fmt.Sprintf("submit scp %q file-write(%[2]s/big) file-write(%[2]s/big/big)", fmt.Sprintf("receive %q mode 0644", w.host+"/big/big"), w.host),
		fmt.Sprintf("file file-write %s/big/big 1600000 %x", w.host, sum[:4]),
		fmt.Sprintf("end %q ok \"file-write\" rows=0", fmt.Sprintf("receive %q mode 0644", w.host+"/big/big")))
	if out, err := w.scp("-rp", "tree", "host:"+w.host+"/copy"); err != nil || out != "" {
		t.Fatal(out, err)
	}
	w.has(w.host+"/copy/deep/b", "")
	if out, err := w.scp("-rp", "host:"+w.host+"/copy", "back"); err != nil || out != "" {
		t.Fatal(out, err)
	}
	w.has(w.local+"/back/a", "a")
	w.has(w.local+"/back/deep/b", "")
	gate.Events()
	if out, err := w.scp("-p", "host:"+w.host+"/big", "again"); err != nil || out != "" {
		t.Fatal(out, err)
	}
	w.has(w.local+"/again", big)
	if events := gate.Events(); !strings.Contains(events[0], "file-read("+w.host+"/big)") || !strings.Contains(events[1], fmt.Sprintf("%x", sum[:4])) {
		t.Errorf("%q", events)
	}
}

// TestDenied: a file that is denied is refused, and the others go on.
func TestDenied(t *testing.T) {
	w := start(t, denies("secret"))
	w.file(w.local, "up/a", "a")
	w.file(w.local, "up/secret", "s")
	w.file(w.local, "up/z", "z")
	out, err := w.scp("-r", "up", "host:"+w.host+"/up")
	if err == nil || !strings.Contains(out, "not this file; rule no (session s1)") {
		t.Errorf("%v: %s", err, out)
	}
	w.has(w.host+"/up/a", "a")
	w.has(w.host+"/up/z", "z")
	if _, err := os.Stat(w.host + "/up/secret"); err == nil {
		t.Error("the denied file is there")
	}
	w.file(w.host, "down/a", "a")
	w.file(w.host, "down/secret", "s")
	w.file(w.host, "down/z", "z")
	w.scp("-r", "host:"+w.host+"/down", "down")
	w.has(w.local+"/down/a", "a")
	w.has(w.local+"/down/z", "z")
	if _, err := os.Stat(w.local + "/down/secret"); err == nil {
		t.Error("the denied file is there")
	}
	if !strings.Contains(w.said, "not this file") {
		t.Errorf("standard error says %q", w.said)
	}
}

// TestMasked: what is found in a file that the server sends is stars.
func TestMasked(t *testing.T) {
	gate := denies("none")
	gate.Hide = "sk-live-0123456789"
	w := start(t, gate)
	text := strings.Repeat("text\n", 6552) + "key sk-live-0123456789\n" + strings.Repeat("more\n", 20000)
	w.file(w.host, "config", text)
	if out, err := w.scp("host:"+w.host+"/config", "config"); err != nil {
		t.Fatal(out, err)
	}
	w.has(w.local+"/config", strings.Replace(text, gate.Hide, strings.Repeat("*", len(gate.Hide)), 1))
	w.file(w.local, "own", text)
	if out, err := w.scp("own", "host:"+w.host+"/own"); err != nil {
		t.Fatal(out, err)
	}
	w.has(w.host+"/own", text) // what goes up is the agent's
}

// talk is a relay between two scripts: what the agent and the upstream say.
func talk(t *testing.T, c Command, gate *wiretest.Gate, agent, upstream string) (heard, sent string, err error) {
	t.Helper()
	var toAgent, toUpstream bytes.Buffer
	var running sync.WaitGroup
	err = Handler(c, "s1")(t.Context(), &channels.Streams{
		Agent:    half{strings.NewReader(agent), &toAgent, func() error { return nil }},
		Upstream: half{strings.NewReader(upstream), &toUpstream, func() error { return nil }},
		Gate:     gate, Say: func(string) {}, Go: func(f func()) { running.Go(f) }, Hangup: func() {},
	})
	running.Wait()
	return toAgent.String(), toUpstream.String(), err
}

// TestMalformed: names that lead elsewhere and lines that are none end the
// channel before anything of them goes on.
func TestMalformed(t *testing.T) {
	for name, line := range map[string]string{
		"name with a slash":  "C0644 1 ../x\n",
		"absolute name":      "C0644 1 /etc/passwd\n",
		"no name":            "C0644 1 \n",
		"up":                 "D0755 0 ..\n",
		"here":               "D0755 0 .\n",
		"negative size":      "C0644 -1 x\n",
		"size beyond":        "C0644 99999999999999999999 x\n",
		"mode":               "C0999 1 x\n",
		"two fields":         "C0644 x\n",
		"end of nothing":     "E\n",
		"NUL":                "C0644 1 x\x00y\n",
		"unknown":            "X0644 1 x\n",
		"endless":            "C" + strings.Repeat("1", 10000),
		"an answer to none":  "\x00",
		"bytes of a command": "rm -rf /\n",
	} {
		t.Run(name, func(t *testing.T) {
			gate := denies("none")
			_, sent, err := talk(t, Command{Path: "/srv"}, gate, line, "\x00\x00\x00")
			var d *engine.Denial
			if !asDenial(err, &d) || d.Code != engine.Malformed || sent != "" {
				t.Errorf("%v, and the upstream heard %q", err, sent)
			}
			if events := gate.Events(); len(events) > 0 {
				t.Errorf("the gate saw %q", events)
			}
		})
	}
}

func asDenial(err error, d **engine.Denial) bool {
	var ok bool
	*d, ok = err.(*engine.Denial)
	return ok
}

// TestRefusedUpstream: words of the upstream's are cleaned, and a file that it
// refuses is not sent.
func TestRefusedUpstream(t *testing.T) {
	gate := denies("none")
	gate.Hide = "hidden-value"
	heard, sent, err := talk(t, Command{Path: "/srv"}, gate, "C0644 1 x\n", "\x00\x01scp: hidden-value: no\n")
	if err != nil || heard != "\x00\x01scp: [hidden]: no\n" || sent != "C0644 1 x\n" {
		t.Errorf("%v: the agent heard %q, the upstream %q", err, heard, sent)
	}
}

// FuzzSource: whatever a client says, no bytes of a file go upstream that was not
// allowed.
func FuzzSource(f *testing.F) {
	f.Add("C0644 3 a\nabc\x00")
	f.Add("T1 0 1 0\nD0755 0 d\nC0644 3 a\nabc\x00E\n")
	f.Add("\x01words\nC0644 0 b\n\x00")
	f.Fuzz(func(t *testing.T, said string) {
		heard, sent, _ := talk(t, Command{Path: "/srv"}, denies(""), said, strings.Repeat("\x00", 50))
		for line := range strings.Lines(sent) {
			if line[0] != 1 && line[0] != 2 {
				t.Fatalf("%q: the upstream heard %q, the agent %q", said, sent, heard)
			}
		}
	})
}
