// Package e2e runs real clients through a real gateway to a real PostgreSQL:
// guard, daemon and worker as they are shipped, agents under `postern run`,
// everything in a network of its own. It needs root and the programs in
// build/ (make build).
package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postern/postern/internal/bypass/outside"
	"github.com/postern/postern/test/servers"
)

// clientEnv makes the test binary one of the Go clients.
const clientEnv = "POSTERN_E2E_CLIENT"

const (
	realPassword  = "canary-7f3-correct-horse-battery"
	placeholder   = "placeholder-orders-4q8z1w"
	adminPassword = "canary-superuser-0a77"
)

var theWorld *world

func TestMain(m *testing.M) {
	if name := os.Getenv(clientEnv); name != "" {
		os.Exit(runClient(name))
	}
	if os.Getuid() != 0 {
		fmt.Fprintln(os.Stderr, "the end-to-end tests need root: sudo make test")
		os.Exit(1)
	}
	os.Exit(servers.In(newWorld, func(w *world) int {
		theWorld = w
		return m.Run()
	}))
}

// world is one PostgreSQL, one installation, and the outside.
type world struct {
	dir     string
	outside *outside.Outside
	pg      *servers.Postgres
	postern *servers.Postern
	corpCA  string
	names   *servers.Names // the host's name server
	resolv  string         // its resolv.conf
}

// nameServer is where systemd-resolved has its stub.
const nameServer = "127.0.0.53"

const schema = `
SET password_encryption = 'scram-sha-256';
CREATE ROLE orders_rw LOGIN PASSWORD '` + realPassword + `';
CREATE ROLE cert_user LOGIN;
CREATE ROLE clear_user LOGIN PASSWORD '` + realPassword + `';
SET password_encryption = 'md5';
CREATE ROLE md5_user LOGIN PASSWORD '` + realPassword + `';
CREATE DATABASE shop OWNER orders_rw;
\c shop
SET ROLE orders_rw;
CREATE TABLE customers (id int PRIMARY KEY, name text, email text, ssn text);
INSERT INTO customers VALUES (1, 'Ada', 'ada@example.org', '078-05-1120'), (2, 'Grace', 'grace@example.org', '219-09-9999');
CREATE TABLE orders (id int PRIMARY KEY, customer int, state text);
INSERT INTO orders SELECT i, 1 + i % 2, 'new' FROM generate_series(1, 20) i;
CREATE TABLE scratch (id int PRIMARY KEY, note text);
CREATE VIEW customer_view AS SELECT * FROM customers;
CREATE VIEW customer_view_renamed AS SELECT id, email AS e FROM customers;
CREATE TABLE staff (id int PRIMARY KEY, name text, email text);
INSERT INTO staff VALUES (1, 'Ada', 'zebra quilt'), (2, 'Grace', 'walnut fjord');
CREATE VIEW staff_view AS SELECT * FROM staff;
CREATE VIEW staff_view_renamed AS SELECT id, email AS e FROM staff;
CREATE TABLE computed (id int, twice int GENERATED ALWAYS AS (id * 2) STORED, ssn text);
INSERT INTO computed (id, ssn) VALUES (1, 'walnut fjord');
CREATE TABLE echoes (form text, value text, raw bytea);
CREATE TABLE visits (id int PRIMARY KEY, note text, staff_no int, extra jsonb);
INSERT INTO visits VALUES
 (1, 'let in EMP-12345674 with badge QZX830417', 12345674, '{"who": "EMP-87654323"}'),
 (2, 'let in EMP-12345675 with no badge, call +49 30 901820', 12345675, '{}');
GRANT ALL ON ALL TABLES IN SCHEMA public TO cert_user, clear_user, md5_user;
`

