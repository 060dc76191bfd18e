// Package live shows what the dashboards and rules make of a real daemon: guard,
// daemon and worker as they are shipped, a PostgreSQL, agents that work, are
// denied, wait for people and try to get out, and a Prometheus that reads it all.
// It needs root, the programs in build/ (make build), Debian's prometheus and
// chromium, and the npm modules of ../node. Start reading at newWorld.
package live

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/internal/bypass/outside"
	"github.com/postern/postern/test/servers"
)

const (
	realPassword = "canary-dashboards-correct-horse"
	placeholder  = "placeholder-orders-4q8z1w"
	nameServer   = "127.0.0.53"
	// loaded is how long the agents work before anything is looked at.
	loaded = 45 * time.Second
	// picturesEnv is the folder that pictures are for, and then the load is longer.
	picturesEnv    = "POSTERN_PICTURES"
	picturesLoaded = 150 * time.Second
)

var theWorld *world

func TestMain(m *testing.M) {
	if os.Getuid() != 0 {
		fmt.Fprintln(os.Stderr, "the dashboards' tests need root: sudo make test-dashboards")
		os.Exit(1)
	}
	os.Exit(servers.In(newWorld, func(w *world) int {
		theWorld = w
		return m.Run()
	}))
}

// world is an installation that is at work, and what reads its metrics.
type world struct {
	dir        string
	corpCA     string
	outside    *outside.Outside
	names      *servers.Names
	pg         *servers.Postgres
	vault      *servers.VaultServer
	postern    *servers.Postern
	processes  []*exec.Cmd
	prometheus api
	began      time.Time

	stop    context.CancelFunc
	working sync.WaitGroup
	mu      sync.Mutex
	errs    []error
}

const schema = `
CREATE ROLE orders_rw LOGIN PASSWORD '` + realPassword + `';
CREATE DATABASE shop OWNER orders_rw;
\c shop
SET ROLE orders_rw;
CREATE TABLE customers (id int PRIMARY KEY, name text, email text, ssn text);
INSERT INTO customers SELECT i, 'Ada', 'ada' || i || '@example.org', '078-05-1120' FROM generate_series(1, 20) i;
CREATE TABLE orders (id int PRIMARY KEY, customer int, state text);
INSERT INTO orders SELECT i, 1 + i % 2, 'new' FROM generate_series(1, 2000) i;
CREATE TABLE notes (id int PRIMARY KEY, note text);
INSERT INTO notes VALUES (1, 'write to grace@example.org'), (2, 'the password is ` + realPassword + `');
`

const configuration = `
agents:
  - {name: planner, cgroup: %[1]s/planner, policy: planner}
  - {name: coder, cgroup: %[1]s/coder, policy: planner}
  - {name: reader, cgroup: %[1]s/reader, policy: reader}
  - {name: exporter, cgroup: %[1]s/exporter, policy: reader}
  - {name: batch, cgroup: %[1]s/batch, policy: reader}
targets:
  - name: orders
    protocol: postgres
    hosts: [orders-db.internal:5432]
    dial: 127.0.0.1:%[2]d
    tls: {verify: full, ca: %[3]s}
    placeholder: {user: app, database: orders, password: ` + placeholder + `}
    credential: {user: orders_rw, database: shop, password: {source: file, path: secrets.age, key: password}}
  - name: reports
    protocol: postgres
    hosts: [reports-db.internal:5432]
    dial: 127.0.0.1:%[2]d
    tls: {verify: full, ca: %[3]s, server_name: orders-db.internal}
    placeholder: {user: app, database: orders, password: ` + placeholder + `}
    credential: {user: orders_rw, database: shop, password: {source: env, path: POSTERN_TEST_PASSWORD}}
  - name: dead
    protocol: postgres
    hosts: [dead-db.internal:5432]
    dial: 127.0.0.1:1
    tls: {verify: full, ca: %[3]s}
    placeholder: {user: app, password: ` + placeholder + `}
    credential: {user: orders_rw, database: shop, password: {source: file, path: secrets.age, key: password}}
  - name: locked
    protocol: postgres
    hosts: [locked-db.internal:5432]
    dial: 127.0.0.1:%[2]d
    tls: {verify: full, ca: %[3]s, server_name: orders-db.internal}
    placeholder: {user: app, database: orders, password: ` + placeholder + `}
    credential: {user: orders_rw, database: shop, password: {source: file, path: secrets.age, key: old}}
  - name: made
    protocol: postgres
    hosts: [made-db.internal:5432]
    dial: 127.0.0.1:%[2]d
    tls: {verify: full, ca: %[3]s, server_name: orders-db.internal}
    placeholder: {user: app, password: ` + placeholder + `}
    credential: {database: shop, issue: {source: vault, engine: database, role: rw, per: run}}
  - name: shards
    protocol: postgres
    hosts: ["*.real.internal:5432"]
    real_addresses: true
    tls: {verify: full, ca: %[3]s}
    placeholder: {user: app, password: ` + placeholder + `}
    credential: {user: orders_rw, database: shop, password: {source: file, path: secrets.age, key: password}}
policies:
  - name: planner
    rules:
      - {name: no-ddl, target: "*", verbs: [ddl, grant], deny: schema changes go through a migration pull request}
      - {name: session, target: "*", verbs: [session], allow: true}
      - {name: reads, target: "*", verbs: [select], allow: true}
      - {name: narrow-writes, target: "*", verbs: [insert, update, delete], when: 'request.sql.by_key', allow: true}
      - {name: other-writes, target: "*", verbs: [insert, update, delete], ask: {approvers: [dba], within: 10m, reason: required}}
    masks:
      - {target: "*", columns: [customers.email, "*.ssn"], with: pseudonym}
      - {target: "*", detect: [secrets, pii], with: redact}
  - name: reader
    rules:
      - {name: session, target: "*", verbs: [session], allow: true}
      - {name: reads, target: "*", verbs: [select], tables: [orders], allow: true}
    budgets:
      - {name: hourly, per: 1h, rows: 20000, statements: 600}
      - {name: minute, per: 1m, rows: 900, statements: 60, ask: {at: 70%%, approvers: [dba], within: 5m}}
`

