package e2e

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/postern/postern/pkg/control"
	"github.com/postern/postern/test/servers"
)

// idToken is an ID token of a user, as a workload finds one in a file.
func idToken(t *testing.T, op *servers.OIDC, user string) string {
	t.Helper()
	const verifier = "0123456789012345678901234567890123456789abc"
	sum := sha256.Sum256([]byte(verifier))
	redirect := "http://127.0.0.1:1/callback"
	back, err := servers.Authorize(op.Issuer+"/auth?"+url.Values{
		"client_id": {"postern"}, "response_type": {"code"}, "scope": {"openid profile email groups"}, "redirect_uri": {redirect}, "state": {"s"},
		"code_challenge": {base64.RawURLEncoding.EncodeToString(sum[:])}, "code_challenge_method": {"S256"},
	}.Encode(), user)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.PostForm(op.Issuer+"/token", url.Values{
		"grant_type": {"authorization_code"}, "client_id": {"postern"}, "code": {back.Get("code")}, "redirect_uri": {redirect}, "code_verifier": {verifier},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var got struct {
		IDToken string `json:"id_token"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&got); err != nil || got.IDToken == "" {
		t.Fatalf("no ID token: %s, %v", resp.Status, err)
	}
	return got.IDToken
}

// TestTokenFileIsFollowed: a run goes on to be who it is with the next token in
// its file, and never becomes somebody else.
func TestTokenFileIsFollowed(t *testing.T) {
	w := theWorld
	op := provider(t)
	file := filepath.Join(w.dir, "followed-token")
	put := func(token string) {
		t.Helper()
		if err := os.WriteFile(file+".new", []byte(token), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	first := idToken(t, op, "alice")
	put(first)
	cmd := w.postern.RunIn("redirected", "clerk", []string{"--as", "token-file=" + file}, "sleep", "300")
	s := startAgent(t, cmd)
	defer s.stop()
	expires := func() (run, who string, at time.Time) {
		t.Helper()
		var all struct {
			Runs []control.Run
		}
		if err := json.Unmarshal([]byte(w.cli(t, "whoami", "--json")), &all); err != nil {
			t.Fatal(err)
		}
		for _, r := range all.Runs {
			if r.Agent == "clerk" {
				return r.Name, r.Identity.Subject, r.Identity.Expires
			}
		}
		return "", "", time.Time{}
	}
	var before time.Time
	eventually(t, func() error {
		if _, _, before = expires(); before.IsZero() {
			return errors.New("the run is not there")
		}
		return nil
	})
	put(idToken(t, op, "bob"))
	eventually(t, func() error {
		if !strings.Contains(w.daemonLog(), "the token is somebody else's") {
			return errors.New("bob's token was not looked at")
		}
		return nil
	})
	if _, who, _ := expires(); who != "alice" {
		t.Errorf("the run became %s's", who)
	}
	put(idToken(t, op, "alice"))
	eventually(t, func() error {
		if _, _, at := expires(); !at.After(before) {
			return fmt.Errorf("it expires at %s, as before", at)
		}
		return nil
	})
	run, _, _ := expires()
	s.stop()
	eventually(t, func() error {
		if again, _, _ := expires(); again == run {
			return errors.New("the run is still there")
		}
		return nil
	})
}

// TestExpiredIdentity: when what attests it has expired there are no new
// sessions, and the one that is open goes on. That the provider is gone changes
// nothing before: its last good keys count.
func TestExpiredIdentity(t *testing.T) {
	w := theWorld
	op, err := servers.StartOIDC(servers.OIDCOptions{Node: "../oidc/node", Dir: filepath.Join(w.dir, "oidc-short"), Life: 8 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(op.Stop)
	w.extended(t, fmt.Sprintf(identityConfig, op.Issuer, w.postern.Root), identityPolicies)
	file := filepath.Join(w.dir, "short-token")
	put := func() {
		t.Helper()
		if err := os.WriteFile(file, []byte(idToken(t, op, "alice")), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	as := []string{"--as", "token-file=" + file}
	put()
	if out, err := w.as("clerk", as, "SELECT 1"); err != nil { // its keys are known from now on
		t.Fatal(out)
	}
	put()
	op.Stop()
	// One session stays open while others are tried until there are none.
	script := `psql -X -A -t <<'END'
SELECT 'open before';
\! i=0; while [ $i -lt 60 ] && psql -X -A -t -c 'SELECT 1' >/dev/null 2>&1; do i=$((i+1)); sleep 0.5; done; psql -X -A -t -c 'SELECT 1' 2>&1
SELECT 'open after';
END`
	cmd := w.postern.RunIn("redirected", "clerk", as, "sh", "-c", script)
	cmd.Env = append(cmd.Env, w.env("orders")...)
	out, _ := cmd.CombinedOutput()
	mustContain(t, string(out), "open before", "the identity of Alice (corp) expired at", "postern login", "open after")
	mustContain(t, w.metrics(t), `postern_identity_tokens_total{result="accepted"}`)
}

// TestProviderRotatesItsKeys: a provider that comes back with another key is
// believed when its keys may be asked for again, which is after a minute; until
// then the operator reads why its tokens do not count.
func TestProviderRotatesItsKeys(t *testing.T) {
	w := theWorld
	op := provider(t)
	file := filepath.Join(w.dir, "rotated-token")
	try := func() (string, error) {
		t.Helper()
		if err := os.WriteFile(file, []byte(idToken(t, op, "alice")), 0o600); err != nil {
			t.Fatal(err)
		}
		return w.as("clerk", []string{"--as", "token-file=" + file}, "SELECT 'in'")
	}
	if out, err := try(); err != nil {
		t.Fatal(out)
	}
	op.Stop()
	if err := op.Start(); err != nil {
		t.Fatal(err)
	}
	out, err := try()
	if err == nil {
		t.Error("keys were asked for twice within a minute")
	}
	mustContain(t, out, "issuer corp", "signature")
	for range 40 {
		if out, err = try(); err == nil {
			break
		}
		time.Sleep(2 * time.Second)
	}
	if err != nil {
		t.Errorf("the new key is not believed: %s", out)
	}
}

// TestClockIsSkewed: a provider whose clock is ahead, or far behind, is told by
// name, and what to look at; within the leeway it is believed.
func TestClockIsSkewed(t *testing.T) {
	w := theWorld
	for name, c := range map[string]struct {
		skew time.Duration
		want string // empty: it is believed
	}{
		"a little ahead": {20 * time.Second, ""},
		"ahead":          {10 * time.Minute, "the token is not valid yet"},
		"behind":         {-7 * time.Minute, "the token has expired"},
	} {
		op, err := servers.StartOIDC(servers.OIDCOptions{Node: "../oidc/node", Dir: filepath.Join(w.dir, "oidc-skewed"), Skew: c.skew})
		if err != nil {
			t.Fatal(err)
		}
		w.extended(t, fmt.Sprintf(identityConfig, op.Issuer, w.postern.Root), identityPolicies)
		file := filepath.Join(w.dir, "skewed-token")
		if err := os.WriteFile(file, []byte(idToken(t, op, "alice")), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := w.as("clerk", []string{"--as", "token-file=" + file}, "SELECT 'in'")
		op.Stop()
		if (err == nil) != (c.want == "") {
			t.Errorf("%s: %v: %s", name, err, out)
		}
		if c.want != "" {
			mustContain(t, out, "issuer corp", c.want, "clock")
			if _, err := w.postern.LogLine(c.want); err != nil {
				t.Errorf("%s: the operator does not read it: %v", name, err)
			}
		}
	}
}
