package vault

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/postern/postern/internal/secret"
	"github.com/postern/postern/internal/secret/source"
)

// maxMounts bounds what is remembered of mounts; a configuration has a few.
const maxMounts = 256

// mount is where an engine is mounted, and which version of KV it is.
type mount struct {
	path    string // without a slash at its end
	version int
}

// read fetches a field of a secret of KV.
func (s *Source) read(ctx context.Context, p kvPath, key string) (secret.Secret, source.Lease, error) {
	m, err := s.mounted(ctx, p.path)
	if err != nil {
		return secret.Secret{}, source.Lease{}, err
	}
	var fields map[string]json.RawMessage
	var version string
	switch {
	case m.version == 2:
		fields, version, err = s.read2(ctx, m, p)
	case m.version == 1:
		fields, version, err = s.read1(ctx, p)
	default:
		fields, version, err = s.readEither(ctx, m, p)
	}
	if err != nil {
		s.forget(p.path)
		return secret.Secret{}, source.Lease{}, err
	}
	defer (&answer{Data: fields}).wipe()
	value, err := pick(fields, key)
	if err != nil {
		return secret.Secret{}, source.Lease{}, err
	}
	return value, source.Lease{Version: version}, nil
}

// mounted asks which engine a path is in. Version 0: the server does not say.
func (s *Source) mounted(ctx context.Context, path string) (mount, error) {
	first, _, _ := strings.Cut(path, "/")
	if s.opts.Mount != "" {
		first = s.opts.Mount
	}
	if !strings.HasPrefix(path, first+"/") {
		return mount{}, fmt.Errorf("%w: the path is a mount, with nothing in it", source.ErrMalformed)
	}
	if s.opts.KV != 0 {
		return mount{first, s.opts.KV}, nil
	}
	s.mu.Lock()
	m, known := s.mounts[path]
	s.mu.Unlock()
	if known {
		return m, nil
	}
	a, err := s.do(ctx, get("sys/internal/ui/mounts/"+path))
	if code := status(err); code == http.StatusForbidden || code == http.StatusNotFound {
		return mount{path: first}, nil
	}
	if err != nil {
		return mount{}, err
	}
	var kind, at string
	var options struct {
		Version string `json:"version"`
	}
	if json.Unmarshal(a.Data["type"], &kind) != nil || json.Unmarshal(a.Data["path"], &at) != nil ||
		a.Data["options"] != nil && json.Unmarshal(a.Data["options"], &options) != nil {
		return mount{}, fmt.Errorf("%w: what the server says about the mount", source.ErrMalformed)
	}
	at = strings.TrimSuffix(at, "/")
	if kind != "kv" && kind != "generic" || !strings.HasPrefix(path, at+"/") {
		return mount{}, fmt.Errorf("%w: the path is not in a KV engine", source.ErrMalformed)
	}
	m = mount{at, 1}
	if options.Version == "2" {
		m.version = 2
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.mounts) >= maxMounts {
		clear(s.mounts)
	}
	s.mounts[path] = m
	return m, nil
}

// forget has the server asked again: the mount may have become another.
func (s *Source) forget(path string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.mounts, path)
}

func (s *Source) read1(ctx context.Context, p kvPath) (map[string]json.RawMessage, string, error) {
	if p.version != 0 {
		return nil, "", fmt.Errorf("%w: a version is asked for, and KV 1 has none", source.ErrMalformed)
	}
	a, err := s.do(ctx, get(p.path))
	if err != nil {
		return nil, "", err
	}
	return a.Data, s.tag(a.Data), nil
}

// tag stands in for a version: it tells values apart, and nothing about them,
// since its key is nobody's. So it is another one after a restart.
func (s *Source) tag(fields map[string]json.RawMessage) string {
	h := hmac.New(sha256.New, s.tagKey)
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		fmt.Fprintf(h, "%d %s %d %s\n", len(name), name, len(fields[name]), fields[name])
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

func (s *Source) read2(ctx context.Context, m mount, p kvPath) (map[string]json.RawMessage, string, error) {
	r := get(m.path + "/data/" + strings.TrimPrefix(p.path, m.path+"/"))
	if p.version != 0 {
		r.query = url.Values{"version": {strconv.Itoa(p.version)}}
	}
	a, err := s.do(ctx, r)
	if status(err) == http.StatusNotFound {
		return nil, "", fmt.Errorf("%w, or its version was deleted or destroyed", err)
	}
	if err != nil {
		return nil, "", err
	}
	defer a.wipe()
	var fields map[string]json.RawMessage
	var about struct {
		Version int `json:"version"`
	}
	if json.Unmarshal(a.Data["data"], &fields) != nil || json.Unmarshal(a.Data["metadata"], &about) != nil || about.Version < 1 {
		return nil, "", fmt.Errorf("%w: the answer is not that of KV 2", source.ErrMalformed)
	}
	if p.version != 0 && about.Version != p.version {
		return nil, "", fmt.Errorf("%w: another version came than was asked for", source.ErrMalformed)
	}
	return fields, strconv.Itoa(about.Version), nil
}

// readEither is for a server that does not say which engine it is. A policy
// allows one of the two paths as a rule, and what is not there in one and not
// allowed in the other is not there.
func (s *Source) readEither(ctx context.Context, m mount, p kvPath) (map[string]json.RawMessage, string, error) {
	fields, version, err := s.read2(ctx, m, p)
	if err == nil || p.version != 0 || !passes(err) {
		return fields, version, err
	}
	fields, version, err1 := s.read1(ctx, p)
	switch {
	case err1 == nil, !passes(err1):
		return fields, version, err1
	case errors.Is(err1, source.ErrNotFound):
		return nil, "", err1
	}
	return nil, "", err
}

// passes reports whether the other version of KV may know better.
func passes(err error) bool {
	return errors.Is(err, source.ErrNotFound) || errors.Is(err, source.ErrPermission) || errors.Is(err, source.ErrMalformed)
}

// pick returns a field, or the only one.
func pick(fields map[string]json.RawMessage, key string) (secret.Secret, error) {
	raw, ok := fields[key]
	switch {
	case key != "" && !ok:
		return secret.Secret{}, fmt.Errorf("%w: no field %q", source.ErrNotFound, key)
	case key == "" && len(fields) == 0:
		return secret.Secret{}, source.ErrEmpty
	case key == "" && len(fields) > 1:
		return secret.Secret{}, fmt.Errorf("%w: it has %d fields, and no key says which", source.ErrMalformed, len(fields))
	case key == "":
		for _, raw = range fields {
		}
	}
	var value text
	if len(raw) == 0 || raw[0] != '"' || json.Unmarshal(raw, &value) != nil {
		return secret.Secret{}, fmt.Errorf("%w: the field is not a string", source.ErrMalformed)
	}
	if value.Empty() {
		return secret.Secret{}, source.ErrEmpty
	}
	return value.Secret, nil
}
