package oidc

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"
)

const (
	// maxBody bounds an answer of a provider: a large key set is 30 KiB.
	maxBody = 512 << 10
	// maxHeader bounds the header of one.
	maxHeader = 64 << 10
	// maxRedirects bounds how often an address of a provider leads to another.
	maxRedirects = 3
	// fetchTime is how long one request to a provider may take.
	fetchTime = 10 * time.Second
	// maxURL bounds an address in a discovery document.
	maxURL = 2048
)

var (
	errElsewhere = errors.New("it redirects to another host, or too often")
	errTooLong   = errors.New("its answer is too long")
)

// remote is the way to one provider.
type remote struct {
	issuer string
	client *http.Client
}

// newRemote makes a client that follows no proxy of the environment, which an
// issuer's keys would otherwise be trusted to.
func newRemote(i Issuer, base *http.Client) (*remote, error) {
	var transport http.RoundTripper
	if base != nil {
		transport = base.Transport
	}
	if transport == nil {
		transport = &http.Transport{
			DialContext:         (&net.Dialer{Timeout: fetchTime}).DialContext,
			TLSHandshakeTimeout: fetchTime, MaxResponseHeaderBytes: maxHeader,
			ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 1, IdleConnTimeout: time.Minute,
			TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12},
		}
	}
	if i.CA != "" {
		t, ok := transport.(*http.Transport)
		if !ok {
			return nil, errors.New("ca: the client brings a transport of its own")
		}
		roots, err := readCA(i.CA)
		if err != nil {
			return nil, fmt.Errorf("ca: %w", err)
		}
		t = t.Clone()
		if t.TLSClientConfig == nil {
			t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
		}
		t.TLSClientConfig.RootCAs = roots
		transport = t
	}
	return &remote{i.URL, &http.Client{
		Transport: bounded{transport}, Timeout: fetchTime, CheckRedirect: sameHost,
	}}, nil
}

func readCA(path string) (*x509.CertPool, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	pem, err := io.ReadAll(io.LimitReader(f, maxCA+1))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if len(pem) > maxCA || !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s has no PEM certificates, or is longer than 1 MiB", path)
	}
	return roots, nil
}

// sameHost lets an address lead to another of the same host, by GET: what was
// posted has a secret in it.
func sameHost(r *http.Request, via []*http.Request) error {
	first := via[0]
	if len(via) > maxRedirects || first.Method != http.MethodGet || r.Method != http.MethodGet ||
		r.URL.Scheme != first.URL.Scheme || r.URL.Host != first.URL.Host || r.URL.User != nil {
		return errElsewhere
	}
	return nil
}

// bounded is a transport whose answers have a limit, whoever reads them.
type bounded struct{ next http.RoundTripper }

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := b.next.RoundTrip(r)
	if err == nil {
		resp.Body = &boundedBody{resp.Body, maxBody}
	}
	return resp, err
}

type boundedBody struct {
	io.ReadCloser
	left int
}

func (b *boundedBody) Read(p []byte) (int, error) {
	if b.left <= 0 {
		if n, err := b.ReadCloser.Read(make([]byte, 1)); n == 0 {
			return 0, err
		}
		return 0, errTooLong
	}
	n, err := b.ReadCloser.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}

// get fetches a JSON document.
func (r *remote) get(ctx context.Context, at string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return nil, errors.New("its address is none")
	}
	req.Header.Set("Accept", "application/json")
	resp, err := r.client.Do(req)
	if err != nil {
		return nil, errors.New(networkReason(err))
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("it answers with status %d", resp.StatusCode)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, errors.New(networkReason(err))
	}
	return body, nil
}

// document is what of a discovery document is used (OpenID Connect Discovery,
// 3; RFC 8414; RFC 8628, 4).
type document struct {
	Issuer        string   `json:"issuer"`
	Keys          string   `json:"jwks_uri"`
	Authorization string   `json:"authorization_endpoint"`
	Token         string   `json:"token_endpoint"`
	Device        string   `json:"device_authorization_endpoint"`
	AuthMethods   []string `json:"token_endpoint_auth_methods_supported"`
	Scopes        []string `json:"scopes_supported"`
	Challenges    []string `json:"code_challenge_methods_supported"`
}

// discover fetches the discovery document.
func (r *remote) discover(ctx context.Context) (*document, error) {
	body, err := r.get(ctx, strings.TrimSuffix(r.issuer, "/")+"/.well-known/openid-configuration")
	if err != nil {
		return nil, fmt.Errorf("discovery document: %w", err)
	}
	d := &document{}
	if json.Unmarshal(body, d) != nil {
		return nil, errors.New("discovery document: it is not JSON")
	}
	if err := d.check(r.issuer); err != nil {
		return nil, fmt.Errorf("discovery document: %w", err)
	}
	return d, nil
}

// check refuses a document of another issuer, and addresses that others on the
// way could answer at.
func (d *document) check(issuer string) error {
	if d.Issuer != issuer {
		return errors.New("its issuer is not the configured URL, to the letter")
	}
	if d.Keys == "" {
		return errors.New("it has no jwks_uri")
	}
	plain := strings.HasPrefix(issuer, "http://")
	for name, at := range map[string]string{
		"jwks_uri": d.Keys, "authorization_endpoint": d.Authorization, "token_endpoint": d.Token,
		"device_authorization_endpoint": d.Device,
	} {
		if at == "" {
			continue
		}
		if u, err := parseURL(at); err != nil || u.Scheme != "https" && !plain {
			return fmt.Errorf("its %s is not https", name)
		}
	}
	return nil
}

// basic reports whether the client's secret goes into the header: so it does
// unless the provider says otherwise (OpenID Connect Discovery, 3).
func (d *document) basic() bool {
	return len(d.AuthMethods) == 0 || slices.Contains(d.AuthMethods, "client_secret_basic") ||
		!slices.Contains(d.AuthMethods, "client_secret_post")
}

func checkIssuerURL(s string) error {
	u, err := parseURL(s)
	if err != nil || u.RawQuery != "" || u.ForceQuery || len(s) > maxURL {
		return errors.New("its url is not https://HOST/…, without a query (http is for loopback)")
	}
	return nil
}

// parseURL takes https, and http on loopback, where nobody is on the way.
func parseURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.User != nil || u.Fragment != "" || len(s) > maxURL ||
		u.Scheme != "https" && !(u.Scheme == "http" && loopback(u.Hostname())) {
		return nil, errors.New("neither https nor loopback")
	}
	return u, nil
}

func loopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return err == nil && a.IsLoopback()
}
