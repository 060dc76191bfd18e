package gcp

import (
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/postern/postern/internal/secret"
	"github.com/postern/postern/internal/secret/source"
	"github.com/postern/postern/internal/secret/source/sourcetest"
)

// Credentials that prove nothing are refused by a stand-in that checks, and no
// secret is asked for.
func TestRefused(t *testing.T) {
	for name, c := range map[string]struct {
		change func(t *testing.T, c *cloud, file map[string]any) map[string]any
		want   error
	}{
		"wrong key": {func(_ *testing.T, c *cloud, _ map[string]any) map[string]any { return accountFile(c.url, keys()[1]) }, source.ErrPermission},
		"wrong account": {func(_ *testing.T, _ *cloud, f map[string]any) map[string]any {
			f["client_email"] = sourcetest.Canary
			return f
		}, source.ErrPermission},
		"no key": {func(_ *testing.T, _ *cloud, f map[string]any) map[string]any {
			f["private_key"] = sourcetest.Canary
			return f
		}, source.ErrPermission},
		"wrong subject": {func(t *testing.T, c *cloud, _ map[string]any) map[string]any {
			return federated(t, c.url, sourcetest.Canary)
		}, source.ErrPermission},
		"no subject": {func(t *testing.T, c *cloud, _ map[string]any) map[string]any {
			f := federated(t, c.url, subject)
			f["credential_source"] = map[string]any{"file": "/nonexistent/" + sourcetest.Canary}
			return f
		}, source.ErrPermission},
		"outage of logins": {func(_ *testing.T, c *cloud, f map[string]any) map[string]any {
			c.refuse = http.StatusServiceUnavailable
			return f
		}, source.ErrUnavailable},
		"login denied": {func(_ *testing.T, c *cloud, f map[string]any) map[string]any {
			c.refuse = http.StatusForbidden
			return f
		}, source.ErrPermission},
	} {
		t.Run(name, func(t *testing.T) {
			place, server := newCloud(t)
			place.put(t, "x", sourcetest.Canary)
			s := open(t, server, c.change(t, place, accountFile(server.URL, keys()[0])))
			got, _, err := s.Fetch(t.Context(), source.Ref{Path: "x"})
			sourcetest.Fails(t, got, err, c.want)
			if len(place.asked) > 0 {
				t.Error("without a token it asked for", place.asked)
			}
		})
	}
}

// What a credentials file may not make the daemon do, it does not do.
func TestCredentialsFile(t *testing.T) {
	for name, change := range map[string]map[string]any{
		"a person's":         {"type": "authorized_user", "client_id": "x", "client_secret": "y", "refresh_token": sourcetest.Canary},
		"no type":            {"type": ""},
		"plain token server": {"token_url": "http://127.0.0.1/sts"},
		"plain assertion":    {"type": "service_account", "token_uri": "http://127.0.0.1/token"},
		"plain impersonation": {
			"service_account_impersonation_url": "http://127.0.0.1/generateAccessToken",
		},
		"a program":       {"credential_source": map[string]any{"executable": map[string]any{"command": "/bin/true"}}},
		"AWS's metadata":  {"credential_source": map[string]any{"environment_id": "aws1", "url": "http://127.0.0.1/x"}},
		"AWS and a file":  {"credential_source": map[string]any{"environment_id": "aws1", "file": "/x"}},
		"some metadata":   {"credential_source": map[string]any{"url": "http://127.0.0.1/x"}},
		"another's shape": {"type": map[string]any{"x": sourcetest.Canary}},
	} {
		c, server := newCloud(t)
		file := federated(t, server.URL, subject)
		maps.Copy(file, change)
		got, _, err := open(t, server, file).Fetch(t.Context(), source.Ref{Path: "x"})
		sourcetest.Fails(t, got, err, source.ErrMalformed)
		if err == nil || c.logins > 0 || len(c.asked) > 0 {
			t.Errorf("%s: %d logins", name, c.logins)
		}
	}
	_, server := newCloud(t)
	s, err := New(Options{Project: "p", Credentials: filepath.Join(t.TempDir(), "none"), Endpoint: server.URL, Roots: server.Roots})
	if err != nil {
		t.Fatal(err)
	}
	got, _, err := s.Fetch(t.Context(), source.Ref{Path: "x"})
	sourcetest.Fails(t, got, err, source.ErrNotFound)
}

