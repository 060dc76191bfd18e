package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postern/postern/internal/bypass/outside"
	"github.com/postern/postern/test/servers"
)

const forwardRules = `  - name: forwarder
    rules:
      - {name: no-ddl, target: "*", verbs: [ddl], deny: schema changes go through a migration pull request}
      - {name: session, target: "*", verbs: [session, select], allow: true}
      - {name: commands, target: "*", verbs: [exec], objects: [id, "true", sleep, ssh-add, printenv, cat], allow: true}
      - {name: there, target: web, verbs: [forward-local], objects: ["real-db.internal:*", "127.0.0.1:*", "intranet.internal:80"], allow: true}
      - {name: back, target: web, verbs: [forward-remote], objects: ["localhost:*"], allow: true}
      - {name: sockets, target: web, verbs: [forward-socket], objects: ["%[1]s/*"], allow: true}
      - {name: more, target: web, verbs: [forward-agent, forward-x11], allow: true}
    masks:
      - {target: "*", columns: [customers.email], with: pseudonym}
`

// startForwarding is startSSH with an agent that may forward. It may listen on
// the port that is returned.
func startForwarding(t *testing.T, settings ...string) (w *sshWorld, port int) {
	t.Helper()
	w = startSSH(t, settings...)
	port, err := servers.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	w.more["agents:\n"] = fmt.Sprintf("  - {name: forwarder, cgroup: %s/forwarder, policy: forwarder, loopback: [%d]}\n", w.postern.Root, port)
	w.more["policies:\n"] = fmt.Sprintf(forwardRules, w.dir)
	w.configure()
	return w, port
}

// PostgreSQL that is reached through ssh -L is PostgreSQL: the placeholder is
// swapped, columns are masked, statements are refused, and all is on record.
func TestSSHForwardedPostgres(t *testing.T) {
	w, port := startForwarding(t)
	connection := fmt.Sprintf("host=real-db.internal hostaddr=127.0.0.1 port=%d user=app dbname=orders password=%%s sslmode=verify-full sslrootcert=/run/postern/root.pem", port)
	psql := fmt.Sprintf(`psql -X -A -t -v VERBOSITY=verbose "%s" `, connection)
	out, _ := w.as("forwarder", fmt.Sprintf(`ssh -M -S $HOME/m -f -N -o ExitOnForwardFailure=yes -L %d:real-db.internal:%d web.internal || exit 9
%s -c 'SELECT name, email FROM customers WHERE id = 1' -c 'DROP TABLE customers' -c 'SELECT current_user'
%s -c 'SELECT 1'
ssh -S $HOME/m -O exit web.internal`, port, w.pg.Port, fmt.Sprintf(psql, placeholder), fmt.Sprintf(psql, realPassword)))
	mustContain(t, out, "Ada|p_", "42501", "schema changes go through a migration pull request", "no-ddl", "not the placeholder that this agent holds")
	mustNotContain(t, out, "ada@example.org")
	if w.query(t, "SELECT count(*) FROM customers") != "2" {
		t.Error("the table is not what it was")
	}
	replayed := ""
	for _, line := range strings.Split(w.cli(t, "sessions", "--agent", "forwarder", "--limit", "3"), "\n")[1:] {
		if f := strings.Fields(line); len(f) > 2 {
			replayed += w.cli(t, "replay", "--json", f[2])
		}
	}
	mustContain(t, replayed, "SELECT name, email FROM customers", "DROP TABLE customers", "connect to real-db.internal:")
}

