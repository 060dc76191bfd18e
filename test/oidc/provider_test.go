package oidc

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postern/postern/internal/identity/oidc"
	"github.com/postern/postern/internal/secret"
	"github.com/postern/postern/test/servers"
)

const (
	uid      = 1000
	redirect = "http://127.0.0.1:40123/callback"
)

// npm is the provider that npm has, until the test ends.
func npm(t *testing.T, life time.Duration) *servers.OIDC {
	t.Helper()
	s, err := servers.StartOIDC(servers.OIDCOptions{Node: "node", Dir: t.TempDir(), Life: life})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s
}

// clients are those of npm's provider, with each way to say who they are.
var clients = map[string]string{"postern": "", "postern-basic": servers.OIDCBasicSecret, "postern-post": servers.OIDCPostSecret}

// ours is a Provider for one client.
func ours(t *testing.T, issuer, client, value string, change ...func(*oidc.Options)) *oidc.Provider {
	t.Helper()
	i := oidc.Issuer{Name: "op", URL: issuer, ClientID: client, Audiences: []string{client, "urn:postern"}, Types: []string{"JWT", "at+jwt"}}
	if value != "" {
		i.ClientSecret = func(context.Context) (secret.Secret, error) { return secret.New([]byte(value)), nil }
	}
	o := oidc.Options{Issuers: []oidc.Issuer{i}, StateDir: t.TempDir(), Key: make([]byte, 32), Log: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	for _, f := range change {
		f(&o)
	}
	p, err := oidc.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func limit(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// A person logs in by device flow at the real provider.
func TestDevice(t *testing.T) {
	s := npm(t, 0)
	for client, value := range clients {
		t.Run(client, func(t *testing.T) {
			t.Parallel()
			p := ours(t, s.Issuer, client, value)
			l, err := p.StartDevice(limit(t), "op", uid)
			if err != nil {
				t.Fatal(err)
			}
			if err := servers.Approve(l.VerificationURIComplete, "alice"); err != nil {
				t.Fatal(err)
			}
			got, err := p.WaitDevice(limit(t), l.ID)
			if err != nil {
				t.Fatal(err)
			}
			isAlice(t, got)
			again, err := p.Login(limit(t), uid, "op")
			if err != nil || again.TokenID != got.TokenID {
				t.Errorf("logged in: %+v, %v", again, err)
			}
		})
	}
}

func isAlice(t *testing.T, i oidc.Identity) {
	t.Helper()
	if i.Subject != "alice" || i.Name != "Alice" || i.Email != "alice@example.test" || !slices.Equal(i.Groups, []string{"dba", "sre"}) {
		t.Errorf("got %+v", i)
	}
}

// A person refuses, and the device flow ends at once.
func TestDeviceDenied(t *testing.T) {
	s := npm(t, 0)
	p := ours(t, s.Issuer, "postern", "")
	l, err := p.StartDevice(limit(t), "op", uid)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := servers.Deny(l.VerificationURIComplete, "alice"); err != nil {
		t.Fatal(err)
	}
	if _, err := p.WaitDevice(limit(t), l.ID); !errors.Is(err, oidc.ErrLoginDenied) {
		t.Errorf("got %v", err)
	}
	if _, err := p.Login(limit(t), uid, "op"); !errors.Is(err, oidc.ErrNotLoggedIn) {
		t.Errorf("logged in: %v", err)
	}
}

// A person logs in with a browser; groups are those of that person.
func TestCode(t *testing.T) {
	s := npm(t, 0)
	for client, value := range clients {
		p := ours(t, s.Issuer, client, value)
		l, err := p.StartCode(limit(t), "op", redirect, uid)
		if err != nil {
			t.Fatal(err)
		}
		back, err := servers.Authorize(l.AuthURL, "bob")
		if err != nil {
			t.Fatal(err)
		}
		got, err := p.FinishCode(limit(t), l.ID, back.Get("state"), back.Get("code"))
		if err != nil || got.Subject != "bob" || !slices.Equal(got.Groups, []string{"analyst"}) {
			t.Errorf("%s: %+v, %v", client, got, err)
		}
	}
}

// A code of one login is of no use to another, which PKCE sees to.
func TestCodeOfAnotherLogin(t *testing.T) {
	s := npm(t, 0)
	p := ours(t, s.Issuer, "postern", "")
	theirs, err := p.StartCode(limit(t), "op", redirect, uid+1)
	if err != nil {
		t.Fatal(err)
	}
	back, err := servers.Authorize(theirs.AuthURL, "mallory")
	if err != nil {
		t.Fatal(err)
	}
	own, err := p.StartCode(limit(t), "op", redirect, uid)
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(own.AuthURL)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := p.FinishCode(limit(t), own.ID, u.Query().Get("state"), back.Get("code")); !errors.Is(err, oidc.ErrNotLoggedIn) {
		t.Errorf("got %+v, %v", got, err)
	}
}

// A login outlives its ID tokens: it is refreshed, and each refresh token is
// used once, which the provider insists on. When the provider has forgotten the
// login, it ends.
func TestRefresh(t *testing.T) {
	s := npm(t, 2*time.Second)
	p := ours(t, s.Issuer, "postern", "")
	l, err := p.StartDevice(limit(t), "op", uid)
	if err != nil {
		t.Fatal(err)
	}
	if err := servers.Approve(l.VerificationURIComplete, "alice"); err != nil {
		t.Fatal(err)
	}
	last, err := p.WaitDevice(limit(t), l.ID)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		next := last
		for until := time.Now().Add(20 * time.Second); next.TokenID == last.TokenID; time.Sleep(50 * time.Millisecond) {
			if next, err = p.Login(limit(t), uid, "op"); err != nil {
				t.Fatal(err)
			}
			if time.Now().After(until) {
				t.Fatal("it is not refreshed")
			}
		}
		isAlice(t, next)
		last = next
	}
	s.Stop()
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	for until := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		_, err := p.Login(limit(t), uid, "op")
		if errors.Is(err, oidc.ErrNotLoggedIn) {
			break
		}
		if time.Now().After(until) {
			t.Fatalf("the login goes on: %v", err)
		}
	}
}

// A service's own token is verified; after a restart with other keys it is not,
// and a new one is at once.
func TestServiceToken(t *testing.T) {
	s := npm(t, 0)
	now := time.Now()
	p := ours(t, s.Issuer, "postern", "", func(o *oidc.Options) { o.Now = func() time.Time { return now } })
	first := serviceToken(t, s)
	got, err := p.Verify(limit(t), secret.New([]byte(first)))
	if err != nil || got.Subject != "ci" || !slices.Equal(got.Groups, []string{"ci"}) {
		t.Fatalf("got %+v, %v", got, err)
	}
	s.Stop()
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Verify(limit(t), secret.New([]byte(first))); err != nil {
		t.Errorf("by the keys that are known: %v", err)
	}
	second := serviceToken(t, s)
	now = now.Add(time.Minute)
	if _, err := p.Verify(limit(t), secret.New([]byte(second))); err != nil {
		t.Errorf("by the new key: %v", err)
	}
	_, err = p.Verify(limit(t), secret.New([]byte(first)))
	if !errors.Is(err, oidc.ErrSignature) {
		t.Errorf("by the withdrawn key: %v", err)
	}
	if err != nil && strings.Contains(err.Error(), first[len(first)-20:]) {
		t.Error("the token is told")
	}
}

// serviceToken gets one as a CI job does.
func serviceToken(t *testing.T, s *servers.OIDC) string {
	t.Helper()
	form := url.Values{"grant_type": {"client_credentials"}, "scope": {"use"}}
	req, err := http.NewRequestWithContext(limit(t), http.MethodPost, s.Issuer+"/token", strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth("ci", servers.OIDCServiceKey)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var answer struct {
		Token string `json:"access_token"`
	}
	if err := json.Unmarshal(body, &answer); err != nil || answer.Token == "" {
		t.Fatalf("%s: %s", resp.Status, body)
	}
	return answer.Token
}
