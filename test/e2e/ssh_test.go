package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postern/postern/test/servers"
)

// sshWorld is an OpenSSH server behind the gateway, and an agent that has nothing
// to log in to it with.
type sshWorld struct {
	*world
	t    *testing.T
	sshd *servers.SSHD
	key  servers.SSHKey
	dir  string            // of the server's side, which the policy opens
	home string            // of the agent
	more map[string]string // lines that a test adds below a key of the configuration
}

const sshRules = `
  - name: admin
    rules:
      - {name: no-rm, target: "*", verbs: [exec], objects: [rm], deny: nothing is removed here, help: move it to /srv/old}
      - {name: restarts, target: web, verbs: [exec], objects: [systemctl], ask: {approvers: [ops]}}
      - {name: session, target: "*", verbs: [session, subsystem], allow: true}
      - {name: commands, target: "*", verbs: [exec], objects: [id, exit, kill, cat, echo, sh, "true", "[", tty, stty, sleep, scp, rsync, printenv, wc], allow: true}
      - {name: files, target: web, verbs: [file-list, file-read, file-write, file-mkdir, file-rename, file-attributes, git-fetch, git-push], objects: ["%[1]s/**", "%[1]s"], allow: true}
      - {name: home, target: web, verbs: [file-list], objects: [/root], allow: true}
      - {name: jump, target: web, verbs: [forward-local], objects: ["127.0.0.1:*"], allow: true}
  - name: ansible
    rules:
      - {name: all, target: web, verbs: ["*", unknown], allow: true}
  - name: typist
    rules:
      - {name: no-rm, target: web, verbs: [line, exec], objects: [rm], deny: nothing is removed here, help: move it to /srv/old}
      - {name: shells, target: web, verbs: [session, shell], allow: true}
      - {name: lines, target: web, verbs: [line, exec], objects: [echo, exit, id], allow: true}
      - {name: others, target: web, verbs: [line], objects: [ask], ask: {approvers: [ops]}}
`

// startSSH puts a configuration with SSH targets in force. Settings are more
// lines for the server.
func startSSH(t *testing.T, settings ...string) *sshWorld {
	t.Helper()
	w := &sshWorld{world: theWorld, t: t, more: map[string]string{}}
	base, err := os.MkdirTemp(theWorld.dir, "ssh-")
	if err != nil {
		t.Fatal(err)
	}
	w.dir, w.home = filepath.Join(base, "srv"), filepath.Join(base, "home")
	for dir, mode := range map[string]os.FileMode{base: 0o755, w.dir: 0o755, w.home: 0o777} {
		if err := errors.Join(os.MkdirAll(dir, 0o755), os.Chmod(dir, mode)); err != nil {
			t.Fatal(err)
		}
	}
	if w.key, err = servers.NewSSHKey(); err != nil {
		t.Fatal(err)
	}
	if w.sshd, err = servers.StartSSHD(servers.SSHDOptions{Dir: filepath.Join(base, "sshd"), Authorized: []string{w.key.Public}, Settings: append(settings, "AcceptEnv *")}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.sshd.Stop)
	if err := w.postern.Seal(filepath.Base(base)+".age", string(w.key.Private)); err != nil {
		t.Fatal(err)
	}
	w.configure()
	t.Cleanup(func() { theWorld.apply(t, theWorld.configuration()) })
	return w
}

func (w *sshWorld) configure() {
	w.t.Helper()
	w.apply(w.t, w.configuration())
}

