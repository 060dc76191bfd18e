package oidc

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// However many tokens name keys that do not exist, the provider is asked for
// its keys once a minute, and good tokens are accepted meanwhile.
func TestFloodOfUnknownKeys(t *testing.T) {
	p, i, c := world(t)
	if _, err := verify(p, good(nil)); err != nil {
		t.Fatal(err)
	}
	flood := func() {
		var wg sync.WaitGroup
		for worker := range 8 {
			wg.Go(func() {
				for n := range 125 {
					token := sign(header(map[string]any{"kid": fmt.Sprintf("k-%d-%d", worker, n)}), claims(nil), []byte(nil))
					if _, err := verify(p, token); !errors.Is(err, ErrSignature) {
						t.Errorf("got %v", err)
						return
					}
				}
			})
		}
		wg.Wait()
		if _, err := verify(p, good(nil)); err != nil {
			t.Error(err)
		}
	}
	flood()
	if n := i.count("/keys"); n != 1 {
		t.Errorf("fetched %d times in the first minute", n)
	}
	c.advance(askEvery - time.Second)
	flood()
	if n := i.count("/keys"); n != 1 {
		t.Errorf("fetched %d times before a minute was over", n)
	}
	c.advance(time.Second)
	flood()
	if n := i.count("/keys"); n != 2 {
		t.Errorf("fetched %d times in two minutes", n)
	}
	if n := i.count("/.well-known/openid-configuration"); n != 1 {
		t.Errorf("the discovery document was fetched %d times", n)
	}
}

// A provider that is down is left alone as well.
func TestFloodWhileDown(t *testing.T) {
	p, i, c := world(t)
	i.setDown(true)
	for range 1000 {
		if _, err := verify(p, good(nil)); !errors.Is(err, ErrProviderDown) {
			t.Fatalf("got %v", err)
		}
	}
	if n := i.count("/.well-known/openid-configuration"); n != 1 {
		t.Errorf("asked %d times", n)
	}
	i.setDown(false)
	c.advance(askAgain)
	if _, err := verify(p, good(nil)); err != nil {
		t.Errorf("once it is up again: %v", err)
	}
	silent(t, i, good(nil), nil)
}

// A new key is known at once if the minute allows it, and a withdrawn one is
// refused once the keys are asked for again.
func TestRotation(t *testing.T) {
	p, i, c := world(t)
	if _, err := verify(p, good(nil)); err != nil {
		t.Fatal(err)
	}
	i.setKeys(jose.JSONWebKey{Key: otherRSA().Public(), KeyID: "new"})
	renewed := func() string { return sign(header(map[string]any{"kid": "new"}), claims(nil), otherRSA()) }
	if _, err := verify(p, renewed()); !errors.Is(err, ErrSignature) {
		t.Errorf("within the minute: %v", err)
	}
	c.advance(askEvery)
	if _, err := verify(p, renewed()); err != nil {
		t.Errorf("after the minute: %v", err)
	}
	if _, err := verify(p, good(nil)); !errors.Is(err, ErrSignature) {
		t.Errorf("the withdrawn key: %v", err)
	}
	// A key that is replaced under its old name is noticed too.
	i.setKeys(jose.JSONWebKey{Key: rsaKey().Public(), KeyID: "new"})
	c.advance(askEvery)
	if _, err := verify(p, sign(header(map[string]any{"kid": "new"}), claims(nil), rsaKey())); err != nil {
		t.Errorf("replaced under its name: %v", err)
	}
}

func TestWithdrawnKeyWithoutAnotherToken(t *testing.T) {
	p, i, c := world(t)
	if _, err := verify(p, good(nil)); err != nil {
		t.Fatal(err)
	}
	i.setKeys(jose.JSONWebKey{Key: ecKey().Public(), KeyID: "ec"})
	c.advance(refreshAfter + time.Second)
	if _, err := verify(p, good(nil)); !errors.Is(err, ErrSignature) {
		t.Errorf("a key withdrawn %s ago: %v", refreshAfter, err)
	}
}

// After a restart without a provider the last good keys serve until they are
// too old, and then the reason is said.
func TestOfflineStart(t *testing.T) {
	i, c := newIDP(), &clock{at: start}
	o := i.options(t, c.now)
	if _, err := verify(open(t, o), good(nil)); err != nil {
		t.Fatal(err)
	}
	i.setDown(true)
	token := good(map[string]any{"exp": start.Add(100 * time.Hour).Unix()})
	if _, err := verify(open(t, o), token); err != nil {
		t.Errorf("at once: %v", err)
	}
	c.advance(23 * time.Hour)
	p := open(t, o)
	if _, err := verify(p, token); err != nil {
		t.Errorf("after 23 h: %v", err)
	}
	c.advance(2 * time.Hour)
	_, err := verify(p, token)
	if !errors.Is(err, ErrKeysTooOld) || !strings.Contains(err.Error(), "discovery document") {
		t.Errorf("after 25 h: %v", err)
	}
	silent(t, i, token, err)
	i.setDown(false)
	c.advance(askEvery)
	if _, err := verify(p, token); err != nil {
		t.Errorf("once it is up again: %v", err)
	}
	c.advance(-48 * time.Hour)
	i.setDown(true)
	if _, err := verify(open(t, o), good(map[string]any{"iat": nil})); !errors.Is(err, ErrKeysTooOld) {
		t.Errorf("keys of the future: %v", err)
	}
}

