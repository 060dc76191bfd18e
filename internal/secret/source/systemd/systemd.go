// Package systemd is the source of secrets that the service manager hands to
// the daemon: LoadCredential=, LoadCredentialEncrypted= and SetCredential= of
// its unit, files in memory that only the service reads (systemd.exec(5)).
//
// A Ref's Path is the credential's name. Without a Key the content is the
// secret, less one newline at its end; with a Key it is that field of a YAML or
// JSON map. Each Fetch reads the file, so that a credential which the manager
// exchanged is seen at once. Start with Source.Fetch.
package systemd

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/postern/postern/internal/secret"
	"github.com/postern/postern/internal/secret/source"
)

// Env is the variable in which the manager says where the credentials are.
const Env = "CREDENTIALS_DIRECTORY"

// maxName is the longest name of a file on Linux.
const maxName = 255

// Options of a Source.
type Options struct {
	Dir string // where the credentials are; empty: as Env says
}

// Source reads credentials.
type Source struct{ dir string }

// New returns a Source. That there are no credentials is said by Fetch: the
// daemon may have been started by hand.
func New(o Options) *Source {
	if o.Dir == "" {
		o.Dir = os.Getenv(Env)
	}
	return &Source{o.Dir}
}

// Fetch returns the credential as it is now.
func (s *Source) Fetch(ctx context.Context, ref source.Ref) (secret.Secret, source.Lease, error) {
	if ctx.Err() != nil {
		return secret.Secret{}, source.Lease{}, context.Cause(ctx)
	}
	value, lease, err := s.read(ref)
	if err != nil {
		return secret.Secret{}, source.Lease{}, fmt.Errorf("credential %q: %w", ref.Path, err)
	}
	return secret.New(value), lease, nil
}

func (s *Source) read(ref source.Ref) ([]byte, source.Lease, error) {
	if s.dir == "" {
		return nil, source.Lease{}, fmt.Errorf("%w: the service manager set no $%s: is there a LoadCredentialEncrypted= in the unit?", source.ErrUnavailable, Env)
	}
	if ref.Path == "" || ref.Path == "." || ref.Path == ".." || len(ref.Path) > maxName || strings.ContainsAny(ref.Path, "/\x00") {
		return nil, source.Lease{}, fmt.Errorf("%w: that is no name of a credential", source.ErrNotFound)
	}
	f, stamp, err := source.Open(filepath.Join(s.dir, ref.Path))
	if err != nil {
		return nil, source.Lease{}, err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, source.MaxContent+1))
	defer clear(content)
	if err != nil {
		return nil, source.Lease{}, fmt.Errorf("%w: it could not be read", source.ErrUnavailable)
	}
	if len(content) > source.MaxContent {
		return nil, source.Lease{}, fmt.Errorf("%w: longer than %d bytes", source.ErrMalformed, source.MaxContent)
	}
	value, err := source.Pick(content, ref.Key)
	return value, source.Lease{Version: stamp.Version()}, err
}