// A federation's token may come from an URL where metadata is allowed, and be
// exchanged once more for a service account's; neither takes what is not proved.
func TestFederation(t *testing.T) {
	c, server := newCloud(t)
	c.put(t, "x", sourcetest.Canary)
	for token, want := range map[string]error{subject: nil, sourcetest.Canary: source.ErrPermission} {
		local := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Metadata") == "yes" {
				io.WriteString(w, token)
			}
		}))
		defer local.Close()
		file := federated(t, server.URL, "")
		file["credential_source"] = map[string]any{"url": local.URL, "headers": map[string]string{"Metadata": "yes"}}
		file["service_account_impersonation_url"] = server.URL + "/impersonate"
		s, err := New(Options{Project: "p", Credentials: write(t, file), Metadata: true, Endpoint: server.URL, Roots: server.Roots})
		if err != nil {
			t.Fatal(err)
		}
		got, _, err := s.Fetch(t.Context(), source.Ref{Path: "x"})
		if want != nil {
			sourcetest.Fails(t, got, err, want)
		} else if err != nil || string(got.Reveal()) != sourcetest.Canary || c.logins != 2 || len(c.tokens) != 1 {
			t.Errorf("%d logins, %v", c.logins, err)
		}
		c.logins, c.tokens = 0, nil
	}
}

// One login serves until its token ends or is taken back, and the file is read
// again for the next.
func TestTokenIsKept(t *testing.T) {
	c, server := newCloud(t)
	c.put(t, "x", sourcetest.Canary)
	s := open(t, server, accountFile(server.URL, keys()[0]))
	fetch := func(logins int) {
		t.Helper()
		if _, _, err := s.Fetch(t.Context(), source.Ref{Path: "x"}); err != nil || c.logins != logins {
			t.Errorf("%d logins, want %d: %v", c.logins, logins, err)
		}
	}
	fetch(1)
	fetch(1)
	c.tokens = nil // taken back
	fetch(2)
	s.login.last.Expiry = time.Now().Add(early - time.Second)
	fetch(3)
	fetch(3)
	b, err := json.Marshal(accountFile(server.URL, keys()[1]))
	if err != nil || os.WriteFile(s.login.file, b, 0o600) != nil {
		t.Fatal("the file could not be replaced")
	}
	fetch(3)
	c.tokens = nil
	got, _, err := s.Fetch(t.Context(), source.Ref{Path: "x"})
	sourcetest.Fails(t, got, err, source.ErrPermission)
}

// The metadata server is asked where it is allowed, as it wants to be asked.
func TestMetadata(t *testing.T) {
	c, server := newCloud(t)
	c.put(t, "x", sourcetest.Canary)
	var mu sync.Mutex
	status, flavor, life := http.StatusOK, "Google", 3600
	metadata := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		w.Header().Set("Metadata-Flavor", flavor)
		if r.URL.Path != metadataToken || r.Header.Get("Metadata-Flavor") != "Google" || r.URL.Query().Get("scopes") != scope || status != http.StatusOK {
			http.Error(w, sourcetest.Canary, max(status, http.StatusForbidden))
			return
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.tokens = append(c.tokens, "of-metadata")
		json.NewEncoder(w).Encode(map[string]any{"access_token": "of-metadata", "expires_in": life, "token_type": "Bearer"})
	}))
	defer metadata.Close()
	fetch := func() error {
		s, err := New(Options{Project: "p", Metadata: true, Endpoint: server.URL, Roots: server.Roots})
		if err != nil {
			t.Fatal(err)
		}
		s.login.metadata = metadata.URL
		defer s.login.local.CloseIdleConnections()
		got, _, err := s.Fetch(t.Context(), source.Ref{Path: "x"})
		if err == nil && string(got.Reveal()) != sourcetest.Canary {
			t.Error("it is another secret")
		}
		return err
	}
	if err := fetch(); err != nil {
		t.Error(err)
	}
	for _, bad := range []struct {
		status, life int
		flavor       string
		want         error
	}{
		{http.StatusNotFound, 3600, "Google", source.ErrPermission},
		{http.StatusServiceUnavailable, 3600, "Google", source.ErrUnavailable},
		{http.StatusOK, 3600, "", source.ErrUnavailable},
		{http.StatusOK, 0, "Google", source.ErrMalformed},
	} {
		status, life, flavor = bad.status, bad.life, bad.flavor
		sourcetest.Fails(t, secret.Secret{}, fetch(), bad.want)
	}
}
