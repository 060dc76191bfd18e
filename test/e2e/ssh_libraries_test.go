package e2e

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// Libraries that programs are made with reach the host without a key: a command
// with its status, a shell on a terminal, a file there and back, and a forwarded
// connection. Each says ok when all of it was right.
func TestSSHLibraries(t *testing.T) {
	w := startSSH(t)
	c := filepath.Join(theWorld.dir, "libssh_client")
	if out, err := exec.Command("gcc", "-Wall", "-Werror", "-o", c, "clients/libssh_client.c", "-lssh").CombinedOutput(); err != nil {
		t.Fatalf("gcc (apt-get install libssh-dev): %v\n%s", err, out)
	}
	for name, program := range map[string]string{
		"libssh":   c,
		"npm ssh2": "node " + filepath.Join(theWorld.dir, "clients", "node", "ssh2_client.js"),
		"Go":       clientEnv + "=ssh " + filepath.Join(theWorld.dir, "client"),
	} {
		t.Run(name, func(t *testing.T) {
			out, status := w.as("ansible", "timeout 60 env "+program+" $SRV $PORT")
			if status != 0 || strings.TrimSpace(out) != "ok" {
				t.Errorf("status %d: %s\n%s", status, out, w.daemonLog())
			}
		})
	}
}

// The client of a newer OpenSSH than the machine's, by the key exchange that it
// prefers, which quantum computers do not break.
func TestSSHNewerClient(t *testing.T) {
	w := startSSH(t)
	newer := filepath.Join(theWorld.dir, "openssh")
	if out, err := exec.Command("cp", "-a", "../../build/openssh", newer).CombinedOutput(); err != nil {
		t.Fatalf("make newer-ssh fetches it: %s", out)
	}
	for name, c := range map[string]struct{ script, want string }{
		"version":      {`NEW -V 2>&1`, "OpenSSH_10."},
		"key exchange": {`NEW -v web.internal true 2>&1 | grep "kex: algorithm"`, "kex: algorithm: mlkem768x25519-sha256"},
		"command":      {`echo hello | NEW web.internal "cat; exit 42"; echo $?`, "hello\n42\n"},
		"shell":        {`(echo 'echo $((40+2))-seen; exit 7') | NEW -tt web.internal; echo $?`, "42-seen"},
		"files":        {`head -c 300000 /dev/urandom > $HOME/n; printf "put $HOME/n $SRV/n\nget $SRV/n $HOME/m\n" | sftp -q -S NEW -b - web.internal >/dev/null; cmp $HOME/n $HOME/m && echo same`, "same\n"},
		"forwarding":   {`NEW -W 127.0.0.1:$PORT web.internal </dev/null | head -c 15`, "SSH-2.0-Postern"},
	} {
		t.Run(name, func(t *testing.T) {
			out, _ := w.as("ansible", strings.ReplaceAll(c.script, "NEW", newer+"/bin/ssh"))
			if !strings.Contains(out, c.want) {
				t.Errorf("%q is missing in %s", c.want, out)
			}
		})
	}
}

// sshClient is the test binary as a client that is made with Go's library.
func sshClient(context.Context) error {
	known, err := knownhosts.New("/run/postern/known_hosts")
	if err != nil {
		return err
	}
	c, err := ssh.Dial("tcp", "web.internal:22", &ssh.ClientConfig{User: "root", HostKeyCallback: known})
	if err != nil {
		return err
	}
	defer c.Close()
	dir, port := os.Args[1], os.Args[2]
	return errors.Join(sshCommand(c), sshShell(c), sshFile(c, dir+"/go"), sshForwarded(c, port))
}

func sshCommand(c *ssh.Client) error {
	s, err := c.NewSession()
	if err != nil {
		return err
	}
	var out bytes.Buffer
	s.Stdin, s.Stdout = strings.NewReader("by Go"), &out
	err = s.Run("cat; exit 42")
	var exit *ssh.ExitError
	return expect(errors.As(err, &exit) && exit.ExitStatus() == 42 && out.String() == "by Go", "command: %v, %q", err, out.String())
}

func sshShell(c *ssh.Client) error {
	s, err := c.NewSession()
	if err != nil {
		return err
	}
	var out bytes.Buffer
	s.Stdin, s.Stdout = strings.NewReader("echo $((40+2))-seen; exit 7\n"), &out
	if err := errors.Join(s.RequestPty("vt100", 24, 80, nil), s.Shell()); err != nil {
		return err
	}
	err = s.Wait()
	var exit *ssh.ExitError
	return expect(errors.As(err, &exit) && exit.ExitStatus() == 7 && strings.Contains(out.String(), "42-seen"), "shell: %v, %q", err, out.String())
}

func sshFile(c *ssh.Client, path string) error {
	s, err := sftp.NewClient(c)
	if err != nil {
		return err
	}
	sent := bytes.Repeat([]byte("a line of a file, and another\n"), 10_000)
	f, err := s.Create(path)
	if err != nil {
		return err
	}
	if _, err := f.ReadFrom(bytes.NewReader(sent)); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if f, err = s.Open(path); err != nil {
		return err
	}
	got, err := io.ReadAll(f)
	return errors.Join(err, expect(bytes.Equal(sent, got), "the file has %d bytes, not %d, or others", len(got), len(sent)), s.Remove(path))
}

func sshForwarded(c *ssh.Client, port string) error {
	conn, err := c.Dial("tcp", "127.0.0.1:"+port)
	if err != nil {
		return err
	}
	defer conn.Close()
	b := make([]byte, 7)
	_, err = io.ReadFull(conn, b)
	return errors.Join(err, expect(string(b) == "SSH-2.0", "forwarded: %q", b))
}
