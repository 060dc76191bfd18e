package gcp

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"hash/crc32"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postern/postern/internal/secret/source"
	"github.com/postern/postern/internal/secret/source/sourcetest"
)

const (
	account  = "postern@p.iam.example"
	audience = "//iam.example/projects/1/locations/global/workloadIdentityPools/pool/providers/x"
	subject  = "subject-" + sourcetest.Canary
)

// cloud stands in for Secret Manager and for both servers that give tokens.
type cloud struct {
	url string
	key *rsa.PublicKey

	mu       sync.Mutex
	values   map[string]string
	versions map[string]int
	answers  map[string]func(http.ResponseWriter) // in place of the value
	asked    []string
	tokens   []string // those that are good
	logins   int
	refuse   int // status of logins, zero: they are served
}

func (c *cloud) put(_ *testing.T, path, value string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.values[path] = value
	c.versions[path]++
}

func fail(w http.ResponseWriter, code int, status string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(map[string]any{"error": map[string]any{"code": code, "status": status, "message": sourcetest.Canary}})
}

func access(w http.ResponseWriter, name string, version int, value string, sum uint32) {
	json.NewEncoder(w).Encode(map[string]any{
		"name":    fmt.Sprintf("projects/123/secrets/%s/versions/%d", name, version),
		"payload": map[string]any{"data": []byte(value), "dataCrc32c": fmt.Sprint(sum)},
	})
}

func sum(value string) uint32 {
	return crc32.Checksum([]byte(value), crc32.MakeTable(crc32.Castagnoli))
}

func (c *cloud) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch r.URL.Path {
	case "/token":
		c.give(w, r.ParseForm() == nil && r.PostForm.Get("grant_type") == "urn:ietf:params:oauth:grant-type:jwt-bearer" && c.asserted(r.PostForm.Get("assertion")))
		return
	case "/impersonate":
		c.impersonate(w, r)
		return
	case "/sts":
		c.give(w, r.ParseForm() == nil && r.PostForm.Get("grant_type") == "urn:ietf:params:oauth:grant-type:token-exchange" &&
			r.PostForm.Get("audience") == audience && r.PostForm.Get("subject_token") == subject && r.PostForm.Get("scope") == scope)
		return
	}
	c.asked = append(c.asked, r.Method+" "+r.URL.RequestURI())
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok || !slices.Contains(c.tokens, token) {
		fail(w, http.StatusUnauthorized, "UNAUTHENTICATED")
		return
	}
	name, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v1/projects/p/secrets/"), "/")
	value, ok := c.values[name]
	switch {
	case c.answers[name] != nil:
		c.answers[name](w)
	case !ok:
		fail(w, http.StatusNotFound, "NOT_FOUND")
	default:
		access(w, name, c.versions[name], value, sum(value))
	}
}

// give gives a token of an hour.
func (c *cloud) give(w http.ResponseWriter, proved bool) {
	c.logins++
	switch {
	case c.refuse != 0:
		fail(w, c.refuse, "x")
	case !proved:
		fail(w, http.StatusBadRequest, "invalid_grant")
	default:
		token := rand.Text() + sourcetest.Canary
		c.tokens = append(c.tokens, token)
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(map[string]any{"access_token": token, "token_type": "Bearer", "expires_in": 3600})
	}
}

// impersonate gives a token of an account for one that was exchanged.
func (c *cloud) impersonate(w http.ResponseWriter, r *http.Request) {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	at := slices.Index(c.tokens, token)
	if !ok || at < 0 {
		fail(w, http.StatusUnauthorized, "UNAUTHENTICATED")
		return
	}
	c.logins++
	c.tokens[at] = rand.Text()
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(map[string]any{"accessToken": c.tokens[at], "expireTime": time.Now().Add(time.Hour).Format(time.RFC3339)})
}

