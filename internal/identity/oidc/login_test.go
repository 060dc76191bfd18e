package oidc

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/postern/postern/internal/secret"
)

const (
	alice      = 1000
	redirect   = "http://127.0.0.1:40123/callback"
	codeCanary = "code-" + canary
)

// request is one to the token or device endpoint.
type request struct {
	form  url.Values
	basic string // user and password
}

// grant has the token endpoint answer with f's JSON, and returns what it was
// asked. An answer with an error is a refusal.
func (p *idp) grant(f func(request) map[string]any) *[]request {
	seen := &[]request{}
	p.answer("/token", func(w http.ResponseWriter, r *http.Request) {
		answerForm(w, r, seen, f)
	})
	return seen
}

func answerForm(w http.ResponseWriter, r *http.Request, seen *[]request, f func(request) map[string]any) {
	r.ParseForm()
	q := request{form: r.PostForm}
	if id, pw, ok := r.BasicAuth(); ok {
		q.basic = id + ":" + pw
	}
	*seen = append(*seen, q)
	body := f(q)
	w.Header().Set("Content-Type", "application/json")
	if body["error"] != nil {
		w.WriteHeader(http.StatusBadRequest)
	}
	json.NewEncoder(w).Encode(body)
}

// tokens is an answer of the token endpoint.
func tokens(idToken, refresh string) map[string]any {
	return map[string]any{"access_token": canary, "token_type": "Bearer", "id_token": idToken, "refresh_token": refresh, "expires_in": 300}
}

// begin starts a login by code flow and returns it with the address's query.
func begin(t *testing.T, p *Provider) (CodeLogin, url.Values) {
	t.Helper()
	l, err := p.StartCode(context.Background(), "corp", redirect, alice)
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(l.AuthURL)
	if err != nil {
		t.Fatal(err)
	}
	return l, u.Query()
}

// logIn logs alice in by code flow, with a refresh token.
func logIn(t *testing.T, p *Provider, i *idp, refresh string) {
	t.Helper()
	l, q := begin(t, p)
	i.grant(func(request) map[string]any { return tokens(good(map[string]any{"nonce": q.Get("nonce")}), refresh) })
	if _, err := p.FinishCode(context.Background(), l.ID, q.Get("state"), codeCanary); err != nil {
		t.Fatal(err)
	}
}

func TestCodeLogin(t *testing.T) {
	p, i, _ := world(t)
	l, q := begin(t, p)
	for name, want := range map[string]string{
		"response_type": "code", "client_id": "postern", "redirect_uri": redirect, "code_challenge_method": "S256",
		"scope": "openid email offline_access", "prompt": "consent",
	} {
		if q.Get(name) != want {
			t.Errorf("%s is %q, want %q", name, q.Get(name), want)
		}
	}
	if !strings.HasPrefix(l.AuthURL, testURL+"/authorize?") || len(q.Get("state")) < 32 || len(q.Get("nonce")) < 32 || q.Get("state") == q.Get("nonce") {
		t.Errorf("the address is %s", l.AuthURL)
	}
	seen := i.grant(func(request) map[string]any {
		return tokens(good(map[string]any{"nonce": q.Get("nonce")}), "refresh-"+canary)
	})
	got, err := p.FinishCode(context.Background(), l.ID, q.Get("state"), codeCanary)
	if err != nil || got.Subject != "u-1" {
		t.Fatalf("%s, %v", text(got), err)
	}
	form := (*seen)[0].form
	sum := sha256.Sum256([]byte(form.Get("code_verifier")))
	if len(*seen) != 1 || form.Get("code") != codeCanary || form.Get("redirect_uri") != redirect || form.Get("client_id") != "postern" ||
		b64(sum[:]) != q.Get("code_challenge") || len(form.Get("code_verifier")) < 43 {
		t.Errorf("the token endpoint was asked %v", *seen)
	}
	// A login ends once.
	if _, err := p.FinishCode(context.Background(), l.ID, q.Get("state"), codeCanary); !errors.Is(err, ErrLoginExpired) {
		t.Errorf("the second time: %v", err)
	}
	if got, err := p.Login(context.Background(), alice, "corp"); err != nil || got.Subject != "u-1" {
		t.Errorf("logged in: %s, %v", text(got), err)
	}
	if _, err := p.Login(context.Background(), alice+1, "corp"); !errors.Is(err, ErrNotLoggedIn) {
		t.Errorf("somebody else: %v", err)
	}
	if len(*seen) != 1 {
		t.Errorf("asked %d times", len(*seen))
	}
	silent(t, i, good(nil), nil)
}

