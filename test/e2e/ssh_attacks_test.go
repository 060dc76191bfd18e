package e2e

import (
	"bufio"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestSSHStrictKeyExchange: the prefix truncation of CVE-2023-48795 finds strict
// key exchange on both legs.
func TestSSHStrictKeyExchange(t *testing.T) {
	w := startSSH(t, "LogLevel DEBUG3")
	out, status := w.as("admin", "ssh -vv web.internal id -u 2>&1")
	if status != 0 {
		t.Fatal(out)
	}
	mustContain(t, out, "kex-strict-s-v00@openssh.com")
	log, err := os.ReadFile(w.sshd.Log)
	if err != nil {
		t.Fatal(err)
	}
	mustContain(t, string(log), "kex-strict-c-v00@openssh.com")
}

// TestSSHUnbounded: what is denied is over, however much its sender has to say, and
// takes nothing else with it; what is read to its end is bounded.
func TestSSHUnbounded(t *testing.T) {
	w := startSSH(t)
	for name, c := range map[string]regressCase{
		"a denied command":   {`yes | timeout 60 ssh web.internal rm x 2>&1`, "nothing is removed here", 126},
		"much for it":        {`head -c 50000000 /dev/zero | timeout 60 ssh web.internal rm x 2>&1`, "nothing is removed here", 126},
		"a script":           {`yes | timeout 60 ssh -T web.internal 2>&1`, "a script of more than ", 126},
		"a long command":     {`ssh web.internal "echo $(head -c 100000 /dev/zero | tr '\0' x) | wc -c; rm y"`, "nothing is removed here", 126},
		"one of several":     {`ssh -M -S $HOME/one -f -N web.internal; ssh -S $HOME/one web.internal "sleep 1; echo goes on" & ssh -S $HOME/one web.internal rm x; wait $!; ssh -S $HOME/one web.internal echo as does this; ssh -S $HOME/one -O exit web.internal`, "goes on\nas does this\n", 0},
		"the metadata":       {`ssh -W 169.254.169.254:80 web.internal </dev/null`, "administratively prohibited", 255},
		"the gateway's name": {`ssh -W 127.0.0.53:53 web.internal </dev/null`, "administratively prohibited", 255},
	} {
		t.Run(name, func(t *testing.T) {
			if out, status := w.as("admin", c.script); status != c.status || !strings.Contains(out, c.want) {
				t.Errorf("status %d (want %d): %q (want %q)", status, c.status, out, c.want)
			}
		})
	}
	for _, v := range []string{"LD_PRELOAD", "GIT_SSH_COMMAND", "BASH_ENV", "ENV", "PATH"} {
		if out, _ := w.as("admin", "ssh -o SetEnv="+v+"=/tmp/planted web.internal printenv "+v); strings.Contains(out, "planted") {
			t.Errorf("%s reached the host: %s", v, out)
		}
	}
	control := filepath.Join(w.postern.Dir, "run", "control.sock")
	if _, err := os.Stat(control); err != nil {
		t.Fatal(err)
	}
	out, _ := w.as("admin", `ssh -M -S $HOME/two -E $HOME/two.log -f -N -L $HOME/sock:`+control+` web.internal; curl -sS --max-time 20 --unix-socket $HOME/sock http://x/; echo ended $?; cat $HOME/two.log; ssh -S $HOME/two -O exit web.internal`)
	mustContain(t, out, "ended ", "administratively prohibited")
	mustNotContain(t, out, "ended 0")
}

// TestSSHSilentClients: who says nothing, before the version, in the key exchange
// or before the login, is hung up upon.
func TestSSHSilentClients(t *testing.T) {
	w := startSSH(t)
	run := w.regress(t, "\nlimits: {handshake: 1s}\n")
	const client = `printf 'import paramiko\nt = paramiko.Transport(("web.internal", 22)); t.start_client(); t.join(60); print(t.is_active())\n' > c.py; `
	tryAll(t, run, map[string]regressCase{
		"before the version":  {`timeout 60 bash -c 'exec 3<>/dev/tcp/web.internal/22; cat <&3' > o; echo $?; head -c 8 o`, "0\nSSH-2.0-", 0},
		"in the key exchange": {`timeout 60 bash -c 'exec 3<>/dev/tcp/web.internal/22; printf "SSH-2.0-silent\r\n" >&3; cat <&3' > o; echo $?; head -c 8 o`, "0\nSSH-2.0-", 0},
		"before the login":    {client + `python3 c.py`, "False\n", 0},
		"others go on":        {`ssh web.internal "sleep 2; echo on"`, "on\n", 0},
	})
}

// TestSSHWaitsAlive: while a person is waited for, keepalives are answered and keys
// exchanged.
func TestSSHWaitsAlive(t *testing.T) {
	w := startSSH(t, "ClientAliveInterval 1", "ClientAliveCountMax 2")
	for name, option := range map[string]string{"keepalives": "TCPKeepAlive=no", "new keys": "RekeyLimit=default 1"} {
		t.Run(name, func(t *testing.T) {
			cmd := w.postern.Run("admin", "ssh", "-vvv", "-o", option, "-o", "ServerAliveInterval=1", "-o", "ServerAliveCountMax=2", "web.internal", "systemctl --version; echo app''roved")
			cmd.Env = append(cmd.Env, "HOME="+w.home)
			s := startAgent(t, cmd)
			_, id, _ := strings.Cut(s.expect("waiting for approval"), "waiting for approval ")
			id, _, _ = strings.Cut(id, " ")
			for range 4 {
				s.expect("receive packet: type 8") // the answer to a keepalive: 81 or 82
			}
			if name == "new keys" {
				s.expect("SSH2_MSG_NEWKEYS received")
			}
			w.cli(t, "approve", strings.TrimSpace(id))
			s.expect("approved")
		})
	}
}

// TestSSHSessionIsExported: what a terminal showed is what a player shows.
func TestSSHSessionIsExported(t *testing.T) {
	w := startSSH(t)
	run := w.regress(t, "")
	out, status := run(`printf 'stty -echo; PS1=\necho shown-$((40+2))\nexit 4\n' | ssh -q -tt web.internal`)
	if status != 4 || !strings.Contains(out, "shown-42") {
		t.Fatalf("status %d: %q", status, out)
	}
	id := strings.Fields(strings.Split(w.cli(t, "sessions", "--agent", "regress", "--limit", "1"), "\n")[1])[2]
	mustContain(t, w.cli(t, "replay", "--list", id), "shell", "exit 4")
	file := filepath.Join(w.home, "cast")
	w.cli(t, "replay", "--export", "asciicast", "-o", file, id)
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Scan()
	var header struct{ Version int }
	if err := json.Unmarshal(lines.Bytes(), &header); err != nil || header.Version != 3 {
		t.Fatalf("%v: %s", err, lines.Bytes())
	}
	shown := ""
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), "#") {
			continue
		}
		var event []any
		if err := json.Unmarshal(lines.Bytes(), &event); err != nil || len(event) != 3 {
			t.Fatalf("%v: %s", err, lines.Bytes())
		}
		if after, ok := event[0].(float64); !ok || after < 0 {
			t.Errorf("an interval of %v", event[0])
		}
		if event[1] == "o" {
			text, _ := event[2].(string)
			shown += text
		}
	}
	if shown != out {
		t.Errorf("the player shows %q, the agent saw %q", shown, out)
	}
}
