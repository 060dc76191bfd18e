package aws

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/postern/postern/internal/secret/source"
	"github.com/postern/postern/internal/secret/source/sourcetest"
)

const (
	keyID  = "AKIDEXAMPLE"
	key    = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
	region = "eu-test-1"
)

func sum(b string) string { s := sha256.Sum256([]byte(b)); return hex.EncodeToString(s[:]) }

func mac(key []byte, text string) []byte {
	m := hmac.New(sha256.New, key)
	m.Write([]byte(text))
	return m.Sum(nil)
}

// signature is that of Signature Version 4 for a canonical request.
func signature(date, service, canonical string) string {
	scope := date[:8] + "/" + region + "/" + service + "/aws4_request"
	k := []byte("AWS4" + key)
	for _, part := range strings.Split(scope, "/") {
		k = mac(k, part)
	}
	return hex.EncodeToString(mac(k, "AWS4-HMAC-SHA256\n"+date+"\n"+scope+"\n"+sum(canonical)))
}

// signed says that a request has the signature of the test's key over its body.
func signed(r *http.Request, service, body string) bool {
	rest, ok := strings.CutPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 Credential="+keyID+"/")
	parts := strings.Split(rest, ", ")
	date := r.Header.Get("X-Amz-Date")
	if !ok || len(parts) != 3 || len(date) != 16 || parts[0] != date[:8]+"/"+region+"/"+service+"/aws4_request" {
		return false
	}
	names := strings.TrimPrefix(parts[1], "SignedHeaders=")
	headers := ""
	for name := range strings.SplitSeq(names, ";") {
		value := r.Header.Get(name)
		switch name {
		case "host":
			value = r.Host
		case "content-length":
			value = fmt.Sprint(r.ContentLength)
		}
		headers += name + ":" + strings.TrimSpace(value) + "\n"
	}
	canonical := strings.Join([]string{r.Method, r.URL.EscapedPath(), r.URL.RawQuery, headers, names, sum(body)}, "\n")
	return strings.Contains(names, "host") && parts[2] == "Signature="+signature(date, service, canonical)
}

// cloud stands in for both services, which speak JSON 1.1 with a target.
type cloud struct {
	mu       sync.Mutex
	values   map[string]string
	versions map[string]int
	errors   map[string]string
	asked    []map[string]any
}

func (c *cloud) put(_ *testing.T, path, value string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.values[path] = value
	c.versions[path]++
}