// configuration has the rules of the README's example, and two of the tests'
// own: scratch, which they may write to, and channels.
const configuration = `
agents:
  - {name: planner, cgroup: %[1]s/planner, policy: planner}
  - name: coder
    cgroup: %[1]s/coder
    policy: planner
    tier: workspace
    run_by: {users: [` + personName + `]}
    user: ` + strictName + `
    publish: [3000]
    mounts: [{path: ` + mounted + `}, {path: ` + shared + `, mode: rw}]
  - {name: reader, cgroup: %[1]s/reader, policy: reader}
targets:
  - name: orders
    protocol: postgres
    hosts: [orders-db.internal:5432]
    dial: 127.0.0.1:%[2]d
    tls: {verify: full, ca: %[3]s}
    placeholder: {user: app, database: orders, password: ` + placeholder + `}
    credential: {user: orders_rw, database: shop, password: {source: file, path: secrets.age, key: password}}
  - name: md5
    protocol: postgres
    hosts: [md5-db.internal:5432]
    dial: 127.0.0.1:%[2]d
    tls: {verify: full, ca: %[3]s, server_name: orders-db.internal}
    agent_auth: md5
    placeholder: {user: app, password: ` + placeholder + `}
    credential: {user: md5_user, database: shop, password: {source: env, path: POSTERN_TEST_PASSWORD}}
  - name: clear
    protocol: postgres
    hosts: [clear-db.internal:5432]
    dial: 127.0.0.1:%[2]d
    tls: {verify: full, ca: %[3]s, server_name: orders-db.internal}
    agent_auth: password
    placeholder: {user: app, password: ` + placeholder + `}
    credential: {user: clear_user, database: shop, password: {source: file, path: secrets.age, key: password}}
  - name: cert
    protocol: postgres
    hosts: [cert-db.internal:5432]
    dial: 127.0.0.1:%[2]d
    tls: {verify: full, ca: %[3]s, server_name: orders-db.internal, client_cert: %[4]s/cert_user.crt, client_key: {source: file, path: client-key.age}}
    placeholder: {user: app, password: ` + placeholder + `}
    credential: {user: cert_user, database: shop}
  - name: wild
    protocol: postgres
    hosts: ["*.wild.internal:%[2]d"]
    tls: {verify: full, ca: %[3]s, server_name: orders-db.internal}
    placeholder: {user: app, database: orders, password: ` + placeholder + `}
    credential: {user: orders_rw, database: shop, password: {source: file, path: secrets.age, key: password}}
  - name: real
    protocol: postgres
    hosts: [real-db.internal:%[2]d, shared-db.internal:%[2]d]
    real_addresses: true
    tls: {verify: full, ca: %[3]s, server_name: orders-db.internal}
    placeholder: {user: app, database: orders, password: ` + placeholder + `}
    credential: {user: orders_rw, database: shop, password: {source: file, path: secrets.age, key: password}}
  - name: twin
    protocol: postgres
    hosts: [twin-db.internal:%[2]d]
    real_addresses: true
    anonymous: allow
  - name: dead
    protocol: postgres
    hosts: [dead-db.internal:5432]
    dial: 127.0.0.1:1
    tls: {verify: full, ca: %[3]s}
    placeholder: {user: app, password: ` + placeholder + `}
    credential: {user: orders_rw, database: shop, password: {source: file, path: secrets.age, key: password}}
detectors:
  - {name: staff-number, anchors: ["EMP-", staff_no], pattern: '\b[0-9]{8}\b', check: luhn}
  - {name: badge, anchors: ["badge"], pattern: 'badge ([A-Z]{3}[0-9]{6})', with: partial}
policies:
  - name: planner
    rules:
      - {name: no-ddl, target: "*", verbs: [ddl, grant], deny: schema changes go through a migration pull request, help: open one}
      - {name: session, target: "*", verbs: [session], allow: true}
      - {name: reads, target: "*", verbs: [select], allow: true}
      - {name: scratch, target: orders, verbs: [insert, update, delete, copy-in, copy-out], tables: [scratch, letters], allow: true}
      - {name: copies, target: orders, verbs: [copy-out], allow: true}
      - {name: channels, target: orders, verbs: [listen, notify], allow: true}
      - {name: sleep, target: orders, verbs: [admin, function], allow: true, when: '"pg_sleep" in request.sql.functions'}
      - {name: staff, target: orders, verbs: [filter], columns: [staff.email, staff_view.*, staff_view_renamed.*], allow: true}
      - {name: staff-notes, target: orders, verbs: [derive], columns: [staff.email], when: '"scratch" in request.sql.tables', allow: true}
      - {name: narrow-writes, target: orders, verbs: [insert, update, delete], when: 'request.sql.by_key && !("customers" in request.sql.tables)', allow: true}
      - {name: other-writes-need-a-person, target: orders, verbs: [insert, update, delete], ask: {approvers: [dba], within: 10m, reason: required}}
    masks:
      - {target: "*", columns: [customers.email, staff.email, "*.ssn", people.email, people.phone, people.number, people.ref, letters.email], with: pseudonym}
      - {target: "*", detect: [secrets, pii, staff-number, badge], with: redact}
  - name: reader
    rules:
      - {name: session, target: orders, verbs: [session], allow: true}
      - {name: reads, target: orders, verbs: [select], tables: [orders], allow: true}
trust: {files: [%[5]s]}
`

