// Package oidc says who somebody is by OpenID Connect: it verifies tokens that
// services and CI jobs bring along, logs people in at their provider (device
// flow, or code flow with PKCE), and keeps their logins fresh.
//
// Tokens stay in the daemon: whoever asks gets an Identity, never a token. What
// an identity may do is decided elsewhere, and so is who may ask for which uid.
// Start with Provider.Verify; the logins begin in Provider.StartDevice and
// Provider.StartCode.
package oidc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	gooidc "github.com/coreos/go-oidc/v3/oidc"

	"github.com/postern/postern/internal/secret"
)

const (
	// maxIssuers bounds what is configured: each may hold 64 keys and a file.
	maxIssuers = 64
	// defaultLeeway is what clocks of hosts with NTP never differ by.
	defaultLeeway = 30 * time.Second
	// maxLeeway is how long an expired token may go on at worst.
	maxLeeway = 5 * time.Minute
	// defaultKeysMaxAge is how long a provider that is down may stay down. A key
	// that it has withdrawn in the meantime is accepted for as long.
	defaultKeysMaxAge = 24 * time.Hour
	// maxKeysMaxAge: keys that nobody has confirmed for longer are no evidence.
	maxKeysMaxAge = 30 * 24 * time.Hour
	// keyLength is that of the key for logins at rest, of XChaCha20-Poly1305.
	keyLength = 32
	// maxCA bounds a file of certificates that is read.
	maxCA = 1 << 20
)

// algorithms are those that may sign a token. HMAC and none are not among them,
// whatever is configured: a public key must never be taken for a shared one.
var algorithms = []string{
	gooidc.RS256, gooidc.RS384, gooidc.RS512, gooidc.ES256, gooidc.ES384, gooidc.ES512,
	gooidc.PS256, gooidc.PS384, gooidc.PS512, gooidc.EdDSA,
}

// Issuer is one provider as configured. Zero values mean the defaults.
type Issuer struct {
	Name string // letters, digits, "-", "_" and ".", at most 64
	URL  string // exactly as the provider writes it in iss; https, or http on loopback

	ClientID string // of Postern at this provider; needed for logins
	// ClientSecret is asked for whenever it is sent; nil for a public client.
	ClientSecret func(context.Context) (secret.Secret, error)

	Audiences  []string          // of which a token must have one; default: ClientID
	Scopes     []string          // of logins; default: those of defaultScopes that the provider offers
	Algorithms []string          // default: RS256, ES256 and EdDSA
	Types      []string          // accepted typ headers besides none at all; default: JWT
	Leeway     time.Duration     // between clocks, for exp, nbf and iat; default 30 s, at most 5 min
	KeysMaxAge time.Duration     // how long keys are used while the provider is down; default 24 h
	CA         string            // PEM file of the authorities to verify the provider by; default: the system's
	Claims     map[string]string // CEL over claims, for subject, name, email, groups, owner and extra.*
}

// Identity is somebody whom a provider vouches for. Its texts are safe to show:
// they hold no control or formatting characters.
type Identity struct {
	Issuer    string            `json:"issuer"`     // the name in the configuration
	IssuerURL string            `json:"issuer_url"` // with Subject the only lasting key
	Subject   string            `json:"subject"`
	Name      string            `json:"name,omitempty"`
	Email     string            `json:"email,omitempty"`
	Owner     string            `json:"owner,omitempty"`
	Groups    []string          `json:"groups,omitempty"`
	Extra     map[string]string `json:"extra,omitempty"`
	IssuedAt  time.Time         `json:"issued_at,omitzero"`
	Expires   time.Time         `json:"expires"`
	TokenID   string            `json:"token_id"` // jti, or a digest that stands for it
}

// Options of a Provider.
type Options struct {
	Issuers  []Issuer
	StateDir string           // keys and logins; made with mode 0700
	Key      []byte           // 32 bytes that encrypt the logins at rest
	HTTP     *http.Client     // its transport is used; nil: one without a proxy
	Now      func() time.Time // nil: time.Now
	Log      *slog.Logger     // nil: nothing is logged
}

// Provider verifies tokens of its issuers and logs people in at them. It is
// safe for concurrent use and has no goroutines of its own.
type Provider struct {
	byURL  map[string]*issuer
	byName map[string]*issuer
	now    func() time.Time
	log    *slog.Logger

	pending pending
	logins  *store
}

// issuer is an Issuer that has been checked.
type issuer struct {
	Issuer
	algorithms []string
	types      []string
	mappings   []mapping
	remote     *remote
	keys       *keys
}

