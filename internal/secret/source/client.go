package source

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

const (
	// RequestTimeout is how long one request to a place on the network may take,
	// to the end of its answer.
	RequestTimeout = 10 * time.Second
	dialTimeout    = 5 * time.Second
	// maxHeader is far above what vaults and clouds send.
	maxHeader = 64 << 10
	// maxIdle connections are kept: sessions that begin at once ask for different
	// secrets of the same place.
	maxIdle = 4
)

// Client returns a client of HTTP for a source on the network: it has timeouts,
// reads no more than MaxContent of an answer, and follows no redirection, for
// what it sends is a credential. roots are who is trusted, nil: the host's.
func Client(roots *x509.CertPool) *http.Client {
	return &http.Client{
		Timeout:       RequestTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: bounded{&http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			DialContext:            (&net.Dialer{Timeout: dialTimeout}).DialContext,
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
			TLSHandshakeTimeout:    dialTimeout,
			ResponseHeaderTimeout:  RequestTimeout,
			MaxResponseHeaderBytes: maxHeader,
			MaxIdleConnsPerHost:    maxIdle,
			IdleConnTimeout:        time.Minute,
			ForceAttemptHTTP2:      true,
		}},
	}
}

// bounded is a RoundTripper whose answers are at most MaxContent long.
type bounded struct{ next http.RoundTripper }

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	answer, err := b.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	answer.Body = &boundedBody{answer.Body, MaxContent}
	return answer, nil
}

// boundedBody fails where an io.LimitReader would end, as if that were all.
type boundedBody struct {
	io.ReadCloser
	left int
}

func (b *boundedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p[:min(len(p), b.left+1)])
	if n > b.left {
		return 0, fmt.Errorf("%w: an answer of more than %d bytes", ErrMalformed, MaxContent)
	}
	b.left -= n
	return n, err
}