func TestKeptKeys(t *testing.T) {
	i, c := newIDP(), &clock{at: start}
	o := i.options(t, c.now)
	if _, err := verify(open(t, o), good(nil)); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(o.StateDir, keysFolder, "corp.json")
	if st, err := os.Stat(file); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	if st, err := os.Stat(o.StateDir); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	i.setDown(true)
	for name, content := range map[string]string{
		"cut":                  string(whole[:len(whole)/2]),
		"empty":                "",
		"of another issuer":    strings.ReplaceAll(string(whole), testURL, "https://other.example.test"),
		"no document":          `{"issuer":"` + testURL + `"}`,
		"keys over plain HTTP": strings.Replace(string(whole), testURL+"/keys", "http://idp.example.test/keys", 1),
		"too long":             string(whole) + strings.Repeat(" ", 2*maxBody),
	} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := verify(open(t, o), good(nil)); !errors.Is(err, ErrProviderDown) {
			t.Errorf("%s: %v", name, err)
		}
	}
	i.setDown(false)
	if _, err := verify(open(t, o), good(nil)); err != nil {
		t.Errorf("with a provider, damage is repaired: %v", err)
	}
	if repaired, err := os.ReadFile(file); err != nil || !json.Valid(repaired) {
		t.Errorf("the file was not replaced: %v", err)
	}
}

