package guard

import (
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/internal/config"
	"github.com/postern/postern/internal/identity"
)

const aCertificate = `-----BEGIN CERTIFICATE-----
MIIBWTCCAQCgAwIBAgIBATAKBggqhkjOPQQDAjAPMQ0wCwYDVQQDDAR0ZXN0MB4X
-----END CERTIFICATE-----
`

// TestCertificatesHandsOverNothingElse: the guard reads as root what the daemon
// names; keys, links and other files do not come through.
func TestCertificatesHandsOverNothingElse(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := write("good", "some words\n"+aCertificate+"more words\n")
	b, err := certificates(good)
	if err != nil || !strings.HasPrefix(string(b), "-----BEGIN CERTIFICATE-----") || strings.Contains(string(b), "words") {
		t.Errorf("%q, %v", b, err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(good, link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{
		write("key", aCertificate+"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"),
		write("text", "root:x:0:0:root:/root:/bin/bash\n"), write("empty", ""), link, dir, "/dev/zero", filepath.Join(dir, "missing"),
	} {
		if b, err := certificates(path); err == nil {
			t.Errorf("%s: handed over %q", path, b)
		}
	}
}

// TestTrustFilesShowNothingElse: what the configuration names may be a link that
// somebody put there.
func TestTrustFilesShowNothingElse(t *testing.T) {
	state, named := t.TempDir(), filepath.Join(t.TempDir(), "root.crt")
	if err := errors.Join(os.Mkdir(filepath.Join(state, "trust"), 0o700),
		os.WriteFile(filepath.Join(state, RootFile), []byte(aCertificate), 0o600)); err != nil {
		t.Fatal(err)
	}
	secret := "root:$6$canary:19000::\n-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"
	if err := os.WriteFile(named+".secret", []byte(secret+aCertificate), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(named+".secret", named); err != nil {
		t.Fatal(err)
	}
	files, err := trustFiles(&config.Config{StateDir: state, Trust: config.Trust{Files: []string{named}}})
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, f := range files {
		if strings.Contains(string(f.Content), "canary") || strings.Contains(string(f.Content), "PRIVATE") {
			t.Errorf("%s shows\n%s", f.Over, f.Content)
		}
		found = found || f.Over == named && strings.Count(string(f.Content), "BEGIN CERTIFICATE") == 2
	}
	if !found {
		t.Error("the file's own certificate and the host's are not both in it")
	}
}

func TestHostsFileWithoutTargets(t *testing.T) {
	cfg := &config.Config{Targets: []config.Target{{Hosts: []config.HostPort{{Host: "orders-db.internal", Port: 5432}, {Host: "*.corp.example", Port: 5432}}}}}
	hosts := "127.0.0.1 localhost # the loopback\n\n10.0.0.7\tOrders-DB.internal. orders other\n10.0.0.8 orders-db.internal\n# comment\n10.0.0.9 a.corp.example corp.example A.B.Corp.Example.\n::1 ip6-localhost\n"
	want := "127.0.0.1\tlocalhost\n10.0.0.7\torders other\n10.0.0.9\tcorp.example\n::1\tip6-localhost\n"
	if got := string(withoutTargets([]byte(hosts), cfg)); got != want {
		t.Errorf("got:\n%s", got)
	}
}

func TestJoinedKeepsBoth(t *testing.T) {
	for _, own := range []string{"", "A", "A\n", "A\n\n"} {
		got := string(joined([]byte(own), []byte("ROOT\n")))
		want := "A\nROOT\n"
		if own == "" {
			want = "ROOT\n"
		}
		if got != want {
			t.Errorf("joined(%q) = %q", own, got)
		}
	}
}

func TestMayRun(t *testing.T) {
	users := map[string]uint32{"alice": 1000, "bob": 1001}
	groups := map[string]uint32{"agents": 50}
	userOf := func(n string) (uint32, error) {
		if id, ok := users[n]; ok {
			return id, nil
		}
		return 0, errors.New("no such user")
	}
	groupOf := func(n string) (uint32, error) {
		if id, ok := groups[n]; ok {
			return id, nil
		}
		return 0, errors.New("no such group")
	}
	agent := &config.Agent{RunBy: config.RunBy{Users: []string{"nosuch", "alice"}, Groups: []string{"nosuch", "agents"}}}
	for _, c := range []struct {
		peer identity.Peer
		want bool
	}{
		{identity.Peer{UID: 0}, true},
		{identity.Peer{UID: 1000, GID: 1000}, true},
		{identity.Peer{UID: 1001, GID: 1001}, false},
		{identity.Peer{UID: 1001, GID: 50}, true},
		{identity.Peer{UID: 1001, GID: 1001, Groups: []uint32{4, 50}}, true},
		{identity.Peer{UID: 7, GID: 7, Groups: []uint32{0}}, false},
	} {
		if got := mayRun(&c.peer, agent, userOf, groupOf); got != c.want {
			t.Errorf("uid %d, gid %d, groups %d: %t", c.peer.UID, c.peer.GID, c.peer.Groups, got)
		}
	}
	if mayRun(&identity.Peer{UID: 1000}, &config.Agent{}, userOf, groupOf) {
		t.Error("an agent without run_by is everybody's")
	}
}

func pair(t *testing.T) (a, b *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var conns [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		c, err := net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		conns[i] = c.(*net.UnixConn)
		t.Cleanup(func() { c.Close() })
	}
	return conns[0], conns[1]
}

// TestFrames: a message and its descriptors arrive together, however long.
func TestFrames(t *testing.T) {
	a, b := pair(t)
	f, err := os.Open("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	long := strings.Repeat("x", 1<<20)
	sent := make(chan error, 1)
	go func() {
		sent <- errors.Join(writeFrame(a, request{Op: opRun, Run: &Run{Args: []string{long}}}, f, f), writeFrame(a, request{Op: opMaps}))
	}()
	var q request
	files, err := readFrame(b, &q)
	if err != nil || q.Run == nil || q.Run.Args[0] != long || len(files) != 2 {
		t.Fatalf("%v, %d files", err, len(files))
	}
	if text, err := io.ReadAll(files[0]); err != nil || !strings.HasPrefix(string(text), "Name:") {
		t.Errorf("%q, %v", text, err)
	}
	closeAll(files)
	q = request{}
	if files, err := readFrame(b, &q); err != nil || q.Op != opMaps || len(files) != 0 {
		t.Errorf("%+v, %d files, %v", q, len(files), err)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
}

// TestFrameTooLong: a declared length is checked before room is made for it.
func TestFrameTooLong(t *testing.T) {
	for head, want := range map[string]string{"\xff\xff\xff\xff": "longer than the limit", "\x00\x00\x00\x02{": "unexpected EOF", "\x00\x00": "EOF"} {
		a, b := pair(t)
		if _, err := a.Write([]byte(head)); err != nil {
			t.Fatal(err)
		}
		a.Close()
		var q request
		if _, err := readFrame(b, &q); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", head, err)
		}
	}
}

func TestFind(t *testing.T) {
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{"yes": 0o755, "no": 0o644} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	env := []string{"HOME=/", "PATH=/nowhere:" + dir}
	if got, err := find("yes", env); err != nil || got != filepath.Join(dir, "yes") {
		t.Errorf("%s, %v", got, err)
	}
	if got, err := find("./yes", env); err != nil || got != "./yes" {
		t.Errorf("%s, %v", got, err)
	}
	for _, name := range []string{"no", "missing"} {
		if got, err := find(name, env); !errors.Is(err, exec.ErrNotFound) {
			t.Errorf("%s was found at %q: %v", name, got, err)
		}
	}
}

func TestEnvironmentOfARun(t *testing.T) {
	env := environment([]string{"HOME=/root", "SSL_CERT_FILE=/own", "KEEP=1"}, who{Name: "nobody", Home: "/nonexistent"}, false)
	text := "\n" + strings.Join(env, "\n") + "\n"
	for _, want := range []string{"KEEP=1", "HOME=/nonexistent", "USER=nobody", "SSL_CERT_FILE=" + bundlePath, "NODE_EXTRA_CA_CERTS=" + rootPath} {
		if strings.Count(text, "\n"+want+"\n") != 1 {
			t.Errorf("%s is missing in\n%s", want, text)
		}
	}
	if strings.Contains(text, "/own") || strings.Contains(text, "/root\n") {
		t.Errorf("what was replaced is still there:\n%s", text)
	}
}

// TestCgroupOutsideOfTheRoot: the daemon cannot make the guard make cgroups
// elsewhere.
func TestCgroupOutsideOfTheRoot(t *testing.T) {
	s := &Server{mount: "/sys/fs/cgroup"}
	s.Redirect.Cgroup = "/sys/fs/cgroup/agents.slice"
	for _, path := range []string{"", ".", "agents.slice", "other", "agents.slice/../other", "agents.slice2/x", "/agents.slice/x", "agents.slice/x/.."} {
		if id, err := s.cgroup(path); err == nil {
			t.Errorf("%q became cgroup %d", path, id)
		} else if !strings.Contains(err.Error(), "not inside the policy root") {
			t.Errorf("%q: %v", path, err)
		}
	}
}