// asserted verifies the JWT that an account logs in with.
func (c *cloud) asserted(assertion string) bool {
	parts := strings.Split(assertion, ".")
	if len(parts) != 3 {
		return false
	}
	var decoded [3][]byte
	for i := range parts {
		var err error
		if decoded[i], err = base64.RawURLEncoding.DecodeString(parts[i]); err != nil {
			return false
		}
	}
	var header struct{ Alg, Kid string }
	var claims struct {
		Iss, Aud, Scope string
		Iat, Exp        int64
	}
	digest := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	now := time.Now().Unix()
	return json.Unmarshal(decoded[0], &header) == nil && json.Unmarshal(decoded[1], &claims) == nil &&
		header.Alg == "RS256" && header.Kid == "key-1" && claims.Iss == account && claims.Aud == c.url+"/token" && claims.Scope == scope &&
		claims.Iat <= now && claims.Exp > now && claims.Exp <= now+3600 &&
		rsa.VerifyPKCS1v15(c.key, crypto.SHA256, digest[:], decoded[2]) == nil
}

// Making keys is slow; one serves the whole test binary and one is wrong.
var keys = sync.OnceValue(func() [2]*rsa.PrivateKey {
	var out [2]*rsa.PrivateKey
	for i := range out {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			panic(err)
		}
		out[i] = key
	}
	return out
})

func newCloud(t *testing.T) (*cloud, *sourcetest.Server) {
	t.Helper()
	c := &cloud{key: &keys()[0].PublicKey, values: map[string]string{}, versions: map[string]int{}, answers: map[string]func(http.ResponseWriter){}}
	server := sourcetest.NewServer(t, c)
	c.url = server.URL
	return c, server
}

func write(t *testing.T, content map[string]any) string {
	t.Helper()
	b, err := json.Marshal(content)
	path := filepath.Join(t.TempDir(), "credentials.json")
	if err != nil || os.WriteFile(path, b, 0o600) != nil {
		t.Fatal("no credentials file could be written")
	}
	return path
}

func accountFile(url string, key *rsa.PrivateKey) map[string]any {
	block := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
	return map[string]any{
		"type": "service_account", "client_email": account, "private_key_id": "key-1", "private_key": string(block), "token_uri": url + "/token",
		"project_id": sourcetest.Canary,
	}
}

