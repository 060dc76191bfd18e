package gcp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/google"
	"golang.org/x/oauth2/google/externalaccount"

	"github.com/postern/postern/internal/secret/source"
)

const (
	scope = "https://www.googleapis.com/auth/cloud-platform"
	// early is how long before its end a token is replaced: the metadata server
	// gives a new one four minutes before.
	early = 225 * time.Second
	// metadataServer is a literal address of the link, so that no name service and
	// no variable of the environment says who the instance is.
	metadataServer = "http://169.254.169.254"
	metadataToken  = "/computeMetadata/v1/instance/service-accounts/default/token"
	// metadataTimeout is short: it is on the same machine or nowhere.
	metadataTimeout = 3 * time.Second
	maxMetadata     = 64 << 10
)

// login has the token that requests are made with.
type login struct {
	file     string
	allowed  bool   // the metadata server
	metadata string // its address
	client   *http.Client
	local    *http.Client // to the metadata server, by no proxy

	mu   sync.Mutex
	last *oauth2.Token
}

func newLogin(o Options, client *http.Client) *login {
	return &login{
		file: o.Credentials, allowed: o.Metadata, metadata: metadataServer, client: client,
		local: &http.Client{
			Timeout:       metadataTimeout,
			CheckRedirect: client.CheckRedirect,
			Transport: &http.Transport{
				DialContext: (&net.Dialer{Timeout: metadataTimeout}).DialContext, MaxResponseHeaderBytes: maxMetadata, IdleConnTimeout: time.Minute,
			},
		},
	}
}

// token returns one that is good for a while. Callers that need one at once may
// each log in, so that none waits for what another's context cancels.
func (l *login) token(ctx context.Context) (string, error) {
	l.mu.Lock()
	last := l.last
	l.mu.Unlock()
	if last != nil && (last.Expiry.IsZero() || time.Until(last.Expiry) > early) {
		return last.AccessToken, nil
	}
	get := l.ofFile
	if l.file == "" {
		get = l.ofMetadata
	}
	fresh, err := get(ctx)
	if err != nil {
		return "", fmt.Errorf("log in: %w", err)
	}
	if fresh.AccessToken == "" {
		return "", fmt.Errorf("log in: %w: no token was given", source.ErrUnavailable)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last = fresh
	return fresh.AccessToken, nil
}

// forget drops a token that was refused, unless it has been replaced.
func (l *login) forget(bearer string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.last != nil && l.last.AccessToken == bearer {
		l.last = nil
	}
}

// ofFile logs in with what is in the file now. The library keeps the context
// that it was made with, or none, so it is made for each login.
func (l *login) ofFile(ctx context.Context) (*oauth2.Token, error) {
	f, _, err := source.Open(l.file)
	if err != nil {
		return nil, fmt.Errorf("credentials file: %w", err)
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, source.MaxContent))
	if err != nil {
		return nil, fmt.Errorf("credentials file: %w", err)
	}
	defer clear(content)
	kind, err := l.kind(content)
	if err != nil {
		return nil, fmt.Errorf("credentials file: %w", err)
	}
	heard := &listener{ctx: ctx, next: l.client.Transport}
	client := &http.Client{Transport: heard, CheckRedirect: l.client.CheckRedirect}
	made, err := google.CredentialsFromJSONWithType(context.WithValue(ctx, oauth2.HTTPClient, client), content, kind, scope)
	if err != nil {
		return nil, fmt.Errorf("credentials file: %w: it is incomplete", source.ErrMalformed)
	}
	token, err := made.TokenSource.Token()
	switch {
	case err == nil:
		return token, nil
	case !heard.asked:
		return nil, fmt.Errorf("%w: the key or the subject token in the credentials file cannot be used", source.ErrPermission)
	case heard.status == http.StatusBadRequest, heard.status == http.StatusUnauthorized, heard.status == http.StatusForbidden:
		return nil, fmt.Errorf("%w: the credentials are refused", source.ErrPermission)
	}
	return nil, source.ErrUnavailable
}

// kind says which kind of credentials a file has. Those that would start a
// program, or speak to a server that was not allowed, are refused: the file may
// have been written by somebody who may not configure the daemon.
func (l *login) kind(content []byte) (google.CredentialsType, error) {
	var file struct {
		Type          string                           `json:"type"`
		TokenURI      string                           `json:"token_uri"`
		TokenURL      string                           `json:"token_url"`
		Impersonation string                           `json:"service_account_impersonation_url"`
		Source        externalaccount.CredentialSource `json:"credential_source"`
	}
	if json.Unmarshal(content, &file) != nil {
		return "", fmt.Errorf("%w: not JSON of Google's", source.ErrMalformed)
	}
	for _, address := range []string{file.TokenURI, file.TokenURL, file.Impersonation} {
		if u, err := url.Parse(address); address != "" && (err != nil || u.Scheme != "https" || u.Host == "") {
			return "", fmt.Errorf("%w: it names a server that is not https://", source.ErrMalformed)
		}
	}
	kind := google.CredentialsType(file.Type)
	from := file.Source
	switch {
	case kind == google.ServiceAccount:
	case kind != google.ExternalAccount:
		return "", fmt.Errorf("%w: its type is neither service_account nor external_account", source.ErrMalformed)
	case from.Executable != nil || from.EnvironmentID != "":
		return "", fmt.Errorf("%w: the subject token is to come from a file or, where metadata is allowed, from an URL", source.ErrMalformed)
	case from.File == "" && from.URL != "" && !l.allowed:
		return "", fmt.Errorf("%w: it asks a metadata server, which is not allowed", source.ErrMalformed)
	}
	return kind, nil
}

// ofMetadata asks the instance's metadata server.
func (l *login) ofMetadata(ctx context.Context) (*oauth2.Token, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, l.metadata+metadataToken+"?scopes="+url.QueryEscape(scope), http.NoBody)
	if err != nil {
		return nil, errors.New("the metadata server has no address")
	}
	request.Header.Set("Metadata-Flavor", "Google")
	answer, err := l.local.Do(request)
	if err != nil {
		return nil, fmt.Errorf("metadata server: %w", source.ErrUnavailable)
	}
	defer answer.Body.Close()
	switch {
	case answer.StatusCode == http.StatusNotFound || answer.StatusCode == http.StatusForbidden:
		return nil, fmt.Errorf("metadata server: %w: the instance has no service account", source.ErrPermission)
	case answer.StatusCode != http.StatusOK || answer.Header.Get("Metadata-Flavor") != "Google":
		return nil, fmt.Errorf("metadata server: %w: what answers is not one", source.ErrUnavailable)
	}
	var given oauth2.Token
	if json.NewDecoder(io.LimitReader(answer.Body, maxMetadata)).Decode(&given) != nil || given.ExpiresIn <= 0 {
		return nil, fmt.Errorf("metadata server: %w", source.ErrMalformed)
	}
	given.Expiry = time.Now().Add(time.Duration(given.ExpiresIn) * time.Second)
	return &given, nil
}

// listener is a RoundTripper for one login: it cancels requests that the library
// makes without a context, and remembers how the last one was answered, which
// the library's errors tell with text of the server's.
type listener struct {
	ctx    context.Context //nolint:containedctx // its life is one call
	next   http.RoundTripper
	asked  bool
	status int
}

func (l *listener) RoundTrip(r *http.Request) (*http.Response, error) {
	l.asked, l.status = true, 0
	answer, err := l.next.RoundTrip(r.WithContext(l.ctx))
	if err == nil {
		l.status = answer.StatusCode
	}
	return answer, err
}
