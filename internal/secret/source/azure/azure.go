// Package azure is the source of secrets in an Azure Key Vault.
//
// A Ref's Path is the name of a secret, with "?version=" behind it when not the
// current one is meant; Key is a field of a map in JSON or YAML. A secret that
// is disabled is refused by the vault; one that has expired is not, and served.
//
// It asks by REST itself and leaves logging in to Azure's azidentity. It was run
// against a stand-in that verifies assertions, client secrets and bearer tokens,
// never against the cloud itself. Start with New, then Source.Fetch; how it logs
// in is in login.go.
package azure

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"path"
	"strings"

	"github.com/postern/postern/internal/secret"
	"github.com/postern/postern/internal/secret/source"
)

const (
	apiVersion = "7.4"
	// maxName is the longest name of a secret and a version, by Azure.
	maxName = 127
	// attempts: a token that was taken back is replaced once.
	attempts = 2
)

// Errors of New.
var (
	ErrVault       = errors.New("the vault is to be https:// and its DNS name, as in https://x.vault.azure.net")
	ErrCredentials = errors.New("exactly one of a client secret, a certificate, a federated token and a managed identity is to be configured, and for all but the last a tenant and a client id")
)

// Options of a Source. Exactly one of SecretFile, CertificateFile, TokenFile and
// Managed says how it logs in; files are read again at each login.
type Options struct {
	Vault    string // its URL
	Tenant   string
	ClientID string // of the application, or of a managed identity that is not the host's only one
	// SecretFile holds the application's secret.
	SecretFile string
	// CertificateFile holds its certificate and the key of it, in PEM.
	CertificateFile string
	// TokenFile holds a token of an issuer that the application trusts, as
	// Kubernetes writes it for workload identity.
	TokenFile string
	// Managed asks the host's metadata service.
	Managed   bool
	Authority string         // that gives tokens; empty: Microsoft's public one
	Roots     *x509.CertPool // who is trusted; nil: the host's
}

// Source reads secrets of one vault.
type Source struct {
	vault  string
	client *http.Client
	login  *login
}

// New returns a Source. It reads no file and asks nobody.
func New(o Options) (*Source, error) { return open(o, source.Client(o.Roots)) }

func open(o Options, client *http.Client) (*Source, error) {
	u, err := url.Parse(o.Vault)
	if err != nil || u.Scheme != "https" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || strings.Trim(u.Path, "/") != "" {
		return nil, ErrVault
	}
	// The vault's own name says what tokens are for. A vault that could name it,
	// as it does in its challenge to who comes without one, could ask for a token
	// that is good elsewhere.
	_, resource, ok := strings.Cut(u.Hostname(), ".")
	if _, err := netip.ParseAddr(u.Hostname()); err == nil || !ok || !strings.Contains(resource, ".") {
		return nil, ErrVault
	}
	ways := 0
	for _, set := range []bool{o.SecretFile != "", o.CertificateFile != "", o.TokenFile != "", o.Managed} {
		if set {
			ways++
		}
	}
	if ways != 1 || !o.Managed && (o.Tenant == "" || o.ClientID == "") {
		return nil, ErrCredentials
	}
	return &Source{
		vault: "https://" + u.Host, client: client, login: &login{options: o, scope: "https://" + resource + "/.default", client: client},
	}, nil
}

// Fetch returns the secret as it is now.
func (s *Source) Fetch(ctx context.Context, ref source.Ref) (secret.Secret, source.Lease, error) {
	return source.Ask(ctx, "azure", ref, s.fetch)
}

func (s *Source) fetch(ctx context.Context, ref source.Ref) ([]byte, source.Lease, error) {
	resource, err := address(ref.Path)
	if err != nil {
		return nil, source.Lease{}, err
	}
	for range attempts {
		bearer, err := s.login.token(ctx)
		if err != nil {
			return nil, source.Lease{}, err
		}
		status, body, err := s.ask(ctx, s.vault+resource, bearer)
		switch {
		case err != nil:
			return nil, source.Lease{}, err
		case status == http.StatusUnauthorized:
			s.login.forget(bearer)
		case status != http.StatusOK:
			return nil, source.Lease{}, meaning(status, body)
		default:
			value, version, err := bundle(body)
			return value, source.Lease{Version: version}, err
		}
	}
	return nil, source.Lease{}, fmt.Errorf("%w: it takes no token that it is shown", source.ErrPermission)
}

// address is where a path leads. What a path may hold is narrow, for it becomes
// part of an URL.
func address(path string) (string, error) {
	name, query, _ := strings.Cut(path, "?")
	values, err := url.ParseQuery(query)
	version, given := values.Get("version"), values.Has("version")
	values.Del("version")
	if err != nil || len(values) > 0 || !word(name) || given && !word(version) {
		return "", fmt.Errorf("%w: the path is to be the name of a secret, of letters, digits and hyphens, and ?version= if need be", source.ErrNotFound)
	}
	return "/secrets/" + name + "/" + version + "?api-version=" + apiVersion, nil
}

// word says that s can be the name of a secret or a version.
func word(s string) bool {
	for _, r := range s {
		if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' {
			return false
		}
	}
	return s != "" && len(s) <= maxName
}

func (s *Source) ask(ctx context.Context, address, bearer string) (status int, body []byte, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, http.NoBody)
	if err != nil {
		return 0, nil, ErrVault
	}
	request.Header.Set("Authorization", "Bearer "+bearer)
	answer, err := s.client.Do(request)
	if err != nil {
		return 0, nil, source.ErrUnavailable
	}
	defer answer.Body.Close()
	body, err = io.ReadAll(answer.Body)
	if errors.Is(err, source.ErrMalformed) {
		return 0, nil, fmt.Errorf("%w: the answer is too long", source.ErrMalformed)
	}
	if err != nil {
		return 0, nil, source.ErrUnavailable
	}
	return answer.StatusCode, body, nil
}

// bundle takes an answer apart and wipes it.
func bundle(body []byte) (value []byte, version string, err error) {
	defer clear(body)
	var answer struct {
		ID    string  `json:"id"`
		Value *string `json:"value"`
	}
	if json.Unmarshal(body, &answer) != nil || answer.Value == nil {
		return nil, "", fmt.Errorf("%w: the answer is not Key Vault's", source.ErrMalformed)
	}
	version = path.Base(answer.ID)
	if !word(version) {
		return nil, "", fmt.Errorf("%w: the answer has no version", source.ErrMalformed)
	}
	return []byte(*answer.Value), version, nil
}

// meaning says what an answer means, in words of our own.
func meaning(status int, body []byte) error {
	var answer struct {
		Error struct {
			Inner struct {
				Code string `json:"code"`
			} `json:"innererror"`
		} `json:"error"`
	}
	_ = json.Unmarshal(body, &answer) //nolint:errcheck // without it the status is what there is
	switch {
	case status == http.StatusNotFound:
		return source.ErrNotFound
	case status == http.StatusBadRequest:
		return fmt.Errorf("%w: the name or version is not one", source.ErrNotFound)
	case status == http.StatusForbidden && answer.Error.Inner.Code == "SecretDisabled":
		return fmt.Errorf("%w: the secret is disabled", source.ErrPermission)
	case status == http.StatusForbidden:
		return fmt.Errorf("%w: it may not get the secret, or not from here", source.ErrPermission)
	}
	return fmt.Errorf("%w: it answered with status %d", source.ErrUnavailable, status)
}
