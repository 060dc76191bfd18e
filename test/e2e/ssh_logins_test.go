package e2e

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/test/servers"
)

const (
	// hostUser has a password on the host; nobody else there has.
	hostUser         = "postern-e2e-deploy"
	hostUserPassword = "canary-ssh-1b7-staple-quartz"
	keyPassphrase    = "canary-ssh-9c2-lantern-orbit"
)

// addHostUser makes an account with a password, for the programs of this test's
// mount namespace only, and a PAM service that asks for nothing else.
func addHostUser(t *testing.T, home string) {
	t.Helper()
	hash, err := exec.Command("openssl", "passwd", "-6", hostUserPassword).Output()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for at, text := range map[string]string{
		"/etc/passwd":     fmt.Sprintf("%s:x:61713:61713::%s:/bin/sh\n", hostUser, home),
		"/etc/shadow":     fmt.Sprintf("%s:%s:19000:0:99999:7:::\n", hostUser, strings.TrimSpace(string(hash))),
		"/etc/pam.d/sshd": "auth required pam_unix.so\naccount required pam_unix.so\nsession required pam_permit.so\n",
	} {
		before := []byte{}
		if !strings.Contains(at, "pam.d") {
			if before, err = os.ReadFile(at); err != nil {
				t.Fatal(err)
			}
		}
		st, err := os.Stat(at)
		if err != nil {
			t.Fatal(err)
		}
		own := filepath.Join(dir, filepath.Base(at))
		if err := errors.Join(os.WriteFile(own, append(before, text...), 0o600), os.Chmod(own, st.Mode())); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount(own, at, "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Unmount(at, unix.MNT_DETACH) })
	}
}

// sshLogin is one way to log in to a host that takes no other.
type sshLogin struct {
	settings   []string // of the host's sshd
	credential string   // of the target
	accepted   string   // in the host's log
}

// lockedKey is a key that a passphrase opens.
func lockedKey(t *testing.T, k servers.SSHKey) string {
	t.Helper()
	at := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(at, k.Private, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("ssh-keygen", "-q", "-p", "-P", "", "-N", keyPassphrase, "-f", at).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	locked, err := os.ReadFile(at)
	if err != nil {
		t.Fatal(err)
	}
	return string(locked)
}

// keyring is an ssh-agent of the daemon's user that holds a key.
func keyring(t *testing.T, k servers.SSHKey) (socket string) {
	t.Helper()
	dir, err := os.MkdirTemp(theWorld.dir, "keyring-")
	if err != nil {
		t.Fatal(err)
	}
	socket = filepath.Join(dir, "socket")
	if err := os.Chown(dir, servers.DaemonUID, servers.DaemonUID); err != nil {
		t.Fatal(err)
	}
	who := &syscall.Credential{Uid: servers.DaemonUID, Gid: servers.DaemonUID}
	ring := exec.Command("ssh-agent", "-D", "-a", socket)
	ring.SysProcAttr = &syscall.SysProcAttr{Credential: who, Pdeathsig: unix.SIGKILL}
	if err := ring.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ring.Process.Kill(); ring.Wait() })
	eventually(t, func() error { _, err := os.Stat(socket); return err })
	add := exec.Command("ssh-add", "-q", "-")
	add.SysProcAttr = &syscall.SysProcAttr{Credential: who}
	add.Env, add.Stdin = []string{"SSH_AUTH_SOCK=" + socket}, strings.NewReader(string(k.Private))
	if out, err := add.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return socket
}

// startLogins has a host and a target for each login, and an agent that may do
// anything there.
func startLogins(t *testing.T, logins map[string]sshLogin) (*sshWorld, map[string]*servers.SSHD) {
	t.Helper()
	w := startSSH(t)
	hosts := map[string]*servers.SSHD{}
	addHostUser(t, w.dir)
	var targets strings.Builder
	for name, l := range logins {
		settings := append([]string{"LogLevel VERBOSE"}, l.settings...)
		sshd, err := servers.StartSSHD(servers.SSHDOptions{Dir: filepath.Join(w.sshd.Dir, name), Authorized: []string{w.key.Public}, Settings: settings})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(sshd.Stop)
		hosts[name] = sshd
		fmt.Fprintf(&targets, "  - {name: %s, protocol: ssh, hosts: [\"%[1]s.internal:22\"], dial: \"127.0.0.1:%d\", ssh: {host_keys: [%q]}, credential: {%s}}\n",
			name, sshd.Port, sshd.HostKey, l.credential)
	}
	w.more["agents:\n"] = fmt.Sprintf("  - {name: logins, cgroup: %s/logins, policy: logins}\n", w.postern.Root)
	w.more["targets:\n"] = targets.String()
	w.more["policies:\n"] = "  - name: logins\n    rules:\n      - {name: all, target: \"*\", verbs: [\"*\", unknown], allow: true}\n"
	w.configure()
	return w, hosts
}

