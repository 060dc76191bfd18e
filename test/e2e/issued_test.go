package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/postern/postern/pkg/control"
	"github.com/postern/postern/test/servers"
)

// issuing is a vault whose engine makes accounts in the world's PostgreSQL, and
// targets made and each whose credentials it issues, per run and per session.
func issuing(t *testing.T) *servers.VaultServer {
	t.Helper()
	w := theWorld
	v := servers.Vault(t, servers.VaultOptions{Kept: true})
	v.Must(t, http.MethodPost, "sys/mounts/database", map[string]any{"type": "database"})
	v.Must(t, http.MethodPost, "sys/mounts/kv", map[string]any{"type": "kv", "options": map[string]any{"version": "1"}})
	v.Put(t, "database/config/shop", map[string]any{
		"plugin_name": "postgresql-database-plugin", "allowed_roles": "*", "username": "postgres", "password": adminPassword,
		"connection_url": fmt.Sprintf("postgresql://{{username}}:{{password}}@127.0.0.1:%d/shop?sslmode=require", w.pg.Port),
	})
	v.Put(t, "database/roles/rw", map[string]any{
		"db_name": "shop", "default_ttl": "10m", "max_ttl": "1h",
		"creation_statements":   []string{`CREATE ROLE "{{name}}" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'; GRANT orders_rw TO "{{name}}"`},
		"revocation_statements": []string{`DROP ROLE IF EXISTS "{{name}}"`},
	})
	v.Put(t, "kv/orders", map[string]any{"password": realPassword})
	v.Policy(t, "postern", vaultPolicy)
	token := filepath.Join(w.dir, "vault-token")
	renewToken(t, v)
	target := `  - name: %[1]s
    protocol: postgres
    hosts: [%[1]s-db.internal:5432]
    dial: 127.0.0.1:%[2]d
    tls: {verify: full, ca: %[3]s, server_name: orders-db.internal}
    placeholder: {user: app, password: ` + placeholder + `}
    credential: {%[4]s}
`
	issue := "database: shop, issue: {source: bao, engine: database, role: rw, per: %s}"
	targets := fmt.Sprintf(target, "made", w.pg.Port, w.pg.CA, fmt.Sprintf(issue, "run")) +
		fmt.Sprintf(target, "each", w.pg.Port, w.pg.CA, fmt.Sprintf(issue, "session")) +
		fmt.Sprintf(target, "kept", w.pg.Port, w.pg.CA, "user: orders_rw, database: shop, password: {source: bao, path: kv/orders, key: password}")
	whole := w.configuration()
	t.Cleanup(func() { w.postern.Sources = ""; w.apply(t, whole) })
	text := strings.Replace(whole, "targets:\n", "targets:\n"+targets, 1)
	w.postern.Sources = fmt.Sprintf("{name: bao, refresh: 1s, stale: 5s, vault: {address: %q, timeout: 2s, auth: {method: token, token_file: %s}}}", v.Address, token)
	w.apply(t, text)
	return v
}

// renewToken puts a token where the daemon finds it.
func renewToken(t *testing.T, v *servers.VaultServer) {
	t.Helper()
	at := filepath.Join(theWorld.dir, "vault-token")
	if err := errors.Join(os.WriteFile(at+".new", []byte(v.Token(t, "1h", "postern")), 0o640), os.Chown(at+".new", 0, servers.DaemonUID), os.Rename(at+".new", at)); err != nil {
		t.Fatal(err)
	}
}

const vaultPolicy = `
path "kv/*" { capabilities = ["read"] }
path "database/creds/*" { capabilities = ["read"] }
path "sys/leases/renew" { capabilities = ["update"] }
path "sys/leases/lookup" { capabilities = ["update"] }
path "sys/leases/revoke" { capabilities = ["update"] }`

// made counts the accounts that the vault has made and PostgreSQL still has.
func (w *world) made(t *testing.T) string {
	t.Helper()
	return w.query(t, "SELECT count(*) FROM pg_roles WHERE rolname LIKE 'v-%'")
}

func (w *world) noneMade(t *testing.T) {
	t.Helper()
	eventually(t, func() error {
		if n := w.made(t); n != "0" {
			return fmt.Errorf("%s accounts are left", n)
		}
		return nil
	})
}

