// Demo shows Postern at work in half a minute: a real PostgreSQL, the guard, the
// daemon, and an agent that holds nothing but placeholders. Each line says what
// the agent saw and what really happened, and is a check: the demo fails when
// one does not hold. It runs as root, in a network of its own.
//
// Start with steps.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/postern/postern/internal/bypass/outside"
	"github.com/postern/postern/test/servers"
)

const (
	realUser      = "orders_rw"
	realPassword  = "7f3-correct-horse-battery-staple"
	nextPassword  = "b91-entirely-different-password"
	placeholder   = "placeholder-orders-4q8z1w"
	adminPassword = "demo-superuser"
)

const schema = `
CREATE ROLE orders_rw LOGIN PASSWORD '` + realPassword + `';
CREATE DATABASE shop OWNER orders_rw;
\c shop
SET ROLE orders_rw;
CREATE TABLE customers (id int PRIMARY KEY, name text, email text, ssn text);
INSERT INTO customers VALUES (1, 'Ada', 'ada@example.org', '078-05-1120'), (2, 'Grace', 'grace@example.org', '219-09-9999');
CREATE TABLE orders (id int PRIMARY KEY, customer int REFERENCES customers, state text);
INSERT INTO orders SELECT i, 1 + i % 2, 'new' FROM generate_series(1, 20) i;
`

// configuration is the example of the README with the demo's paths.
const configuration = `
agents:
  - name: planner
    cgroup: %[1]s/planner
    policy: planner
    tier: strict
    user: ` + servers.AgentUser + `
    mounts: [{path: %[5]s, mode: ro}]
targets:
  - name: orders
    protocol: postgres
    hosts: [orders-db.internal:5432]
    dial: 127.0.0.1:%[2]d
    tls: {verify: full, ca: %[3]s}
    placeholder: {user: app, database: orders, password: ` + placeholder + `}
    credential: {user: ` + realUser + `, database: shop, password: {source: file, path: secrets.age, key: password}}
policies:
  - name: planner
    rules:
      - {name: no-ddl, target: orders, verbs: [ddl, grant], deny: schema changes go through a migration pull request, help: open one in the repository db-migrations}
      - {name: session, target: orders, verbs: [session], allow: true}
      - {name: reads, target: orders, verbs: [select], allow: true}
      - {name: narrow-writes, target: orders, verbs: [insert, update, delete], when: 'request.sql.by_key && !("customers" in request.sql.tables)', allow: true}
      - {name: other-writes-need-a-person, target: orders, verbs: [insert, update, delete], ask: {approvers: [dba], within: 10m, reason: required}}
    masks:
      - {target: orders, columns: [customers.email, "*.ssn"], with: pseudonym}
      - {target: "*", detect: [secrets, pii], with: redact}
trust: {files: [%[4]s]}
`

func main() {
	if len(os.Args) > 1 && os.Args[1] == "attempt" {
		attempt(os.Args[2:])
		return
	}
	build := flag.String("build", "build", "folder of the four programs")
	flag.Parse()
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "demo: it attaches kernel programs, so it takes root: sudo make demo")
		os.Exit(1)
	}
	os.Exit(servers.Isolated(func() int { return run(*build) }))
}

func run(build string) int {
	d := &demo{}
	err := d.prepare(build)
	if err == nil {
		for _, s := range steps {
			d.step(s)
		}
	} else {
		fmt.Fprintln(os.Stderr, "demo:", err)
		d.failed++
	}
	if err := d.close(); err != nil {
		fmt.Fprintln(os.Stderr, "demo: clean up:", err)
		d.failed++
	}
	fmt.Printf("\n%d passed, %d failed\n", d.passed, d.failed)
	if d.failed > 0 {
		return 1
	}
	return 0
}

// demo is what runs.
type demo struct {
	dir     string
	outside *outside.Outside
	pg      *servers.Postgres
	postern *servers.Postern
	agent   *agent
	heard   strings.Builder // everything the agent ever saw

	passed, failed int
}

func (d *demo) prepare(build string) (err error) {
	fmt.Println("starting PostgreSQL with TLS and SCRAM, the guard, the daemon, and an agent …")
	if build, err = filepath.Abs(build); err != nil {
		return err
	}
	if d.outside, err = outside.Connect(outside.Options{Everything: true}); err != nil {
		return err
	}
	if d.dir, err = os.MkdirTemp("", "postern-demo-"); err != nil {
		return err
	}
	if err := os.Chmod(d.dir, 0o755); err != nil {
		return err
	}
	d.pg, err = servers.StartPostgres(servers.PostgresOptions{
		Dir: filepath.Join(d.dir, "pg"), Host: "orders-db.internal", Password: adminPassword, Init: schema,
	})
	if err != nil {
		return err
	}
	// What the agent's DSN names as sslrootcert, before Postern and with it.
	corpCA := filepath.Join(d.dir, "corp-ca.pem")
	if err := servers.CopyFile(d.pg.CA, corpCA, 0o644); err != nil {
		return err
	}
	// The agent's user has no way into the folder that this program was built in.
	if err := servers.CopyFile("/proc/self/exe", filepath.Join(d.dir, "demo"), 0o755); err != nil {
		return err
	}
	if err := servers.CopyPrograms(build, filepath.Join(d.dir, "bin")); err != nil {
		return err
	}
	d.postern, err = servers.NewPostern(servers.PosternOptions{Dir: filepath.Join(d.dir, "postern"), Build: filepath.Join(d.dir, "bin")})
	if err != nil {
		return err
	}
	d.postern.Config = fmt.Sprintf(configuration, d.postern.Root, d.pg.Port, d.pg.CA, corpCA, filepath.Join(d.dir, "demo"))
	if err := d.postern.Seal("secrets.age", "password: "+realPassword+"\n"); err != nil {
		return err
	}
	if err := d.postern.Start(); err != nil {
		return err
	}
	d.agent, err = startAgent(d, corpCA)
	return err
}

func (d *demo) close() error {
	var errs []error
	if d.agent != nil {
		d.agent.close()
	}
	if d.postern != nil {
		errs = append(errs, d.postern.Stop())
	}
	if d.pg != nil {
		d.pg.Stop()
	}
	if d.dir != "" {
		errs = append(errs, os.RemoveAll(d.dir))
	}
	return errors.Join(errs...)
}

func (d *demo) step(s step) {
	saw, really, err := s.run(d)
	mark := "✓"
	if err != nil {
		mark = "✗"
		d.failed++
	} else {
		d.passed++
	}
	fmt.Printf("\n%s %s\n", mark, s.title)
	if err != nil {
		fmt.Printf("    FAILED        %v\n", err)
	}
	show := func(label, text string) {
		for line := range strings.Lines(text) {
			if line = strings.TrimRight(line, "\n"); line != "" {
				fmt.Printf("    %s  %s\n", label, line)
				label = strings.Repeat(" ", 12)
			}
		}
	}
	show("agent saw   ", saw)
	show("really      ", really)
}