// What comes back is refused unless it is for this login and this client.
func TestCodeLoginRefusals(t *testing.T) {
	with := func(change map[string]any) func(string) map[string]any {
		return func(nonce string) map[string]any {
			all := map[string]any{"nonce": nonce}
			maps.Copy(all, change)
			return tokens(good(all), "r")
		}
	}
	fails := func(code string) func(string) map[string]any {
		return func(string) map[string]any { return map[string]any{"error": code, "error_description": canary} }
	}
	for name, c := range map[string]struct {
		answer func(nonce string) map[string]any
		want   error
	}{
		"another nonce":          {with(map[string]any{"nonce": "other"}), ErrLoginDenied},
		"no nonce":               {with(map[string]any{"nonce": nil}), ErrLoginDenied},
		"another audience of us": {with(map[string]any{"aud": "ci"}), ErrAudience},
		"issued to another":      {with(map[string]any{"azp": "grafana"}), ErrAudience},
		"another issuer":         {with(map[string]any{"iss": "https://second.example.test"}), ErrUnknownIssuer},
		"expired":                {with(map[string]any{"exp": 1}), ErrExpired},
		"no ID token":            {func(string) map[string]any { return tokens("", "r") }, ErrProviderDown},
		"forged": {func(n string) map[string]any {
			return tokens(sign(header(nil), claims(map[string]any{"nonce": n}), otherRSA()), "r")
		}, ErrSignature},
		"invalid_grant":  {fails("invalid_grant"), ErrNotLoggedIn},
		"invalid_client": {fails("invalid_client"), ErrProviderDown},
		"access_denied":  {fails("access_denied"), ErrLoginDenied},
		"made up":        {fails(canary), ErrProviderDown},
	} {
		i, clock := newIDP(), &clock{at: start}
		o := i.options(t, clock.now, func(i *Issuer) { i.Audiences = []string{"postern", "ci"} })
		o.Issuers = append(o.Issuers, Issuer{Name: "second", URL: "https://second.example.test", ClientID: "postern"})
		p := open(t, o)
		l, q := begin(t, p)
		i.grant(func(request) map[string]any { return c.answer(q.Get("nonce")) })
		_, err := p.FinishCode(context.Background(), l.ID, q.Get("state"), codeCanary)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
		silent(t, i, good(nil), err)
		if _, err := p.Login(context.Background(), alice, "corp"); !errors.Is(err, ErrNotLoggedIn) {
			t.Errorf("%s: logged in all the same: %v", name, err)
		}
		if _, err := p.FinishCode(context.Background(), l.ID, q.Get("state"), codeCanary); !errors.Is(err, ErrLoginExpired) {
			t.Errorf("%s: the code was tried again: %v", name, err)
		}
	}
}

// A wrong state is told to nobody but who sent it, and spoils nothing.
func TestState(t *testing.T) {
	p, i, c := world(t)
	l, q := begin(t, p)
	seen := i.grant(func(request) map[string]any { return tokens(good(map[string]any{"nonce": q.Get("nonce")}), "r") })
	for _, state := range []string{"", "x", q.Get("state") + "x", strings.ToUpper(q.Get("state"))} {
		if _, err := p.FinishCode(context.Background(), l.ID, state, codeCanary); !errors.Is(err, ErrLoginDenied) {
			t.Errorf("state %q: %v", state, err)
		}
	}
	other, _ := begin(t, p)
	if _, err := p.FinishCode(context.Background(), other.ID, q.Get("state"), codeCanary); !errors.Is(err, ErrLoginDenied) {
		t.Errorf("another login's state: %v", err)
	}
	if _, err := p.FinishCode(context.Background(), "nobody", q.Get("state"), codeCanary); !errors.Is(err, ErrLoginExpired) {
		t.Errorf("no such login: %v", err)
	}
	if _, err := p.WaitDevice(context.Background(), l.ID); !errors.Is(err, ErrLoginExpired) {
		t.Errorf("by the other flow: %v", err)
	}
	if len(*seen) != 0 {
		t.Errorf("the provider was asked %d times", len(*seen))
	}
	if _, err := p.FinishCode(context.Background(), l.ID, q.Get("state"), codeCanary); err != nil {
		t.Errorf("the right one after that: %v", err)
	}
	c.advance(codeTime)
	if _, err := p.FinishCode(context.Background(), other.ID, q.Get("state"), codeCanary); !errors.Is(err, ErrLoginExpired) {
		t.Errorf("too late: %v", err)
	}
}

