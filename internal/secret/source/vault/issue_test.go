package vault

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/postern/postern/internal/secret/source"
	"github.com/postern/postern/test/servers"
)

// database gives the server an engine database, whose role makes accounts in a
// PostgreSQL of the test's own.
func (p *place) database(ttl, most string) *servers.Postgres {
	p.t.Helper()
	if os.Getuid() != 0 {
		p.t.Skip("needs root, to start PostgreSQL as its user")
	}
	dir, err := os.MkdirTemp("", "postern-vault-") // which the server's user reaches
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		p.t.Fatal(err)
	}
	pg, err := servers.StartPostgres(servers.PostgresOptions{
		Dir: filepath.Join(dir, "pg"), Host: "db.internal", Password: "superuser-4", HBA: []string{"host all all 127.0.0.1/32 scram-sha-256"},
		Init: "CREATE TABLE kept (id int); GRANT CREATE ON SCHEMA public TO PUBLIC;",
	})
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(pg.Stop)
	p.mount("database", "database", nil)
	p.Put(p.t, "database/config/pg", map[string]any{
		"plugin_name": "postgresql-database-plugin", "allowed_roles": "*", "username": "postgres", "password": "superuser-4",
		"connection_url": fmt.Sprintf("postgresql://{{username}}:{{password}}@127.0.0.1:%d/postgres?sslmode=disable", pg.Port),
	})
	p.Put(p.t, "database/roles/rw", map[string]any{
		"db_name": "pg", "default_ttl": ttl, "max_ttl": most,
		"creation_statements": []string{`CREATE ROLE "{{name}}" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'`},
	})
	return pg
}

const issues = readAll + `
path "database/creds/*" { capabilities = ["read"] }
path "ssh/sign/*" { capabilities = ["update"] }
path "pki/issue/*" { capabilities = ["update"] }
path "pki/revoke" { capabilities = ["update"] }
path "pki/cert/*" { capabilities = ["read"] }
path "sys/leases/renew" { capabilities = ["update"] }
path "sys/leases/lookup" { capabilities = ["update"] }
path "sys/leases/revoke" { capabilities = ["update"] }`

func (p *place) issuer() *Source {
	p.t.Helper()
	p.Policy(p.t, "issuer", issues)
	return p.source(&TokenFile{Path: p.file("token", p.Token(p.t, "1h", "issuer"))})
}

