package main

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/internal/bypass/outside"
	"github.com/postern/postern/test/servers"
)

const (
	realUser     = "bench_rw"
	realPassword = "bench-correct-horse-battery-staple"
	placeholder  = "placeholder-bench-4q8z1w"

	pgbenchPath = "/usr/lib/postgresql/15/bin/pgbench"
	bouncerPath = "/usr/sbin/pgbouncer"

	idleSessions = 1000
	idleGoal     = 64 << 20 // bytes of the daemon's memory
	nobody       = 65534
)

const schema = `
CREATE ROLE ` + realUser + ` LOGIN PASSWORD '` + realPassword + `';
CREATE DATABASE bench OWNER ` + realUser + `;
\c bench
SET ROLE ` + realUser + `;
CREATE TABLE customers (id int PRIMARY KEY, email text, ssn text);
CREATE TABLE wide (id int PRIMARY KEY, name text, n numeric, made timestamptz);
INSERT INTO wide SELECT i, 'item number ' || i, i * 1.25, '2026-01-01'::timestamptz + i * interval '1 minute' FROM generate_series(1, 100000) i;
`

const configuration = `
agents:
  - {name: planner, cgroup: %[1]s/planner, policy: planner}
limits: {sessions: 4096, sessions_per_agent: 4096}
record: {max_total_bytes: 20GiB, max_session_bytes: 8GiB}
targets:
  - name: plain
    protocol: postgres
    hosts: [plain-db.internal:5432]
    dial: 127.0.0.1:%[2]d
    tls: {verify: off}
    placeholder: {user: app, password: ` + placeholder + `}
    credential: {user: ` + realUser + `, database: bench, password: {source: file, path: secrets.age, key: password}}
  - name: tls
    protocol: postgres
    hosts: [tls-db.internal:5432]
    dial: 127.0.0.1:%[2]d
    tls: {verify: full, ca: %[3]s}
    placeholder: {user: app, password: ` + placeholder + `}
    credential: {user: ` + realUser + `, database: bench, password: {source: file, path: secrets.age, key: password}}
policies:
  - name: planner
    rules:
      - {name: no-ddl, target: "*", verbs: [ddl, grant], deny: schema changes go through a migration pull request}
      - {name: session, target: "*", verbs: [session], allow: true}
      - {name: reads, target: "*", verbs: [select], allow: true}
      - {name: writes, target: "*", verbs: [insert, update, delete], ask: {approvers: [dba]}}
    masks:
      - {target: "*", columns: [customers.email, "*.ssn"], with: pseudonym}
      - {target: "*", detect: [secrets, pii], with: redact}
trust: {files: [%[4]s]}
`

// rig is everything that is measured.
type rig struct {
	options        options
	dir, ca        string
	pg             *servers.Postgres
	postern        *servers.Postern
	bouncerPort    int
	bouncerTLSPort int
	bouncers       map[bool]*exec.Cmd // with and without TLS
}

func prepare(o options) (*rig, error) {
	if _, err := os.Stat(bouncerPath); err != nil {
		return nil, errors.New("pgbouncer is missing: apt-get install pgbouncer")
	}
	dir, err := os.MkdirTemp("", "postern-bench-")
	if err != nil {
		return nil, err
	}
	r := &rig{options: o, bouncers: map[bool]*exec.Cmd{}, dir: dir, ca: filepath.Join(dir, "corp-ca.pem")}
	if err := os.Chmod(dir, 0o755); err != nil {
		return r, err
	}
	far, err := outside.Connect(outside.Options{Everything: true})
	if err != nil {
		return r, err
	}
	_ = far // nothing listens there; it ends with the process
	r.pg, err = servers.StartPostgres(servers.PostgresOptions{
		Dir: filepath.Join(dir, "pg"), Host: "tls-db.internal", Password: "bench-admin", Init: schema,
		HBA:      []string{"host all all 127.0.0.1/32 scram-sha-256"},
		Settings: []string{"max_connections=1200", "shared_buffers=256MB", "log_statement=none"},
	})
	if err != nil {
		return r, err
	}
	if err := servers.CopyFile(r.pg.CA, r.ca, 0o755); err != nil {
		return r, err
	}
	init := r.command(direct, false, pgbenchPath, "-i", "-q", "-s", "10")
	if out, err := init.CombinedOutput(); err != nil {
		return r, fmt.Errorf("pgbench -i: %w: %s", err, out)
	}
	for tls, port := range map[bool]*int{false: &r.bouncerPort, true: &r.bouncerTLSPort} {
		if *port, err = r.startBouncer(tls); err != nil {
			return r, err
		}
	}
	return r, r.startPostern()
}

func (r *rig) startPostern() (err error) {
	r.postern, err = servers.NewPostern(servers.PosternOptions{Dir: filepath.Join(r.dir, "postern"), Build: absolute(r.options.build)})
	if err != nil {
		return err
	}
	r.postern.Config = fmt.Sprintf(configuration, r.postern.Root, r.pg.Port, r.pg.CA, r.ca)
	if err := r.postern.Seal("secrets.age", "password: "+realPassword+"\n"); err != nil {
		return err
	}
	bin := filepath.Join(r.dir, "bin")
	if err := servers.CopyPrograms(r.postern.Build, bin); err != nil {
		return err
	}
	r.postern.Build = bin
	return r.postern.Start()
}

