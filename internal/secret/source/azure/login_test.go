package azure

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postern/postern/internal/secret/source"
	"github.com/postern/postern/internal/secret/source/sourcetest"
)

// ways are the logins, each with what verifies it.
func ways() map[string]func(*testing.T) (Options, func(url.Values) bool) {
	return map[string]func(*testing.T) (Options, func(url.Values) bool){
		"secret": func(t *testing.T) (Options, func(url.Values) bool) {
			o := options()
			o.SecretFile = write(t, []byte(appSecret+"\n"))
			return o, func(f url.Values) bool { return f.Get("client_secret") == appSecret }
		},
		"certificate": func(t *testing.T) (Options, func(url.Values) bool) {
			o := options()
			o.CertificateFile = write(t, certificates()[0].pem)
			return o, asserted
		},
		"federated": func(t *testing.T) (Options, func(url.Values) bool) {
			o := options()
			o.TokenFile = write(t, []byte(subject+"\n"))
			return o, func(f url.Values) bool {
				return f.Get("client_assertion_type") == bearer && f.Get("client_assertion") == subject
			}
		},
	}
}

const bearer = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

func write(t *testing.T, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "credential")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

type certificate struct {
	der, pem []byte
	key      *rsa.PrivateKey
}

// Making keys is slow; one serves the whole test binary and one is wrong.
var certificates = sync.OnceValue(func() [2]certificate {
	var out [2]certificate
	for i := range out {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			panic(err)
		}
		made := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: client}, NotAfter: time.Now().Add(time.Hour)}
		der, err := x509.CreateCertificate(rand.Reader, made, made, &key.PublicKey, key)
		if err != nil {
			panic(err)
		}
		private, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			panic(err)
		}
		text := append(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
		out[i] = certificate{der, text, key}
	}
	return out
})

// asserted verifies the JWT that a certificate's owner logs in with.
func asserted(form url.Values) bool {
	parts := strings.Split(form.Get("client_assertion"), ".")
	if len(parts) != 3 || form.Get("client_assertion_type") != bearer {
		return false
	}
	var decoded [3][]byte
	for i := range parts {
		var err error
		if decoded[i], err = base64.RawURLEncoding.DecodeString(parts[i]); err != nil {
			return false
		}
	}
	var header struct {
		Alg   string
		Print string `json:"x5t#S256"`
	}
	var claims struct {
		Iss, Sub, Aud, Jti string
		Nbf, Exp           int64
	}
	right := certificates()[0]
	printed := sha256.Sum256(right.der)
	digest := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	now := time.Now().Unix()
	return json.Unmarshal(decoded[0], &header) == nil && json.Unmarshal(decoded[1], &claims) == nil &&
		header.Alg == "PS256" && header.Print == base64.StdEncoding.EncodeToString(printed[:]) &&
		claims.Iss == client && claims.Sub == client && claims.Jti != "" && claims.Aud == "https://"+loginHost+"/"+tenant+"/oauth2/v2.0/token" &&
		claims.Nbf <= now && claims.Exp > now && claims.Exp <= now+3600 &&
		rsa.VerifyPSS(&right.key.PublicKey, crypto.SHA256, digest[:], decoded[2], nil) == nil
}

