package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"time"
)

type peer string

const (
	direct  peer = "direct"
	bouncer peer = "pgbouncer"
	postern peer = "postern"
)

// row is one thing that is measured.
type row struct {
	name    string
	mode    string // of pgbench: simple, prepared
	clients int
	tls     bool
	script  string // "" is pgbench's select-only
}

var rows = []row{
	{name: "select-simple-1", mode: "simple", clients: 1},
	{name: "select-simple-16", mode: "simple", clients: 16},
	{name: "select-prepared-1", mode: "prepared", clients: 1},
	{name: "select-prepared-16", mode: "prepared", clients: 16},
	{name: "select-simple-1-tls", mode: "simple", clients: 1, tls: true},
	{name: "select-simple-16-tls", mode: "simple", clients: 16, tls: true},
	{name: "select-prepared-1-tls", mode: "prepared", clients: 1, tls: true},
	{name: "select-prepared-16-tls", mode: "prepared", clients: 16, tls: true},
	{name: "result-100000-rows", mode: "simple", clients: 1, script: "SELECT id, name, n, made FROM wide;\n"},
	{name: "result-100000-rows-tls", mode: "simple", clients: 1, tls: true, script: "SELECT id, name, n, made FROM wide;\n"},
}

var tpsLine = regexp.MustCompile(`tps = ([0-9.]+) \(without initial connection time\)`)

// pgbench runs one measurement.
func (r *rig) pgbench(row row, p peer) (float64, error) {
	args := []string{
		"-n", "-M", row.mode, "-c", fmt.Sprint(row.clients), "-j", fmt.Sprint(min(row.clients, 2)),
		"-T", fmt.Sprint(max(1, int(r.options.time/time.Second))),
	}
	if row.script == "" {
		args = append(args, "-S")
	} else {
		file := filepath.Join(r.dir, row.name+".sql")
		if err := os.WriteFile(file, []byte(row.script), 0o644); err != nil {
			return 0, err
		}
		args = append(args, "-f", file)
	}
	cmd := r.command(p, row.tls, append([]string{pgbenchPath}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("pgbench: %w: %s", err, out)
	}
	m := tpsLine.FindSubmatch(out)
	if m == nil {
		return 0, fmt.Errorf("pgbench does not say its rate: %s", out)
	}
	return strconv.ParseFloat(string(m[1]), 64)
}

// command runs something against one of the peers, as the same user.
func (r *rig) command(p peer, tls bool, args ...string) *exec.Cmd {
	env := []string{"PGSSLMODE=disable", "PGDATABASE=bench", "PATH=/usr/bin:/bin", "LC_ALL=C.UTF-8"}
	if tls {
		env = []string{"PGSSLMODE=verify-full", "PGSSLROOTCERT=" + r.ca, "PGDATABASE=bench", "PATH=/usr/bin:/bin", "LC_ALL=C.UTF-8"}
	}
	switch p {
	case postern:
		host := "plain-db.internal"
		if tls {
			host = "tls-db.internal"
		}
		cmd := r.postern.Run("planner", args...)
		cmd.Env = append(env, "PGHOST="+host, "PGPORT=5432", "PGUSER=app", "PGPASSWORD="+placeholder)
		return cmd
	case bouncer:
		port := r.bouncerPort
		if tls {
			port = r.bouncerTLSPort
		}
		env = append(env, "PGUSER=app", "PGPASSWORD="+placeholder, fmt.Sprintf("PGPORT=%d", port))
	default:
		env = append(env, "PGUSER="+realUser, "PGPASSWORD="+realPassword, fmt.Sprintf("PGPORT=%d", r.pg.Port))
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(env, "PGHOST=tls-db.internal", "PGHOSTADDR=127.0.0.1")
	cmd.Dir = "/"
	cmd.SysProcAttr = asNobody()
	return cmd
}