// TestIssuedPerRun: the account appears with the run's first session, is shared by
// its sessions, shows in postern secrets, and is gone after the run.
func TestIssuedPerRun(t *testing.T) {
	w := theWorld
	issuing(t)
	cmd := w.agent("planner", "made", "sh", "-c", `psql -X -A -t -c 'SELECT name FROM customers WHERE id = 1' -c 'SELECT session_user <> current_user OR session_user LIKE $$v-%$$'; psql -X -A -t -c 'SELECT 2'; echo ready; exec sleep 300`)
	s := startAgent(t, cmd)
	defer s.stop()
	mustContain(t, s.expect("ready"), "Ada", "t\n", "2")
	if n := w.made(t); n != "1" {
		t.Errorf("%s accounts for one run", n)
	}
	var all control.Secrets
	if err := json.Unmarshal([]byte(w.cli(t, "secrets", "--json")), &all); err != nil {
		t.Fatal(err)
	}
	if len(all.Leases) != 1 || all.Leases[0].Target != "made" || !strings.HasPrefix(all.Leases[0].For, "run-") {
		t.Errorf("%+v", all.Leases)
	}
	mustContain(t, w.cli(t, "secrets"), "in use")
	mustContain(t, w.metrics(t), `postern_secret_leases{source="bao",state="needed"} 1`)
	s.stop()
	w.noneMade(t)
	mustContain(t, w.metrics(t), `postern_secret_lease_events_total{event="revoked",source="bao"}`)
}

// TestIssuedPerSession: each session has an account of its own, which goes with it.
func TestIssuedPerSession(t *testing.T) {
	w := theWorld
	issuing(t)
	one, two := w.psqlSession(t, "planner", "each"), w.psqlSession(t, "planner", "each")
	mustContain(t, one.do("SELECT 1;"), "1")
	mustContain(t, two.do("SELECT 1;"), "1")
	if n := w.made(t); n != "2" {
		t.Errorf("%s accounts for two sessions", n)
	}
	one.stop()
	eventually(t, func() error {
		if n := w.made(t); n != "1" {
			return fmt.Errorf("%s accounts", n)
		}
		return nil
	})
	mustContain(t, two.do("SELECT 2;"), "2")
	two.stop()
	w.noneMade(t)
}

// TestIssuedSurvivesNothing: after kill -9 of the daemon, and after a restart of
// the whole host, as far as the daemon can tell, the next one revokes what was
// out; a run that goes on has another made.
func TestIssuedSurvivesNothing(t *testing.T) {
	w := theWorld
	issuing(t)
	s := w.psqlSession(t, "planner", "made")
	mustContain(t, s.do("SELECT 1;"), "1")
	if n := w.made(t); n != "1" {
		t.Fatalf("%s accounts", n)
	}
	w.postern.StopDaemon(syscall.SIGKILL) //nolint:errcheck // killed is how it is to end
	if n := w.made(t); n != "1" {
		t.Errorf("%s accounts after the daemon's death", n)
	}
	if err := w.postern.StartDaemon(); err != nil {
		t.Fatal(err)
	}
	w.noneMade(t)
	s.stop()
	// All of it goes down together: guard, runs, daemon.
	if out, err := w.psql("planner", "made", "SELECT 1"); err != nil {
		t.Fatal(out)
	}
	s = w.psqlSession(t, "planner", "made")
	mustContain(t, s.do("SELECT 1;"), "1")
	w.postern.StopDaemon(syscall.SIGKILL) //nolint:errcheck // as before
	w.postern.StopGuard(syscall.SIGKILL)
	s.stop()
	if err := errors.Join(w.postern.StartGuard(), w.postern.StartDaemon()); err != nil {
		t.Fatal(err)
	}
	w.noneMade(t)
}

// vaultWorks waits until sessions that need the vault begin.
func vaultWorks(t *testing.T) func() {
	w := theWorld
	return func() {
		t.Helper()
		eventually(t, func() error {
			for _, target := range []string{"made", "kept"} {
				if out, err := w.psql("planner", target, "SELECT 1"); err != nil {
					return fmt.Errorf("%s: %s", target, out)
				}
			}
			return nil
		})
	}
}