func roles(t *testing.T, pg *servers.Postgres) string {
	t.Helper()
	out, err := pg.Query("postgres", "SELECT count(*) FROM pg_roles WHERE rolname LIKE 'v-%'")
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// TestDatabaseAccount: an account is made, lives, is renewed up to its limit, and
// is gone when it is revoked, once or twice.
func TestDatabaseAccount(t *testing.T) {
	p := newPlace(t, servers.VaultOptions{})
	pg := p.database("1h", "90m")
	s := p.issuer()
	made, err := s.Issue(t.Context(), source.Order{Engine: "database", Role: "rw", Name: "run-1"})
	if err != nil {
		t.Fatal(err)
	}
	if made.Lease.ID == "" || !made.Lease.Renewable || time.Until(made.Lease.Expires) < 50*time.Minute || roles(t, pg) != "1" {
		t.Errorf("%+v, %s roles", made.Lease, roles(t, pg))
	}
	login := fmt.Sprintf("host=127.0.0.1 port=%d dbname=postgres user=%s password=%s", pg.Port, made.Fields["username"].Reveal(), made.Fields["password"].Reveal())
	if out, err := servers.PSQL(login, "SELECT 'in'"); err != nil || strings.TrimSpace(out) != "in" {
		t.Errorf("the account does not log in: %v, %q", err, out)
	}
	renewed, err := s.Renew(t.Context(), made.Lease.ID, 24*time.Hour)
	if left := time.Until(renewed.Expires); err != nil || left < 80*time.Minute || left > 91*time.Minute {
		t.Errorf("renewed beyond its limit: %+v, %v", renewed, err)
	}
	for range 2 {
		if err := s.Revoke(t.Context(), made.Lease.ID); err != nil {
			t.Fatal(err)
		}
		if roles(t, pg) != "0" {
			t.Error("the account is still there")
		}
	}
	if err := s.Revoke(t.Context(), "database/creds/rw/no-such-lease"); err != nil {
		t.Errorf("a lease that nobody knows: %v", err)
	}
	if _, err := s.Renew(t.Context(), made.Lease.ID, time.Hour); !errors.Is(err, source.ErrNotFound) {
		t.Errorf("one that has ended is renewed: %v", err)
	}
	short, err := s.Issue(t.Context(), source.Order{Engine: "database", Role: "rw", Name: "run-2", TTL: time.Minute})
	if left := time.Until(short.Lease.Expires); err != nil || left > 61*time.Second {
		t.Errorf("asked for a minute: %s, %v", left, err)
	}
}

// TestAccountThatOwnsSomething: where the database does not let an account go,
// the lease is kept and the error says so.
func TestAccountThatOwnsSomething(t *testing.T) {
	p := newPlace(t, servers.VaultOptions{})
	pg := p.database("1h", "2h")
	p.Put(t, "database/roles/rw", map[string]any{
		"db_name": "pg", "default_ttl": "1h", "revocation_statements": []string{`DROP ROLE "{{name}}"`},
		"creation_statements": []string{`CREATE ROLE "{{name}}" LOGIN PASSWORD '{{password}}'; CREATE TABLE "t-{{name}}" (); ALTER TABLE "t-{{name}}" OWNER TO "{{name}}"`},
	})
	s := p.issuer()
	made, err := s.Issue(t.Context(), source.Order{Engine: "database", Role: "rw"})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Revoke(t.Context(), made.Lease.ID); !errors.Is(err, source.ErrUnavailable) || !strings.Contains(err.Error(), "keeps the lease") {
		t.Errorf("%v", err)
	}
	name := string(made.Fields["username"].Reveal())
	if err := pg.SQL("postgres", `DROP TABLE "t-`+name+`"`); err != nil {
		t.Fatal(err)
	}
	p.eventually(func() error { return s.Revoke(t.Context(), made.Lease.ID) })
	if roles(t, pg) != "0" {
		t.Error("the account is still there")
	}
}

// TestSSHCertificate: the vault's authority signs a key that stays here.
func TestSSHCertificate(t *testing.T) {
	p := newPlace(t, servers.VaultOptions{})
	p.mount("ssh", "ssh", nil)
	p.Put(t, "ssh/config/ca", map[string]any{"generate_signing_key": true})
	p.Put(t, "ssh/roles/deployers", map[string]any{
		"key_type": "ca", "allow_user_certificates": true, "allowed_users": "deploy,ops", "default_extensions": map[string]string{"permit-pty": ""}, "ttl": "10m",
	})
	s := p.issuer()
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	order := source.Order{Engine: "ssh", Role: "deployers", PublicKey: string(ssh.MarshalAuthorizedKey(key)), Principals: []string{"deploy"}}
	made, err := s.Issue(t.Context(), order)
	if err != nil {
		t.Fatal(err)
	}
	parsed, _, _, _, err := ssh.ParseAuthorizedKey(made.Fields["certificate"].Reveal())
	c, ok := parsed.(*ssh.Certificate)
	if err != nil || !ok || len(c.ValidPrincipals) != 1 || c.ValidPrincipals[0] != "deploy" {
		t.Errorf("%v, %+v", err, c)
	}
	if made.Lease.ID != "" || time.Until(made.Lease.Expires) > 10*time.Minute+time.Second || time.Until(made.Lease.Expires) < 9*time.Minute {
		t.Errorf("%+v", made.Lease)
	}
	order.Principals = []string{"root"}
	if _, err := s.Issue(t.Context(), order); err == nil {
		t.Error("a principal was signed that the role does not have")
	}
}

// TestClientCertificate: the vault makes a key and a certificate, and revokes it.
func TestClientCertificate(t *testing.T) {
	p := newPlace(t, servers.VaultOptions{})
	p.mount("pki", "pki", nil)
	p.Put(t, "pki/root/generate/internal", map[string]any{"common_name": "test", "ttl": "24h"})
	p.Put(t, "pki/roles/clients", map[string]any{"allow_any_name": true, "enforce_hostnames": false, "max_ttl": "1h", "client_flag": true})
	s := p.issuer()
	made, err := s.Issue(t.Context(), source.Order{Engine: "pki", Role: "clients", CommonName: "app", TTL: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tls.X509KeyPair(made.Fields["certificate"].Reveal(), made.Fields["private_key"].Reveal()); err != nil || made.Fields["ca_chain"].Empty() {
		t.Error(err)
	}
	if made.Lease.Renewable || time.Until(made.Lease.Expires) > 61*time.Second {
		t.Errorf("%+v", made.Lease)
	}
	for range 2 {
		if err := s.Revoke(t.Context(), made.Lease.ID); err != nil {
			t.Fatal(err)
		}
	}
	look := p.Must(t, "GET", "pki/cert/"+strings.TrimPrefix(made.Lease.ID, "pki:pki:"), nil)
	if data, _ := look["data"].(map[string]any); fmt.Sprint(data["revocation_time"]) == "0" {
		t.Error("the certificate is not revoked")
	}
	if err := s.Revoke(t.Context(), "pki:pki:11:22:33"); err != nil {
		t.Errorf("a certificate that nobody knows: %v", err)
	}
}

// TestOrdersThatAreRefused: what could be more than it says is asked of nobody,
// and what the policy does not have leaves nothing behind.
func TestOrdersThatAreRefused(t *testing.T) {
	p := newPlace(t, servers.VaultOptions{})
	s := p.reader()
	for name, o := range map[string]source.Order{
		"no engine": {Role: "r"}, "no such engine": {Engine: "aws", Role: "r"}, "no role": {Engine: "database"},
		"a path for a role": {Engine: "database", Role: "../../sys/seal"}, "a mount above": {Engine: "database", Mount: "../sys", Role: "r"},
		"a name that is odd": {Engine: "database", Role: "r", Name: "a b"}, "two principals in one": {Engine: "ssh", Role: "r", PublicKey: "x", Principals: []string{"a,b"}},
		"no key": {Engine: "ssh", Role: "r", Principals: []string{"a"}}, "no principals": {Engine: "ssh", Role: "r", PublicKey: "ssh-ed25519 AAAA"},
	} {
		if made, err := s.Issue(t.Context(), o); !errors.Is(err, source.ErrMalformed) || len(made.Fields) > 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err := s.Issue(t.Context(), source.Order{Engine: "database", Role: "rw"})
	if !errors.Is(err, source.ErrPermission) || !strings.Contains(err.Error(), "the policy of the token does not allow database/creds/rw") {
		t.Errorf("%v", err)
	}
	for _, id := range []string{"", "../sys", "a//b", "pki:", "pki:m"} {
		if err := s.Revoke(t.Context(), id); err == nil {
			t.Errorf("revoked %q", id)
		}
	}
}