func federated(t *testing.T, url, token string) map[string]any {
	t.Helper()
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, []byte(token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return map[string]any{
		"type": "external_account", "audience": audience, "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
		"token_url": url + "/sts", "credential_source": map[string]any{"file": path},
	}
}

func open(t *testing.T, server *sourcetest.Server, credentials map[string]any) *Source {
	t.Helper()
	s, err := New(Options{Project: "p", Credentials: write(t, credentials), Endpoint: server.URL, Roots: server.Roots})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSuite(t *testing.T) {
	for name, credentials := range map[string]func(*testing.T, string) map[string]any{
		"account":   func(_ *testing.T, url string) map[string]any { return accountFile(url, keys()[0]) },
		"federated": func(t *testing.T, url string) map[string]any { return federated(t, url, subject) },
	} {
		t.Run(name, func(t *testing.T) {
			sourcetest.Run(t, func(t *testing.T) sourcetest.Place {
				c, server := newCloud(t)
				return sourcetest.Place{
					Source: open(t, server, credentials(t, server.URL)), Versions: true, Put: c.put, Stall: server.Stall, Outages: server.Outages(),
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

func spoiled(c *cloud) []sourcetest.Spoiled {
	answer := func(give func(http.ResponseWriter)) func(*testing.T, string) {
		return func(_ *testing.T, path string) { c.answers[path] = give }
	}
	code := func(code int, status string) func(*testing.T, string) {
		return answer(func(w http.ResponseWriter) { fail(w, code, status) })
	}
	return []sourcetest.Spoiled{
		{Name: "denied", Make: code(403, "PERMISSION_DENIED"), Want: source.ErrPermission},
		{Name: "unauthenticated", Make: code(401, "UNAUTHENTICATED"), Want: source.ErrPermission},
		{Name: "disabled", Make: code(400, "FAILED_PRECONDITION"), Want: source.ErrNotFound},
		{Name: "no version", Make: code(400, "INVALID_ARGUMENT"), Want: source.ErrNotFound},
		{Name: "throttled", Make: code(429, "RESOURCE_EXHAUSTED"), Want: source.ErrUnavailable},
		{Name: "broken", Make: code(500, sourcetest.Canary), Want: source.ErrUnavailable},
		{Name: "elsewhere", Make: answer(func(w http.ResponseWriter) {
			w.Header().Set("Location", "/v1/projects/p/secrets/"+sourcetest.Canary)
			w.WriteHeader(http.StatusFound)
		}), Want: source.ErrUnavailable},
		{Name: "damaged", Make: answer(func(w http.ResponseWriter) {
			access(w, "damaged", 1, sourcetest.Canary, sum(sourcetest.Canary)+1)
		}), Want: source.ErrMalformed},
		{Name: "no JSON", Make: answer(func(w http.ResponseWriter) { w.Write([]byte(sourcetest.Canary)) }), Want: source.ErrMalformed},
		{Name: "nameless", Make: answer(func(w http.ResponseWriter) {
			json.NewEncoder(w).Encode(map[string]any{"payload": map[string]any{"data": []byte(sourcetest.Canary)}})
		}), Want: source.ErrMalformed},
		{Name: "no map", Make: func(t *testing.T, path string) { c.put(t, path, sourcetest.Canary) }, Key: "k", Want: source.ErrMalformed},
		{Name: "too long", Make: func(t *testing.T, path string) { c.put(t, path, strings.Repeat("x", source.MaxContent)) }, Want: source.ErrMalformed},
	}
}

// A path is asked for as Secret Manager wants it, and what is none is asked of
// nobody.
func TestPaths(t *testing.T) {
	long := strings.Repeat("x", maxID)
	for path, want := range map[string]string{
		"s":                                     "projects/p/secrets/s/versions/latest",
		"s?version=7":                           "projects/p/secrets/s/versions/7",
		"projects/p-2/secrets/S_1":              "projects/p-2/secrets/S_1/versions/latest",
		"projects/example.com:p/secrets/s":      "projects/example.com:p/secrets/s/versions/latest",
		"projects/p/secrets/s?version=staging":  "projects/p/secrets/s/versions/staging",
		long:                                    "projects/p/secrets/" + long + "/versions/latest",
		long + "x":                              "",
		"":                                      "",
		"?version=1":                            "",
		"s?version=":                            "",
		"s?version=%zz":                         "",
		"s?version=1/../2":                      "",
		"s?version=1:destroy":                   "",
		"s?other=1":                             "",
		"s/versions/1":                          "",
		"../s":                                  "",
		"s%2f":                                  "",
		"s:destroy":                             "",
		"projects/p/secrets/":                   "",
		"projects//secrets/s":                   "",
		"projects/../secrets/s":                 "",
		"projects/p/locations/l/secrets/s":      "",
		"projects/p/secrets/s/versions/1":       "",
		"projects/p/secrets/a/secrets/b":        "",
		"projects/p/secrets/s?version=1&name=2": "",
	} {
		c, server := newCloud(t)
		s := open(t, server, accountFile(server.URL, keys()[0]))
		got, _, err := s.Fetch(t.Context(), source.Ref{Path: path})
		sourcetest.Fails(t, got, err, source.ErrNotFound)
		if want == "" && (len(c.asked) > 0 || c.logins > 0) || want != "" && !slices.Equal(c.asked, []string{"GET /v1/" + want + ":access"}) {
			t.Errorf("%q asks for %q", path, c.asked)
		}
	}
	_, server := newCloud(t)
	s := open(t, server, accountFile(server.URL, keys()[0]))
	s.project = ""
	got, _, err := s.Fetch(t.Context(), source.Ref{Path: "s"})
	sourcetest.Fails(t, got, err, source.ErrNotFound)
}

func TestOptions(t *testing.T) {
	if _, err := New(Options{Project: "p"}); !errors.Is(err, ErrCredentials) {
		t.Error(err)
	}
	s, err := New(Options{Metadata: true})
	if err != nil || s.endpoint != endpoint || s.login.metadata != metadataServer {
		t.Error(s, err)
	}
}