func TestRedirectURI(t *testing.T) {
	p, _, _ := world(t)
	for uri, ok := range map[string]bool{
		"http://127.0.0.1:8400/cb": true, "http://[::1]:8400/cb": true, "http://127.0.0.1:8400": true,
		"http://127.0.0.1/cb": false, "http://localhost:8400/cb": false, "https://127.0.0.1:8400/cb": false,
		"http://127.0.0.2:8400/": false, "http://127.0.0.1:0/": false, "http://127.0.0.1:99999/": false, "http://10.0.0.1:80/": false,
		"http://127.0.0.1:80@evil.example.test/": false, "http://u@127.0.0.1:80/": false, "http://127.0.0.1:80/?a": false,
		"http://127.0.0.1:80/#a": false, "": false, "http://[::ffff:127.0.0.1]:80/": false,
	} {
		_, err := p.StartCode(context.Background(), "corp", uri, uint32(len(uri)))
		if (err == nil) != ok {
			t.Errorf("%s: %v", uri, err)
		}
	}
}

// Pending logins have a limit, for each user and for all, until they expire.
func TestPendingLimits(t *testing.T) {
	p, _, c := world(t)
	start := func(uid uint32) error {
		_, err := p.StartCode(context.Background(), "corp", redirect, uid)
		return err
	}
	for n := range maxPending {
		if err := start(uint32(n / maxPendingPerUID)); err != nil {
			t.Fatalf("login %d: %v", n, err)
		}
		if n == maxPendingPerUID-1 {
			if err := start(0); !errors.Is(err, ErrTooMany) {
				t.Errorf("one more of a user: %v", err)
			}
		}
	}
	if err := start(99); !errors.Is(err, ErrTooMany) {
		t.Errorf("one more in all: %v", err)
	}
	c.advance(codeTime)
	if err := start(99); err != nil {
		t.Errorf("once they have expired: %v", err)
	}
	if len(p.pending.logins) != 1 {
		t.Errorf("%d are remembered", len(p.pending.logins))
	}
}

// The secret of a client goes where the provider wants it, and is asked for
// each time.
func TestClientSecret(t *testing.T) {
	const value = "s&cret " + canary
	for _, c := range []struct {
		methods      []string
		basic, param string
	}{
		{nil, "postern:" + url.QueryEscape(value), ""},
		{[]string{"client_secret_post", "client_secret_basic"}, "postern:" + url.QueryEscape(value), ""},
		{[]string{"client_secret_post"}, "", value},
	} {
		asked := 0
		p, i, _ := world(t, func(i *Issuer) {
			i.ClientSecret = func(context.Context) (secret.Secret, error) { asked++; return secret.New([]byte(value)), nil }
		})
		if c.methods != nil {
			i.document["token_endpoint_auth_methods_supported"] = c.methods
		}
		l, q := begin(t, p)
		seen := i.grant(func(request) map[string]any { return tokens(good(map[string]any{"nonce": q.Get("nonce")}), "r") })
		if _, err := p.FinishCode(context.Background(), l.ID, q.Get("state"), codeCanary); err != nil {
			t.Fatal(err)
		}
		i.answer("/device", func(w http.ResponseWriter, r *http.Request) {
			answerForm(w, r, seen, func(request) map[string]any { return codes() })
		})
		if _, err := p.StartDevice(context.Background(), "corp", alice); err != nil {
			t.Fatal(err)
		}
		for n, r := range *seen {
			if r.basic != c.basic || r.form.Get("client_secret") != c.param {
				t.Errorf("%v, request %d: %q and %q", c.methods, n, r.basic, r.form.Get("client_secret"))
			}
		}
		if len(*seen) != 2 || asked != 2 {
			t.Errorf("%d requests, asked %d times", len(*seen), asked)
		}
		silent(t, i, good(nil), nil)
	}
}

func TestClientSecretIsMissing(t *testing.T) {
	missing := errors.New("no such file")
	p, i, _ := world(t, func(i *Issuer) {
		i.ClientSecret = func(context.Context) (secret.Secret, error) { return secret.Secret{}, missing }
	})
	l, q := begin(t, p)
	seen := i.grant(func(request) map[string]any { return nil })
	if _, err := p.FinishCode(context.Background(), l.ID, q.Get("state"), codeCanary); !errors.Is(err, missing) {
		t.Errorf("got %v", err)
	}
	if len(*seen) != 0 {
		t.Error("the provider was asked without it")
	}
}