// Each way of forwarding that a rule allows works with OpenSSH's client.
func TestSSHForwarding(t *testing.T) {
	w, port := startForwarding(t)
	for name, c := range map[string]struct {
		script string
		want   string
	}{
		"-W": {`ssh -W 127.0.0.1:$PORT web.internal </dev/null`, "SSH-2.0-Postern"},
		"-D": {
			`ssh -M -S $HOME/d -f -N -D LISTEN web.internal; curl -sS -A $(head -c 300 /dev/zero | tr '\0' x) --http0.9 --socks5-hostname 127.0.0.1:LISTEN http://127.0.0.1:$PORT/; ssh -S $HOME/d -O exit web.internal 2>/dev/null`,
			"SSH-2.0-Postern",
		},
		"-D to no target": {
			`ssh -E $HOME/e.log -M -S $HOME/e -f -N -D LISTEN web.internal; curl -sS --socks5-hostname 127.0.0.1:LISTEN http://intranet.internal/; ssh -S $HOME/e -O exit web.internal 2>/dev/null; cat $HOME/e.log`,
			"administratively prohibited: postern: no target is configured for intranet.internal:80",
		},
		"-L": {`ssh -M -S $HOME/l -f -N -L LISTEN:127.0.0.1:$PORT web.internal; ssh -o StrictHostKeyChecking=no -p LISTEN root@127.0.0.1 id -u; ssh -S $HOME/l -O exit web.internal 2>/dev/null`, "0\n"},
		"-L to no target": {
			`ssh -E $HOME/f.log -M -S $HOME/f -f -N -L LISTEN:intranet.internal:80 web.internal; curl -sS http://127.0.0.1:LISTEN/; ssh -S $HOME/f -O exit web.internal 2>/dev/null; cat $HOME/f.log`,
			"administratively prohibited: postern: no target is configured for intranet.internal:80",
		},
		"-J":             {`ssh -o StrictHostKeyChecking=no -J web.internal -p $PORT root@127.0.0.1 id -u`, "0\n"},
		"-A":             {`eval $(ssh-agent) >/dev/null; ssh-keygen -q -t ed25519 -N "" -C of-the-agents-own -f $HOME/own; ssh-add -q $HOME/own; ssh -A web.internal ssh-add -l; kill $SSH_AGENT_PID`, "of-the-agents-own"},
		"-L by dropbear": {`sleep 60 | timeout 60 dbclient -y -y -N -L LISTEN:127.0.0.1:$PORT root@web.internal & until ssh -q -o StrictHostKeyChecking=no -p LISTEN root@127.0.0.1 id -u; do :; done; kill $!`, "0\n"},
	} {
		t.Run(name, func(t *testing.T) {
			out, _ := w.as("forwarder", strings.ReplaceAll(c.script, "LISTEN", fmt.Sprint(port)))
			if !strings.Contains(out, c.want) {
				t.Errorf("%q is missing in:\n%s\n%s", c.want, out, lastLines(w.daemonLog()))
			}
		})
	}
}

// greeter says one line to everybody who connects.
func greeter(t *testing.T, l net.Listener, line string) {
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			io.WriteString(c, line)
			c.Close()
		}
	}()
}

// heard is what is said to who connects.
func heard(network, at string) (string, error) {
	c, err := net.Dial(network, at)
	if err != nil {
		return "", err
	}
	defer c.Close()
	b, err := io.ReadAll(c)
	return string(b), err
}

// localServer is the agent's own, in Python: it says a line to who connects.
const localServer = `python3 -c '
import socket, sys
s = socket.create_server(("127.0.0.1", int(sys.argv[1]))) if sys.argv[1].isdigit() else socket.socket(socket.AF_UNIX)
if not sys.argv[1].isdigit(): s.bind(sys.argv[1]); s.listen()
print("listens", flush=True)
while True:
    c, _ = s.accept(); c.sendall(b"said by the agent"); c.close()
' `

// What comes back from the host, by a port that it picks and by a Unix socket.
func TestSSHForwardingBackEndToEnd(t *testing.T) {
	w, port := startForwarding(t)
	cmd := w.postern.Run("forwarder", "sh", "-c", fmt.Sprintf(`export HOME=%[4]s; %[1]s %[2]d & %[1]s $HOME/own.sock & exec ssh -N -R 0:127.0.0.1:%[2]d -R %[3]s/back.sock:$HOME/own.sock web.internal`,
		localServer, port, w.dir, w.home))
	s := startAgent(t, cmd)
	told := s.expect("Allocated port")
	_, rest, _ := strings.Cut(told, "Allocated port ")
	back := strings.Fields(rest)[0]
	for network, at := range map[string]string{"tcp": "127.0.0.1:" + back, "unix": filepath.Join(w.dir, "back.sock")} {
		eventually(t, func() error {
			said, err := heard(network, at)
			if err == nil && said != "said by the agent" {
				err = fmt.Errorf("%s: %q", at, said)
			}
			return err
		})
	}
}

