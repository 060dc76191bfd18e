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
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"filippo.io/age"
	"filippo.io/age/armor"
	"go.yaml.in/yaml/v3"

	"github.com/postern/postern/internal/secret"
	"github.com/postern/postern/internal/secret/source"
)

// maxFile bounds a file, encrypted or not: a secret is small, and what is
// decrypted stays in memory.
const maxFile = 1 << 20

// settled is how old a change must be for the file's stamp to tell the next one
// from it: before Linux 6.13 change times have the grain of a clock tick.
const settled = 100 * time.Millisecond

// Options of a Source.
type Options struct {
	Dir      string // where relative paths begin
	Identity string // path of the file with the age identities; nobody else may read it
}

// Source reads age-encrypted files.
type Source struct {
	opts Options

	mu    sync.Mutex
	files map[string]*content
}

// content is what a path held when it was last read.
type content struct {
	stamp stamp
	plain []byte
}

// stamp tells one state of a file from another. The change time is in it
// because the others can be set at will.
type stamp struct {
	dev, ino     uint64
	size         int64
	mtime, ctime syscall.Timespec
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
	value, err := c.pick(ref.Key)
	if err != nil {
		return secret.Secret{}, source.Lease{}, fmt.Errorf("file %s: %w", ref.Path, err)
	}
	version := fmt.Sprintf("%d-%d.%09d", c.stamp.ino, c.stamp.mtime.Sec, c.stamp.mtime.Nsec)
	return secret.New(value), source.Lease{Version: version}, nil
}

func (s *Source) read(path string) (*content, error) {
	if !filepath.IsAbs(path) {
		path = filepath.Join(s.opts.Dir, path)
	}
	f, st, err := open(path)
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
	if time.Since(time.Unix(st.ctime.Unix())) < settled {
		return c, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.files[path] = c
	return c, nil
}

func open(path string) (*os.File, stamp, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a FIFO must not hang the daemon
	if err != nil {
		return nil, stamp{}, kind(err)
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%w: not a regular file", source.ErrMalformed)
	}
	if err == nil && st.Size() > maxFile {
		err = fmt.Errorf("%w: longer than %d bytes", source.ErrMalformed, maxFile)
	}
	if err != nil {
		f.Close()
		return nil, stamp{}, err
	}
	sys := st.Sys().(*syscall.Stat_t)
	return f, stamp{uint64(sys.Dev), sys.Ino, sys.Size, sys.Mtim, sys.Ctim}, nil
}

func kind(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: %w", source.ErrNotFound, err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: %w", source.ErrPermission, err)
	}
	return err
}

// decrypt says what is wrong in words of its own: an error of a library that
// has seen the content might quote it.
func (s *Source) decrypt(f io.Reader) ([]byte, error) {
	ids, err := s.identities()
	if err != nil {
		return nil, err
	}
	sealed, err := io.ReadAll(io.LimitReader(f, maxFile+1))
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
	plain, err := io.ReadAll(io.LimitReader(out, maxFile+1))
	if err != nil || len(plain) > maxFile {
		return nil, fmt.Errorf("%w: the age file is damaged or too long", source.ErrMalformed)
	}
	return plain, nil
}

func (s *Source) identities() ([]age.Identity, error) {
	f, _, err := open(s.opts.Identity)
	if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	if mode := st.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("%w: identity %s has mode %04o, it must be 0600", source.ErrPermission, s.opts.Identity, mode)
	}
	if uid := st.Sys().(*syscall.Stat_t).Uid; uid != 0 && uid != uint32(os.Geteuid()) {
		return nil, fmt.Errorf("%w: identity %s belongs to another user", source.ErrPermission, s.opts.Identity)
	}
	ids, err := age.ParseIdentities(f)
	if err != nil {
		return nil, fmt.Errorf("%w: identity %s", source.ErrMalformed, s.opts.Identity)
	}
	return ids, nil
}

// pick returns a copy of the whole content or of one field.
func (c *content) pick(key string) ([]byte, error) {
	if key == "" {
		plain := bytes.TrimSuffix(bytes.TrimSuffix(c.plain, []byte("\n")), []byte("\r"))
		if len(plain) == 0 {
			return nil, source.ErrEmpty
		}
		return bytes.Clone(plain), nil
	}
	var fields map[string]yaml.Node // JSON is YAML
	if yaml.Unmarshal(c.plain, &fields) != nil {
		return nil, fmt.Errorf("%w: not a YAML or JSON map, which key %q needs", source.ErrMalformed, key)
	}
	node, ok := fields[key]
	switch {
	case !ok:
		return nil, fmt.Errorf("%w: no field %q", source.ErrNotFound, key)
	case node.Kind != yaml.ScalarNode:
		return nil, fmt.Errorf("%w: field %q is not a single value", source.ErrMalformed, key)
	case node.Value == "" || node.Tag == "!!null":
		return nil, fmt.Errorf("%w: field %q", source.ErrEmpty, key)
	}
	return []byte(node.Value), nil
}