const (
	byPassword = "AuthenticationMethods password"
	byQuestion = "AuthenticationMethods keyboard-interactive"
	byKey      = "AuthenticationMethods publickey"
)

// Each kind of credential logs in to an OpenSSH server that takes that kind only.
func TestSSHUpstreamLogins(t *testing.T) {
	key, authority := mustKey(t), mustKey(t)
	for name, text := range map[string]string{
		"login-password.age": hostUserPassword, "login-passphrase.age": keyPassphrase, "login-locked.age": lockedKey(t, key), "login-authority.age": string(authority.Private),
	} {
		if err := theWorld.postern.Seal(name, text); err != nil {
			t.Fatal(err)
		}
	}
	public := filepath.Join(t.TempDir(), "keys")
	trusted := filepath.Join(t.TempDir(), "authorities")
	if err := errors.Join(os.WriteFile(public, []byte(key.Public+"\n"), 0o644), os.WriteFile(trusted, []byte(authority.Public+"\n"), 0o644)); err != nil {
		t.Fatal(err)
	}
	password := fmt.Sprintf("user: %s, password: {source: file, path: login-password.age}", hostUser)
	logins := map[string]sshLogin{
		"password":    {[]string{byPassword}, password, "Accepted password for " + hostUser},
		"interactive": {[]string{byQuestion, "UsePAM yes", "KbdInteractiveAuthentication yes"}, password, "Accepted keyboard-interactive/pam for " + hostUser},
		"locked": {
			[]string{byKey, "AuthorizedKeysFile " + public},
			"user: root, key: {source: file, path: login-locked.age}, passphrase: {source: file, path: login-passphrase.age}", "Accepted publickey for root",
		},
		"certified": {
			[]string{byKey, "AuthorizedKeysFile none", "TrustedUserCAKeys " + trusted, "ExposeAuthInfo yes"},
			"user: root, certificate: {ca: {source: file, path: login-authority.age}, life: 2m}", "ID postern root",
		},
		"keyring": {[]string{byKey, "AuthorizedKeysFile " + public}, "user: root, agent: " + keyring(t, key), "Accepted publickey for root"},
	}
	w, hosts := startLogins(t, logins)
	for name, l := range logins {
		t.Run(name, func(t *testing.T) {
			out, status := w.as("logins", "ssh "+name+".internal 'echo logged in; cat $SSH_USER_AUTH </dev/null'")
			log, err := os.ReadFile(hosts[name].Log)
			if err != nil || status != 0 || !strings.Contains(out, "logged in\n") || !strings.Contains(string(log), l.accepted) {
				t.Fatalf("status %d: %s\n%s\n%s", status, out, log, lastLines(w.daemonLog()))
			}
			mustNotContain(t, out, hostUserPassword, keyPassphrase)
			if name == "certified" {
				shortLived(t, out)
			}
		})
	}
}

// shortLived looks into the certificate that the host was shown, as it tells its
// sessions: it is for root, and ends soon.
func shortLived(t *testing.T, told string) {
	t.Helper()
	_, rest, _ := strings.Cut(told, "ssh-ed25519-cert-v01@openssh.com ")
	text, _, _ := strings.Cut(rest, "\n")
	blob, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text))
	if err != nil || len(blob) == 0 {
		t.Fatalf("no certificate is shown: %v: %s", err, told)
	}
	field := func() []byte {
		n := binary.BigEndian.Uint32(blob)
		f := blob[4 : 4+n]
		blob = blob[4+n:]
		return f
	}
	field() // type
	field() // nonce
	field() // key
	blob = blob[8+4:]
	field() // id
	principals := field()
	until := time.Unix(int64(binary.BigEndian.Uint64(blob[8:])), 0)
	if string(principals) != "\x00\x00\x00\x04root" || time.Until(until) > 2*time.Minute {
		t.Errorf("it is for %q, until %s", principals, until)
	}
}