// configuration is that of every test, with an SSH server's targets and agents.
func (w *sshWorld) configuration() string {
	target := func(name, host, more string) string {
		return fmt.Sprintf("  - {name: %s, protocol: ssh, hosts: [%q], %sssh: {host_keys: [%q]}, credential: {user: root, key: {source: file, path: %s.age}}}\n",
			name, host, more, w.sshd.HostKey, filepath.Base(filepath.Dir(w.dir)))
	}
	dial := fmt.Sprintf("dial: \"127.0.0.1:%d\", ", w.sshd.Port)
	text := w.world.configuration()
	for at, more := range map[string]string{
		"agents:\n": fmt.Sprintf("  - {name: admin, cgroup: %[1]s/admin, policy: admin}\n  - {name: ansible, cgroup: %[1]s/ansible, policy: ansible}\n  - {name: typist, cgroup: %[1]s/typist, policy: typist}\n", w.postern.Root),
		"targets:\n": target("web", "web.internal:22", dial) + target("alt", "alt.internal:2222", dial) +
			target("inner", fmt.Sprintf("127.0.0.1:%d", w.sshd.Port), ""),
		"policies:\n": strings.TrimPrefix(fmt.Sprintf(sshRules, w.dir), "\n"),
	} {
		if !strings.Contains(text, "\n"+at) {
			w.t.Fatalf("the configuration has no %q", at)
		}
		text = strings.Replace(text, "\n"+at, "\n"+at+w.more[at]+more, 1)
	}
	return text
}

// as runs a script as an agent, and returns what it said and its status.
func (w *sshWorld) as(agent, script string) (out string, status int) {
	w.t.Helper()
	cmd := w.postern.Run(agent, "sh", "-c", "export HOME="+w.home+"; "+script)
	cmd.Env = append(cmd.Env, "SRV="+w.dir, "PORT="+fmt.Sprint(w.sshd.Port), "SSH_AUTH_SOCK=", "ANSIBLE_LOCAL_TEMP="+w.home, "LANG=C.UTF-8")
	cmd.WaitDelay = patience // a connection that is shared may hold what it writes to
	text, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		w.t.Fatal(err)
	}
	return string(text), cmd.ProcessState.ExitCode()
}

const paramikoClient = `
import paramiko, sys
t = paramiko.Transport(("web.internal", 22)); t.start_client()
known = paramiko.HostKeys("/run/postern/known_hosts"); assert known.check("web.internal", t.get_remote_server_key()); t.auth_none("root")
s = t.open_session(); s.exec_command("cat; exit 42"); s.sendall(b"by paramiko"); s.shutdown_write()
print(s.makefile().read().decode(), s.recv_exit_status())
s = t.open_session(); s.get_pty(); s.invoke_shell(); s.sendall(b"echo $((40+2))-seen; exit 7\n"); print("42-seen" in s.makefile().read().decode(), s.recv_exit_status())
s = t.open_channel("direct-tcpip", ("127.0.0.1", int(sys.argv[2])), ("127.0.0.1", 1)); print(s.recv(7).decode()); s.close()
f = paramiko.SFTPClient.from_transport(t); f.putfo(open("/etc/hostname", "rb"), sys.argv[1] + "/paramiko"); print(f.stat(sys.argv[1] + "/paramiko").st_size > 0)
`

const asyncsshClient = `
import asyncio, asyncssh, sys
async def main():
    async with asyncssh.connect("web.internal", username="root", known_hosts="/run/postern/known_hosts", client_keys=None) as c:
        r = await c.run("cat; exit 42", input="by asyncssh"); print(r.stdout, r.exit_status)
        p = await c.create_process(term_type="vt100"); p.stdin.write("echo $((40+2))-seen; exit 7\n"); r = await p.wait(); print("42-seen" in r.stdout, r.exit_status)
        reader, writer = await c.open_connection("127.0.0.1", int(sys.argv[2])); print((await reader.readexactly(7)).decode()); writer.close()
        async with c.start_sftp_client() as s:
            await s.put("/etc/hostname", sys.argv[1] + "/asyncssh"); print(await s.exists(sys.argv[1] + "/asyncssh"))
asyncio.run(main())
`

