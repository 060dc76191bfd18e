package azure

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/postern/postern/internal/secret/source"
	"github.com/postern/postern/internal/secret/source/sourcetest"
)

const (
	vaultHost = "v.vault.test.example"
	loginHost = "login.test.example"
	tenant    = "tenant-1"
	client    = "client-1"
	appSecret = "app-" + sourcetest.Canary
	subject   = "subject-" + sourcetest.Canary
)

// elsewhere leads every request to the stand-in, which sees the host that was
// meant: nothing leaves loopback.
type elsewhere struct {
	to   string
	next http.RoundTripper
}

func (e elsewhere) RoundTrip(r *http.Request) (*http.Response, error) {
	u, err := url.Parse(e.to)
	if err != nil {
		return nil, err
	}
	led := r.Clone(r.Context())
	led.Host = r.URL.Host
	led.URL.Scheme, led.URL.Host = u.Scheme, u.Host
	return e.next.RoundTrip(led)
}

// azureCloud stands in for a vault, the authority and the metadata service.
type azureCloud struct {
	proof    func(form url.Values) bool // verifies what a client logs in with
	identity string                     // that the host has, empty: none

	mu       sync.Mutex
	values   map[string]string
	versions map[string]int
	answers  map[string]func(http.ResponseWriter) // in place of the value
	asked    []string
	tokens   []string // those that are good
	logins   int
	refuse   int // status of logins, zero: they are served
}

func (c *azureCloud) put(_ *testing.T, path, value string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.values[path] = value
	c.versions[path]++
}

func fail(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]any{"error": map[string]any{
		"code": "x", "message": sourcetest.Canary, "innererror": map[string]any{"code": code},
	}})
}

func (c *azureCloud) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case r.Host == loginHost && r.URL.Path == "/"+tenant+"/v2.0/.well-known/openid-configuration":
		json.NewEncoder(w).Encode(map[string]any{
			"issuer": "https://" + loginHost + "/" + tenant + "/v2.0", "authorization_endpoint": "https://" + loginHost + "/" + tenant + "/oauth2/v2.0/authorize",
			"token_endpoint": "https://" + loginHost + "/" + tenant + "/oauth2/v2.0/token",
		})
	case r.Host == loginHost && r.URL.Path == "/"+tenant+"/oauth2/v2.0/token":
		if r.ParseForm() != nil {
			http.Error(w, sourcetest.Canary, http.StatusBadRequest)
			return
		}
		f := r.PostForm
		c.give(w, f.Get("grant_type") == "client_credentials" && f.Get("client_id") == client &&
			strings.Contains(f.Get("scope"), "https://vault.test.example/.default") && c.proof != nil && c.proof(f))
	case r.Host == "169.254.169.254" && r.URL.Path == "/metadata/identity/oauth2/token":
		q := r.URL.Query()
		c.give(w, r.Header.Get("Metadata") == "true" && q.Get("resource") == "https://vault.test.example" && q.Get("client_id") == c.identity && c.identity != "")
	case r.Host == vaultHost:
		c.vault(w, r)
	default:
		http.Error(w, sourcetest.Canary, http.StatusTeapot)
	}
}

// give gives a token of an hour.
func (c *azureCloud) give(w http.ResponseWriter, proved bool) {
	c.logins++
	w.Header().Set("Content-Type", "application/json")
	switch {
	case c.refuse != 0:
		w.WriteHeader(c.refuse)
		json.NewEncoder(w).Encode(map[string]any{"error": "x", "error_description": sourcetest.Canary})
	case !proved:
		w.WriteHeader(http.StatusUnauthorized)
		json.NewEncoder(w).Encode(map[string]any{"error": "invalid_client", "error_description": sourcetest.Canary})
	default:
		token := fmt.Sprintf("token-%d-%s", c.logins, sourcetest.Canary)
		c.tokens = append(c.tokens, token)
		json.NewEncoder(w).Encode(map[string]any{"access_token": token, "token_type": "Bearer", "expires_in": 3600})
	}
}

func (c *azureCloud) vault(w http.ResponseWriter, r *http.Request) {
	c.asked = append(c.asked, r.Method+" "+r.URL.RequestURI())
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok || !slices.Contains(c.tokens, token) {
		w.Header().Set("WWW-Authenticate", `Bearer authorization="https://evil.example/x", resource="https://evil.example"`)
		fail(w, http.StatusUnauthorized, "")
		return
	}
	name, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/secrets/"), "/")
	value, ok := c.values[name]
	switch {
	case r.URL.Query().Get("api-version") != apiVersion:
		fail(w, http.StatusBadRequest, "")
	case c.answers[name] != nil:
		c.answers[name](w)
	case !ok:
		fail(w, http.StatusNotFound, "")
	default:
		json.NewEncoder(w).Encode(map[string]any{
			"value": value, "id": fmt.Sprintf("https://%s/secrets/%s/%032d", vaultHost, name, c.versions[name]), "attributes": map[string]any{"enabled": true, "exp": 1},
		})
	}
}

func newCloud(t *testing.T, proof func(url.Values) bool) (*azureCloud, *sourcetest.Server) {
	t.Helper()
	c := &azureCloud{proof: proof, values: map[string]string{}, versions: map[string]int{}, answers: map[string]func(http.ResponseWriter){}}
	return c, sourcetest.NewServer(t, c)
}

// options are those that all logins share.
func options() Options {
	return Options{Vault: "https://" + vaultHost, Tenant: tenant, ClientID: client, Authority: "https://" + loginHost}
}

