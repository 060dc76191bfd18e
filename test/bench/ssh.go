package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/postern/postern/internal/bypass/outside"
	"github.com/postern/postern/test/servers"
)

// With -ssh are measured commands and files by SSH: directly at OpenSSH's server,
// through another one by ProxyJump, which is how hosts are reached where keys are
// kept in one place, and through the gateway. sshpiper, which swaps keys too, has
// to be built with a fork of the SSH library and cannot be had as a module.

const (
	jump peer = "proxyjump"

	sshBytes    = 1 << 30
	sshIdle     = 500
	sshIdleGoal = 64 << 20
)

const sshConfiguration = `
agents:
  - {name: planner, cgroup: %[1]s/planner, policy: planner}
limits: {sessions: 4096, sessions_per_agent: 4096}
record: {max_total_bytes: 20GiB, max_session_bytes: 8GiB}
targets:
  - name: plain
    protocol: ssh
    hosts: [plain.internal:22]
    dial: 127.0.0.1:%[2]d
    ssh: {host_keys: [%[3]q]}
    credential: {user: root, key: {source: file, path: key.age}}
  - name: masked
    protocol: ssh
    hosts: [masked.internal:22]
    dial: 127.0.0.1:%[2]d
    ssh: {host_keys: [%[3]q]}
    credential: {user: root, key: {source: file, path: key.age}}
policies:
  - name: planner
    rules:
      - {name: no-rm, target: "*", verbs: [exec], objects: [rm], deny: nothing is removed here}
      - {name: session, target: "*", verbs: [session, subsystem], allow: true}
      - {name: commands, target: "*", verbs: [exec], objects: ["true", cat, scp], allow: true}
      - {name: files, target: "*", verbs: [file-list, file-read, file-write], objects: ["%[4]s/**", /dev/null], allow: true}
    masks:
      - {target: masked, detect: [secrets, pii], with: redact}
`

// sshRow is one thing that is measured, as a rate.
type sshRow struct {
	name   string
	work   *sshWork // of the client of this program; nil: Args are of scp
	args   []string // HOST is replaced by the peer's
	amount float64  // that one measurement does, in what unit says
	unit   string
	to     string // the target; empty: plain
}

func sshRows(file string) []sshRow {
	return []sshRow{
		{name: "set-up", work: &sshWork{Count: 20, Parallel: 1, Fresh: true}, amount: 20, unit: "connections/s"},
		{name: "exec", work: &sshWork{Count: 200, Parallel: 1}, amount: 200, unit: "commands/s"},
		{name: "exec-64", work: &sshWork{Count: 640, Parallel: 64}, amount: 640, unit: "commands/s"},
		{name: "download-1GiB", args: []string{"HOST:" + file, "/dev/null"}, amount: sshBytes >> 20, unit: "MiB/s"},
		{name: "upload-1GiB", args: []string{file, "HOST:/dev/null"}, amount: sshBytes >> 20, unit: "MiB/s"},
		{name: "download-1GiB-scp-O", args: []string{"-O", "HOST:" + file, "/dev/null"}, amount: sshBytes >> 20, unit: "MiB/s"},
		{name: "download-1GiB-masked", args: []string{"HOST:" + file, "/dev/null"}, amount: sshBytes >> 20, unit: "MiB/s", to: "masked"},
	}
}

// sshRig is everything that is measured, and what it is measured by.
type sshRig struct {
	rig
	target, hop *servers.SSHD
	key         string // file
	file        string
	program     string // this one, where agents may run it
}

