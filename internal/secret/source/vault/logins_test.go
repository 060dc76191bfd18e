package vault

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/postern/postern/internal/secret/source"
	"github.com/postern/postern/test/servers"
)

// signed is a JWT of this key's.
func signed(t *testing.T, key *ecdsa.PrivateKey, audience string, life time.Duration) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key}, nil)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	out, err := jwt.Signed(signer).Claims(jwt.Claims{
		Subject: "posternd", Issuer: "test", Audience: jwt.Audience{audience}, IssuedAt: jwt.NewNumericDate(now), Expiry: jwt.NewNumericDate(now.Add(life)),
	}).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// TestJWTLogin: the file is read at each login, so that a token which somebody
// renews is used; one for another audience is refused as a login.
func TestJWTLogin(t *testing.T) {
	p := newPlace(t, servers.VaultOptions{})
	p.put("two", "a", map[string]any{"v": "x"})
	key := newKey(t)
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	p.Put(t, "sys/auth/jwt", map[string]any{"type": "jwt"})
	p.Put(t, "auth/jwt/config", map[string]any{"jwt_validation_pubkeys": string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})), "bound_issuer": "test"})
	p.Put(t, "auth/jwt/role/postern", map[string]any{"role_type": "jwt", "user_claim": "sub", "bound_audiences": "vault", "token_policies": "reader", "token_ttl": "1h"})
	file := p.file("jwt", signed(t, key, "vault", time.Hour))
	s := p.source(JWT{Role: "postern", Path: file})
	if v, _ := fetch(t, s, "two/a", ""); v != "x" {
		t.Errorf("%q", v)
	}
	p.file("jwt", signed(t, key, "somebody", time.Hour))
	if v, _ := fetch(t, s, "two/a", ""); v != "x" { // it is logged in
		t.Errorf("%q", v)
	}
	s.login.current = nil
	fails(t, s, "two/a", "", errAuth, "jwt")
	p.file("jwt", signed(t, newKey(t), "vault", time.Hour))
	fails(t, s, "two/a", "", errAuth, "jwt")
	p.file("jwt", signed(t, key, "vault", time.Hour)+"\n")
	if v, _ := fetch(t, s, "two/a", ""); v != "x" {
		t.Errorf("with a good one again: %q", v)
	}
}

// TestCertLogin: a client certificate that the vault knows logs in, another does
// not.
func TestCertLogin(t *testing.T) {
	p := newPlace(t, servers.VaultOptions{TLS: true})
	p.put("two", "a", map[string]any{"v": "x"})
	pair := func(name string) (cert, key, certPEM string) {
		own := newKey(t)
		der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
			SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		}, &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}}, &own.PublicKey, own)
		if err != nil {
			t.Fatal(err)
		}
		private, err := x509.MarshalPKCS8PrivateKey(own)
		if err != nil {
			t.Fatal(err)
		}
		certPEM = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
		return p.file(name+".crt", certPEM), p.file(name+".key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))), certPEM
	}
	cert, key, known := pair("postern")
	p.Put(t, "sys/auth/cert", map[string]any{"type": "cert"})
	p.Put(t, "auth/cert/certs/postern", map[string]any{"certificate": known, "token_policies": "reader"})
	if v, _ := fetch(t, p.source(Cert{Role: "postern", File: cert, Key: key}), "two/a", ""); v != "x" {
		t.Errorf("%q", v)
	}
	cert, key, _ = pair("stranger")
	fails(t, p.source(Cert{Role: "postern", File: cert, Key: key}), "two/a", "", errAuth, "cert")
	fails(t, p.source(Cert{Role: "postern", File: "/nonexistent", Key: key}), "two/a", "", source.ErrUnavailable, "")
}

// TestKubernetesLogin: the role and the projected token go to the method's path,
// and what it answers is used. (There is no cluster to ask: this is a stand-in.)
func TestKubernetesLogin(t *testing.T) {
	asked := ""
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		switch r.URL.Path {
		case "/v1/auth/k8s/login":
			var in struct{ Role, JWT string }
			if json.Unmarshal(b, &in) != nil || in.JWT != "projected" || in.Role != "postern" {
				w.WriteHeader(http.StatusForbidden)
				return
			}
			io.WriteString(w, `{"auth":{"client_token":"hvs.k8s","lease_duration":3600,"renewable":true}}`)
		case "/v1/kv/a":
			asked = r.Header.Get("X-Vault-Token")
			io.WriteString(w, `{"data":{"v":"x"}}`)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	defer server.Close()
	p := &place{t: t, log: new(lockedBuffer), VaultServer: &servers.VaultServer{Address: server.URL, Dir: t.TempDir()}}
	s := p.source(Kubernetes{Mount: "k8s", Role: "postern", Path: p.file("token", "projected\n")}, func(o *Options) { o.KV = 1 })
	if v, _ := fetch(t, s, "kv/a", ""); v != "x" || asked != "hvs.k8s" {
		t.Errorf("%q, by %q", v, asked)
	}
	other := p.source(Kubernetes{Mount: "k8s", Role: "other", Path: p.file("token", "projected")}, func(o *Options) { o.KV = 1 })
	fails(t, other, "kv/a", "", source.ErrPermission, "Kubernetes")
	if strings.Contains(p.log.String(), "projected") {
		t.Error("the token is in the log")
	}
}
