// Package file is the source of secrets in age-encrypted files.
//
// A Ref's Path is the file, relative to Options.Dir or absolute. Without a Key
// the decrypted content is the secret, less one newline at its end; with a Key
// the content is a YAML or JSON map and the secret is that field of it, a
// scalar. A file is read again when it has changed. Start with Source.Fetch.
package file

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"filippo.io/age/armor"

	"github.com/postern/postern/internal/secret"
	"github.com/postern/postern/internal/secret/source"
)

// settled is how old a change must be for the file's stamp to tell the next one
// from it: before Linux 6.13 change times have the grain of a clock tick.
const settled = 100 * time.Millisecond

// Options of a Source.
type Options struct {
	Dir      string // where relative paths begin
	Identity string // path of the file with the age identities, or an SSH key; nobody else may read it
	// Identities are more such files, for the time in which one takes the place of
	// another. All of them must be good.
	Identities []string
}

// Source reads age-encrypted files.
type Source struct {
	opts Options

	mu    sync.Mutex
	files map[string]*content
}

// content is what a path held when it was last read.
type content struct {
	stamp source.Stamp
	plain []byte
}

// New returns a Source. The identity is read with the first secret, and again
// with every file that has changed.
func New(o Options) *Source { return &Source{opts: o, files: map[string]*content{}} }

// Fetch returns the secret as it is in the file now.
func (s *Source) Fetch(ctx context.Context, ref source.Ref) (secret.Secret, source.Lease, error) {
	if err := ctx.Err(); err != nil {
		return secret.Secret{}, source.Lease{}, context.Cause(ctx)
	}
	c, err := s.read(ref.Path)
	if err != nil {
		return secret.Secret{}, source.Lease{}, fmt.Errorf("file %s: %w", ref.Path, err)
	}
	value, err := source.Pick(c.plain, ref.Key)
	if err != nil {
		return secret.Secret{}, source.Lease{}, fmt.Errorf("file %s: %w", ref.Path, err)
	}
	return secret.New(value), source.Lease{Version: c.stamp.Version()}, nil
}

func (s *Source) read(path string) (*content, error) {
	if !filepath.IsAbs(path) {
		path = filepath.Join(s.opts.Dir, path)
	}
	f, st, err := source.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	s.mu.Lock()
	c := s.files[path]
	s.mu.Unlock()
	if c != nil && c.stamp == st {
		return c, nil
	}
	plain, err := s.decrypt(f)
	if err != nil {
		return nil, err
	}
	c = &content{stamp: st, plain: plain}
	if time.Since(time.Unix(st.Ctime.Unix())) < settled {
		return c, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.files[path] = c
	return c, nil
}

// decrypt says what is wrong in words of its own: an error of a library that
// has seen the content might quote it.
func (s *Source) decrypt(f io.Reader) ([]byte, error) {
	ids, err := s.identities()
	if err != nil {
		return nil, err
	}
	sealed, err := io.ReadAll(io.LimitReader(f, source.MaxContent+1))
	if err != nil {
		return nil, fmt.Errorf("%w: it could not be read", source.ErrUnavailable)
	}
	if len(sealed) == 0 {
		return nil, source.ErrEmpty
	}
	var in io.Reader = bytes.NewReader(sealed)
	if bytes.HasPrefix(sealed, []byte(armor.Header)) {
		in = armor.NewReader(in)
	}
	out, err := age.Decrypt(in, ids...)
	if errors.As(err, new(*age.NoIdentityMatchError)) {
		return nil, fmt.Errorf("%w: it is not encrypted to the daemon's identity", source.ErrMalformed)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: it is not an age file", source.ErrMalformed)
	}
	plain, err := io.ReadAll(io.LimitReader(out, source.MaxContent+1))
	if err != nil || len(plain) > source.MaxContent {
		return nil, fmt.Errorf("%w: the age file is damaged or too long", source.ErrMalformed)
	}
	return plain, nil
}

// identities are those of all the files, read with every file of secrets that
// has changed.
func (s *Source) identities() (all []age.Identity, err error) {
	for _, path := range append([]string{s.opts.Identity}, s.opts.Identities...) {
		if path == "" {
			continue
		}
		ids, err := identities(path)
		if err != nil {
			return nil, err
		}
		all = append(all, ids...)
	}
	return all, nil
}

func identities(path string) ([]age.Identity, error) {
	f, _, err := source.Open(path)
	if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	if mode := st.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("%w: identity %s has mode %04o, it must be 0600", source.ErrPermission, path, mode)
	}
	if uid := st.Sys().(*syscall.Stat_t).Uid; uid != 0 && uid != uint32(os.Geteuid()) {
		return nil, fmt.Errorf("%w: identity %s belongs to another user", source.ErrPermission, path)
	}
	content, err := io.ReadAll(io.LimitReader(f, source.MaxContent+1))
	defer clear(content)
	if err != nil {
		return nil, fmt.Errorf("%w: identity %s could not be read", source.ErrUnavailable, path)
	}
	if bytes.HasPrefix(content, []byte("-----BEGIN")) {
		id, err := agessh.ParseIdentity(content)
		if err != nil {
			return nil, fmt.Errorf("%w: identity %s is no SSH key of kind Ed25519 or RSA without a passphrase", source.ErrMalformed, path)
		}
		return []age.Identity{id}, nil
	}
	ids, err := age.ParseIdentities(bytes.NewReader(content))
	if err != nil {
		return nil, fmt.Errorf("%w: identity %s", source.ErrMalformed, path)
	}
	return ids, nil
}
