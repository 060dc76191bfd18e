package vault

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/openbao/openbao/api/v2"
)

const (
	// maxAnswer bounds a response: a secret is small, and so are lists of mounts.
	maxAnswer = 1 << 20
	// maxHeader bounds a response's header, of which nothing is used.
	maxHeader = 64 << 10
	// maxFile bounds a certificate, a token and a sealed file.
	maxFile = 1 << 20
	// maxIdle is how many connections are kept: fetches come in ones and twos.
	maxIdle = 4
	idle    = 90 * time.Second
)

var (
	errTooLong   = errors.New("the answer is too long")
	errElsewhere = errors.New("the server sends us to another one, which is not followed")
)

// newClient makes the SDK's client from NewConfig and not DefaultConfig, which
// would let the environment of the daemon change where its secrets come from.
// For the same reason no proxy is taken from there.
func newClient(o Options) (*api.Client, error) {
	u, socket, err := parseAddress(o.Address)
	if err != nil {
		return nil, err
	}
	dialer := &net.Dialer{Timeout: o.Timeout}
	t := &http.Transport{
		DialContext:           dialer.DialContext,
		TLSHandshakeTimeout:   o.Timeout,
		ResponseHeaderTimeout: o.Timeout,
		MaxIdleConnsPerHost:   maxIdle, IdleConnTimeout: idle,
		MaxResponseHeaderBytes: maxHeader,
		DisableCompression:     true,
		ForceAttemptHTTP2:      true,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, ServerName: o.ServerName},
	}
	if socket != "" {
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", socket)
		}
	}
	if c, ok := o.Auth.(Cert); ok {
		t.TLSClientConfig.GetClientCertificate = c.certificate
	}
	cfg := api.NewConfig()
	if cfg.Error != nil {
		return nil, cfg.Error
	}
	cfg.Address = u.String()
	cfg.DisableEnvironment = true
	cfg.HttpClient = &http.Client{
		Transport:     &guarded{base: u, next: t, ca: o.CA},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	cfg.Timeout = 0    // each request has a context of its own
	cfg.MaxRetries = 0 // which requests bear a repetition, do knows
	c, err := api.NewClient(cfg)
	if err != nil {
		return nil, fmt.Errorf("address %q is not a URL", o.Address)
	}
	if o.Namespace != "" {
		if err := checkPath(strings.Trim(o.Namespace, "/")); err != nil {
			return nil, fmt.Errorf("namespace: %w", err)
		}
		c.SetNamespace(o.Namespace)
	}
	return c, nil
}

func parseAddress(address string) (u *url.URL, socket string, err error) {
	if socket, ok := strings.CutPrefix(address, "unix://"); ok {
		if !strings.HasPrefix(socket, "/") {
			return nil, "", fmt.Errorf("address %q: the socket is not an absolute path", address)
		}
		return &url.URL{Scheme: "http", Host: "localhost"}, socket, nil
	}
	u, err = url.Parse(address)
	switch {
	case err != nil:
		return nil, "", errors.New("the address is not a URL")
	case u.Scheme != "http" && u.Scheme != "https", u.Host == "":
		return nil, "", errors.New("the address begins with none of http://, https:// and unix://, or has no host")
	case u.User != nil, u.RawQuery != "", u.Fragment != "":
		return nil, "", errors.New("the address has a user, a query or a fragment, which it cannot have")
	}
	return u, "", nil
}

// guarded is the transport that goes to one server and nowhere else, whatever
// it redirects to, and reads no more than is sensible.
type guarded struct {
	base *url.URL
	next *http.Transport
	ca   string

	mu     sync.Mutex
	loaded bool
}

func (g *guarded) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != g.base.Scheme || r.URL.Host != g.base.Host {
		return nil, errElsewhere
	}
	if err := g.load(); err != nil {
		return nil, err
	}
	resp, err := g.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	resp.Body = &limited{ReadCloser: resp.Body, left: maxAnswer}
	return resp, nil
}

// load reads the authority's certificate, with the first request: New does not.
func (g *guarded) load() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.loaded || g.ca == "" {
		return nil
	}
	b, err := readFile(g.ca)
	if err != nil {
		return &localError{fmt.Errorf("authority: %w", err)}
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		return &localError{fmt.Errorf("authority: %s holds no certificate in PEM form", g.ca)}
	}
	g.next.TLSClientConfig.RootCAs = pool
	g.loaded = true
	return nil
}

// limited is a body that ends in an error when it is too long.
type limited struct {
	io.ReadCloser
	left int64
}

func (l *limited) Read(p []byte) (int, error) {
	if l.left < 0 {
		return 0, errTooLong
	}
	if int64(len(p)) > l.left+1 {
		p = p[:l.left+1]
	}
	n, err := l.ReadCloser.Read(p)
	if l.left -= int64(n); l.left < 0 {
		return 0, errTooLong
	}
	return n, err
}

// localError is what went wrong on this side; its text is ours.
type localError struct{ error }

func (e *localError) Unwrap() error { return e.error }

// readFile reads a small regular file. What its error says is the name and the
// system's reason.
func readFile(name string) ([]byte, error) {
	f, err := openFile(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: it could not be read", name)
	}
	if len(b) > maxFile {
		return nil, fmt.Errorf("%s is longer than %d bytes", name, maxFile)
	}
	return b, nil
}

func openFile(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a FIFO must not hang the daemon
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", name)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
