package oidc

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/postern/postern/internal/secret"
)

func TestVerify(t *testing.T) {
	p, i, _ := world(t)
	got, err := verify(p, good(nil))
	if err != nil {
		t.Fatal(err)
	}
	want := Identity{
		Issuer: "corp", IssuerURL: testURL, Subject: "u-1", Name: "alice", Email: "alice@example.test",
		Groups: []string{"dba", "sre"}, IssuedAt: start.UTC(), Expires: start.Add(time.Hour).UTC(), TokenID: "id-1",
	}
	if text(got) != text(want) {
		t.Errorf("got %s, want %s", text(got), text(want))
	}
	silent(t, i, good(nil), nil)
}

// Every algorithm verifies by a key of its kind.
func TestAlgorithms(t *testing.T) {
	p, i, _ := world(t, func(i *Issuer) { i.Algorithms = []string{"RS256", "PS256", "ES256", "ES384", "EdDSA"} })
	i.setKeys(
		jose.JSONWebKey{Key: rsaKey().Public(), KeyID: "rsa"}, jose.JSONWebKey{Key: ecKey().Public(), KeyID: "ec"},
		jose.JSONWebKey{Key: ec384().Public(), KeyID: "ec384"}, jose.JSONWebKey{Key: edKey().Public(), KeyID: "ed"},
	)
	for _, c := range []struct {
		algorithm, id string
		key           any
	}{{"RS256", "rsa", rsaKey()}, {"PS256", "rsa", rsaKey()}, {"ES256", "ec", ecKey()}, {"ES384", "ec384", ec384()}, {"EdDSA", "ed", edKey()}} {
		for _, id := range []string{c.id, ""} {
			header := map[string]any{"alg": c.algorithm, "kid": id}
			if id == "" {
				delete(header, "kid")
			}
			if _, err := verify(p, sign(header, claims(nil), c.key)); err != nil {
				t.Errorf("%s, kid %q: %v", c.algorithm, id, err)
			}
		}
	}
}

type attack struct {
	name  string
	token string
	want  error
}

// header is a good one, with changes.
func header(change map[string]any) map[string]any {
	out := map[string]any{"alg": "RS256", "kid": "rsa"}
	for name, v := range change {
		out[name] = v
	}
	return out
}

func signed(change map[string]any) string { return sign(header(change), claims(nil), rsaKey()) }

