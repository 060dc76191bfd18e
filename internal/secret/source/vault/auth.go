package vault

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"sync"

	"github.com/postern/postern/internal/secret"
	"github.com/postern/postern/internal/secret/source"
)

// Auth is a way to log in: *TokenFile, *AppRole, JWT, Kubernetes, Cert or Agent.
// login is called for one caller at a time; its errors that are not the server's
// have text of ours.
type Auth interface {
	login(ctx context.Context, s *Source) (*token, error)
	// none: requests go out without a token.
	none() bool
	// changed: the token that login returned is not the configured one any more.
	changed() bool
	String() string // for people
}

// always is what most methods say of themselves.
type always struct{}

func (always) none() bool    { return false }
func (always) changed() bool { return false }

// readSecret reads a file that holds one secret and perhaps a newline.
func readSecret(name string) (secret.Secret, error) {
	b, err := readFile(name)
	if err != nil {
		return secret.Secret{}, &localError{fmt.Errorf("%w: %w", source.ErrUnavailable, err)}
	}
	b = bytes.TrimSpace(b)
	if len(b) == 0 {
		return secret.Secret{}, &localError{fmt.Errorf("%w: %s is empty", source.ErrUnavailable, name)}
	}
	return secret.New(b), nil
}

// TokenFile is a file with a token, which somebody else keeps fresh.
type TokenFile struct {
	Path string

	mu   sync.Mutex
	read secret.Secret
}

func (f *TokenFile) none() bool     { return false }
func (f *TokenFile) String() string { return "token file " + f.Path }

// changed compares the file with what was read of it, whatever its times say:
// it is short.
func (f *TokenFile) changed() bool {
	now, err := readSecret(f.Path)
	if err != nil {
		return false // the token that was read may still be good
	}
	defer now.Wipe()
	f.mu.Lock()
	defer f.mu.Unlock()
	return !f.read.Equal(now.Reveal())
}

func (f *TokenFile) login(ctx context.Context, s *Source) (*token, error) {
	value, err := readSecret(f.Path)
	if err != nil {
		return nil, err
	}
	if bytes.ContainsFunc(value.Reveal(), func(r rune) bool { return r <= ' ' || r > '~' }) {
		return nil, fmt.Errorf("%w: %s does not hold a token", source.ErrMalformed, f.Path)
	}
	a, err := s.call(ctx, value, get("auth/token/lookup-self"))
	unseen := status(err) == 403
	if err != nil && !unseen {
		return nil, err
	}
	f.mu.Lock()
	f.read = value
	f.mu.Unlock()
	if unseen {
		return &token{value: value, unseen: true}, nil
	}
	var ttl int64
	var renewable bool
	if json.Unmarshal(a.Data["ttl"], &ttl) != nil || a.Data["renewable"] != nil && json.Unmarshal(a.Data["renewable"], &renewable) != nil {
		return nil, fmt.Errorf("%w: what the server says about the token", source.ErrMalformed)
	}
	return &token{value: value, ttl: seconds(ttl), renewable: renewable}, nil
}

// Agent is an agent or a proxy that adds a token of its own to what it is sent,
// usually by a Unix socket. The SDK marks every request with X-Vault-Request,
// which agents ask for against forged ones.
type Agent struct{ always }

func (Agent) none() bool     { return true }
func (Agent) String() string { return "agent" }

func (Agent) login(context.Context, *Source) (*token, error) { return &token{}, nil }
