// Package sql makes the statements of corpus/ against a real PostgreSQL: first
// as its superuser, to prove that each would do what it is said to do, then as an
// agent, who is given the same superuser for a credential, so that nothing but
// Postern stands between. It needs root and the programs in build/ (make build).
package sql

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/postern/postern/internal/bypass/outside"
	"github.com/postern/postern/test/servers"
)

const (
	realPassword = "canary-corpus-correct-horse"
	placeholder  = "placeholder-corpus-7k2m9x"
)

var theWorld *world

func TestMain(m *testing.M) {
	if os.Getuid() != 0 {
		os.Exit(m.Run()) // the test says what is missing
	}
	os.Exit(servers.In(newWorld, func(w *world) int {
		theWorld = w
		return m.Run()
	}))
}

type world struct {
	outside *outside.Outside
	dir     string
	shared  string // that PostgreSQL may write to
	pg      *servers.Postgres
	hashes  map[string]string
	postern *servers.Postern
}

// configuration lets the agent read, and write to one table that has nothing in it.
const configuration = `
agents:
  - {name: planner, cgroup: %[1]s/planner, policy: planner}
targets:
  - name: corpus
    protocol: postgres
    hosts: [corpus-db.internal:5432]
    dial: 127.0.0.1:%[2]d
    tls: {verify: full, ca: %[3]s}
    placeholder: {user: app, database: corpus, password: ` + placeholder + `}
    credential: {user: superuser, database: corpus, password: {source: file, path: secrets.age, key: password}}
policies:
  - name: planner
    rules:
      - {name: session, target: corpus, verbs: [session], allow: true}
      - {name: harmless, target: corpus, verbs: [set], tables: [statement_timeout, application_name], allow: true}
      - {name: reads, target: corpus, verbs: [select, copy-out], allow: true}
    masks:
      - {target: corpus, columns: [customers.email, "*.ssn", parts.secret, parent.secret], with: redact}
`

func newWorld() (*world, error) {
	w := &world{hashes: map[string]string{}}
	var err error
	if w.dir, err = os.MkdirTemp("", "postern-corpus-"); err != nil {
		return w, err
	}
	w.shared = filepath.Join(w.dir, "shared")
	if err := errors.Join(os.Chmod(w.dir, 0o755), os.Mkdir(w.shared, 0o777), os.Chmod(w.shared, 0o777)); err != nil { //nolint:gosec // PostgreSQL writes there
		return w, err
	}
	secret := filepath.Join(w.shared, "canary-file")
	if err := os.WriteFile(secret, []byte("canary-of-the-host\n"), 0o644); err != nil { //nolint:gosec // PostgreSQL reads it
		return w, err
	}
	if w.outside, err = outside.Connect(outside.Options{Everything: true}); err != nil {
		return w, err
	}
	schema, err := os.ReadFile("schema.sql")
	if err != nil {
		return w, err
	}
	w.pg, err = servers.StartPostgres(servers.PostgresOptions{
		Dir: filepath.Join(w.dir, "pg"), Host: "corpus-db.internal", Password: "canary-superuser",
		Init:     fmt.Sprintf("CREATE ROLE superuser SUPERUSER LOGIN PASSWORD '%s';\nCREATE DATABASE corpus;\n\\c corpus\n\\set secret '%s'\n%s", realPassword, secret, schema),
		Settings: []string{"wal_level=logical", "max_prepared_transactions=5"},
		HBA:      []string{"local all all trust", "hostssl all all 127.0.0.1/32 scram-sha-256"},
	})
	if err != nil {
		return w, err
	}
	if err := servers.CopyPrograms("../../../build", filepath.Join(w.dir, "bin")); err != nil {
		return w, err
	}
	w.postern, err = servers.NewPostern(servers.PosternOptions{Dir: filepath.Join(w.dir, "postern"), Build: filepath.Join(w.dir, "bin")})
	if err != nil {
		return w, err
	}
	w.postern.Config = fmt.Sprintf(configuration, w.postern.Root, w.pg.Port, w.pg.CA)
	return w, errors.Join(w.postern.Seal("secrets.age", "password: "+realPassword+"\n"), w.postern.Start())
}

func (w *world) Close() error {
	var errs []error
	if w.postern != nil {
		errs = append(errs, w.postern.Stop())
	}
	if w.pg != nil {
		w.pg.Stop()
	}
	if w.outside != nil {
		errs = append(errs, w.outside.Close())
	}
	if w.dir != "" {
		errs = append(errs, os.RemoveAll(w.dir))
	}
	return errors.Join(errs...)
}