// startBouncer starts pgbouncer as its authors recommend for this: session
// pooling, SCRAM on both legs, warm connections.
func (r *rig) startBouncer(tls bool) (int, error) {
	port, err := servers.FreePort()
	if err != nil {
		return 0, err
	}
	base := filepath.Join(r.dir, fmt.Sprintf("bouncer-%t", tls))
	modes := "client_tls_sslmode = disable\nserver_tls_sslmode = disable\n"
	if tls {
		if err := r.pg.Issue("tls-db.internal", base, true); err != nil {
			return 0, err
		}
		if err := os.Chown(base+".key", nobody, nobody); err != nil {
			return 0, err
		}
		modes = fmt.Sprintf("client_tls_sslmode = require\nclient_tls_cert_file = %[1]s.crt\nclient_tls_key_file = %[1]s.key\n"+
			"server_tls_sslmode = verify-ca\nserver_tls_ca_file = %[2]s\n", base, r.ca)
	}
	users := fmt.Sprintf("\"app\" \"%s\"\n", placeholder)
	ini := fmt.Sprintf("[databases]\nbench = host=%s port=%d dbname=bench user=%s password=%s\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"+
		"listen_port = %d\nunix_socket_dir =\nauth_type = scram-sha-256\nauth_file = %s.users\npool_mode = session\n"+
		"max_client_conn = 2000\ndefault_pool_size = 64\nlogfile = %[6]s.log\nignore_startup_parameters = extra_float_digits\n%[7]s",
		"127.0.0.1", r.pg.Port, realUser, realPassword, port, base, modes)
	if err := errors.Join(os.WriteFile(base+".users", []byte(users), 0o644), os.WriteFile(base+".ini", []byte(ini), 0o644),
		os.WriteFile(base+".log", nil, 0o666)); err != nil {
		return 0, err
	}
	if err := os.Chmod(base+".log", 0o666); err != nil {
		return 0, err
	}
	cmd := exec.Command(bouncerPath, "-q", base+".ini")
	cmd.SysProcAttr = asNobody()
	cmd.SysProcAttr.Pdeathsig = unix.SIGKILL
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	r.bouncers[tls] = cmd
	for range 200 {
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			return port, conn.Close()
		}
		time.Sleep(20 * time.Millisecond) // another program's start
	}
	text, _ := os.ReadFile(base + ".log")
	return 0, fmt.Errorf("pgbouncer does not start: %s", text)
}

func asNobody() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
}

func (r *rig) close() {
	if r.postern != nil {
		if err := r.postern.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, "bench: clean up:", err)
		}
	}
	for _, b := range r.bouncers {
		b.Process.Kill()
		b.Wait()
	}
	if r.pg != nil {
		r.pg.Stop()
	}
	os.RemoveAll(r.dir)
}

// idle measures the daemon's memory with a thousand sessions open on which
// nothing happens: pgbench connects and sleeps.
func (r *rig) idle() (string, error) {
	script := filepath.Join(r.dir, "idle.sql")
	if err := os.WriteFile(script, []byte("SELECT abalance FROM pgbench_accounts WHERE aid = 1;\n\\sleep 20 s\n"), 0o644); err != nil {
		return "", err
	}
	before, err := r.memory()
	if err != nil {
		return "", err
	}
	cmd := r.command(postern, true, "prlimit", "--nofile=4096:4096", pgbenchPath, "-n", "-c", fmt.Sprint(idleSessions), "-j", "2", "-t", "1", "-f", script)
	if err := cmd.Start(); err != nil {
		return "", err
	}
	sessions := 0
	for range 600 {
		status, err := r.sessions()
		if err != nil {
			return "", err
		}
		if sessions = status; sessions >= idleSessions {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	time.Sleep(8 * time.Second) // what the logins left behind is collected
	with, err := r.memory()
	cmd.Process.Kill()
	cmd.Wait()
	if err != nil {
		return "", err
	}
	if sessions < idleSessions {
		return "", fmt.Errorf("only %d of %d sessions came about", sessions, idleSessions)
	}
	fmt.Printf("%-28s %d sessions: %.1f MiB of memory (%.1f MiB without); goal %d MiB\n", "idle-1000", sessions,
		float64(with)/(1<<20), float64(before)/(1<<20), idleGoal>>20)
	return figure("postgres", "idle-1000", "goal", float64(idleGoal)/float64(with)), nil
}

func (r *rig) sessions() (int, error) {
	out, err := r.postern.CLI("status", "--json").Output()
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(out)) {
		if _, n, ok := strings.Cut(line, `  "sessions": `); ok && !strings.HasPrefix(line, "    ") {
			return strconv.Atoi(strings.Trim(n, ",\n "))
		}
	}
	return 0, errors.New("the status has no sessions")
}

// tick is the unit of /proc/PID/stat (sysconf(_SC_CLK_TCK), 100 on Linux).
const tick = 10 * time.Millisecond

// processorTime is what whoever stands between client and server has used.
func (r *rig) processorTime(p peer, tls bool) time.Duration {
	pid := 0
	switch p {
	case postern:
		pid = r.postern.DaemonPID()
	case bouncer:
		pid = r.bouncers[tls].Process.Pid
	default:
		return 0
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(text), ") ") // the name before it may hold blanks
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.ParseInt(fields[11], 10, 64)
	system, _ := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+system) * tick
}

// memory is the resident set of the daemon, in bytes.
func (r *rig) memory() (int64, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", r.postern.DaemonPID()))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if rest, ok := strings.CutPrefix(lines.Text(), "VmRSS:"); ok {
			kb, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return kb << 10, err
		}
	}
	return 0, errors.New("no VmRSS")
}