func measureSSH(o options) (err error) {
	dir, err := os.MkdirTemp("", "postern-bench-ssh-")
	if err != nil {
		return err
	}
	r := &sshRig{rig: rig{options: o, dir: dir}, key: filepath.Join(dir, "key"), file: filepath.Join(dir, "srv", "file"), program: filepath.Join(dir, "bench")}
	defer r.closeSSH()
	if err := r.prepareSSH(); err != nil {
		return err
	}
	fmt.Printf("%d rounds per row and peer, in turns; rates, medians\n\n", o.rounds)
	fmt.Printf("%-22s %-14s %9s %9s %9s  %9s %9s\n", "row", "", "direct", "proxyjump", "postern", "÷ direct", "÷ jump")
	var figures []string
	for _, row := range sshRows(r.file) {
		if !strings.Contains(row.name, o.only) {
			continue
		}
		rates := map[peer][]float64{}
		err := inTurns(o.rounds, []peer{direct, jump, postern}, func(p peer) error {
			took, err := r.once(row, p)
			rates[p] = append(rates[p], row.amount/took.Seconds())
			return err
		})
		if err != nil {
			return fmt.Errorf("%s: %w", row.name, err)
		}
		m := medians(rates)
		fmt.Printf("%-22s %-14s %9.1f %9.1f %9.1f  %9.2f %9.2f\n", row.name, row.unit, m[direct], m[jump], m[postern], m[postern]/m[direct], m[postern]/m[jump])
		for _, p := range []peer{direct, jump} {
			figures = append(figures, figure("ssh", row.name, string(p), m[postern]/m[p]))
		}
	}
	if strings.Contains("idle-500", o.only) {
		f, err := r.idleSSH()
		if err != nil {
			return err
		}
		figures = append(figures, f)
	}
	fmt.Println()
	for _, f := range figures {
		fmt.Println(f)
	}
	return nil
}

// prepareSSH starts the servers and the gateway.
func (r *sshRig) prepareSSH() error {
	if err := os.Chmod(r.dir, 0o755); err != nil {
		return err
	}
	if _, err := outside.Connect(outside.Options{Everything: true}); err != nil {
		return err
	}
	key, err := servers.NewSSHKey()
	if err != nil {
		return err
	}
	if err := os.WriteFile(r.key, key.Private, 0o600); err != nil {
		return err
	}
	settings := []string{"LogLevel ERROR", "MaxSessions 100", "PerSourceMaxStartups none"}
	for name, to := range map[string]**servers.SSHD{"target": &r.target, "hop": &r.hop} {
		if *to, err = servers.StartSSHD(servers.SSHDOptions{Dir: filepath.Join(r.dir, name), Authorized: []string{key.Public}, Settings: settings}); err != nil {
			return err
		}
	}
	if err := r.fill(); err != nil {
		return err
	}
	if err := servers.CopyFile("/proc/self/exe", r.program, 0o755); err != nil {
		return err
	}
	r.postern, err = servers.NewPostern(servers.PosternOptions{Dir: filepath.Join(r.dir, "postern"), Build: filepath.Join(r.dir, "bin")})
	if err != nil {
		return err
	}
	r.postern.Config = fmt.Sprintf(sshConfiguration, r.postern.Root, r.target.Port, r.target.HostKey, filepath.Dir(r.file))
	if err := errors.Join(r.postern.Seal("key.age", string(key.Private)), servers.CopyPrograms(absolute(r.options.build), r.postern.Build)); err != nil {
		return err
	}
	return r.postern.Start()
}