// vaultFails looks at what the agent and the operator see when they do not.
func vaultFails(t *testing.T, v *servers.VaultServer) func(why string) {
	w := theWorld
	return func(why string) {
		t.Helper()
		out, err := w.psql("planner", "made", "SELECT 1")
		if err == nil {
			t.Errorf("it works, and %s", why)
		}
		mustContain(t, out, "the credential cannot be fetched")
		mustNotContain(t, out, v.Address, "bao", "creds")
		if _, err := w.postern.LogLine(why); err != nil {
			t.Errorf("the operator does not read %q: %v", why, err)
		}
		test, err := w.postern.CLI("secret", "test", "made").CombinedOutput()
		if err == nil {
			t.Error("postern secret test finds nothing wrong")
		}
		mustContain(t, string(test), "fetch the credential", why)
	}
}

// TestVaultInTrouble: what the agent and the operator see of a vault that is
// sealed, slow, restarted, or takes a permission or the token away.
func TestVaultInTrouble(t *testing.T) {
	w := theWorld
	v := issuing(t)
	works, fails := vaultWorks(t), vaultFails(t, v)
	works()
	mustContain(t, w.cli(t, "secret", "test", "made"), "it took the login")

	v.Seal(t)
	fails("sealed")
	// The last known value is used until it is stale.
	if out, err := w.psql("planner", "kept", "SELECT 1"); err != nil {
		t.Errorf("the last known value is not used: %s", out)
	}
	eventually(t, func() error {
		if _, err := w.psql("planner", "kept", "SELECT 1"); err == nil {
			return errors.New("a stale value is used")
		}
		return nil
	})
	mustContain(t, w.cli(t, "secrets"), "stale")
	v.Unseal(t)
	works()

	v.Stop()
	fails("connection refused")
	v.Restart(t)
	v.Unseal(t)
	works()

	w.noneMade(t)
}

// TestRotationIsNotNoticed: a password that is changed under the daemon's feet is
// fetched again when the upstream refuses it, before the agent hears of it.
func TestRotationIsNotNoticed(t *testing.T) {
	w := theWorld
	v := issuing(t)
	if out, err := w.psql("planner", "kept", "SELECT 1"); err != nil {
		t.Fatal(out)
	}
	const next = "canary-rotated-in-the-vault-81c"
	defer func() {
		if err := w.pg.SQL("postgres", "ALTER ROLE orders_rw PASSWORD '"+realPassword+"'"); err != nil {
			t.Error(err)
		}
	}()
	// Fetched now, so that it is fresh for a second; then changed in both places.
	w.cli(t, "secret", "refresh", "kept")
	v.Put(t, "kv/orders", map[string]any{"password": next})
	if err := w.pg.SQL("postgres", "ALTER ROLE orders_rw PASSWORD '"+next+"'"); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	out, err := w.psql("planner", "kept", "SELECT 'unnoticed'")
	if err != nil {
		t.Errorf("the agent heard of the rotation after %s: %s", time.Since(began), out)
	}
	mustContain(t, out, "unnoticed")
}

// TestVaultTakesAway: what is seen when the vault takes a permission or the token
// away, and that what comes back is used.
func TestVaultTakesAway(t *testing.T) {
	w := theWorld
	v := issuing(t)
	works, fails := vaultWorks(t), vaultFails(t, v)
	works()
	v.Policy(t, "postern", `path "kv/*" { capabilities = ["read"] }`)
	fails("the policy of the token does not allow")
	v.Policy(t, "postern", vaultPolicy)
	works()

	token := filepath.Join(w.dir, "vault-token")
	old, err := os.ReadFile(token)
	if err != nil {
		t.Fatal(err)
	}
	v.Put(t, "auth/token/revoke", map[string]any{"token": string(old)})
	fails("not logged in")
	renewToken(t, v)
	works()

	// One that accepts and says nothing is as good as none, when its time is over.
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	address := func(from, to string) {
		t.Helper()
		text, err := os.ReadFile(w.postern.ConfigFile)
		if err == nil {
			err = os.WriteFile(w.postern.ConfigFile, []byte(strings.Replace(string(text), from, to, 1)), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
		w.cli(t, "reload")
	}
	address(v.Address, "http://"+silent.Addr().String())
	fails("no answer within 2s")
	address("http://"+silent.Addr().String(), v.Address)
	works()
	w.noneMade(t)
}
