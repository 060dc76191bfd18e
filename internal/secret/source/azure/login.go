package azure

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"

	"github.com/postern/postern/internal/secret/source"
)

const (
	// early is how long before its end a token is replaced.
	early = 5 * time.Minute
	// authority is given explicitly, so that no variable of the environment names
	// another.
	authority = "https://login.microsoftonline.com/"
	// Whoever waits is a session that begins, and the Set has the last known value.
	retries    = 1
	retryDelay = 200 * time.Millisecond
)

// login has the token that requests are made with.
type login struct {
	options Options
	scope   string
	client  *http.Client

	mu   sync.Mutex
	last azcore.AccessToken
}

// token returns one that is good for a while. Callers that need one at once may
// each log in, so that none waits for what another's context cancels.
func (l *login) token(ctx context.Context) (string, error) {
	l.mu.Lock()
	last := l.last
	l.mu.Unlock()
	if last.Token != "" && time.Until(last.ExpiresOn) > early {
		return last.Token, nil
	}
	fresh, err := l.get(ctx)
	if err != nil {
		return "", fmt.Errorf("log in: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last = fresh
	return fresh.Token, nil
}

// forget drops a token that was refused, unless it has been replaced.
func (l *login) forget(bearer string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.last.Token == bearer {
		l.last = azcore.AccessToken{}
	}
}

// get logs in. The library's credential is made anew each time: it reads files
// but once, and holds a lock while it waits for an answer. Tokens of a managed
// identity it keeps for the whole process, as the host's service does too.
func (l *login) get(ctx context.Context) (azcore.AccessToken, error) {
	heard := &listener{next: l.client.Transport}
	made, err := l.credential(&http.Client{Timeout: l.client.Timeout, CheckRedirect: l.client.CheckRedirect, Transport: heard})
	if err != nil {
		return azcore.AccessToken{}, err
	}
	token, err := made.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{l.scope}})
	switch {
	case err == nil && token.Token != "":
		return token, nil
	case !heard.asked && ctx.Err() == nil:
		return azcore.AccessToken{}, fmt.Errorf("%w: what is configured to log in with cannot be used", source.ErrPermission)
	case heard.status == http.StatusBadRequest, heard.status == http.StatusUnauthorized, heard.status == http.StatusForbidden:
		return azcore.AccessToken{}, fmt.Errorf("%w: the credentials are refused", source.ErrPermission)
	}
	return azcore.AccessToken{}, source.ErrUnavailable
}

var errUnusable = fmt.Errorf("%w: it cannot be used", source.ErrMalformed)

func (l *login) credential(client *http.Client) (made azcore.TokenCredential, err error) {
	o := l.options
	// The authority is Microsoft's or the one that is configured: nobody need be
	// asked whether it is one.
	const known = true
	place := authority
	if o.Authority != "" {
		place = strings.TrimSuffix(o.Authority, "/") + "/"
	}
	shared := azcore.ClientOptions{
		Transport: client,
		Cloud:     cloud.Configuration{ActiveDirectoryAuthorityHost: place},
		Retry:     policy.RetryOptions{MaxRetries: retries, RetryDelay: retryDelay, MaxRetryDelay: retryDelay},
	}
	switch {
	case o.SecretFile != "":
		content, err := read(o.SecretFile)
		if err != nil {
			return nil, fmt.Errorf("client secret: %w", err)
		}
		made, err = azidentity.NewClientSecretCredential(o.Tenant, o.ClientID, string(content), &azidentity.ClientSecretCredentialOptions{
			ClientOptions: shared, DisableInstanceDiscovery: known,
		})
		clear(content)
		return usable(made, err, "client secret")
	case o.CertificateFile != "":
		content, err := read(o.CertificateFile)
		if err != nil {
			return nil, fmt.Errorf("certificate: %w", err)
		}
		chain, key, err := azidentity.ParseCertificates(content, nil)
		clear(content)
		if err != nil {
			return nil, fmt.Errorf("certificate: %w", errUnusable)
		}
		made, err = azidentity.NewClientCertificateCredential(o.Tenant, o.ClientID, chain, key, &azidentity.ClientCertificateCredentialOptions{
			ClientOptions: shared, DisableInstanceDiscovery: known,
		})
		return usable(made, err, "certificate")
	case o.TokenFile != "":
		content, err := read(o.TokenFile)
		if err != nil {
			return nil, fmt.Errorf("federated token: %w", err)
		}
		made, err = azidentity.NewClientAssertionCredential(o.Tenant, o.ClientID, func(context.Context) (string, error) {
			return string(content), nil
		}, &azidentity.ClientAssertionCredentialOptions{ClientOptions: shared, DisableInstanceDiscovery: known})
		return usable(made, err, "federated token")
	}
	managed := &azidentity.ManagedIdentityCredentialOptions{ClientOptions: shared}
	if o.ClientID != "" {
		managed.ID = azidentity.ClientID(o.ClientID)
	}
	made, err = azidentity.NewManagedIdentityCredential(managed)
	return usable(made, err, "managed identity")
}

// usable drops what the library says, which may quote what it was given.
func usable(made azcore.TokenCredential, err error, what string) (azcore.TokenCredential, error) {
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, errUnusable)
	}
	return made, nil
}

// read returns what is in a file, less a newline at its end.
func read(path string) ([]byte, error) {
	f, _, err := source.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, source.MaxContent))
	if err != nil {
		return nil, errors.New("the file cannot be read")
	}
	defer clear(content)
	return source.Pick(content, "")
}

// listener is a RoundTripper for one login, which remembers how the last request
// was answered: the library's errors tell it with text of the server's.
type listener struct {
	next   http.RoundTripper
	asked  bool
	status int
}

func (l *listener) RoundTrip(r *http.Request) (*http.Response, error) {
	l.asked, l.status = true, 0
	answer, err := l.next.RoundTrip(r)
	if err == nil {
		l.status = answer.StatusCode
	}
	return answer, err
}