// forged are tokens whose form or signature is wrong.
func forged() []attack {
	whole := good(nil)
	parts := strings.Split(whole, ".")
	der := must(x509.MarshalPKIXPublicKey(rsaKey().Public()))
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	own := must(json.Marshal(jose.JSONWebKey{Key: otherRSA().Public(), KeyID: "rsa"}))
	flipped := must(base64.RawURLEncoding.DecodeString(parts[2]))
	flipped[0] ^= 1
	zeros := parts[0] + "." + parts[1] + "."
	return []attack{
		{"empty", "", ErrMalformed},
		{"opaque", canary, ErrMalformed},
		{"two parts", parts[0] + "." + parts[1], ErrMalformed},
		{"four parts", whole + ".x", ErrMalformed},
		{"encrypted", strings.Join([]string{parts[0], "", parts[1], parts[1], parts[2]}, "."), ErrMalformed},
		{"JSON serialization", text(map[string]any{"protected": parts[0], "payload": parts[1], "signature": parts[2]}), ErrMalformed},
		{"too long", signText(text(header(nil)), text(claims(map[string]any{"pad": strings.Repeat("x", maxToken)})), rsaKey()), ErrMalformed},
		{"padding", parts[0] + "." + parts[1] + "=." + parts[2], ErrMalformed},
		{"a line break", parts[0] + ".\n" + parts[1] + "." + parts[2], ErrMalformed},
		{"space at the end", whole + " ", ErrMalformed},
		{"header is no object", sign(`[]`, claims(nil), rsaKey()), ErrMalformed},
		{"alg twice", sign(`{"alg":"RS256","kid":"rsa","alg":"none"}`, claims(nil), rsaKey()), ErrMalformed},
		{"alg is no text", sign(`{"alg":1}`, claims(nil), rsaKey()), ErrMalformed},
		{"alg is missing", sign(`{"kid":"rsa"}`, claims(nil), rsaKey()), ErrAlgorithm},
		{"alg none", sign(header(map[string]any{"alg": "none"}), claims(nil), nil), ErrAlgorithm},
		{"alg nOnE", sign(header(map[string]any{"alg": "nOnE"}), claims(nil), nil), ErrAlgorithm},
		{"alg none with the signature of another", sign(header(map[string]any{"alg": "none"}), claims(nil), rsaKey()), ErrAlgorithm},
		{"HS256 with the public key as PEM", sign(header(map[string]any{"alg": "HS256"}), claims(nil), public), ErrAlgorithm},
		{"HS256 with the public key as DER", sign(header(map[string]any{"alg": "HS256"}), claims(nil), der), ErrAlgorithm},
		{"an algorithm that is not configured", sign(header(map[string]any{"alg": "PS256"}), claims(nil), rsaKey()), ErrAlgorithm},
		{"ES256 with the name of an RSA key", sign(header(map[string]any{"alg": "ES256"}), claims(nil), ecKey()), ErrSignature},
		{"ES256 with a signature of zeros", sign(header(map[string]any{"alg": "ES256", "kid": "ec"}), claims(nil), nil) + b64(make([]byte, 64)), ErrSignature},
		{"no signature", zeros, ErrSignature},
		{"signature changed", parts[0] + "." + parts[1] + "." + b64(flipped), ErrSignature},
		{"payload changed", parts[0] + "." + b64([]byte(text(claims(map[string]any{"sub": "root"})))) + "." + parts[2], ErrSignature},
		{"somebody else's key of the same name", sign(header(nil), claims(nil), otherRSA()), ErrSignature},
		{"somebody else's key without a name", sign(`{"alg":"RS256"}`, claims(nil), otherRSA()), ErrSignature},
		{"an embedded jwk", sign(`{"alg":"RS256","kid":"rsa","jwk":`+string(own)+`}`, claims(nil), otherRSA()), ErrSignature},
		{"jku", sign(header(map[string]any{"jku": "https://evil.example.test/keys"}), claims(nil), otherRSA()), ErrSignature},
		{"x5u", sign(header(map[string]any{"x5u": "https://evil.example.test/cert"}), claims(nil), otherRSA()), ErrSignature},
		{"kid with a path", sign(header(map[string]any{"kid": "../../dev/null"}), claims(nil), otherRSA()), ErrSignature},
		{"kid is too long", signed(map[string]any{"kid": strings.Repeat("k", maxKeyID+1)}), ErrMalformed},
		{"kid is no text", signed(map[string]any{"kid": 7}), ErrMalformed},
		{"crit", signed(map[string]any{"crit": []string{"exp"}}), ErrMalformed},
		{"crit is empty", signed(map[string]any{"crit": []string{}}), ErrMalformed},
		{"b64", signed(map[string]any{"b64": false, "crit": []string{"b64"}}), ErrMalformed},
		{"zip", signed(map[string]any{"zip": "DEF"}), ErrMalformed},
		{"typ of a logout token", signed(map[string]any{"typ": "logout+jwt"}), ErrMalformed},
		{"typ of a DPoP proof", signed(map[string]any{"typ": "dpop+jwt"}), ErrMalformed},
		{"typ of an access token, which is not configured", signed(map[string]any{"typ": "application/at+jwt"}), ErrMalformed},
	}
}