func (c *cloud) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	target := r.Header.Get("X-Amz-Target")
	service, nameField, missing := "secretsmanager", "SecretId", "ResourceNotFoundException"
	if target == "AmazonSSM.GetParameter" {
		service, nameField, missing = "ssm", "Name", "ParameterNotFound"
	} else if target != "secretsmanager.GetSecretValue" {
		http.Error(w, target, http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	fail := func(code string) {
		w.WriteHeader(http.StatusBadRequest)
		json.NewEncoder(w).Encode(map[string]string{"__type": code, "message": sourcetest.Canary})
	}
	var in map[string]any
	if !signed(r, service, string(body)) || json.Unmarshal(body, &in) != nil {
		fail("InvalidSignatureException")
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked = append(c.asked, in)
	name, _ := in[nameField].(string)
	value, ok := c.values[name]
	switch {
	case c.errors[name] != "":
		fail(c.errors[name])
	case !ok:
		fail(missing)
	case service == "ssm":
		json.NewEncoder(w).Encode(map[string]any{"Parameter": map[string]any{"Name": name, "Type": "SecureString", "Value": value, "Version": c.versions[name]}})
	case utf8.ValidString(value):
		json.NewEncoder(w).Encode(map[string]any{"Name": name, "SecretString": value, "VersionId": fmt.Sprint(c.versions[name])})
	default:
		json.NewEncoder(w).Encode(map[string]any{"Name": name, "SecretBinary": []byte(value), "VersionId": fmt.Sprint(c.versions[name])})
	}
}

// environment is one in which the default chain finds the test's key.
func environment(t *testing.T) {
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": keyID, "AWS_SECRET_ACCESS_KEY": key, "AWS_SESSION_TOKEN": "", "AWS_PROFILE": "", "AWS_REGION": region,
		"AWS_CA_BUNDLE": "", "AWS_CONFIG_FILE": "/nonexistent", "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
	} {
		t.Setenv(name, value)
	}
}

func newCloud(t *testing.T, service Service) (*cloud, *sourcetest.Server, *Source) {
	t.Helper()
	environment(t)
	c := &cloud{values: map[string]string{}, versions: map[string]int{}, errors: map[string]string{}}
	server := sourcetest.NewServer(t, c)
	s, err := New(t.Context(), Options{Service: service, Endpoint: server.URL, Roots: server.Roots})
	if err != nil {
		t.Fatal(err)
	}
	return c, server, s
}

func TestSuite(t *testing.T) {
	for _, service := range []Service{SecretsManager, ParameterStore} {
		t.Run(string(service), func(t *testing.T) {
			sourcetest.Run(t, func(t *testing.T) sourcetest.Place {
				c, server, s := newCloud(t, service)
				code := func(code string) func(*testing.T, string) {
					return func(_ *testing.T, path string) { c.errors[path] = code }
				}
				return sourcetest.Place{
					Source: s, Versions: true, TextOnly: service == ParameterStore, Put: c.put, Stall: server.Stall, Outages: server.Outages(),
					PutFields: func(t *testing.T, path string, fields map[string]string) {
						b, _ := json.Marshal(fields)
						c.put(t, path, string(b))
					},
					Remove: func(_ *testing.T, path string) { delete(c.values, path) },
					Spoiled: []sourcetest.Spoiled{
						{Name: "denied", Make: code("AccessDeniedException"), Want: source.ErrPermission},
						{Name: "marked for deletion", Make: code("InvalidRequestException"), Want: source.ErrNotFound},
						{Name: "throttled", Make: code("ThrottlingException"), Want: source.ErrUnavailable},
						{Name: "unknown error", Make: code(sourcetest.Canary), Want: source.ErrUnavailable},
						{Name: "no map", Make: func(t *testing.T, path string) { c.put(t, path, sourcetest.Canary) }, Key: "k", Want: source.ErrMalformed},
						{Name: "too long", Make: func(t *testing.T, path string) { c.put(t, path, strings.Repeat("x", source.MaxContent)) }, Want: source.ErrMalformed},
					},
				}
			})
		})
	}
}

// A key that is not the right one is refused, by a stand-in that checks.
func TestWrongKey(t *testing.T) {
	c, server, _ := newCloud(t, SecretsManager)
	c.put(t, "x", sourcetest.Canary)
	t.Setenv("AWS_SECRET_ACCESS_KEY", "another")
	s, err := New(t.Context(), Options{Service: SecretsManager, Endpoint: server.URL, Roots: server.Roots})
	if err != nil {
		t.Fatal(err)
	}
	got, _, err := s.Fetch(t.Context(), source.Ref{Path: "x"})
	sourcetest.Fails(t, got, err, source.ErrPermission)
}

// Versions and stages are asked for as the services want them.
func TestVersions(t *testing.T) {
	for path, want := range map[string]map[string]any{
		"x?version=7":          {"SecretId": "x", "VersionId": "7"},
		"x?stage=AWSPREVIOUS":  {"SecretId": "x", "VersionStage": "AWSPREVIOUS"},
		"x?stage=a&version=b":  nil,
		"x?other=1":            nil,
		"?version=1":           nil,
		"x?version=%zz":        nil,
		"arn:aws:s:e:1:sec:xy": {"SecretId": "arn:aws:s:e:1:sec:xy"},
	} {
		c, _, s := newCloud(t, SecretsManager)
		got, _, err := s.Fetch(t.Context(), source.Ref{Path: path})
		sourcetest.Fails(t, got, err, source.ErrNotFound)
		if (want == nil) != (len(c.asked) == 0) || want != nil && fmt.Sprint(c.asked[0]) != fmt.Sprint(want) {
			t.Errorf("%s asks for %v", path, c.asked)
		}
	}
	c, _, s := newCloud(t, ParameterStore)
	s.Fetch(t.Context(), source.Ref{Path: "/a/b?version=3"})
	if len(c.asked) != 1 || fmt.Sprint(c.asked[0]) != fmt.Sprint(map[string]any{"Name": "/a/b:3", "WithDecryption": true}) {
		t.Errorf("it asks for %v", c.asked)
	}
}

// A token is a presigned request, good for fifteen minutes.
func TestToken(t *testing.T) {
	environment(t)
	s, err := New(t.Context(), Options{Service: RDS})
	if err != nil {
		t.Fatal(err)
	}
	const endpoint = "db.example.eu-test-1.rds.amazonaws.com:5432"
	got, lease, err := s.Fetch(t.Context(), source.Ref{Path: endpoint + "/app"})
	if err != nil {
		t.Fatal(err)
	}
	if left := time.Until(lease.Expires); left > tokenLife || left < tokenLife-time.Minute {
		t.Error("it is good for", left)
	}
	u, err := url.Parse("https://" + string(got.Reveal()))
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	given := q.Get("X-Amz-Signature")
	q.Del("X-Amz-Signature")
	canonical := "GET\n/\n" + strings.ReplaceAll(q.Encode(), "+", "%20") + "\nhost:" + endpoint + "\n\nhost\n" + sum("")
	if u.Host != endpoint || q.Get("DBUser") != "app" || q.Get("Action") != "connect" || q.Get("X-Amz-Expires") != "900" ||
		len(q.Get("X-Amz-Date")) != 16 || given != signature(q.Get("X-Amz-Date"), "rds-db", canonical) {
		t.Errorf("the token is for %s and %v, or its signature is wrong", u.Host, slices.Sorted(func(yield func(string) bool) {
			for k := range q {
				if !yield(k) {
					return
				}
			}
		}))
	}
	for _, path := range []string{"", "host", "host:1", "host:1/", "host/user", ":1/user"} {
		got, _, err := s.Fetch(t.Context(), source.Ref{Path: path})
		sourcetest.Fails(t, got, err, source.ErrNotFound)
	}
}

// The metadata service is asked where it is allowed, and only there.
func TestMetadata(t *testing.T) {
	for _, allowed := range []bool{false, true} {
		environment(t)
		t.Setenv("AWS_ACCESS_KEY_ID", "")
		t.Setenv("AWS_SECRET_ACCESS_KEY", "")
		var mu sync.Mutex
		asked := 0
		server := sourcetest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			asked++
			http.Error(w, sourcetest.Canary, http.StatusForbidden)
		}))
		t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", server.URL)
		s, err := New(t.Context(), Options{Service: RDS, Metadata: allowed, Roots: server.Roots})
		if err != nil {
			t.Fatal(err)
		}
		got, _, err := s.Fetch(t.Context(), source.Ref{Path: "host:1/user"})
		sourcetest.Fails(t, got, err, source.ErrUnavailable)
		if (asked > 0) != allowed {
			t.Errorf("allowed %v, asked %d times", allowed, asked)
		}
	}
}

func TestOptions(t *testing.T) {
	environment(t)
	if _, err := New(t.Context(), Options{Service: "s3"}); !errors.Is(err, ErrService) {
		t.Error(err)
	}
	if _, err := New(t.Context(), Options{Service: RDS, Profile: "none"}); !errors.Is(err, errLogin) {
		t.Error(err)
	}
	t.Setenv("AWS_REGION", "")
	t.Setenv("AWS_DEFAULT_REGION", "")
	if _, err := New(t.Context(), Options{Service: RDS}); !errors.Is(err, ErrRegion) {
		t.Error(err)
	}
}