func opened(t *testing.T, server *sourcetest.Server, o Options) *Source {
	t.Helper()
	c := source.Client(server.Roots)
	c.Transport = elsewhere{server.URL, c.Transport}
	s, err := open(o, c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSuite(t *testing.T) {
	for name, way := range ways() {
		t.Run(name, func(t *testing.T) {
			sourcetest.Run(t, func(t *testing.T) sourcetest.Place {
				o, proof := way(t)
				c, server := newCloud(t, proof)
				return sourcetest.Place{
					Source: opened(t, server, o), Versions: true, TextOnly: true, Put: c.put, Stall: server.Stall, Outages: server.Outages(),
					PutFields: func(t *testing.T, path string, fields map[string]string) {
						b, _ := json.Marshal(fields)
						c.put(t, path, string(b))
					},
					Remove:  func(_ *testing.T, path string) { delete(c.values, path) },
					Spoiled: spoiled(c),
				}
			})
		})
	}
}

// spoiled has names of one word: a vault allows no underscore.
func spoiled(c *azureCloud) []sourcetest.Spoiled {
	answer := func(give func(http.ResponseWriter)) func(*testing.T, string) {
		return func(_ *testing.T, path string) { c.answers[path] = give }
	}
	code := func(status int, code string) func(*testing.T, string) {
		return answer(func(w http.ResponseWriter) { fail(w, status, code) })
	}
	return []sourcetest.Spoiled{
		{Name: "denied", Make: code(403, "ForbiddenByRbac"), Want: source.ErrPermission},
		{Name: "disabled", Make: code(403, "SecretDisabled"), Want: source.ErrPermission},
		{Name: "unauthenticated", Make: code(401, ""), Want: source.ErrPermission},
		{Name: "misnamed", Make: code(400, ""), Want: source.ErrNotFound},
		{Name: "throttled", Make: code(429, ""), Want: source.ErrUnavailable},
		{Name: "broken", Make: code(500, sourcetest.Canary), Want: source.ErrUnavailable},
		{Name: "elsewhere", Make: answer(func(w http.ResponseWriter) {
			w.Header().Set("Location", "https://"+vaultHost+"/secrets/"+sourcetest.Canary)
			w.WriteHeader(http.StatusFound)
		}), Want: source.ErrUnavailable},
		{Name: "garbled", Make: answer(func(w http.ResponseWriter) { w.Write([]byte(sourcetest.Canary)) }), Want: source.ErrMalformed},
		{Name: "valueless", Make: answer(func(w http.ResponseWriter) {
			json.NewEncoder(w).Encode(map[string]any{"id": "https://" + vaultHost + "/secrets/valueless/1"})
		}), Want: source.ErrMalformed},
		{Name: "nameless", Make: answer(func(w http.ResponseWriter) {
			json.NewEncoder(w).Encode(map[string]any{"value": sourcetest.Canary})
		}), Want: source.ErrMalformed},
		{Name: "nomap", Make: func(t *testing.T, path string) { c.put(t, path, sourcetest.Canary) }, Key: "k", Want: source.ErrMalformed},
		{Name: "toolong", Make: func(t *testing.T, path string) { c.put(t, path, strings.Repeat("x", source.MaxContent)) }, Want: source.ErrMalformed},
	}
}

// A path is asked for as the vault wants it, and what is none is asked of nobody.
func TestPaths(t *testing.T) {
	long := strings.Repeat("x", maxName)
	for path, want := range map[string]string{
		"s":               "/secrets/s/?api-version=7.4",
		"S-1?version=0af": "/secrets/S-1/0af?api-version=7.4",
		long:              "/secrets/" + long + "/?api-version=7.4",
		long + "x":        "",
		"":                "",
		"?version=1":      "",
		"s?version=":      "",
		"s?version=%zz":   "",
		"s?version=../x":  "",
		"s?other=1":       "",
		"s/1":             "",
		"..":              "",
		"s_1":             "",
		"s%2f":            "",
	} {
		o, proof := ways()["secret"](t)
		c, server := newCloud(t, proof)
		got, _, err := opened(t, server, o).Fetch(t.Context(), source.Ref{Path: path})
		sourcetest.Fails(t, got, err, source.ErrNotFound)
		if want == "" && (len(c.asked) > 0 || c.logins > 0) || want != "" && !slices.Equal(c.asked, []string{"GET " + want}) {
			t.Errorf("%q asks for %q", path, c.asked)
		}
	}
}

func TestOptions(t *testing.T) {
	for vault, good := range map[string]bool{
		"https://x.vault.azure.net": true, "https://x.vault.azure.net/": true, "https://x.vault.azure.cn:8443": true,
		"": false, "x.vault.azure.net": false, "http://x.vault.azure.net": false, "https://127.0.0.1": false, "https://[::1]": false, "https://vault": false,
		"https://azure.net": false, "https://x.vault.azure.net/secrets": false, "https://u@x.vault.azure.net": false, "https://x.vault.azure.net?a=b": false,
	} {
		_, err := New(Options{Vault: vault, Managed: true})
		if good != (err == nil) || !good && !errors.Is(err, ErrVault) {
			t.Errorf("%q: %v", vault, err)
		}
	}
	for i, o := range []Options{
		{},
		{Tenant: "t", ClientID: "c"},
		{Tenant: "t", ClientID: "c", SecretFile: "/s", Managed: true},
		{Tenant: "t", ClientID: "c", SecretFile: "/s", TokenFile: "/t"},
		{Tenant: "t", SecretFile: "/s"},
		{ClientID: "c", CertificateFile: "/s"},
	} {
		o.Vault = "https://x.vault.azure.net"
		if _, err := New(o); !errors.Is(err, ErrCredentials) {
			t.Errorf("%d: %v", i, err)
		}
	}
}