// misused are tokens that the provider has signed.
func misused() []attack {
	with := func(name string, v any) string { return good(map[string]any{name: v}) }
	payload := func(s string) string { return sign(header(nil), s, rsaKey()) }
	at := func(d time.Duration) int64 { return start.Add(d).Unix() }
	base := text(claims(nil))
	return []attack{
		{"payload is no object", payload(`"x"`), ErrMalformed},
		{"payload and more", payload(base + "{}"), ErrMalformed},
		{"sub twice", payload(`{"sub":"root",` + base[1:]), ErrMalformed},
		{"a name twice, deep down", payload(`{"x":[{"a":1,"a":2}],` + base[1:]), ErrMalformed},
		{"not UTF-8", payload("{\"x\":\"\xff\"," + base[1:]), ErrMalformed},
		{"deeply nested", payload(`{"x":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + "," + base[1:]), ErrMalformed},
		{"iss of nobody", with("iss", "https://"+canary+".example.test"), ErrUnknownIssuer},
		{"iss with a slash more", with("iss", testURL+"/"), ErrUnknownIssuer},
		{"iss in another case", with("iss", "https://IDP.example.test"), ErrUnknownIssuer},
		{"iss is missing", with("iss", nil), ErrUnknownIssuer},
		{"iss is a list", with("iss", []string{testURL}), ErrUnknownIssuer},
		{"expired", with("exp", at(-time.Minute)), ErrExpired},
		{"expired just beyond the leeway", with("exp", at(-30*time.Second)), ErrExpired},
		{"exp is missing", with("exp", nil), ErrMalformed},
		{"exp is a text", with("exp", "1900000000"), ErrMalformed},
		{"exp is null", payload(strings.Replace(base, `"exp":`, `"exp":null,"x":`, 1)), ErrMalformed},
		{"exp in milliseconds", with("exp", at(0)*1000), ErrMalformed},
		{"exp beyond all numbers", payload(strings.Replace(base, `"exp":`, `"exp":1e300,"x":`, 1)), ErrMalformed},
		{"exp is negative", with("exp", -1), ErrMalformed},
		{"exp in eleven years", with("exp", at(11*365*24*time.Hour)), ErrMalformed},
		{"nbf in the future", with("nbf", at(31*time.Second)), ErrNotYet},
		{"nbf within go-oidc's leeway", with("nbf", at(4*time.Minute)), ErrNotYet},
		{"nbf is a text", with("nbf", "now"), ErrMalformed},
		{"iat in the future", with("iat", at(time.Minute)), ErrNotYet},
		{"iat after exp", good(map[string]any{"iat": at(20 * time.Second), "exp": at(10 * time.Second)}), ErrMalformed},
		{"aud of another", with("aud", "grafana"), ErrAudience},
		{"aud that ours begins", with("aud", "postern2"), ErrAudience},
		{"aud is missing", with("aud", nil), ErrAudience},
		{"aud is empty", with("aud", []string{}), ErrAudience},
		{"aud with a number", with("aud", []any{"postern", 1}), ErrMalformed},
		{"two audiences, issued to the other", good(map[string]any{"aud": []string{"postern", "grafana"}, "azp": "grafana"}), ErrAudience},
		{"two audiences, azp is no text", good(map[string]any{"aud": []string{"postern", "grafana"}, "azp": 1}), ErrAudience},
		{"sub is missing", with("sub", nil), ErrClaims},
		{"sub is empty", with("sub", ""), ErrClaims},
		{"sub is a number", with("sub", 1), ErrMalformed},
		{"sub is too long", with("sub", strings.Repeat("s", 256)), ErrClaims},
		{"sub with a line break", with("sub", "alice\nroot"), ErrClaims},
		{"a group that is written from right to left", with("groups", []string{"\u202eabd"}), ErrClaims},
		{"a group with half a surrogate pair", payload(strings.Replace(base, `"dba"`, `"\ud800"`, 1)), ErrClaims},
		{"a group that is too long", with("groups", []string{strings.Repeat("g", maxText+1)}), ErrClaims},
		{"groups with a number", with("groups", []any{"dba", 1}), ErrClaims},
		{"groups are an object", with("groups", map[string]any{"dba": true}), ErrClaims},
		{"groups are elsewhere", good(map[string]any{"groups": nil, "_claim_names": map[string]any{"groups": "src1"}, "_claim_sources": map[string]any{"src1": map[string]any{"endpoint": "https://graph.example.test"}}}), ErrClaims},
		{"hasgroups", good(map[string]any{"groups": nil, "hasgroups": true}), ErrClaims},
		{"more groups than a person has", with("groups", strings.Split(strings.Repeat("g,", maxGroups), ",")), ErrClaims},
	}
}

// Every attack is refused, by the right error, which holds nothing of the token;
// and after all of them a good token is accepted as before.
func TestAttacks(t *testing.T) {
	p, i, _ := world(t)
	attacks := slices.Concat(forged(), misused())
	if len(attacks) < 80 {
		t.Fatalf("%d attacks", len(attacks))
	}
	for _, a := range attacks {
		got, err := verify(p, a.token)
		if !errors.Is(err, a.want) {
			t.Errorf("%s: got %v, want %v", a.name, err, a.want)
		}
		if text(got) != text(Identity{}) {
			t.Errorf("%s: an identity comes with the error: %s", a.name, text(got))
		}
		silent(t, i, a.token, err)
	}
	if _, err := verify(p, good(nil)); err != nil {
		t.Errorf("a good token after the attacks: %v", err)
	}
	if n := i.count("/keys"); n > 1 {
		t.Errorf("the keys were fetched %d times", n)
	}
	for path := range i.asked {
		if path != "/keys" && path != "/.well-known/openid-configuration" {
			t.Errorf("the provider was asked for %s", path)
		}
	}
}

// What is odd but right is accepted.
func TestOddTokens(t *testing.T) {
	p, _, _ := world(t, func(i *Issuer) { i.Audiences = []string{"postern", "ci"}; i.Types = []string{"JWT", "at+jwt"} })
	at := func(d time.Duration) int64 { return start.Add(d).Unix() }
	for name, token := range map[string]string{
		"no typ":                              signed(nil),
		"typ with application/":               signed(map[string]any{"typ": "application/AT+JWT"}),
		"expired within the leeway":           good(map[string]any{"exp": at(-29 * time.Second), "iat": at(-time.Hour)}),
		"iat within the leeway":               good(map[string]any{"iat": at(30 * time.Second)}),
		"nbf within the leeway":               good(map[string]any{"nbf": at(30 * time.Second)}),
		"no iat":                              good(map[string]any{"iat": nil}),
		"exp with a fraction":                 good(map[string]any{"exp": float64(at(time.Minute)) + 0.5}),
		"another audience of ours":            good(map[string]any{"aud": "ci"}),
		"one audience, issued to another":     good(map[string]any{"azp": "grafana"}),
		"several audiences, issued to ours":   good(map[string]any{"aud": []string{"x", "postern"}, "azp": "postern"}),
		"several audiences, issued to nobody": good(map[string]any{"aud": []string{"x", "postern"}}),
		"a claim in another case":             good(map[string]any{"Groups": []string{"admin"}}),
		"the embedded key is not looked at":   signed(map[string]any{"jku": "https://evil.example.test"}),
	} {
		got, err := verify(p, token)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if slices.Contains(got.Groups, "admin") {
			t.Errorf("%s: groups are %q", name, got.Groups)
		}
	}
}

// What is wrong with a token that nobody has signed is not looked into.
func TestUnsignedClaimsAreNotAnswered(t *testing.T) {
	p, _, _ := world(t)
	for _, change := range []map[string]any{{"exp": 1}, {"aud": "x"}, {"sub": nil}, {"hasgroups": true}} {
		if _, err := verify(p, sign(header(nil), claims(change), otherRSA())); !errors.Is(err, ErrSignature) {
			t.Errorf("%v: %v", change, err)
		}
	}
}

func TestNew(t *testing.T) {
	i := newIDP()
	for name, f := range map[string]func(*Issuer){
		"no name":                func(i *Issuer) { i.Name = "" },
		"a path for a name":      func(i *Issuer) { i.Name = "../x" },
		"http":                   func(i *Issuer) { i.URL = "http://idp.example.test" },
		"http on localhost.evil": func(i *Issuer) { i.URL = "http://127.0.0.1.example.test" },
		"a user in the URL":      func(i *Issuer) { i.URL = "https://a@idp.example.test" },
		"a query in the URL":     func(i *Issuer) { i.URL = testURL + "?x" },
		"a fragment in the URL":  func(i *Issuer) { i.URL = testURL + "#x" },
		"no audience":            func(i *Issuer) { i.ClientID = "" },
		"an empty audience":      func(i *Issuer) { i.Audiences = []string{"a", ""} },
		"none":                   func(i *Issuer) { i.Algorithms = []string{"RS256", "none"} },
		"HS256":                  func(i *Issuer) { i.Algorithms = []string{"HS256"} },
		"leeway":                 func(i *Issuer) { i.Leeway = 6 * time.Minute },
		"negative leeway":        func(i *Issuer) { i.Leeway = -1 },
		"age of keys":            func(i *Issuer) { i.KeysMaxAge = 31 * 24 * time.Hour },
		"an unknown field":       func(i *Issuer) { i.Claims = map[string]string{"grups": `claims.groups`} },
		"a mapping that is none": func(i *Issuer) { i.Claims = map[string]string{"owner": `claims.`} },
		"a mapping to a number":  func(i *Issuer) { i.Claims = map[string]string{"owner": `1`} },
		"a mapping of others":    func(i *Issuer) { i.Claims = map[string]string{"owner": `token.sub`} },
		"no such ca":             func(i *Issuer) { i.CA = "/nonexistent" },
	} {
		if _, err := New(i.options(t, nil, f)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	o := i.options(t, nil)
	o.Issuers = append(o.Issuers, o.Issuers[0])
	if _, err := New(o); err == nil {
		t.Error("one issuer twice: accepted")
	}
	o = i.options(t, nil)
	o.Key = o.Key[1:]
	if _, err := New(o); err == nil {
		t.Error("a short key: accepted")
	}
	if len(i.asked) > 0 {
		t.Errorf("New asked the provider: %v", i.asked)
	}
}

// FuzzVerify: only what the provider has signed is accepted, whatever is around
// it, and the same text always means the same.
func FuzzVerify(f *testing.F) {
	for _, a := range slices.Concat(forged(), misused()) {
		f.Add(a.token)
	}
	f.Add(good(nil))
	i := newIDP()
	o := Options{
		Issuers: []Issuer{{Name: "corp", URL: testURL, ClientID: "postern"}}, StateDir: f.TempDir(), Key: bytes.Repeat([]byte{7}, keyLength),
		HTTP: &http.Client{Transport: i}, Now: func() time.Time { return start },
	}
	p, err := New(o)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		got, err := p.Verify(context.Background(), secret.New([]byte(raw)))
		var r *refusal
		switch {
		case err != nil && !errors.As(err, &r):
			t.Errorf("%v is none of our errors", err)
		case err != nil && text(got) != text(Identity{}):
			t.Error("an identity comes with an error")
		case err == nil:
			jws, err := jose.ParseSignedCompact(raw, []jose.SignatureAlgorithm{"RS256", "ES256"})
			if err != nil {
				t.Fatalf("accepted what go-jose does not parse: %v", err)
			}
			_, byRSA := jws.Verify(rsaKey().Public())
			_, byEC := jws.Verify(ecKey().Public())
			if byRSA != nil && byEC != nil {
				t.Error("accepted without a signature")
			}
			if got.Subject == "" || got.Issuer != "corp" || !got.Expires.After(start.Add(-defaultLeeway)) || !clean(got.Subject) {
				t.Errorf("accepted %s", text(got))
			}
		}
	})
}
