// Package env is the source of secrets in the daemon's environment, for
// development only: the environment is inherited, listed and dumped. It says so
// once. A Ref's Path is the variable; there are no keys.
package env

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"

	"github.com/postern/postern/internal/secret"
	"github.com/postern/postern/internal/secret/source"
)

// Source reads environment variables.
type Source struct {
	log  *slog.Logger
	warn sync.Once
}

// New returns a Source that warns on log when it is first used.
func New(log *slog.Logger) *Source { return &Source{log: log} }

// Fetch returns the variable as it is now.
func (s *Source) Fetch(ctx context.Context, ref source.Ref) (secret.Secret, source.Lease, error) {
	if ctx.Err() != nil {
		return secret.Secret{}, source.Lease{}, context.Cause(ctx)
	}
	s.warn.Do(func() {
		s.log.Warn("secrets are read from the environment, which is for development only", "variable", ref.Path)
	})
	if ref.Key != "" {
		return secret.Secret{}, source.Lease{}, fmt.Errorf("environment variable %s: %w: it has no fields", ref.Path, source.ErrMalformed)
	}
	value, ok := os.LookupEnv(ref.Path)
	if !ok {
		return secret.Secret{}, source.Lease{}, fmt.Errorf("environment variable %s: %w", ref.Path, source.ErrNotFound)
	}
	if value == "" {
		return secret.Secret{}, source.Lease{}, fmt.Errorf("environment variable %s: %w", ref.Path, source.ErrEmpty)
	}
	return secret.New([]byte(value)), source.Lease{}, nil
}
