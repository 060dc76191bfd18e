package vault

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"syscall"
	"time"

	"github.com/openbao/openbao/api/v2"

	"github.com/postern/postern/internal/secret"
	"github.com/postern/postern/internal/secret/source"
)

const (
	// attempts are how often a request that changes nothing is made.
	attempts = 2
	// pause is what lies between them: a server that changes its leader, or a
	// load balancer that has lost one, is often back at once.
	pause = 100 * time.Millisecond
)

// request is one of the server's API.
type request struct {
	method string
	path   string // below /v1/
	query  url.Values
	body   any
	name   string // for the server's audit log
	// repeat says that it may be made twice: it makes nothing.
	repeat bool
}

func get(path string) request { return request{method: http.MethodGet, path: path, repeat: true} }

func post(path string, body any) request {
	return request{method: http.MethodPost, path: path, body: body}
}

// answer is the part of the server's answers that is used.
type answer struct {
	LeaseID       string                     `json:"lease_id"`
	LeaseDuration int64                      `json:"lease_duration"`
	Renewable     bool                       `json:"renewable"`
	Data          map[string]json.RawMessage `json:"data"`
	Auth          *struct {
		Token         text  `json:"client_token"`
		LeaseDuration int64 `json:"lease_duration"`
		Renewable     bool  `json:"renewable"`
	} `json:"auth"`
}

// wipe overwrites what may be secret.
func (a *answer) wipe() {
	for _, raw := range a.Data {
		clear(raw)
	}
}

// text is a JSON string that becomes a secret without being a string of Go on
// the way.
type text struct{ secret.Secret }

func (t *text) UnmarshalText(b []byte) error {
	t.Secret = secret.New(append([]byte(nil), b...))
	return nil
}

// MarshalJSON is the way back, into the body of a request: the one place where a
// secret's JSON is not "[secret]". What the server takes there is printable.
func (t text) MarshalJSON() ([]byte, error) { return json.Marshal(string(t.Reveal())) }

// refused is a status that is not a success. What the server says beside it may
// quote what it was asked, and so is not kept.
type refused struct{ status int }

func (e *refused) Error() string {
	switch e.status {
	case http.StatusForbidden:
		return "the server does not allow it"
	case http.StatusNotFound:
		return "the server does not know it"
	case http.StatusTooManyRequests:
		return "rate limited: the server takes no more requests for now"
	case http.StatusPreconditionFailed:
		return "the server has not caught up with the others"
	case http.StatusServiceUnavailable:
		return "the server is sealed, or in maintenance"
	case 472, 473:
		return "the server is a standby"
	}
	return fmt.Sprintf("the server answers with status %d", e.status)
}

func (e *refused) Unwrap() error {
	switch {
	case e.status == http.StatusForbidden:
		return source.ErrPermission
	case e.status == http.StatusNotFound:
		return source.ErrNotFound
	case e.status == http.StatusTooManyRequests, e.status == http.StatusPreconditionFailed, e.status == 472, e.status == 473, e.status >= 500:
		return source.ErrUnavailable
	}
	return source.ErrMalformed
}

// status is that of a refusal, else 0.
func status(err error) int {
	if r := (*refused)(nil); errors.As(err, &r) {
		return r.status
	}
	return 0
}

// call makes a request with a token, which may be empty, and repeats it where
// that is allowed and may help.
func (s *Source) call(ctx context.Context, token secret.Secret, r request) (*answer, error) {
	for n := 1; ; n++ {
		a, err := s.once(ctx, token, r)
		code := status(err)
		again := code >= 500 && code != http.StatusServiceUnavailable || code == http.StatusPreconditionFailed
		if err == nil || !r.repeat || !again || n == attempts {
			return a, err
		}
		wait := time.NewTimer(pause)
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
			return nil, context.Cause(ctx)
		}
	}
}

var errSlow = errors.New("no answer in time")

func (s *Source) once(parent context.Context, token secret.Secret, r request) (*answer, error) {
	ctx, cancel := context.WithTimeoutCause(parent, s.opts.Timeout, errSlow)
	defer cancel()
	req := s.client.NewRequest(r.method, "/v1/"+r.path)
	for name, values := range r.query {
		req.Params[name] = values
	}
	if r.body != nil {
		if err := req.SetJSONBody(r.body); err != nil {
			return nil, fmt.Errorf("%w: the request", source.ErrMalformed)
		}
	}
	if r.name != "" {
		req.Headers.Set("X-Correlation-Id", r.name)
	}
	// The SDK and net/http want a string.
	req.ClientToken = string(token.Reveal())
	resp, err := s.client.RawRequestWithContext(ctx, req) //nolint:staticcheck // the others take the token from the client, which is shared
	if resp != nil && resp.Body != nil {
		defer resp.Body.Close()
	}
	if err != nil {
		return nil, s.explain(parent, ctx, err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, s.explain(parent, ctx, err)
	}
	defer clear(body)
	a := new(answer)
	if len(body) == 0 {
		return a, nil // 204, for what only acknowledges
	}
	if json.Unmarshal(body, a) != nil {
		return nil, fmt.Errorf("%w: the answer is not that of a Vault or OpenBao", source.ErrMalformed)
	}
	return a, nil
}

// explain says what became of a request, in words of its own: those of the
// libraries have the URL in them, and may quote an answer.
func (s *Source) explain(parent, ctx context.Context, err error) error {
	if parent.Err() != nil {
		return context.Cause(parent)
	}
	down := func(why string) error { return fmt.Errorf("%w: %s", source.ErrUnavailable, why) }
	var timeout net.Error
	var untrusted *tls.CertificateVerificationError
	var alert tls.AlertError
	var local *localError
	if r := (*api.ResponseError)(nil); errors.As(err, &r) {
		return &refused{r.StatusCode}
	}
	switch {
	case errors.Is(err, errTooLong):
		return fmt.Errorf("%w: the answer is longer than %d bytes", source.ErrMalformed, maxAnswer)
	case errors.Is(err, errElsewhere):
		return down(errElsewhere.Error())
	case errors.As(err, &local):
		return fmt.Errorf("%w: %w", source.ErrUnavailable, local.error)
	case errors.As(err, &untrusted):
		return down("the server's certificate is not trusted, or is another server's")
	case errors.As(err, &alert):
		return down("the server ends the TLS handshake: " + alert.Error())
	case errors.Is(err, syscall.ECONNREFUSED):
		return down("connection refused")
	case errors.Is(err, fs.ErrNotExist):
		return down("there is no such socket")
	case ctx.Err() != nil, errors.As(err, &timeout) && timeout.Timeout():
		return down(fmt.Sprintf("no answer within %v", s.opts.Timeout))
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET):
		return down("the connection broke")
	}
	return down("no connection")
}