func newWorld() (*world, error) {
	dir, err := os.MkdirTemp("", "postern-e2e-")
	if err != nil {
		return &world{}, err
	}
	w := &world{dir: dir, corpCA: filepath.Join(dir, "corp-ca.pem"), resolv: filepath.Join(dir, "resolv.conf")}
	if err := os.Chmod(dir, 0o755); err != nil {
		return w, err
	}
	if w.outside, err = outside.Connect(outside.Options{Everything: true}); err != nil {
		return w, err
	}
	w.names, err = servers.StartNames(nameServer+":53", map[string][]netip.Addr{
		"shard7.wild.internal": {outside.Near4, outside.Near6},
		"evil.wild.internal":   {netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::ffff:127.0.0.1"), netip.MustParseAddr("169.254.169.254")},
		"real-db.internal":     {outside.Near4, outside.Near6, netip.MustParseAddr("127.0.0.1")},
	})
	if err != nil {
		return w, err
	}
	if err := servers.UseNames(w.resolv, nameServer); err != nil {
		return w, err
	}
	w.pg, err = servers.StartPostgres(servers.PostgresOptions{
		Dir: filepath.Join(dir, "pg"), Host: "orders-db.internal", Password: adminPassword, Init: schema,
		HBA: []string{
			"hostssl all md5_user 127.0.0.1/32 md5",
			"hostssl all clear_user 127.0.0.1/32 password",
			"hostssl all cert_user 127.0.0.1/32 cert",
			"hostssl all all 127.0.0.1/32 scram-sha-256",
			"hostssl all all samehost scram-sha-256",
		},
		Settings: []string{"listen_addresses='*'"},
	})
	if err != nil {
		return w, err
	}
	if err := w.files(); err != nil {
		return w, err
	}
	w.postern, err = servers.NewPostern(servers.PosternOptions{
		Dir: filepath.Join(dir, "postern"), Build: filepath.Join(dir, "bin"), Env: []string{"POSTERN_TEST_PASSWORD=" + realPassword},
	})
	if err != nil {
		return w, err
	}
	w.postern.Config = w.configuration()
	key, err := os.ReadFile(filepath.Join(dir, "cert_user.key"))
	if err != nil {
		return w, err
	}
	if err := errors.Join(w.postern.Seal("secrets.age", "password: "+realPassword+"\n"), w.postern.Seal("client-key.age", string(key))); err != nil {
		return w, err
	}
	return w, w.postern.Start()
}

// files puts what agents use where they may read it.
func (w *world) files() error {
	if err := w.pg.Issue("cert_user", filepath.Join(w.dir, "cert_user"), false); err != nil {
		return err
	}
	copies := map[string]string{w.pg.CA: w.corpCA, "/proc/self/exe": filepath.Join(w.dir, "client")}
	for from, to := range copies {
		if err := servers.CopyFile(from, to, 0o755); err != nil {
			return err
		}
	}
	if err := servers.CopyPrograms("../../build", filepath.Join(w.dir, "bin")); err != nil {
		return err
	}
	return os.CopyFS(filepath.Join(w.dir, "clients"), os.DirFS("clients"))
}

func (w *world) Close() error {
	var errs []error
	if w.postern != nil {
		errs = append(errs, w.postern.Stop())
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
	return errors.Join(append(errs, os.RemoveAll(w.dir))...)
}

// configuration is that of every test, unless it applies another.
func (w *world) configuration() string {
	return fmt.Sprintf(configuration, w.postern.Root, w.pg.Port, w.pg.CA, w.dir, w.corpCA)
}

// apply puts another configuration in force.
func (w *world) apply(t *testing.T, text string) {
	t.Helper()
	if err := w.postern.Configure(text); err != nil {
		t.Fatal(err)
	}
	if out, err := w.postern.CLI("reload").CombinedOutput(); err != nil {
		t.Fatalf("%s", out)
	}
}

// env is what an agent has: the placeholder, and the authority's file that it
// had before.
func (w *world) env(target string) []string {
	host, database := target+"-db.internal", "shop"
	if target == "orders" {
		database = "orders"
	}
	return []string{
		"PGHOST=" + host, "PGPORT=5432", "PGUSER=app", "PGPASSWORD=" + placeholder, "PGDATABASE=" + database,
		"PGSSLMODE=verify-full", "PGSSLROOTCERT=" + w.corpCA,
		"DSN=host=" + host + " user=app password=" + placeholder + " dbname=" + database + " sslmode=verify-full sslrootcert=" + w.corpCA,
		"URL=jdbc:postgresql://" + host + "/" + database + "?sslmode=verify-full&sslrootcert=" + w.corpCA,
	}
}

// agent is a command of an agent with what it holds for a target.
func (w *world) agent(name, target string, args ...string) *exec.Cmd {
	cmd := w.postern.Run(name, args...)
	cmd.Env = append(cmd.Env, w.env(target)...)
	return cmd
}

// psql runs statements as an agent, each on its own, and returns all it said.
func (w *world) psql(name, target string, statements ...string) (string, error) {
	args := []string{"psql", "-X", "-A", "-t", "-v", "VERBOSITY=verbose"}
	for _, s := range statements {
		args = append(args, "-c", s)
	}
	out, err := w.agent(name, target, args...).CombinedOutput()
	return string(out), err
}

// query asks PostgreSQL itself.
func (w *world) query(t *testing.T, text string) string {
	t.Helper()
	out, err := w.pg.Query("shop", text)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

func mustContain(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("%q is missing in:\n%s", p, text)
		}
	}
}

func mustNotContain(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if strings.Contains(text, p) {
			t.Errorf("%q is in:\n%s", p, text)
		}
	}
}