// fill makes the file that is copied: text, which detectors read as such.
func (r *sshRig) fill() error {
	if err := os.MkdirAll(filepath.Dir(r.file), 0o755); err != nil {
		return err
	}
	f, err := os.Create(r.file)
	if err != nil {
		return err
	}
	defer f.Close()
	w := bufio.NewWriterSize(f, 1<<20)
	for n := 0; n < sshBytes; {
		wrote, err := fmt.Fprintf(w, "%012d the quick brown fox jumps over the lazy dog, and comes back in the evening\n", n)
		if err != nil {
			return err
		}
		n += wrote
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return os.Truncate(r.file, sshBytes)
}

func (r *sshRig) closeSSH() {
	for _, s := range []*servers.SSHD{r.target, r.hop} {
		if s != nil {
			s.Stop()
		}
	}
	r.close()
}

// once does what a row says, and returns how long that took.
func (r *sshRig) once(row sshRow, p peer) (time.Duration, error) {
	if row.work != nil {
		cmd, err := r.client(*row.work, p)
		if err != nil {
			return 0, err
		}
		out, err := cmd.Output()
		if err != nil {
			return 0, fmt.Errorf("%w: %s", err, stderrOf(err))
		}
		ns, err := strconv.ParseInt(strings.TrimSpace(string(out)), 10, 64)
		return time.Duration(ns), err
	}
	args := []string{"-q", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"}
	host := "root@127.0.0.1"
	switch p {
	case postern:
		host = "root@plain.internal"
		if row.to != "" {
			host = "root@" + row.to + ".internal"
		}
	case jump:
		inner := fmt.Sprintf("ssh -q -i %s -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -W %%h:%%p -p %d root@127.0.0.1", r.key, r.hop.Port)
		args = append(args, "-i", r.key, "-o", "ProxyCommand="+inner, "-P", strconv.Itoa(r.target.Port))
	default:
		args = append(args, "-i", r.key, "-P", strconv.Itoa(r.target.Port))
	}
	for _, a := range row.args {
		args = append(args, strings.Replace(a, "HOST", host, 1))
	}
	// What `postern run` takes to start is not measured.
	timed := append([]string{"sh", "-c", `from=$(date +%s%N); scp "$@" || exit 1; echo $(($(date +%s%N) - from))`, "scp"}, args...)
	cmd := r.as(p, timed...)
	out, err := cmd.Output()
	if err != nil {
		return 0, fmt.Errorf("scp: %w: %s", err, stderrOf(err))
	}
	ns, err := strconv.ParseInt(strings.TrimSpace(string(out)), 10, 64)
	return time.Duration(ns), err
}

func stderrOf(err error) []byte {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.Stderr
	}
	return nil
}

// client is this program, as a client of SSH.
func (r *sshRig) client(w sshWork, p peer) (*exec.Cmd, error) {
	switch p {
	case postern:
		w.To = "plain.internal:22"
	case jump:
		w.To, w.Jump, w.Key = loopback(r.target.Port), loopback(r.hop.Port), r.key
	default:
		w.To, w.Key = loopback(r.target.Port), r.key
	}
	text, err := json.Marshal(role{Name: roleSSH, SSH: &w})
	if err != nil {
		return nil, err
	}
	cmd := r.as(p, "prlimit", "--nofile=4096:4096", r.program)
	cmd.Env = append(cmd.Env, roleEnv+"="+string(text))
	return cmd, nil
}

func loopback(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

// as is a command of an agent, or, for others, of anybody.
func (r *sshRig) as(p peer, args ...string) *exec.Cmd {
	if p == postern {
		return r.postern.Run("planner", args...)
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = []string{"PATH=/usr/local/bin:/usr/bin:/bin", "LC_ALL=C.UTF-8"}
	return cmd
}

// idleSSH measures the daemon's memory with connections open on which a command
// waits.
func (r *sshRig) idleSSH() (string, error) {
	before, err := r.memory()
	if err != nil {
		return "", err
	}
	cmd, err := r.client(sshWork{Count: sshIdle, Parallel: sshIdle, Hold: true}, postern)
	if err != nil {
		return "", err
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		return "", err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", err
	}
	if err := cmd.Start(); err != nil {
		return "", err
	}
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		cmd.Wait() //nolint:errcheck // it said on stderr what went wrong
		return "", fmt.Errorf("%d sessions did not come about: %w", sshIdle, err)
	}
	time.Sleep(8 * time.Second) // what the logins left behind is collected
	with, err := r.memory()
	in.Close()
	if err := errors.Join(err, cmd.Wait()); err != nil {
		return "", err
	}
	fmt.Printf("%-22s %d sessions: %.1f MiB of memory (%.1f MiB without); goal %d MiB\n", "idle-500", sshIdle,
		float64(with)/(1<<20), float64(before)/(1<<20), sshIdleGoal>>20)
	return figure("ssh", "idle-500", "goal", float64(sshIdleGoal)/float64(with)), nil
}