// The other way around: a Unix socket of the host's, and one that no rule opens.
func TestSSHForwardingToSockets(t *testing.T) {
	w, _ := startForwarding(t)
	for at, line := range map[string]string{filepath.Join(w.dir, "opened.sock"): "said by the host", filepath.Join(w.sshd.Dir, "kept.sock"): "kept"} {
		l, err := net.Listen("unix", at)
		if err != nil {
			t.Fatal(err)
		}
		greeter(t, l, line)
	}
	for at, want := range map[string]string{"$SRV/opened.sock": "said by the host", w.sshd.Dir + "/kept.sock": "administratively prohibited"} {
		out, _ := w.as("forwarder", `ssh -E $HOME/s.log -M -S $HOME/s -f -N -L $HOME/l.sock:`+at+` web.internal; curl -sS -m 20 --http0.9 --unix-socket $HOME/l.sock http://x/; ssh -S $HOME/s -O exit web.internal 2>/dev/null; rm -f $HOME/l.sock; cat $HOME/s.log`)
		mustContain(t, out, want)
	}
}

// A display, which OpenSSH opens on the host for what a rule allows; and each
// way that another policy does not.
func TestSSHForwardingByRule(t *testing.T) {
	w, _ := startForwarding(t, "X11Forwarding yes", "XAuthLocation /bin/true")
	const display = `export DISPLAY=:77; ssh -Y web.internal printenv DISPLAY`
	out, _ := w.as("forwarder", display)
	mustContain(t, out, "localhost:1")
	const own = `eval $(ssh-agent) >/dev/null; `
	for script, want := range map[string]string{
		display: "X11 forwarding request failed",
		own + `ssh -A web.internal printenv SSH_AUTH_SOCK || echo no agent there; kill $SSH_AGENT_PID`: "no agent there",
		`ssh -o ExitOnForwardFailure=yes -R 0:localhost:80 web.internal true`:                          "remote port forwarding failed",
		`ssh -o ExitOnForwardFailure=yes -R ` + w.dir + `/no.sock:localhost:80 web.internal true`:      "remote port forwarding failed",
		`ssh -W real-db.internal:1 web.internal </dev/null`:                                            "administratively prohibited",
	} {
		out, _ := w.as("admin", script)
		if !strings.Contains(out, want) {
			t.Errorf("%s: %q is missing in:\n%s", script, want, out)
		}
	}
	if _, err := os.Stat(filepath.Join(w.dir, "no.sock")); !errors.Is(err, os.ErrNotExist) {
		t.Error("the host listens:", err)
	}
}

// A host by its IPv6 address, on loopback and elsewhere.
func TestSSHByIPv6(t *testing.T) {
	w := startSSH(t, "ListenAddress "+outside.Near6.String())
	for _, at := range []string{"::1", outside.Near6.String()} {
		w.more["targets:\n"] += fmt.Sprintf("  - {name: six%d, protocol: ssh, hosts: [\"[%s]:%d\"], ssh: {host_keys: [%q]}, credential: {user: root, key: {source: file, path: %s.age}}}\n",
			len(at), at, w.sshd.Port, w.sshd.HostKey, filepath.Base(filepath.Dir(w.dir)))
	}
	w.configure()
	for _, at := range []string{"::1", outside.Near6.String()} {
		out, status := w.as("admin", "ssh -o StrictHostKeyChecking=no -p $PORT root@"+at+" 'id -u; echo hello'")
		if status != 0 || !strings.HasSuffix(out, "0\nhello\n") {
			t.Errorf("%s: status %d: %s\n%s", at, status, out, lastLines(w.daemonLog()))
		}
	}
}
