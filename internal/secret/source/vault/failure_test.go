package vault

import (
	"encoding/base64"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/postern/postern/internal/secret/source"
	"github.com/postern/postern/internal/secret/source/sourcetest"
	"github.com/postern/postern/test/servers"
)

// TestSealedAndRestarted: while it is sealed, or away, the server is unavailable
// and says which; once it is open again it is used, without a restart of ours.
func TestSealedAndRestarted(t *testing.T) {
	p := newPlace(t, servers.VaultOptions{Kept: true})
	p.put("two", "a", map[string]any{"v": "x"})
	s := p.reader()
	if v, _ := fetch(t, s, "two/a", ""); v != "x" {
		t.Errorf("%q", v)
	}
	p.Seal(t)
	fails(t, s, "two/a", "", source.ErrUnavailable, "sealed")
	p.Unseal(t)
	p.eventually(func() error { _, _, err := s.Fetch(t.Context(), source.Ref{Path: "two/a"}); return err })
	p.Stop()
	fails(t, s, "two/a", "", source.ErrUnavailable, "connection refused")
	p.Restart(t)
	fails(t, s, "two/a", "", source.ErrUnavailable, "sealed")
	p.Unseal(t)
	p.eventually(func() error { _, _, err := s.Fetch(t.Context(), source.Ref{Path: "two/a"}); return err })
}

// TestTokenTakenAway: a token that was revoked under our feet is replaced by
// logging in again, once; where that is refused, it is said that it is the login.
func TestTokenTakenAway(t *testing.T) {
	p := newPlace(t, servers.VaultOptions{})
	p.put("two", "a", map[string]any{"v": "x"})
	file := p.file("token", p.Token(t, "1h", "reader"))
	s := p.source(&TokenFile{Path: file})
	if v, _ := fetch(t, s, "two/a", ""); v != "x" {
		t.Errorf("%q", v)
	}
	first := string(s.login.current.value.Reveal())
	p.Put(t, "auth/token/revoke", map[string]any{"token": first})
	fails(t, s, "two/a", "", source.ErrPermission, "not logged in")
	p.file("token", p.Token(t, "1h", "reader"))
	if v, _ := fetch(t, s, "two/a", ""); v != "x" {
		t.Errorf("with the next token: %q", v)
	}
}

// TestPermissionTakenAway: a policy that changed is told from a login that failed.
func TestPermissionTakenAway(t *testing.T) {
	p := newPlace(t, servers.VaultOptions{})
	p.put("two", "a", map[string]any{"v": "x"})
	s := p.reader()
	if v, _ := fetch(t, s, "two/a", ""); v != "x" {
		t.Errorf("%q", v)
	}
	p.Policy(t, "reader", `path "one/*" { capabilities = ["read"] }`)
	fails(t, s, "two/a", "", source.ErrPermission, "the policy of the token does not allow")
	p.Policy(t, "reader", readAll)
	if v, _ := fetch(t, s, "two/a", ""); v != "x" {
		t.Errorf("%q", v)
	}
}

// approle gives the server a role that reads.
func (p *place) approle() (roleID string) {
	p.t.Helper()
	p.Put(p.t, "sys/auth/approle", map[string]any{"type": "approle"})
	p.Put(p.t, "auth/approle/role/postern", map[string]any{"token_policies": "reader", "token_ttl": "2s", "token_max_ttl": "4s"})
	data := p.Must(p.t, http.MethodGet, "auth/approle/role/postern/role-id", nil)["data"].(map[string]any)
	return data["role_id"].(string)
}

func (p *place) secretID(wrap string) string {
	p.t.Helper()
	header := map[string]string{}
	if wrap != "" {
		header["X-Vault-Wrap-TTL"] = wrap
	}
	got, err := p.DoWith(http.MethodPost, "auth/approle/role/postern/secret-id", nil, header)
	if err != nil {
		p.t.Fatal(err)
	}
	if wrap != "" {
		return got["wrap_info"].(map[string]any)["token"].(string)
	}
	return got["data"].(map[string]any)["secret_id"].(string)
}

// TestAppRole: it logs in, is renewed and logs in again as its tokens end, and a
// wrong secret-id is told from a secret that is not there.
func TestAppRole(t *testing.T) {
	p := newPlace(t, servers.VaultOptions{})
	p.put("two", "a", map[string]any{"v": "x"})
	id := p.approle()
	s := p.source(&AppRole{RoleID: id, SecretID: p.file("secret-id", p.secretID("")+"\n")})
	until := time.Now().Add(6 * time.Second) // past two lives of a token
	for time.Now().Before(until) {
		if v, _ := fetch(t, s, "two/a", ""); v != "x" {
			t.Fatalf("%q", v)
		}
		time.Sleep(200 * time.Millisecond)
	}
	if n := strings.Count(p.log.String(), "logged in to the vault"); n < 2 || n > 12 {
		t.Errorf("it logged in %d times", n)
	}
	wrong := p.source(&AppRole{RoleID: id, SecretID: p.file("wrong", sourcetest.Canary)})
	// Of a wrong secret-id this server says 500, others 400.
	fails(t, wrong, "two/a", "", errAuth, "AppRole at auth/approle")
	missing := p.source(&AppRole{RoleID: id, SecretID: "/nonexistent"})
	fails(t, missing, "two/a", "", source.ErrUnavailable, "not logged in by AppRole")
}

