package oidc

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/postern/postern/internal/secret"
)

const (
	testURL = "https://idp.example.test"
	// canary is in tokens, codes and secrets, and must be in no error and no log.
	canary = "canary5e1f"
)

// start is when tests begin.
var start = time.Unix(1_800_000_000, 0)

// Keys are made once: RSA takes a second.
var (
	rsaKey   = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 2048)) })
	otherRSA = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 2048)) })
	weakRSA  = sync.OnceValue(func() *rsa.PrivateKey { return must(jose1024()) })
	ecKey    = sync.OnceValue(func() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) })
	ec384    = sync.OnceValue(func() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader)) })
	edKey    = sync.OnceValue(func() ed25519.PrivateKey { _, k, err := ed25519.GenerateKey(rand.Reader); return must(k, err) })
)

func jose1024() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 1024) }

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// clock is set by hand.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time { c.mu.Lock(); defer c.mu.Unlock(); return c.at }

func (c *clock) advance(d time.Duration) { c.mu.Lock(); defer c.mu.Unlock(); c.at = c.at.Add(d) }

// idp is a provider in memory: a transport that answers itself.
type idp struct {
	mu       sync.Mutex
	keys     []jose.JSONWebKey
	document map[string]any
	answers  map[string]http.HandlerFunc // by path, before the usual ones
	asked    map[string]int
	down     bool
	logs     bytes.Buffer
}

func newIDP() *idp {
	return &idp{
		keys: []jose.JSONWebKey{{Key: rsaKey().Public(), KeyID: "rsa", Use: "sig"}, {Key: ecKey().Public(), KeyID: "ec", Use: "sig", Algorithm: "ES256"}},
		document: map[string]any{
			"issuer": testURL, "jwks_uri": testURL + "/keys", "authorization_endpoint": testURL + "/authorize",
			"token_endpoint": testURL + "/token", "device_authorization_endpoint": testURL + "/device",
			"scopes_supported": []string{"openid", "email", "offline_access"},
		},
		answers: map[string]http.HandlerFunc{}, asked: map[string]int{},
	}
}

// RoundTrip implements http.RoundTripper.
func (p *idp) RoundTrip(r *http.Request) (*http.Response, error) {
	p.mu.Lock()
	p.asked[r.URL.Path]++
	answer, down := p.answers[r.URL.Path], p.down
	w := httptest.NewRecorder()
	switch {
	case down || answer != nil:
	case r.URL.Path == "/.well-known/openid-configuration":
		json.NewEncoder(w).Encode(p.document)
	case r.URL.Path == "/keys":
		json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: p.keys})
	default:
		w.WriteHeader(http.StatusNotFound)
	}
	p.mu.Unlock()
	if down {
		return nil, errors.New("no route to " + canary)
	}
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	if answer != nil {
		answer(w, r)
	}
	resp := w.Result()
	resp.Request = r
	return resp, nil
}

func (p *idp) count(path string) int { p.mu.Lock(); defer p.mu.Unlock(); return p.asked[path] }

func (p *idp) setDown(down bool) { p.mu.Lock(); defer p.mu.Unlock(); p.down = down }

func (p *idp) setKeys(keys ...jose.JSONWebKey) { p.mu.Lock(); defer p.mu.Unlock(); p.keys = keys }

func (p *idp) answer(path string, h http.HandlerFunc) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answers[path] = h
}

// Write takes the log.
func (p *idp) Write(b []byte) (int, error) { p.mu.Lock(); defer p.mu.Unlock(); return p.logs.Write(b) }

func (p *idp) logged() string { p.mu.Lock(); defer p.mu.Unlock(); return p.logs.String() }

// options are those of a Provider of this one.
func (p *idp) options(t *testing.T, now func() time.Time, change ...func(*Issuer)) Options {
	i := Issuer{Name: "corp", URL: testURL, ClientID: "postern"}
	for _, f := range change {
		f(&i)
	}
	return Options{
		Issuers: []Issuer{i}, StateDir: t.TempDir(), Key: bytes.Repeat([]byte{7}, keyLength),
		HTTP: &http.Client{Transport: p}, Now: now, Log: slog.New(slog.NewTextHandler(p, nil)),
	}
}

func open(t *testing.T, o Options) *Provider {
	t.Helper()
	p, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// world is a provider, and ours of it, at start.
func world(t *testing.T, change ...func(*Issuer)) (*Provider, *idp, *clock) {
	t.Helper()
	c := &clock{at: start}
	i := newIDP()
	return open(t, i.options(t, c.now, change...)), i, c
}

// claims are good ones at start, with changes; nil removes one.
func claims(change map[string]any) map[string]any {
	out := map[string]any{
		"iss": testURL, "aud": "postern", "sub": "u-1", "preferred_username": "alice", "email": "alice@example.test",
		"groups": []string{"dba", "sre"}, "iat": start.Unix(), "exp": start.Add(time.Hour).Unix(), "jti": "id-1",
	}
	maps.Copy(out, change)
	for name, v := range out {
		if v == nil {
			delete(out, name)
		}
	}
	return out
}

// good is a token that is accepted at start.
func good(change map[string]any) string {
	return sign(map[string]any{"alg": "RS256", "kid": "rsa", "typ": "JWT"}, claims(change), rsaKey())
}

// sign makes a JWS whatever its header says; key is private, or []byte for HMAC,
// or nil for no signature.
func sign(header, payload any, key any) string {
	return signText(text(header), text(payload), key)
}

func text(v any) string {
	if s, ok := v.(string); ok {
		return s
	}
	return string(must(json.Marshal(v)))
}

func signText(header, payload string, key any) string {
	var h struct{ Alg string }
	json.Unmarshal([]byte(header), &h)
	signed := b64([]byte(header)) + "." + b64([]byte(payload))
	sum := sha256.Sum256([]byte(signed))
	var sig []byte
	switch k := key.(type) {
	case *rsa.PrivateKey:
		switch {
		case strings.HasPrefix(h.Alg, "PS"):
			sig = must(rsa.SignPSS(rand.Reader, k, crypto.SHA256, sum[:], &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}))
		default:
			sig = must(rsa.SignPKCS1v15(rand.Reader, k, crypto.SHA256, sum[:]))
		}
	case *ecdsa.PrivateKey:
		digest, size := sum[:], 32
		if k.Curve == elliptic.P384() {
			long := sha512.Sum384([]byte(signed))
			digest, size = long[:], 48
		}
		r, s, err := ecdsa.Sign(rand.Reader, k, digest)
		must(r, err)
		sig = append(r.FillBytes(make([]byte, size)), s.FillBytes(make([]byte, size))...)
	case ed25519.PrivateKey:
		sig = ed25519.Sign(k, []byte(signed))
	case []byte:
		mac := hmac.New(sha256.New, k)
		mac.Write([]byte(signed))
		sig = mac.Sum(nil)
	}
	return signed + "." + b64(sig)
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func verify(p *Provider, raw string) (Identity, error) {
	return p.Verify(context.Background(), secret.New([]byte(raw)))
}

// silent fails if an error or the log holds a secret or a part of the token.
func silent(t *testing.T, i *idp, raw string, err error) {
	t.Helper()
	texts := i.logged()
	if err != nil {
		texts += err.Error()
	}
	for _, part := range append(strings.Split(raw, "."), canary, url.QueryEscape(canary)) {
		if len(part) > 8 && strings.Contains(texts, part[:min(len(part), 24)]) {
			t.Errorf("a part of the token or the canary is told: %.300s", texts)
		}
	}
}
