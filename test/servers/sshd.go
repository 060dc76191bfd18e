package servers

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

const (
	sshdProgram = "/usr/sbin/sshd"
	// sftpServer is where Debian's openssh-sftp-server puts it.
	sftpServer = "/usr/lib/openssh/sftp-server"
)

// SSHDOptions shape an OpenSSH server.
type SSHDOptions struct {
	Dir        string   // made if missing; every path component is traversable by everybody
	Authorized []string // public keys that log in, as any user of the host
	Settings   []string // lines of sshd_config, before the rest: the first of a kind counts
}

// SSHD is a running OpenSSH server on loopback, both families. It runs as root.
type SSHD struct {
	Port    int
	HostKey string // public, as in a .pub file
	Dir     string
	Log     string

	cmd *exec.Cmd
}

// StartSSHD makes host keys and starts a server. The caller stops it.
func StartSSHD(o SSHDOptions) (*SSHD, error) {
	for program, pkg := range map[string]string{sshdProgram: "openssh-server", sftpServer: "openssh-sftp-server"} {
		if _, err := os.Stat(program); err != nil {
			return nil, fmt.Errorf("%s is missing: apt-get install %s", program, pkg)
		}
	}
	s := &SSHD{Dir: o.Dir, Log: filepath.Join(o.Dir, "sshd.log")}
	if err := s.prepare(o); err != nil {
		return nil, fmt.Errorf("prepare sshd: %w", err)
	}
	if err := s.start(); err != nil {
		return nil, fmt.Errorf("start sshd: %w", err)
	}
	return s, nil
}

func (s *SSHD) prepare(o SSHDOptions) error {
	// /run/sshd is its empty root before the login. What shells read as they start
	// is not this machine's: it may take long, and wait for others.
	home := filepath.Join(s.Dir, "home")
	for _, dir := range []string{s.Dir, home, "/run/sshd"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	key, err := NewSSHKey()
	if err != nil {
		return err
	}
	s.HostKey = key.Public
	if s.Port, err = FreePort(); err != nil {
		return err
	}
	config := append(append([]string{}, o.Settings...),
		"Port "+strconv.Itoa(s.Port), "ListenAddress 127.0.0.1", "ListenAddress ::1",
		"HostKey "+filepath.Join(s.Dir, "host_key"), "AuthorizedKeysFile "+filepath.Join(s.Dir, "authorized_keys"),
		"StrictModes no", "PermitRootLogin yes", "PidFile none", "UseDNS no", "MaxStartups 500", "SetEnv HOME="+home, "Subsystem sftp "+sftpServer)
	return errors.Join(
		os.WriteFile(filepath.Join(s.Dir, "host_key"), key.Private, 0o600),
		os.WriteFile(filepath.Join(s.Dir, "authorized_keys"), []byte(strings.Join(o.Authorized, "\n")+"\n"), 0o644),
		os.WriteFile(filepath.Join(s.Dir, "sshd_config"), []byte(strings.Join(config, "\n")+"\n"), 0o644),
	)
}

func (s *SSHD) start() error {
	log, err := os.OpenFile(s.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	s.cmd = exec.Command(sshdProgram, "-D", "-e", "-f", filepath.Join(s.Dir, "sshd_config"))
	s.cmd.Stderr = log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: unix.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		return err
	}
	err = await(func() error {
		c, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(s.Port)))
		if err == nil {
			c.Close()
		}
		return err
	})
	if err != nil {
		s.Stop()
		text, _ := os.ReadFile(s.Log)
		return fmt.Errorf("%w\n%s", err, text)
	}
	return nil
}

// Stop ends the server, and all that it has started.
func (s *SSHD) Stop() {
	if s.cmd == nil {
		return
	}
	for _, pid := range children(s.cmd.Process.Pid) {
		syscall.Kill(pid, syscall.SIGKILL) //nolint:errcheck // it may have ended by itself
	}
	s.cmd.Process.Kill() //nolint:errcheck // the same
	s.cmd.Wait()         //nolint:errcheck // it was killed
	s.cmd = nil
}

// Rekey gives the server another host key, which new connections see.
func (s *SSHD) Rekey() error {
	key, err := NewSSHKey()
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(s.Dir, "host_key"), key.Private, 0o600); err != nil {
		return err
	}
	s.HostKey = key.Public
	s.Stop()
	return s.start()
}

// children are the processes that have parent above them, deepest last.
func children(parent int) (out []int) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", parent))
	if err != nil {
		return nil
	}
	for _, word := range strings.Fields(string(text)) {
		if pid, err := strconv.Atoi(word); err == nil {
			out = append(append(out, pid), children(pid)...)
		}
	}
	return out
}

// SSHKey is a pair of keys.
type SSHKey struct {
	Private []byte // in OpenSSH's format
	Public  string // as in a .pub file
}

// NewSSHKey makes an Ed25519 key.
func NewSSHKey() (k SSHKey, err error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return k, err
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		return k, err
	}
	p, err := ssh.NewPublicKey(public)
	if err != nil {
		return k, err
	}
	return SSHKey{pem.EncodeToMemory(block), strings.TrimSpace(string(ssh.MarshalAuthorizedKey(p)))}, nil
}