// New checks the issuers and reads what is kept of them. It asks nobody: what a
// provider has to say is fetched when it is first needed.
func New(o Options) (*Provider, error) {
	if len(o.Issuers) > maxIssuers {
		return nil, fmt.Errorf("%d issuers, at most %d", len(o.Issuers), maxIssuers)
	}
	if len(o.Key) != keyLength {
		return nil, fmt.Errorf("the key for logins has %d bytes instead of %d", len(o.Key), keyLength)
	}
	p := &Provider{byURL: map[string]*issuer{}, byName: map[string]*issuer{}, now: o.Now, log: o.Log}
	if p.now == nil {
		p.now = time.Now
	}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	for _, folder := range []string{o.StateDir, filepath.Join(o.StateDir, keysFolder), filepath.Join(o.StateDir, loginsFolder)} {
		if err := os.MkdirAll(folder, 0o700); err != nil {
			return nil, fmt.Errorf("state of identities: %w", err)
		}
		if err := os.Chmod(folder, 0o700); err != nil {
			return nil, fmt.Errorf("state of identities: %w", err)
		}
	}
	logins, err := newStore(filepath.Join(o.StateDir, loginsFolder), o.Key)
	if err != nil {
		return nil, err
	}
	p.logins = logins
	for _, i := range o.Issuers {
		checked, err := p.prepare(i, o)
		if err != nil {
			return nil, fmt.Errorf("issuer %s: %w", i.Name, err)
		}
		p.byURL[i.URL], p.byName[i.Name] = checked, checked
	}
	return p, nil
}

var issuerName = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}$`)

// prepare checks one issuer and fills in its defaults.
func (p *Provider) prepare(i Issuer, o Options) (*issuer, error) {
	if !issuerName.MatchString(i.Name) {
		return nil, errors.New("its name may have letters, digits, '-', '_' and '.', at most 64")
	}
	if p.byName[i.Name] != nil || p.byURL[i.URL] != nil {
		return nil, errors.New("another issuer has its name or URL: list all audiences at one")
	}
	if err := checkIssuerURL(i.URL); err != nil {
		return nil, err
	}
	if i.Leeway == 0 {
		i.Leeway = defaultLeeway
	}
	if i.KeysMaxAge == 0 {
		i.KeysMaxAge = defaultKeysMaxAge
	}
	if i.Leeway < 0 || i.Leeway > maxLeeway {
		return nil, fmt.Errorf("leeway is %s, at most %s", i.Leeway, maxLeeway)
	}
	if i.KeysMaxAge < 0 || i.KeysMaxAge > maxKeysMaxAge {
		return nil, fmt.Errorf("the greatest age of keys is %s, at most %s", i.KeysMaxAge, maxKeysMaxAge)
	}
	if len(i.Audiences) == 0 && i.ClientID != "" {
		i.Audiences = []string{i.ClientID}
	}
	if len(i.Audiences) == 0 || slices.Contains(i.Audiences, "") {
		return nil, errors.New("it has neither audiences nor a client_id: tokens made for others would be accepted")
	}
	out := &issuer{Issuer: i, algorithms: i.Algorithms, types: i.Types}
	if len(out.algorithms) == 0 {
		out.algorithms = []string{gooidc.RS256, gooidc.ES256, gooidc.EdDSA}
	}
	for _, a := range out.algorithms {
		if !slices.Contains(algorithms, a) {
			return nil, fmt.Errorf("there is no algorithm %q: there are %s", a, strings.Join(algorithms, ", "))
		}
	}
	if len(out.types) == 0 {
		out.types = []string{"JWT"}
	}
	var err error
	if out.mappings, err = compileClaims(i.Claims); err != nil {
		return nil, err
	}
	if out.remote, err = newRemote(i, o.HTTP); err != nil {
		return nil, err
	}
	out.keys = newKeys(out, filepath.Join(o.StateDir, keysFolder, i.Name+".json"), p.now, p.log)
	out.keys.load()
	return out, nil
}

// named returns an issuer by the name in the configuration.
func (p *Provider) named(name string) (*issuer, error) {
	if i := p.byName[name]; i != nil {
		return i, nil
	}
	return nil, &refusal{kind: ErrUnknownIssuer, help: "the issuers are " + p.names()}
}

func (p *Provider) names() string {
	if len(p.byName) == 0 {
		return "none: add one to the configuration"
	}
	var names []string
	for name := range p.byName {
		names = append(names, name)
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}
