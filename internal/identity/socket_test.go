package identity

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestListenReplacesOnlyDeadSockets: what a mistyped path names stays, and so
// does a socket that somebody answers at.
func TestListenReplacesOnlyDeadSockets(t *testing.T) {
	dir := t.TempDir()
	at := filepath.Join(dir, "socket")
	l, err := Listen(at, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(at); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	if again, err := Listen(at, 0o600); err == nil || !strings.Contains(err.Error(), "another process listens") {
		t.Errorf("%v, %v", again, err)
	}
	l.SetUnlinkOnClose(false) // as when its process is killed
	l.Close()
	again, err := Listen(at, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, dir} {
		if l, err := Listen(path, 0o600); err == nil || !strings.Contains(err.Error(), "no socket") {
			t.Errorf("%s: %v, %v", path, l, err)
		}
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "precious" {
		t.Errorf("the file is gone: %q, %v", b, err)
	}
	var c net.Conn
	if c, err = net.Dial("unix", file); err == nil {
		c.Close()
		t.Error("a file answers")
	}
}

// TestListenChangesOnlyItsSocket: the mode is that of the socket, also when somebody
// who may write in its directory puts a link in its place.
func TestListenChangesOnlyItsSocket(t *testing.T) {
	dir := t.TempDir()
	secret, at := filepath.Join(dir, "secret"), filepath.Join(dir, "socket")
	if err := os.WriteFile(secret, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := Listen(at, 0o666)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if st, err := os.Stat(at); err != nil || st.Mode().Perm() != 0o666 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	for _, put := range []func() error{
		func() error { return os.Symlink(secret, at) },
		func() error { return os.Link(secret, at) },
	} {
		os.Remove(at)
		if err := put(); err != nil {
			t.Fatal(err)
		}
		if err := chmodSocket(at, 0o666); err == nil {
			t.Error("what is no socket was changed")
		}
		if st, err := os.Stat(secret); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("the file that was put in its place is %v, %v", st.Mode(), err)
		}
	}
}