// Clients of every kind reach the host without a key, as they would reach it
// directly: commands with their statuses, terminals, files, repositories.
func TestSSHClients(t *testing.T) {
	w := startSSH(t)
	for name, text := range map[string]string{"by_paramiko.py": paramikoClient, "by_asyncssh.py": asyncsshClient, "inventory": "web ansible_host=web.internal ansible_user=root\n"} {
		if err := os.WriteFile(filepath.Join(w.home, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	ends := func(s string) string { return s + "\n" }
	for name, c := range map[string]struct {
		agent, script string
		want          string
		status        int
	}{
		"status 0":       {"", `ssh web.internal true`, "", 0},
		"status 1":       {"", `ssh web.internal "exit 1"`, "", 1},
		"status 42":      {"", `ssh -4 web.internal "exit 42"`, "", 42},
		"status 255":     {"", `ssh web.internal "exit 255"`, "", 255},
		"signal":         {"", `ssh web.internal 'kill -TERM $$'`, "", 255},
		"as root":        {"", `ssh web.internal id -u`, ends("0"), 0},
		"another port":   {"", `ssh -p 2222 alt.internal id -u`, ends("0"), 0},
		"standard input": {"", `echo hello | ssh web.internal cat`, ends("hello"), 0},
		"script":         {"", `printf 'id -u\necho done\n' | ssh -T web.internal`, "0\ndone\n", 0},
		"terminal":       {"", `ssh -tt web.internal tty </dev/null`, "/dev/pts/", 0},
		"strictly":       {"", `ssh -o StrictHostKeyChecking=yes -o HostKeyAlgorithms=ssh-ed25519-cert-v01@openssh.com web.internal id -u`, ends("0"), 0},
		"by its address": {"", `ssh -o StrictHostKeyChecking=no -p $PORT 127.0.0.1 id -u`, "0\n", 0},
		"jump":           {"", `ssh -o StrictHostKeyChecking=no -J web.internal -p $PORT root@127.0.0.1 id -u`, "0\n", 0},
		"master":         {"", `ssh -M -S $HOME/m -f -N web.internal; for i in 1 2 3; do ssh -S $HOME/m web.internal id -u; done; ssh -S $HOME/m -O exit web.internal 2>/dev/null`, "0\n0\n0\n", 0},
		"rekey":          {"", `head -c 3000000 /dev/zero | ssh -o RekeyLimit=256K web.internal wc -c`, ends("3000000"), 0},
		"language":       {"", `LC_ALL=C.UTF-8 ssh -o SendEnv=LC_ALL web.internal printenv LC_ALL`, ends("C.UTF-8"), 0},
		"sftp": {"", `head -c 3000000 /dev/urandom > $HOME/a; echo "put $HOME/a $SRV/a
mkdir $SRV/d
rename $SRV/a $SRV/d/a
ls $SRV/d
get $SRV/d/a $HOME/b" | sftp -q -b - web.internal >/dev/null && cmp $HOME/a $HOME/b && echo same`, ends("same"), 0},
		"scp":               {"", `head -c 1000000 /dev/urandom > $HOME/c; scp -q $HOME/c web.internal:$SRV/c && scp -q web.internal:$SRV/c $HOME/e && cmp $HOME/c $HOME/e && echo same`, ends("same"), 0},
		"scp -O":            {"", `head -c 1000000 /dev/urandom > $HOME/f; scp -O -q $HOME/f web.internal:$SRV/f && scp -O -q web.internal:$SRV/f $HOME/g && cmp $HOME/f $HOME/g && echo same`, ends("same"), 0},
		"rsync":             {"", `mkdir -p $HOME/tree/x; date > $HOME/tree/x/y; rsync -r $HOME/tree/ web.internal:$SRV/tree/ && rsync -r web.internal:$SRV/tree/ $HOME/back/ && diff -r $HOME/tree $HOME/back && echo same`, ends("same"), 0},
		"git":               {"ansible", `git init -q --bare $HOME/x.git 2>/dev/null; ssh web.internal "git init -q --bare $SRV/repo.git" && git clone -q root@web.internal:$SRV/repo.git $HOME/clone 2>/dev/null; cd $HOME/clone && git -c user.name=a -c user.email=a@b commit -q --allow-empty -m one && git push -q origin HEAD && git ls-remote -q | wc -l`, ends("2"), 0},
		"dropbear":          {"", `echo by dropbear | timeout 20 dbclient -y -y root@web.internal "cat; exit 42"`, ends("by dropbear"), 42},
		"dropbear, a shell": {"ansible", `echo 'echo $((40+2))-seen; exit 7' | timeout 20 script -qec "dbclient -t -y -y root@web.internal" /dev/null`, "42-seen", 7},
		"dropbear, files":   {"ansible", `date > $HOME/by_dropbear; rsync -e "dbclient -y -y" $HOME/by_dropbear root@web.internal:$SRV/by_dropbear 2>/dev/null && rsync -e "dbclient -y -y" root@web.internal:$SRV/by_dropbear $HOME/back_by_dropbear 2>/dev/null && cmp $HOME/by_dropbear $HOME/back_by_dropbear && echo same`, ends("same"), 0},
		"paramiko":          {"ansible", `timeout 60 python3 $HOME/by_paramiko.py $SRV $PORT`, "by paramiko 42\nTrue 7\nSSH-2.0\nTrue\n", 0},
		"asyncssh":          {"ansible", `timeout 60 python3 $HOME/by_asyncssh.py $SRV $PORT`, "by asyncssh 42\nTrue 7\nSSH-2.0\nTrue\n", 0},
		"ansible":           {"ansible", `ansible -i $HOME/inventory web -m copy -a "content=hello dest=$SRV/ansible" 2>/dev/null | grep -c CHANGED; ansible -i $HOME/inventory web -m command -a "cat $SRV/ansible" 2>/dev/null | tail -1`, "1\nhello\n", 0},
	} {
		t.Run(name, func(t *testing.T) {
			agent := c.agent
			if agent == "" {
				agent = "admin"
			}
			out, status := w.as(agent, c.script)
			if status != c.status || !strings.Contains(out, c.want) {
				t.Errorf("status %d (want %d): %q (want %q)\n%s", status, c.status, out, c.want, lastLines(w.daemonLog()))
			}
		})
	}
}

func lastLines(text string) string {
	lines := strings.Split(text, "\n")
	return strings.Join(lines[max(0, len(lines)-12):], "\n")
}

// What no rule allows goes nowhere, and says why in SSH's words.
func TestSSHDenials(t *testing.T) {
	w := startSSH(t)
	if err := os.WriteFile(filepath.Join(w.sshd.Dir, "secret"), []byte("kept"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		script string
		want   string
		status int
	}{
		"a command":       {`ssh web.internal "id && rm -rf $SRV"`, "postern: nothing is removed here (exec on rm)", 126},
		"a wrapped one":   {`ssh web.internal "sh -c 'rm -rf $SRV'"`, "nothing is removed here", 126},
		"in a script":     {`echo "id; rm -rf $SRV" | ssh -T web.internal`, "nothing is removed here", 126},
		"what is unknown": {`ssh web.internal '$X'`, "postern: ", 126},
		"a shell":         {`ssh -tt web.internal </dev/null`, "postern: ", 126},
		"a file":          {`sftp -q -b - web.internal < /dev/null; echo "get ` + w.sshd.Dir + `/secret $HOME/s" | sftp -q -b - web.internal; cat $HOME/s`, "no rule of policy admin allows file-list on ", 1},
		"by scp -O":       {`scp -O web.internal:` + w.sshd.Dir + `/secret $HOME/s2`, "postern: ", 1},
		"a forwarding":    {`ssh -W intranet.internal:80 web.internal </dev/null`, "administratively prohibited", 255},
		"no target":       {`ssh -W 127.0.0.1:1 web.internal </dev/null`, "administratively prohibited", 255},
		"a remote one":    {`ssh -o ExitOnForwardFailure=yes -R 4000:localhost:80 web.internal true`, "remote port forwarding failed", 255},
		"another host":    {`ssh -o ConnectTimeout=5 nowhere.internal true`, "", 255},
	} {
		t.Run(name, func(t *testing.T) {
			out, status := w.as("admin", c.script)
			if status != c.status || !strings.Contains(out, c.want) || strings.Contains(out, "kept") {
				t.Errorf("status %d (want %d): %q (want %q)", status, c.status, out, c.want)
			}
		})
	}
	if _, err := os.Stat(w.dir); err != nil {
		t.Error("it was removed:", err)
	}
}

// A host key that is not the known one ends the login before anything is sent.
func TestSSHHostKeyChanged(t *testing.T) {
	w := startSSH(t)
	if out, status := w.as("admin", "ssh web.internal id -u"); status != 0 {
		t.Fatal(out)
	}
	if err := w.sshd.Rekey(); err != nil {
		t.Fatal(err)
	}
	out, status := w.as("admin", "ssh web.internal id -u")
	if status != 255 || !strings.Contains(out, "the upstream's host key is not one that is known for it: nothing was sent to it") {
		t.Errorf("status %d: %s", status, out)
	}
	w.configure()
	if out, status := w.as("admin", "ssh web.internal id -u"); status != 0 {
		t.Error(out)
	}
}

// A command that a rule holds says so, and runs when a person approves.
func TestSSHApproval(t *testing.T) {
	w := startSSH(t)
	cmd := w.postern.Run("admin", "ssh", "web.internal", "systemctl --version; echo approved")
	cmd.Env = append(cmd.Env, "HOME="+w.home)
	s := startAgent(t, cmd)
	_, id, _ := strings.Cut(s.expect("waiting for approval"), "waiting for approval ")
	id, _, _ = strings.Cut(id, " ")
	w.cli(t, "approve", strings.TrimSpace(id))
	s.expect("approved")
}

// What a policy would make of a command is told without running it.
func TestSSHPolicyExplains(t *testing.T) {
	w := startSSH(t)
	for command, want := range map[string]string{"id | cat": "allow", "id && rm -r /srv": "no-rm", "sudo id": "deny", "$X": "deny"} {
		out, _ := w.postern.CLI("policy", "explain", "--agent", "admin", "--target", "web", command).CombinedOutput()
		mustContain(t, string(out), want)
		mustNotContain(t, string(out), "catalog", "panic")
	}
}

// What an agent did is learnt as rules with objects; what acts outside of the
// gateway is not.
func TestSSHPolicyLearns(t *testing.T) {
	w := startSSH(t)
	if out, status := w.as("ansible", "ssh web.internal id -u; ssh web.internal sh -c true; echo a > $HOME/a; scp -q $HOME/a web.internal:$SRV/learnt"); status != 0 {
		t.Fatal(out)
	}
	w.cli(t, "policy", "learn", "--agent", "ansible", "--write", filepath.Join(w.home, "learnt.yaml"))
	text, err := os.ReadFile(filepath.Join(w.home, "learnt.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	learnt := string(text)[strings.LastIndex(string(text), "ansible-learnt\n"):]
	mustContain(t, learnt, "objects:", "- id\n", w.dir+"/learnt", "- session")
	mustNotContain(t, learnt, "tables:", "- sh\n", "- shell\n")
}

// The key is nowhere where the agent could have it: not in what it is told, not
// in what a command prints of it, not in recordings or logs.
func TestSSHCanary(t *testing.T) {
	w := startSSH(t)
	path := filepath.Join(w.dir, "leaked")
	if err := os.WriteFile(path, w.key.Private, 0o644); err != nil {
		t.Fatal(err)
	}
	out, status := w.as("admin", "env; ssh -v web.internal cat "+path+"; ssh -tt web.internal cat "+path+" </dev/null; echo end")
	if status != 0 || !strings.Contains(out, "end") {
		t.Fatalf("status %d: %s", status, out)
	}
	var kept bytes.Buffer
	for _, dir := range []string{w.postern.State, w.postern.Dir} {
		files, _ := filepath.Glob(filepath.Join(dir, "*.log"))
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			kept.Write(b)
		}
	}
	replayed := ""
	for _, line := range strings.Split(w.cli(t, "sessions", "--agent", "admin", "--limit", "2"), "\n")[1:] {
		if f := strings.Fields(line); len(f) > 2 {
			replayed += w.cli(t, "replay", "--json", f[2])
		}
	}
	mustContain(t, replayed, "cat "+path)
	for i, line := range strings.Split(strings.TrimSpace(string(w.key.Private)), "\n") {
		if strings.HasPrefix(line, "-----") {
			continue
		}
		for where, text := range map[string]string{"what the agent sees": out, "logs": kept.String(), "recordings": replayed} {
			if strings.Contains(text, line) {
				t.Errorf("line %d of the key is in %s", i, where)
			}
		}
	}
}