func newWorld() (w *world, err error) {
	w = &world{}
	if w.dir, err = os.MkdirTemp("", "postern-dashboards-"); err != nil {
		return w, err
	}
	w.corpCA = filepath.Join(w.dir, "corp-ca.pem")
	if err := os.Chmod(w.dir, 0o755); err != nil {
		return w, err
	}
	if w.outside, err = outside.Connect(outside.Options{Everything: true}); err != nil {
		return w, err
	}
	if w.names, err = servers.StartNames(nameServer+":53", map[string][]netip.Addr{}); err != nil {
		return w, err
	}
	if err := servers.UseNames(filepath.Join(w.dir, "resolv.conf"), nameServer); err != nil {
		return w, err
	}
	w.pg, err = servers.StartPostgres(servers.PostgresOptions{
		Dir: filepath.Join(w.dir, "pg"), Host: "orders-db.internal", Password: "canary-superuser", Init: schema,
	})
	if err != nil {
		return w, err
	}
	err = errors.Join(servers.CopyFile(w.pg.CA, w.corpCA, 0o644), servers.CopyPrograms("../../../build", filepath.Join(w.dir, "bin")))
	if err != nil {
		return w, err
	}
	w.postern, err = servers.NewPostern(servers.PosternOptions{
		Dir: filepath.Join(w.dir, "postern"), Build: filepath.Join(w.dir, "bin"), Env: []string{"POSTERN_TEST_PASSWORD=" + realPassword},
	})
	if err != nil {
		return w, err
	}
	if err := w.issue(); err != nil {
		return w, err
	}
	w.postern.Config = fmt.Sprintf(configuration, w.postern.Root, w.pg.Port, w.pg.CA)
	if err := errors.Join(w.postern.Seal("secrets.age", "password: "+realPassword+"\nold: no-longer-the-one\n"), w.postern.Start()); err != nil {
		return w, err
	}
	if err := w.read(); err != nil {
		return w, err
	}
	w.work()
	span := loaded
	if os.Getenv(picturesEnv) != "" {
		span = picturesLoaded
	}
	time.Sleep(span) // there is nothing to wait for but that time passes
	return w, w.failed()
}

// issue starts a vault that makes accounts in the database, which live so short
// that they are renewed while anybody looks.
func (w *world) issue() (err error) {
	if w.vault, err = servers.StartVault(w.dir, servers.VaultOptions{}); err != nil {
		return err
	}
	for _, q := range []struct {
		path string
		body map[string]any
	}{
		{"sys/mounts/database", map[string]any{"type": "database"}},
		{"database/config/shop", map[string]any{
			"plugin_name": "postgresql-database-plugin", "allowed_roles": "*", "username": "postgres", "password": "canary-superuser",
			"connection_url": fmt.Sprintf("postgresql://{{username}}:{{password}}@127.0.0.1:%d/shop?sslmode=require", w.pg.Port),
		}},
		{"database/roles/rw", map[string]any{
			"db_name": "shop", "default_ttl": "15s", "max_ttl": "1h", "revocation_statements": []string{`DROP ROLE IF EXISTS "{{name}}"`},
			"creation_statements": []string{`CREATE ROLE "{{name}}" LOGIN PASSWORD '{{password}}'; GRANT orders_rw TO "{{name}}"`},
		}},
	} {
		if _, err := w.vault.Do(http.MethodPost, q.path, q.body); err != nil {
			return err
		}
	}
	token := filepath.Join(w.dir, "vault-token")
	w.postern.Sources = fmt.Sprintf("{name: vault, vault: {address: %q, auth: {method: token, token_file: %s}}}", w.vault.Address, token)
	return errors.Join(os.WriteFile(token, []byte(w.vault.RootToken), 0o640), os.Chown(token, 0, servers.DaemonUID))
}

// start has a process run until the end of the world, with its output in a file.
func (w *world) start(name string, cmd *exec.Cmd) error {
	log, err := os.Create(filepath.Join(w.dir, name+".log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: unix.SIGKILL}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	w.processes = append(w.processes, cmd)
	return nil
}

// fail keeps an error of somebody who works.
func (w *world) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.errs = append(w.errs, err)
}

func (w *world) failed() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return errors.Join(w.errs...)
}

func (w *world) Close() error {
	var errs []error
	if w.stop != nil {
		w.stop()
		w.working.Wait()
		errs = append(errs, w.failed())
	}
	for _, p := range w.processes {
		p.Process.Kill()
		p.Wait() //nolint:errcheck // it was killed
	}
	if w.postern != nil {
		errs = append(errs, w.postern.Stop())
	}
	if w.vault != nil {
		w.vault.Stop()
	}
	if w.pg != nil {
		w.pg.Stop()
	}
	if w.names != nil {
		w.names.Stop()
	}
	if w.outside != nil {
		arrived, err := w.outside.Frames()
		errs = append(errs, err, w.outside.Close())
		if len(arrived) > 0 {
			errs = append(errs, fmt.Errorf("packets arrived outside: %q", arrived))
		}
	}
	if w.dir != "" {
		errs = append(errs, os.RemoveAll(w.dir))
	}
	return errors.Join(errs...)
}