func TestProvidersWithout(t *testing.T) {
	p, i, _ := world(t)
	delete(i.document, "device_authorization_endpoint")
	i.document["code_challenge_methods_supported"] = []string{"plain"}
	if _, err := p.StartDevice(context.Background(), "corp", alice); !errors.Is(err, ErrProviderDown) || !strings.Contains(err.Error(), "browser") {
		t.Errorf("device flow: %v", err)
	}
	if _, err := p.StartCode(context.Background(), "corp", redirect, alice); !errors.Is(err, ErrProviderDown) {
		t.Errorf("PKCE by plain only: %v", err)
	}
	if _, err := p.StartCode(context.Background(), "other", redirect, alice); !errors.Is(err, ErrUnknownIssuer) {
		t.Errorf("no such issuer: %v", err)
	}
	p, _, _ = world(t, func(i *Issuer) { i.ClientID, i.Audiences = "", []string{"ci"} })
	if _, err := p.StartDevice(context.Background(), "corp", alice); !errors.Is(err, ErrUnknownIssuer) {
		t.Errorf("an issuer of tokens only: %v", err)
	}
}

// Logins at rest are sealed, and bound to who and where.
func TestAtRest(t *testing.T) {
	i, c := newIDP(), &clock{at: start}
	o := i.options(t, c.now)
	o.Issuers = append(o.Issuers, Issuer{Name: "second", URL: "https://second.example.test", ClientID: "postern"})
	p := open(t, o)
	logIn(t, p, i, "refresh-"+canary)
	folder := filepath.Join(o.StateDir, loginsFolder)
	file := filepath.Join(folder, "1000-corp.login")
	sealed, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(file); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	for _, plain := range []string{canary, "alice", "u-1", testURL} {
		if strings.Contains(string(sealed), plain) {
			t.Errorf("%s is there in the clear", plain)
		}
	}
	if got, err := open(t, o).Login(context.Background(), alice, "corp"); err != nil || got.Name != "alice" {
		t.Errorf("after a restart: %s, %v", text(got), err)
	}
	for _, other := range []string{"1001-corp.login", "1000-second.login"} {
		if err := os.WriteFile(filepath.Join(folder, other), sealed, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := p.Login(context.Background(), 1001, "corp"); !errors.Is(err, ErrNotLoggedIn) {
		t.Errorf("another user's file: %v", err)
	}
	if _, err := p.Login(context.Background(), alice, "second"); !errors.Is(err, ErrNotLoggedIn) {
		t.Errorf("another issuer's file: %v", err)
	}
	if all, err := p.Logins(alice); err != nil || len(all) != 1 || all[0].Issuer != "corp" {
		t.Errorf("logins: %s, %v", text(all), err)
	}
	for n, content := range [][]byte{nil, sealed[:10], append([]byte{1}, sealed...), sealed[:len(sealed)-1]} {
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := p.Login(context.Background(), alice, "corp"); !errors.Is(err, ErrNotLoggedIn) {
			t.Errorf("damage %d: %v", n, err)
		}
	}
	logIn(t, p, i, "r")
	o.Key = append([]byte{8}, o.Key[1:]...)
	if _, err := open(t, o).Login(context.Background(), alice, "corp"); !errors.Is(err, ErrNotLoggedIn) {
		t.Errorf("another key: %v", err)
	}
	if err := p.Logout(context.Background(), alice, "corp"); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file after logging out: %v", err)
	}
	if err := p.Logout(context.Background(), alice, "corp"); err != nil {
		t.Errorf("logging out twice: %v", err)
	}
}

func codes() map[string]any {
	return map[string]any{
		"device_code": "device-" + canary, "user_code": "WDJB-MJHT", "verification_uri": testURL + "/go",
		"verification_uri_complete": testURL + "/go?code=WDJB-MJHT", "expires_in": 600, "interval": 5,
	}
}

// in moves a token's times.
func in(d time.Duration, change map[string]any) map[string]any {
	out := map[string]any{"iat": start.Add(d).Unix(), "exp": start.Add(d + time.Hour).Unix()}
	maps.Copy(out, change)
	return out
}
