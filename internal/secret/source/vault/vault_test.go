package vault

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/postern/postern/internal/secret/source"
	"github.com/postern/postern/internal/secret/source/sourcetest"
	"github.com/postern/postern/test/servers"
)

// place is a server with both versions of KV, and what a Source is made of.
type place struct {
	*servers.VaultServer
	t   *testing.T
	log *lockedBuffer
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

const readAll = `path "one/*" { capabilities = ["read"] }
path "two/*" { capabilities = ["read"] }`

func newPlace(t *testing.T, o servers.VaultOptions) *place {
	t.Helper()
	p := &place{servers.Vault(t, o), t, new(lockedBuffer)}
	p.mount("one", "kv", map[string]any{"version": "1"})
	p.mount("two", "kv", map[string]any{"version": "2"})
	p.Policy(t, "reader", readAll)
	t.Cleanup(func() {
		if strings.Contains(p.log.String(), sourcetest.Canary) {
			t.Error("the canary is in the log")
		}
	})
	return p
}

func (p *place) mount(at, kind string, options map[string]any) {
	p.t.Helper()
	p.Must(p.t, http.MethodPost, "sys/mounts/"+at, map[string]any{"type": kind, "options": options})
	if kind == "kv" && options["version"] == "2" {
		p.eventually(func() error { // its upgrade runs in the background
			_, err := p.Do(http.MethodPut, at+"/data/probe", map[string]any{"data": map[string]any{"x": "y"}})
			return err
		})
	}
}

func (p *place) eventually(f func() error) {
	p.t.Helper()
	eventually(p.t, f)
}

// file writes a file of the test and returns its name.
func (p *place) file(name, content string) string {
	p.t.Helper()
	at := filepath.Join(p.Dir, name)
	if err := os.WriteFile(at, []byte(content), 0o600); err != nil {
		p.t.Fatal(err)
	}
	return at
}

// source makes a Source; options begin with the server's address.
func (p *place) source(auth Auth, change ...func(*Options)) *Source {
	p.t.Helper()
	o := Options{Address: p.Address, CA: p.CA, Auth: auth, Log: slog.New(slog.NewTextHandler(p.log, nil))}
	for _, c := range change {
		c(&o)
	}
	s, err := New(o)
	if err != nil {
		p.t.Fatal(err)
	}
	return s
}

// reader is a Source with a token that may read both mounts.
func (p *place) reader(change ...func(*Options)) *Source {
	p.t.Helper()
	return p.source(&TokenFile{Path: p.file("token", p.Token(p.t, "1h", "reader")+"\n")}, change...)
}

// put writes fields in the form of the mount's version.
func (p *place) put(mount, path string, fields map[string]any) {
	p.t.Helper()
	if mount == "two" {
		p.Put(p.t, "two/data/"+path, map[string]any{"data": fields})
		return
	}
	p.Put(p.t, mount+"/"+path, fields)
}

// fetch returns the value, and fails the test on an error.
func fetch(t *testing.T, s *Source, path, key string) (string, source.Lease) {
	t.Helper()
	v, lease, err := s.Fetch(t.Context(), source.Ref{Path: path, Key: key})
	if err != nil {
		t.Fatal(err)
	}
	return string(v.Reveal()), lease
}

// fails wants an error that wraps want and says a text.
func fails(t *testing.T, s *Source, path, key string, want error, says string) {
	t.Helper()
	v, _, err := s.Fetch(t.Context(), source.Ref{Path: path, Key: key})
	sourcetest.Fails(t, v, err, want)
	if err != nil && !strings.Contains(err.Error(), says) {
		t.Errorf("%v\ndoes not say %q", err, says)
	}
}

func TestSource(t *testing.T) {
	for _, mount := range []string{"one", "two"} {
		t.Run(mount, func(t *testing.T) {
			p := newPlace(t, servers.VaultOptions{})
			sourcetest.Run(t, func(t *testing.T) sourcetest.Place {
				return p.conformance(t, mount)
			})
		})
	}
}

// conformance is the mount as the suite wants it. The paths are in a folder of
// the test's own.
func (p *place) conformance(t *testing.T, mount string) sourcetest.Place {
	folder := strings.NewReplacer("/", "_", "#", "_").Replace(t.Name())
	at := mount + "/" + folder
	write := func(t *testing.T, path string, fields map[string]any) {
		t.Helper()
		(&place{VaultServer: p.VaultServer, t: t}).put(mount, folder+"/"+path, fields)
	}
	return sourcetest.Place{
		Source: p.reader(func(o *Options) { o.Mount = at }),
		Put: func(t *testing.T, path, value string) {
			write(t, path, map[string]any{"value": value})
		},
		PutFields: func(t *testing.T, path string, fields map[string]string) {
			all := map[string]any{}
			for k, v := range fields {
				all[k] = v
			}
			write(t, path, all)
		},
		Remove: func(t *testing.T, path string) {
			method := at + "/" + path
			if mount == "two" {
				method = "two/data/" + folder + "/" + path
			}
			p.Must(t, http.MethodDelete, method, nil)
		},
		Spoiled: []sourcetest.Spoiled{
			{Name: "a number", Make: func(t *testing.T, path string) { write(t, path, map[string]any{"v": 7, "w": sourcetest.Canary}) }, Key: "v", Want: source.ErrMalformed},
			{Name: "a map", Make: func(t *testing.T, path string) {
				write(t, path, map[string]any{"v": map[string]any{"x": sourcetest.Canary}})
			}, Key: "v", Want: source.ErrMalformed},
			{Name: "null", Make: func(t *testing.T, path string) { write(t, path, map[string]any{"v": nil, "w": sourcetest.Canary}) }, Key: "v", Want: source.ErrMalformed},
			{Name: "two fields and no key", Make: func(t *testing.T, path string) {
				write(t, path, map[string]any{"v": "x", "w": sourcetest.Canary})
			}, Want: source.ErrMalformed},
		},
		TextOnly: true,
		Versions: true,
	}
}

// A path that could be another one for the server is asked of nobody.
func TestPathsThatAreRefused(t *testing.T) {
	s, err := New(Options{Address: "http://127.0.0.1:1", Auth: Agent{}})
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{
		"", "kv", "/kv/a", "kv//a", "kv/../sys/a", "kv/./a", "kv/a/", "kv/%2e%2e/a", "kv/a%2fb", "kv/a\x00", "kv/a\nb", "kv/a?x=1", "kv/a#b",
		`kv\..\a`, "kv/\xff", "kv/a?version=0", "kv/a?version=-1", "kv/a?version=x", "kv/a?version=1&x=2", "kv/a?version=", "kv/" + strings.Repeat("a", 600),
		"transit:", "transit:key", "transit:key:", "transit:../key:/f", "transit:k%2f:/f", "kv/a\u202eb",
	} {
		v, _, err := s.Fetch(t.Context(), source.Ref{Path: path})
		sourcetest.Fails(t, v, err, source.ErrMalformed)
	}
	fails(t, s, "kv/a", "", source.ErrUnavailable, "connection refused")
}

func TestOptionsThatAreRefused(t *testing.T) {
	for name, o := range map[string]Options{
		"no auth": {Address: "http://h"}, "no address": {Auth: Agent{}}, "scheme": {Address: "ftp://h", Auth: Agent{}},
		"socket": {Address: "unix://sock", Auth: Agent{}}, "user": {Address: "https://u:p@h", Auth: Agent{}},
		"query": {Address: "https://h?x", Auth: Agent{}}, "kv": {Address: "https://h", Auth: Agent{}, KV: 3},
		"mount": {Address: "https://h", Auth: Agent{}, Mount: "../x"}, "namespace": {Address: "https://h", Auth: Agent{}, Namespace: "a/../b"},
	} {
		if _, err := New(o); err == nil {
			t.Errorf("%s: it is accepted", name)
		}
	}
}

func TestVersionsOfKV2(t *testing.T) {
	p := newPlace(t, servers.VaultOptions{})
	s := p.reader()
	for i := range 3 {
		p.put("two", "a", map[string]any{"v": fmt.Sprint("value-", i+1)})
	}
	for path, want := range map[string]string{"two/a": "3 value-3", "two/a?version=1": "1 value-1", "two/a?version=2": "2 value-2"} {
		if v, lease := fetch(t, s, path, ""); lease.Version+" "+v != want {
			t.Errorf("%s: %s %s", path, lease.Version, v)
		}
	}
	fails(t, s, "two/a?version=9", "", source.ErrNotFound, "")
	p.Put(t, "two/delete/a", map[string]any{"versions": []int{2}})
	fails(t, s, "two/a?version=2", "", source.ErrNotFound, "deleted or destroyed")
	p.Put(t, "two/destroy/a", map[string]any{"versions": []int{1, 3}})
	fails(t, s, "two/a?version=1", "", source.ErrNotFound, "")
	fails(t, s, "two/a", "", source.ErrNotFound, "")
	p.put("one", "a", map[string]any{"v": "x"})
	fails(t, s, "one/a?version=1", "", source.ErrMalformed, "KV 1 has none")
}

// The server tells nobody about a mount who may not use it, and some proxies
// tell nobody at all.
func TestKVWithoutTheServersHelp(t *testing.T) {
	p := newPlace(t, servers.VaultOptions{})
	for _, mount := range []string{"one", "two"} {
		p.put(mount, "a", map[string]any{"v": mount})
	}
	p.Policy(t, "reader", readAll+`
path "sys/internal/ui/mounts/*" { capabilities = ["deny"] }`)
	for _, change := range []func(*Options){func(*Options) {}, func(o *Options) { o.KV = 0 }} {
		s := p.reader(change)
		for _, mount := range []string{"one", "two"} {
			if v, lease := fetch(t, s, mount+"/a", "v"); v != mount || lease.Version == "" {
				t.Errorf("%s: %q, %+v", mount, v, lease)
			}
			fails(t, s, mount+"/missing", "", source.ErrNotFound, "")
		}
		fails(t, s, "three/a", "", source.ErrPermission, "does not allow three/")
	}
	for version, mount := range map[int]string{1: "one", 2: "two"} {
		s := p.reader(func(o *Options) { o.KV = version })
		if v, _ := fetch(t, s, mount+"/a", "v"); v != mount {
			t.Errorf("%s: %q", mount, v)
		}
	}
}

// Environment of the daemon does not say where its secrets come from.
func TestEnvironmentIsNotRead(t *testing.T) {
	p := newPlace(t, servers.VaultOptions{})
	p.put("two", "a", map[string]any{"v": "x"})
	for name, value := range map[string]string{
		"ADDR": "http://127.0.0.1:1", "TOKEN": "hvs.other", "NAMESPACE": "other", "CACERT": "/none", "AGENT_ADDR": "http://127.0.0.1:1",
		"HTTP_PROXY": "http://127.0.0.1:1", "PROXY_ADDR": "http://127.0.0.1:1", "WRAP_TTL": "60s", "RATE_LIMIT": "x", "SKIP_VERIFY": "x", "CLIENT_TIMEOUT": "x",
	} {
		t.Setenv("VAULT_"+name, value)
		t.Setenv("BAO_"+name, value)
	}
	for _, name := range []string{"HTTP_PROXY", "http_proxy", "ALL_PROXY"} {
		t.Setenv(name, "http://127.0.0.1:1")
	}
	if v, _ := fetch(t, p.reader(), "two/a", ""); v != "x" {
		t.Errorf("%q", v)
	}
}

func TestContextIsHonoured(t *testing.T) {
	gone := errors.New("the client is gone")
	slow := stalled(t)
	s, err := New(Options{Address: "http://" + slow, Auth: Agent{}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	done := make(chan error)
	go func() {
		_, _, err := s.Fetch(ctx, source.Ref{Path: "kv/a"})
		done <- err
	}()
	cancel(gone)
	if err := <-done; !errors.Is(err, gone) {
		t.Errorf("%v", err)
	}
}