// TestWrappedSecretID: it is unwrapped once and used for the logins to come; one
// that somebody else has unwrapped, or that wraps something else, is refused
// loudly.
func TestWrappedSecretID(t *testing.T) {
	p := newPlace(t, servers.VaultOptions{})
	p.put("two", "a", map[string]any{"v": "x"})
	id := p.approle()
	role := func(token string) *Source {
		return p.source(&AppRole{RoleID: id, SecretID: p.file("wrapped", token), Wrapped: true})
	}
	s := role(p.secretID("5m"))
	for range 2 {
		if v, _ := fetch(t, s, "two/a", ""); v != "x" {
			t.Errorf("%q", v)
		}
		s.login.current = nil // it logs in again
	}
	stolen := p.secretID("5m")
	if _, err := p.DoWith(http.MethodPost, "sys/wrapping/unwrap", nil, map[string]string{"X-Vault-Token": stolen}); err != nil {
		t.Fatal(err)
	}
	v, _, err := role(stolen).Fetch(t.Context(), source.Ref{Path: "two/a"})
	sourcetest.Fails(t, v, err, ErrUnwrapped)
	if !strings.Contains(p.log.String(), "unwrapped by somebody else") {
		t.Error("nothing is said loudly")
	}
	other, err := p.DoWith(http.MethodPost, "sys/wrapping/wrap", map[string]any{"secret_id": "slipped-in"}, map[string]string{"X-Vault-Wrap-TTL": "5m"})
	if err != nil {
		t.Fatal(err)
	}
	v, _, err = role(other["wrap_info"].(map[string]any)["token"].(string)).Fetch(t.Context(), source.Ref{Path: "two/a"})
	sourcetest.Fails(t, v, err, ErrWrapping)
}

// TestTransitFile: a file that the vault's key sealed is opened by it.
func TestTransitFile(t *testing.T) {
	p := newPlace(t, servers.VaultOptions{})
	p.mount("transit", "transit", nil)
	p.Put(t, "transit/keys/postern", map[string]any{})
	p.Policy(t, "reader", readAll+"\npath \"transit/decrypt/postern\" { capabilities = [\"update\"] }")
	sealed := p.Put(t, "transit/encrypt/postern", map[string]any{"plaintext": base64.StdEncoding.EncodeToString([]byte(`{"user":"a","password":"` + sourcetest.Canary + `"}`))})
	file := p.file("sealed", sealed["data"].(map[string]any)["ciphertext"].(string)+"\n")
	s := p.reader()
	if v, _ := fetch(t, s, "transit:postern:"+file, "password"); v != sourcetest.Canary {
		t.Errorf("%q", v)
	}
	fails(t, s, "transit:postern:"+p.file("plain", sourcetest.Canary), "", source.ErrMalformed, "")
	fails(t, s, "transit:other:"+file, "", source.ErrPermission, "")
	fails(t, s, "transit:postern:/nonexistent", "", source.ErrNotFound, "")
}

// TestStrangeAnswers: what is no Vault, answers too much, or leads elsewhere gives
// no secret, and none of it is quoted.
func TestStrangeAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		want   error
	}{
		"no JSON": {func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(sourcetest.Canary)) }, source.ErrMalformed},
		"another JSON": {func(w http.ResponseWriter, _ *http.Request) {
			w.Write([]byte(`{"data":["` + sourcetest.Canary + `"]}`))
		}, source.ErrMalformed},
		"too long": {func(w http.ResponseWriter, _ *http.Request) {
			w.Write([]byte(strings.Repeat(sourcetest.Canary, 1<<18)))
		}, source.ErrMalformed},
		"elsewhere": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.2:1/v1/kv/a?"+sourcetest.Canary, http.StatusTemporaryRedirect)
		}, source.ErrUnavailable},
		"an error that quotes": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusInternalServerError)
			w.Write([]byte(`{"errors":["` + sourcetest.Canary + `"]}`))
		}, source.ErrUnavailable},
		"rate limited": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTooManyRequests) }, source.ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(c.answer)
			defer server.Close()
			s, err := New(Options{Address: server.URL, Auth: Agent{}, KV: 1})
			if err != nil {
				t.Fatal(err)
			}
			v, _, err := s.Fetch(t.Context(), source.Ref{Path: "kv/a", Key: "v"})
			sourcetest.Fails(t, v, err, c.want)
		})
	}
}

// TestSlowServer: one that accepts and says nothing is unavailable when the time
// is over.
func TestSlowServer(t *testing.T) {
	s, err := New(Options{Address: "http://" + stalled(t), Auth: Agent{}, Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	fails(t, s, "kv/a", "", source.ErrUnavailable, "no answer within 1s")
}

// TestTrust: a server that nobody vouches for is told nothing; what is asked of a
// namespace says so.
func TestTrust(t *testing.T) {
	p := newPlace(t, servers.VaultOptions{TLS: true})
	p.put("two", "a", map[string]any{"v": "x"})
	if v, _ := fetch(t, p.reader(), "two/a", ""); v != "x" {
		t.Errorf("%q", v)
	}
	fails(t, p.reader(func(o *Options) { o.CA = "" }), "two/a", "", source.ErrUnavailable, "is not trusted")
	fails(t, p.reader(func(o *Options) { o.ServerName = "other.internal" }), "two/a", "", source.ErrUnavailable, "is not trusted")
	asked := ""
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = r.Header.Get("X-Vault-Namespace") + " " + r.Header.Get("X-Vault-Request")
		w.WriteHeader(http.StatusNotFound)
	}))
	defer server.Close()
	s, err := New(Options{Address: server.URL, Auth: Agent{}, Namespace: "team-a", KV: 1})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Fetch(t.Context(), source.Ref{Path: "kv/a"}); !errors.Is(err, source.ErrNotFound) {
		t.Error(err)
	}
	if strings.Trim(asked, "/ ") != "team-a true" && asked != "team-a/ true" && asked != "team-a true" {
		t.Errorf("the request has %q", asked)
	}
}