func mustKey(t *testing.T) servers.SSHKey {
	t.Helper()
	k, err := servers.NewSSHKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// A login that the host refuses is told to the agent without any of it, and to
// operators with the reason.
func TestSSHWrongPassword(t *testing.T) {
	const wrong = "canary-ssh-wrong-55d1"
	if err := theWorld.postern.Seal("login-wrong.age", wrong); err != nil {
		t.Fatal(err)
	}
	w, _ := startLogins(t, map[string]sshLogin{
		"wrong": {[]string{byPassword}, fmt.Sprintf("user: %s, password: {source: file, path: login-wrong.age}", hostUser), ""},
	})
	out, status := w.as("logins", "ssh -v wrong.internal id")
	if status != 255 {
		t.Errorf("status %d", status)
	}
	mustContain(t, out, "postern: the upstream did not accept the gateway's login", "an operator finds the reason in the daemon's log")
	log := w.daemonLog()
	mustContain(t, log, "unable to authenticate")
	mustNotContain(t, out+log, wrong)
}

// The password is nowhere where the agent could have it: TestSSHCanary, of a
// password, with the daemon's process besides.
func TestSSHPasswordCanary(t *testing.T) {
	if err := theWorld.postern.Seal("login-canary.age", hostUserPassword); err != nil {
		t.Fatal(err)
	}
	w, _ := startLogins(t, map[string]sshLogin{
		"canary": {[]string{byPassword}, fmt.Sprintf("user: %s, password: {source: file, path: login-canary.age}", hostUser), ""},
	})
	path := filepath.Join(w.dir, "leaked-password")
	if err := os.WriteFile(path, []byte("it is "+hostUserPassword+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	out, status := w.as("logins", fmt.Sprintf("env; ssh -vvv canary.internal 'cat %[1]s; cat %[1]s >&2'; ssh -tt canary.internal cat %[1]s </dev/null; sftp -q canary.internal:%[1]s $HOME/got; cat $HOME/got; cat /proc/%[2]d/environ /proc/%[2]d/cmdline; echo end", path, w.postern.DaemonPID()))
	if status != 0 {
		t.Fatalf("status %d: %s", status, out)
	}
	mustContain(t, out, "it is ", "end")
	replayed := ""
	for _, line := range strings.Split(w.cli(t, "sessions", "--agent", "logins", "--limit", "3"), "\n")[1:] {
		if f := strings.Fields(line); len(f) > 2 {
			replayed += w.cli(t, "replay", "--json", f[2])
		}
	}
	mustContain(t, replayed, "cat "+path)
	kept := replayed
	for _, at := range []string{w.postern.DaemonLog, fmt.Sprintf("/proc/%d/environ", w.postern.DaemonPID()), fmt.Sprintf("/proc/%d/cmdline", w.postern.DaemonPID())} {
		b, err := os.ReadFile(at)
		if err != nil {
			t.Fatal(err)
		}
		kept += string(b)
	}
	mustNotContain(t, out, hostUserPassword)
	mustNotContain(t, kept, hostUserPassword)
}

// A host of which no key is known is not logged in to: operators are told when
// they configure it, or in the log.
func TestSSHUnknownHostKey(t *testing.T) {
	w := startSSH(t)
	known := filepath.Join(w.sshd.Dir, "known_hosts")
	if err := os.WriteFile(known, []byte("elsewhere.internal "+w.sshd.HostKey+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	target := func(how string) string {
		return fmt.Sprintf("  - {name: stranger, protocol: ssh, hosts: [\"stranger.internal:22\"], dial: \"127.0.0.1:%d\", %scredential: {user: root, key: {source: file, path: %s.age}}}\n",
			w.sshd.Port, how, filepath.Base(filepath.Dir(w.dir)))
	}
	w.more["targets:\n"] = target("ssh: {known_hosts: " + known + "}, ")
	w.configure()
	out, status := w.as("admin", "ssh stranger.internal id -u")
	if status != 255 {
		t.Errorf("status %d", status)
	}
	mustContain(t, out, "no host key is known for the upstream: nothing was sent to it", "an operator compares the fingerprint")
	mustContain(t, w.daemonLog(), "key is unknown", "SHA256:")

	text := strings.Replace(w.configuration(), "\ntargets:\n", "\ntargets:\n"+target(""), 1)
	if err := w.postern.Configure(text); err != nil {
		t.Fatal(err)
	}
	refused, err := w.postern.CLI("reload").CombinedOutput()
	if err == nil {
		t.Error("a target without a host key is taken")
	}
	mustContain(t, string(refused), "stranger", "known_hosts", "host_keys", "host_ca")
}