// Credentials that prove nothing are refused by a stand-in that checks, and no
// secret is asked for.
func TestRefused(t *testing.T) {
	canary := []byte(sourcetest.Canary)
	for name, c := range map[string]struct {
		way    string
		change func(t *testing.T, c *azureCloud, o *Options)
		want   error
	}{
		"wrong secret":      {"secret", func(t *testing.T, _ *azureCloud, o *Options) { o.SecretFile = write(t, canary) }, source.ErrPermission},
		"no secret":         {"secret", func(_ *testing.T, _ *azureCloud, o *Options) { o.SecretFile = "/nonexistent/x" }, source.ErrNotFound},
		"empty secret":      {"secret", func(t *testing.T, _ *azureCloud, o *Options) { o.SecretFile = write(t, nil) }, source.ErrEmpty},
		"wrong client":      {"secret", func(_ *testing.T, _ *azureCloud, o *Options) { o.ClientID = "another" }, source.ErrPermission},
		"wrong tenant":      {"secret", func(_ *testing.T, _ *azureCloud, o *Options) { o.Tenant = "another" }, source.ErrUnavailable},
		"wrong certificate": {"certificate", func(t *testing.T, _ *azureCloud, o *Options) { o.CertificateFile = write(t, certificates()[1].pem) }, source.ErrPermission},
		"no certificate":    {"certificate", func(t *testing.T, _ *azureCloud, o *Options) { o.CertificateFile = write(t, canary) }, source.ErrMalformed},
		"wrong token":       {"federated", func(t *testing.T, _ *azureCloud, o *Options) { o.TokenFile = write(t, canary) }, source.ErrPermission},
		"no token":          {"federated", func(_ *testing.T, _ *azureCloud, o *Options) { o.TokenFile = "/nonexistent/x" }, source.ErrNotFound},
		"login denied": {"secret", func(_ *testing.T, c *azureCloud, _ *Options) {
			c.refuse = http.StatusForbidden
		}, source.ErrPermission},
		"outage of logins": {"secret", func(_ *testing.T, c *azureCloud, _ *Options) {
			c.refuse = http.StatusServiceUnavailable
		}, source.ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			o, proof := ways()[c.way](t)
			place, server := newCloud(t, proof)
			place.put(t, "x", sourcetest.Canary)
			c.change(t, place, &o)
			got, _, err := opened(t, server, o).Fetch(t.Context(), source.Ref{Path: "x"})
			sourcetest.Fails(t, got, err, c.want)
			if len(place.asked) > 0 {
				t.Error("without a token it asked for", place.asked)
			}
		})
	}
}

// One login serves until its token ends or is taken back, and the file is read
// again for the next. A vault that names another resource is not listened to.
func TestTokenIsKept(t *testing.T) {
	o, proof := ways()["secret"](t)
	c, server := newCloud(t, proof)
	c.put(t, "x", sourcetest.Canary)
	s := opened(t, server, o)
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
	s.login.last.ExpiresOn = time.Now().Add(early - time.Second)
	fetch(3)
	fetch(3)
	if err := os.WriteFile(o.SecretFile, []byte("another"), 0o600); err != nil {
		t.Fatal(err)
	}
	fetch(3)
	c.tokens = nil
	got, _, err := s.Fetch(t.Context(), source.Ref{Path: "x"})
	sourcetest.Fails(t, got, err, source.ErrPermission)
}

// The metadata service is asked where it is configured, for the identity that is.
func TestManaged(t *testing.T) {
	for _, name := range []string{"IDENTITY_ENDPOINT", "IDENTITY_HEADER", "IMDS_ENDPOINT", "MSI_ENDPOINT", "MSI_SECRET", "IDENTITY_SERVER_THUMBPRINT"} {
		t.Setenv(name, "")
		os.Unsetenv(name)
	}
	for _, refuse := range []int{http.StatusBadRequest, 0} {
		c, server := newCloud(t, nil)
		c.put(t, "x", sourcetest.Canary)
		c.refuse = refuse
		c.identity = rand.Text() // the library remembers tokens of an identity as long as the process lives
		s := opened(t, server, Options{Vault: "https://" + vaultHost, ClientID: c.identity, Managed: true})
		got, _, err := s.Fetch(t.Context(), source.Ref{Path: "x"})
		if refuse != 0 {
			sourcetest.Fails(t, got, err, source.ErrPermission)
			continue
		}
		if err != nil || string(got.Reveal()) != sourcetest.Canary || c.logins != 1 {
			t.Errorf("%d logins, %v", c.logins, err)
		}
	}
}
