// Package gcp is the source of secrets in Google Cloud's Secret Manager.
//
// A Ref's Path is projects/P/secrets/S, or S alone where the Source has a
// project, with "?version=" behind it (a number or an alias) when not the latest
// is meant; Key is a field of a map in JSON or YAML. Regional secrets are not
// served.
//
// It asks by REST itself and leaves signing and the exchange of tokens to
// Google's golang.org/x/oauth2/google. It was run against a stand-in that
// verifies assertions, subject tokens and bearer tokens, never against the cloud
// itself. Start with New, then Source.Fetch; how it logs in is in login.go.
package gcp

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"net/url"
	"path"
	"strings"

	"github.com/postern/postern/internal/secret"
	"github.com/postern/postern/internal/secret/source"
)

const (
	// endpoint is Google's own.
	endpoint = "https://secretmanager.googleapis.com"
	// maxID is the longest name of a secret, by Google.
	maxID = 255
	// attempts: a token that was taken back is replaced once.
	attempts = 2
)

// ErrCredentials is of New: exactly one way to log in is to be configured.
var ErrCredentials = errors.New("no credentials file and no metadata server is configured")

// Options of a Source.
type Options struct {
	// Project is whose secrets have paths of one word; empty: there are none.
	Project string
	// Credentials is the file of a service account's key, or the configuration of
	// workload identity federation; read again at each login. Empty: the metadata
	// server says who the instance is.
	Credentials string
	// Metadata allows the instance's metadata server.
	Metadata bool
	Endpoint string         // of Secret Manager; empty: Google's
	Roots    *x509.CertPool // who is trusted; nil: the host's
}

// Source reads secrets.
type Source struct {
	project  string
	endpoint string
	client   *http.Client
	login    *login
}

// New returns a Source. It reads no file and asks nobody.
func New(o Options) (*Source, error) {
	if o.Credentials == "" && !o.Metadata {
		return nil, ErrCredentials
	}
	client := source.Client(o.Roots)
	s := &Source{project: o.Project, endpoint: endpoint, client: client, login: newLogin(o, client)}
	if o.Endpoint != "" {
		s.endpoint = strings.TrimSuffix(o.Endpoint, "/")
	}
	return s, nil
}

// Fetch returns the secret as it is now.
func (s *Source) Fetch(ctx context.Context, ref source.Ref) (secret.Secret, source.Lease, error) {
	return source.Ask(ctx, "gcp", ref, s.fetch)
}

func (s *Source) fetch(ctx context.Context, ref source.Ref) ([]byte, source.Lease, error) {
	name, err := s.name(ref.Path)
	if err != nil {
		return nil, source.Lease{}, err
	}
	for range attempts {
		bearer, err := s.login.token(ctx)
		if err != nil {
			return nil, source.Lease{}, err
		}
		status, body, err := s.ask(ctx, s.endpoint+"/v1/"+name+":access", bearer)
		switch {
		case err != nil:
			return nil, source.Lease{}, err
		case status == http.StatusUnauthorized:
			s.login.forget(bearer)
		case status != http.StatusOK:
			return nil, source.Lease{}, meaning(status, body)
		default:
			value, version, err := payload(body)
			return value, source.Lease{Version: version}, err
		}
	}
	return nil, source.Lease{}, fmt.Errorf("%w: it takes no token that it is shown", source.ErrPermission)
}

// name is the resource's: what a path may hold is narrow, for it becomes part of
// an URL.
func (s *Source) name(path string) (string, error) {
	whole, query, _ := strings.Cut(path, "?")
	values, err := url.ParseQuery(query)
	version := values.Get("version")
	if !values.Has("version") {
		version = "latest"
	}
	values.Del("version")
	project, id := s.project, whole
	if rest, ok := strings.CutPrefix(whole, "projects/"); ok {
		project, id, _ = strings.Cut(rest, "/secrets/")
	}
	if err != nil || len(values) > 0 || !word(project, ".:") || strings.Trim(project, ".") == "" || !word(id, "") || len(id) > maxID || !word(version, "") {
		return "", fmt.Errorf("%w: the path is to be projects/P/secrets/S, or S in the project that is configured, and ?version= if need be", source.ErrNotFound)
	}
	return "projects/" + project + "/secrets/" + id + "/versions/" + version, nil
}

// word says that s is letters, digits, "_", "-" and what else is allowed.
func word(s, also string) bool {
	for _, r := range s {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		if !letter && !strings.ContainsRune("_-"+also, r) {
			return false
		}
	}
	return s != ""
}

func (s *Source) ask(ctx context.Context, address, bearer string) (status int, body []byte, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, http.NoBody)
	if err != nil {
		return 0, nil, fmt.Errorf("%w: its endpoint is no URL", source.ErrUnavailable)
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

// payload takes an answer apart and wipes it.
func payload(body []byte) (value []byte, version string, err error) {
	defer clear(body)
	var answer struct {
		Name    string `json:"name"`
		Payload struct {
			Data []byte `json:"data"`
			// Sum is there but for versions that are older than the field.
			Sum *int64 `json:"dataCrc32c,string"`
		} `json:"payload"`
	}
	if json.Unmarshal(body, &answer) != nil {
		return nil, "", fmt.Errorf("%w: the answer is not Secret Manager's", source.ErrMalformed)
	}
	version = path.Base(answer.Name)
	if !word(version, "") {
		return nil, "", fmt.Errorf("%w: the answer has no version", source.ErrMalformed)
	}
	value = answer.Payload.Data
	if sum := answer.Payload.Sum; sum != nil && *sum != int64(crc32.Checksum(value, crc32.MakeTable(crc32.Castagnoli))) {
		return nil, "", fmt.Errorf("%w: it was damaged on its way: its checksum is another", source.ErrMalformed)
	}
	return value, version, nil
}

// meaning says what an answer means, in words of our own.
func meaning(status int, body []byte) error {
	var answer struct {
		Error struct {
			Status string `json:"status"`
		} `json:"error"`
	}
	_ = json.Unmarshal(body, &answer) //nolint:errcheck // without it the status is what there is
	switch {
	case status == http.StatusNotFound:
		return source.ErrNotFound
	case status == http.StatusForbidden:
		return fmt.Errorf("%w: it may not access the secret", source.ErrPermission)
	case status == http.StatusBadRequest && answer.Error.Status == "FAILED_PRECONDITION":
		return fmt.Errorf("%w: the version is disabled or destroyed", source.ErrNotFound)
	case status == http.StatusBadRequest:
		return fmt.Errorf("%w: the name or version is not one", source.ErrNotFound)
	}
	return fmt.Errorf("%w: it answered with status %d", source.ErrUnavailable, status)
}
