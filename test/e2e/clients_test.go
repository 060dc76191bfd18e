package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestClients runs the matrix: each client unchanged but for its placeholder
// user, database and password, under TLS verify-full, host names by the
// gateway's resolver.
func TestClients(t *testing.T) {
	w := theWorld
	at := func(elem ...string) string { return filepath.Join(append([]string{w.dir, "clients"}, elem...)...) }
	compileJava(t, at())
	for name, args := range map[string][]string{
		"psycopg2":    {"/usr/bin/python3", at("psycopg2_client.py")},
		"psycopg3":    {"/usr/bin/python3", at("psycopg3_client.py")},
		"JDBC":        {"java", "-XX:TieredStopAtLevel=1", "-cp", at() + ":/usr/share/java/postgresql.jar", "Client"},
		"node-pg":     {"node", at("node", "pg_client.js")},
		"postgres.js": {"node", at("node", "postgres_client.js")},
		"pgx":         {filepath.Join(w.dir, "client")},
		"lib-pq":      {filepath.Join(w.dir, "client")},
		"pgbench":     {"/usr/lib/postgresql/15/bin/pgbench", "-n", "-t", "50", "-M", "prepared", "-f", at("pgbench.sql")},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := w.agent("planner", "orders", args...)
			cmd.Env = append(cmd.Env, clientEnv+"="+name)
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v:\n%s\nthe daemon's log:\n%s", err, out, w.daemonLog())
			}
			if name != "pgbench" && strings.TrimSpace(string(out)) != "ok" {
				t.Errorf("it said:\n%s", out)
			}
		})
	}
}

func compileJava(t *testing.T, dir string) {
	t.Helper()
	cmd := exec.Command("javac", "-cp", "/usr/share/java/postgresql.jar", "Client.java")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("javac (apt-get install default-jdk-headless libpostgresql-jdbc-java): %v\n%s", err, out)
	}
}

// daemonLog is the end of what the daemon logged.
func (w *world) daemonLog() string {
	b, err := os.ReadFile(w.postern.DaemonLog)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-4000):])
}

func TestPsql(t *testing.T) {
	out, err := theWorld.psql("planner", "orders",
		"SELECT name FROM customers WHERE id = 1", "SELECT email FROM customers WHERE id = 1", "DROP TABLE customers",
		`\d customers`, "BEGIN; SELECT 1", "COPY customers (id, name) TO STDOUT")
	if err != nil {
		t.Error(err) // of the last statement
	}
	mustContain(t, out, "Ada", "42501", "no-ddl", "schema changes go through a migration pull request")
	mustNotContain(t, out, "ada@example.org", realPassword, "orders_rw")
}

// TestUpstreamAuthentication logs in upstream by every method there is.
func TestUpstreamAuthentication(t *testing.T) {
	for target, user := range map[string]string{"orders": "orders_rw", "md5": "md5_user", "clear": "clear_user", "cert": "cert_user"} {
		t.Run(target, func(t *testing.T) {
			out, err := theWorld.psql("planner", target, "SELECT name FROM customers WHERE id = 1")
			if err != nil || strings.TrimSpace(out) != "Ada" {
				t.Fatalf("%v: %s\n%s", err, out, theWorld.daemonLog())
			}
			mustNotContain(t, out, user)
		})
	}
}

// TestWrongPlaceholder: any other password, user or database is refused, in one
// sentence, and counted.
func TestWrongPlaceholder(t *testing.T) {
	w := theWorld
	for _, wrong := range []string{"PGPASSWORD=" + realPassword, "PGPASSWORD=x", "PGUSER=orders_rw", "PGUSER=postgres", "PGDATABASE=postgres"} {
		cmd := w.agent("planner", "orders", "psql", "-X", "-c", "SELECT 1")
		cmd.Env = append(cmd.Env, wrong)
		out, err := cmd.CombinedOutput()
		if err == nil {
			t.Errorf("%s was let in", wrong)
		}
		mustContain(t, string(out), "not the placeholder that this agent holds")
		mustNotContain(t, string(out), realPassword, placeholder)
	}
	mustContain(t, w.metrics(t), `postern_placeholder_misuse_total{target="orders"}`)
}

// TestNamesOfTargetsOnly: the resolver answers for targets that the agent's
// policy knows, and for nothing else.
func TestNamesOfTargetsOnly(t *testing.T) {
	w := theWorld
	lookup := func(agent, name string) (string, error) {
		out, err := w.postern.Run(agent, "getent", "ahosts", name).CombinedOutput()
		return string(out), err
	}
	out, err := lookup("planner", "orders-db.internal")
	if err != nil {
		t.Fatal(err, out)
	}
	mustContain(t, out, "198.1", "fd50:6f73:7465::")
	for _, name := range []string{"example.org", "secret-data-in-a-name.attacker.example"} {
		if out, err := lookup("planner", name); err == nil {
			t.Errorf("%s has an address: %s", name, out)
		}
	}
	if out, err := lookup("reader", "md5-db.internal"); err == nil {
		t.Errorf("the reader may know a target that its policy does not open: %s", out)
	}
	if out, err := lookup("planner", "localhost"); err != nil {
		t.Errorf("localhost has no address: %s", out)
	}
}