// Of a key set only what may sign is taken.
func TestKeySets(t *testing.T) {
	short, whole := weakRSA(), jose.JSONWebKey{Key: ecKey().Public(), KeyID: "ec"}
	for name, c := range map[string]struct {
		keys  []jose.JSONWebKey
		token string
		want  error
	}{
		"RSA of 1024 bits": {[]jose.JSONWebKey{whole, {Key: short.Public(), KeyID: "rsa"}}, sign(header(nil), claims(nil), short), ErrSignature},
		"only that":        {[]jose.JSONWebKey{{Key: short.Public(), KeyID: "rsa"}}, sign(header(nil), claims(nil), short), ErrProviderDown},
		"for encryption":   {[]jose.JSONWebKey{whole, {Key: rsaKey().Public(), KeyID: "rsa", Use: "enc"}}, good(nil), ErrSignature},
		"for PS256 only":   {[]jose.JSONWebKey{whole, {Key: rsaKey().Public(), KeyID: "rsa", Algorithm: "PS256"}}, good(nil), ErrSignature},
		"a shared key":     {[]jose.JSONWebKey{whole, {Key: []byte("0123456789abcdef0123456789abcdef"), KeyID: "rsa"}}, good(nil), ErrSignature},
		"a private key":    {[]jose.JSONWebKey{whole, {Key: rsaKey(), KeyID: "rsa"}}, good(nil), ErrSignature},
		"P-384 for ES256":  {[]jose.JSONWebKey{{Key: ec384().Public(), KeyID: "rsa"}}, sign(header(map[string]any{"alg": "ES256"}), claims(nil), ec384()), ErrSignature},
		"none":             {nil, good(nil), ErrProviderDown},
		"65":               {make65(), good(nil), ErrProviderDown},
	} {
		p, i, _ := world(t)
		i.setKeys(c.keys...)
		if _, err := verify(p, c.token); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
	}
	p, i, _ := world(t)
	i.answer("/keys", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"keys":[{"kty":"OKP","crv":"Ed448","x":"AA"},{"kty":"unheard-of"},7,%s]}`,
			must(json.Marshal(jose.JSONWebKey{Key: rsaKey().Public(), KeyID: "rsa"})))
	})
	if _, err := verify(p, good(nil)); err != nil {
		t.Errorf("beside keys that nobody knows: %v", err)
	}
}

func make65() (keys []jose.JSONWebKey) {
	for n := range maxKeys + 1 {
		keys = append(keys, jose.JSONWebKey{Key: rsaKey().Public(), KeyID: fmt.Sprint(n)})
	}
	return keys
}

// A discovery document of another issuer, or one that leads where others may
// answer, is refused.
func TestDiscovery(t *testing.T) {
	for name, f := range map[string]func(map[string]any){
		"another issuer":      func(d map[string]any) { d["issuer"] = "https://evil.example.test" },
		"a slash more":        func(d map[string]any) { d["issuer"] = testURL + "/" },
		"no issuer":           func(d map[string]any) { delete(d, "issuer") },
		"no jwks_uri":         func(d map[string]any) { delete(d, "jwks_uri") },
		"keys over HTTP":      func(d map[string]any) { d["jwks_uri"] = "http://idp.example.test/keys" },
		"keys on loopback":    func(d map[string]any) { d["jwks_uri"] = "http://127.0.0.1/keys" },
		"keys in a file":      func(d map[string]any) { d["jwks_uri"] = "file:///etc/passwd" },
		"keys with a user":    func(d map[string]any) { d["jwks_uri"] = "https://a:b@idp.example.test/keys" },
		"tokens over HTTP":    func(d map[string]any) { d["token_endpoint"] = "http://idp.example.test/token" },
		"device over HTTP":    func(d map[string]any) { d["device_authorization_endpoint"] = "http://idp.example.test/d" },
		"authorize by script": func(d map[string]any) { d["authorization_endpoint"] = "javascript:alert(1)" },
	} {
		p, i, _ := world(t)
		f(i.document)
		if _, err := verify(p, good(nil)); !errors.Is(err, ErrProviderDown) {
			t.Errorf("%s: %v", name, err)
		}
		if n := i.count("/keys"); n > 0 {
			t.Errorf("%s: the keys were asked for", name)
		}
	}
}

// When the keys have moved, the document that says where is fetched again.
func TestKeysMoved(t *testing.T) {
	p, i, c := world(t)
	if _, err := verify(p, good(nil)); err != nil {
		t.Fatal(err)
	}
	i.answer("/keys", http.NotFound)
	i.answer("/moved", func(w http.ResponseWriter, _ *http.Request) {
		json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: otherRSA().Public(), KeyID: "new"}}})
	})
	i.document["jwks_uri"] = testURL + "/moved"
	token := sign(header(map[string]any{"kid": "new"}), claims(nil), otherRSA())
	for range 2 {
		c.advance(askEvery)
		if _, err := verify(p, good(nil)); i.count("/moved") == 0 && err != nil {
			t.Errorf("the old keys while the new ones are looked for: %v", err)
		}
		verify(p, token)
	}
	if _, err := verify(p, token); err != nil {
		t.Error(err)
	}
}

// Answers have a limit, and redirects stay on their host.
func TestHostileAnswers(t *testing.T) {
	for name, h := range map[string]http.HandlerFunc{
		"endless":  func(w http.ResponseWriter, _ *http.Request) { w.Write(make([]byte, maxBody+1)) },
		"an error": func(w http.ResponseWriter, _ *http.Request) { http.Error(w, canary, http.StatusInternalServerError) },
		"HTML":     func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "<html>"+canary) },
		"a list":   func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `["`+canary+`"]`) },
		"to another host": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://evil.example.test/keys", http.StatusFound)
		},
		"to another scheme": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://idp.example.test/x", http.StatusFound)
		},
		"to another port": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://idp.example.test:8443/x", http.StatusFound)
		},
		"in a circle": func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/keys", http.StatusFound) },
	} {
		p, i, _ := world(t)
		i.answer("/keys", h)
		_, err := verify(p, good(nil))
		if !errors.Is(err, ErrProviderDown) {
			t.Errorf("%s: %v", name, err)
		}
		silent(t, i, good(nil), err)
		if i.count("/x") > 0 || i.count("/keys") > maxRedirects+1 {
			t.Errorf("%s: it was followed: %v", name, i.asked)
		}
	}
	p, i, _ := world(t)
	i.answer("/keys", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/keys2", http.StatusFound) })
	i.answer("/keys2", func(w http.ResponseWriter, _ *http.Request) {
		json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: i.keys})
	})
	if _, err := verify(p, good(nil)); err != nil {
		t.Errorf("a redirect on the same host: %v", err)
	}
}

// A caller that gives up while another one fetches does not wait on.
func TestCallerGivesUp(t *testing.T) {
	p, i, _ := world(t)
	began, end := make(chan struct{}), make(chan struct{})
	i.answer("/keys", func(w http.ResponseWriter, _ *http.Request) {
		close(began)
		<-end
		json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: i.keys})
	})
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := verify(p, good(nil)); err != nil {
			t.Errorf("the one who fetches: %v", err)
		}
	})
	<-began
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := p.verify(ctx, good(nil), "", purpose{}); !errors.Is(err, context.Canceled) {
		t.Errorf("the one who gives up: %v", err)
	}
	close(end)
	wg.Wait()
}

// A provider over real TLS is verified by the configured authority, and only by
// that; proxies of the environment are not asked.
func TestRealTLS(t *testing.T) {
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:1")
	i := newIDP()
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		resp, err := i.RoundTrip(r)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer resp.Body.Close()
		io.Copy(w, resp.Body)
	}))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	defer server.Close()
	i.document["issuer"], i.document["jwks_uri"] = server.URL, server.URL+"/keys"
	for _, name := range []string{"authorization_endpoint", "token_endpoint", "device_authorization_endpoint"} {
		delete(i.document, name)
	}
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	token := good(map[string]any{"iss": server.URL})
	for _, c := range []struct {
		ca   string
		want error
	}{{ca, nil}, {"", ErrProviderDown}} {
		o := i.options(t, func() time.Time { return start }, func(i *Issuer) { i.URL, i.CA = server.URL, c.ca })
		o.HTTP = nil
		_, err := verify(open(t, o), token)
		if !errors.Is(err, c.want) {
			t.Errorf("ca %q: got %v", c.ca, err)
		}
		if c.want != nil && !strings.Contains(err.Error(), "unknown authority") {
			t.Errorf("the reason is not said: %v", err)
		}
	}
}
