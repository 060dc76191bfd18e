package sftp

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/postern/postern/internal/relay/channels"
	"github.com/postern/postern/internal/wiretest"
)

// TestMain is also the program that clients start in place of ssh: it joins its
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
	go func() {
		io.Copy(c, os.Stdin)
		c.(*net.UnixConn).CloseWrite()
	}()
	io.Copy(os.Stdout, c)
}

// host is OpenSSH's server behind the relay, for clients that are programs.
type host struct {
	t      *testing.T
	gate   *wiretest.Gate
	remote string
	local  string
	socket string
}

func newHost(t *testing.T, gate *wiretest.Gate) *host {
	t.Helper()
	h := &host{t: t, gate: gate, remote: t.TempDir(), local: t.TempDir()}
	h.socket = filepath.Join(t.TempDir(), "socket")
	l, err := net.Listen("unix", h.socket)
	must(t, err)
	var running sync.WaitGroup
	running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() { h.serve(c) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		running.Wait()
		if n := gate.Unended(); n > 0 {
			t.Errorf("%d exchanges have not ended", n)
		}
	})
	return h
}

func (h *host) serve(c net.Conn) {
	cmd := exec.Command(server, "-d", h.remote)
	in, _ := cmd.StdinPipe()
	out, _ := cmd.StdoutPipe()
	if err := cmd.Start(); err != nil {
		h.t.Error(err)
		return
	}
	var reading sync.WaitGroup
	err := Handler("s1")(h.t.Context(), &channels.Streams{
		Agent: end{c, c, func() error { return nil }}, Upstream: end{out, in, in.Close}, Gate: h.gate,
		Say: func(string) {}, Go: func(f func()) { reading.Go(f) }, Hangup: func() { in.Close() },
	})
	if err != nil {
		h.t.Error(err)
	}
	c.Close()
	reading.Wait()
	in.Close()
	cmd.Wait()
}

// run runs a client, in the local folder.
func (h *host) run(stdin, name string, args ...string) (string, error) {
	h.t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "POSTERN_TEST_SOCKET="+h.socket)
	cmd.Dir = h.local
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestSftp: what OpenSSH's client can ask for works, and files arrive whole.
func TestSftp(t *testing.T) {
	gate := denies("", "none")
	h := newHost(t, gate)
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<18)
	must(t, os.WriteFile(h.local+"/big", big, 0o640))
	out, err := h.run(strings.NewReplacer("REMOTE", h.remote).Replace(`
pwd
put -p big
get big back
ls -l
mkdir d
put -r . d/all
ls d/all
cd d
rename ../big moved
ln -s moved link
ln moved hard
ls -la
chmod 600 moved
df
get -f link via
rm hard
cd ..
rm d/moved
rmdir REMOTE/d/all/nothing
`), "sftp", "-S", os.Args[0], "-b", "-", "host")
	if err == nil { // rmdir of what is not there, last
		t.Errorf("it ended well: %s", out)
	}
	for _, file := range []string{"back", "via"} {
		if got, err := os.ReadFile(filepath.Join(h.local, file)); err != nil || !bytes.Equal(got, big) {
			t.Errorf("%s: %d bytes, %v\n%s", file, len(got), err, out)
		}
	}
	if !strings.Contains(out, "Remote working directory: "+h.remote) || !strings.Contains(out, "No such file") {
		t.Errorf("the client says %s", out)
	}
	sum := sha256.Sum256(big)
	events := strings.Join(gate.Events(), "\n")
	for _, line := range []string{
		fmt.Sprintf("file file-write %s/big %d %x", h.remote, len(big), sum[:4]),
		fmt.Sprintf("file file-read %s/big %d %x", h.remote, len(big), sum[:4]),
		fmt.Sprintf("file file-rename %s/big to %[1]s/d/moved 0", h.remote),
		fmt.Sprintf("file file-link %s/d/link to moved 0", h.remote),
		fmt.Sprintf("file file-read %s/d/moved %d %x", h.remote, len(big), sum[:4]),
		fmt.Sprintf("file file-remove %s/d/hard 0", h.remote),
		fmt.Sprintf("file file-remove %s/d/all/nothing 0 No such file", h.remote),
	} {
		if !strings.Contains(events, line) {
			t.Errorf("not on record: %s", line)
		}
	}
}

// TestSftpDenied: each line of a client fails that is denied, and only those.
func TestSftpDenied(t *testing.T) {
	h := newHost(t, denies("", "secret"))
	must(t, os.WriteFile(h.remote+"/secret", []byte("s"), 0o600))
	must(t, os.WriteFile(h.remote+"/other", []byte("o"), 0o600))
	must(t, os.Symlink("secret", h.remote+"/innocent"))
	must(t, os.WriteFile(h.local+"/mine", []byte("m"), 0o600))
	out, err := h.run("-get secret\n-get innocent\n-get ./../"+filepath.Base(h.remote)+"/secret up\n-rename secret x\n-rename other secret\n-rm secret\n-ln secret hard\n-put mine secret\n-get -r . all\nget other\n", "sftp", "-S", os.Args[0], "-b", "-", "host")
	if err != nil {
		t.Error(err)
	}
	if n := strings.Count(strings.ToLower(out), "permission denied"); n < 7 { // and two "not found": the client looks first
		t.Errorf("%d refusals: %s", n, out)
	}
	for _, name := range []string{"secret", "innocent", "up", "all/secret", "all/innocent"} {
		if _, err := os.Stat(filepath.Join(h.local, name)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s was downloaded: %s", name, out)
		}
	}
	if _, err := os.Stat(h.local + "/other"); err != nil {
		t.Error(err, out)
	}
}

// TestScp: scp speaks SFTP since OpenSSH 9.0.
func TestScp(t *testing.T) {
	h := newHost(t, denies("", "secret"))
	text := strings.Repeat("text of a file\n", 100000)
	must(t, os.MkdirAll(h.local+"/tree/deep", 0o755))
	for _, name := range []string{"a", "deep/b", "deep/secret"} {
		must(t, os.WriteFile(h.local+"/tree/"+name, []byte(text), 0o644))
	}
	if out, err := h.run("", "scp", "-S", os.Args[0], "-rp", "tree", "host:"); err == nil {
		t.Error("the denied file went through:", out)
	}
	if out, err := h.run("", "scp", "-S", os.Args[0], "-rp", "host:tree", "back"); err != nil {
		t.Error(err, out)
	}
	for _, path := range []string{h.remote + "/tree/a", h.local + "/back/a", h.local + "/back/deep/b"} {
		if got, err := os.ReadFile(path); err != nil || string(got) != text {
			t.Errorf("%s: %d bytes, %v", path, len(got), err)
		}
	}
	if _, err := os.Stat(h.remote + "/tree/deep/secret"); err == nil {
		t.Error("the denied file is there")
	}
}
