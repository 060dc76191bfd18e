package oidc

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"io"
	"log/slog"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/zitadel/oidc/v3/example/server/exampleop"
	"github.com/zitadel/oidc/v3/example/server/storage"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/postern/postern/internal/identity/oidc"
	"github.com/postern/postern/test/servers"
)

// signing is a key of zitadel's provider.
type signing struct {
	id  string
	key *rsa.PrivateKey
}

func (k *signing) ID() string                                  { return k.id }
func (k *signing) SignatureAlgorithm() jose.SignatureAlgorithm { return jose.RS256 }
func (k *signing) Key() any                                    { return k.key }

// public is the half of it that is published.
type public struct{ *signing }

func (k public) Algorithm() jose.SignatureAlgorithm { return jose.RS256 }
func (k public) Use() string                        { return "sig" }
func (k public) Key() any                           { return &k.key.PublicKey }

// rotating is the storage of a provider that changes its key.
type rotating struct {
	*storage.Storage
	mu  sync.Mutex
	key *signing
}

func (r *rotating) rotate(t *testing.T, id string) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.key = &signing{id, key}
}

func (r *rotating) SigningKey(context.Context) (op.SigningKey, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.key, nil
}

func (r *rotating) KeySet(context.Context) ([]op.Key, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return []op.Key{public{r.key}}, nil
}

// people are those of the provider: carol only.
type people struct{}

func (people) GetUserByID(id string) *storage.User {
	if id != "carol" {
		return nil
	}
	return &storage.User{ID: id, Username: id, Password: "any", FirstName: "Carol", Email: "carol@example.test", EmailVerified: true}
}
func (p people) GetUserByUsername(name string) *storage.User { return p.GetUserByID(name) }
func (people) ExampleClientID() string                       { return "" }

// zitadel is the other provider, in this process, with its issuer.
func zitadel(t *testing.T) (*rotating, string) {
	t.Helper()
	server := httptest.NewServer(nil)
	t.Cleanup(server.Close)
	clients := map[string]*storage.Client{
		"native": storage.NativeClient("native", redirect),
		"device": storage.DeviceClient("device", "device-secret"),
	}
	r := &rotating{Storage: storage.NewStorageWithClients(people{}, clients)}
	r.rotate(t, "first")
	server.Config.Handler = exampleop.SetupServer(server.URL, r, slog.New(slog.NewTextHandler(io.Discard, nil)), false)
	return r, server.URL
}

// A person logs in by code flow, the login is refreshed with refresh tokens that
// count once, and goes on when the provider has changed its key.
func TestZitadelCode(t *testing.T) {
	z, issuer := zitadel(t)
	now := time.Now()
	p := ours(t, issuer, "native", "", func(o *oidc.Options) { o.Now = func() time.Time { return now } })
	l, err := p.StartCode(limit(t), "op", redirect, uid)
	if err != nil {
		t.Fatal(err)
	}
	back, err := servers.Authorize(l.AuthURL, "carol")
	if err != nil {
		t.Fatal(err)
	}
	first, err := p.FinishCode(limit(t), l.ID, back.Get("state"), back.Get("code"))
	if err != nil || first.Subject != "carol" {
		t.Fatalf("got %+v, %v", first, err)
	}
	last := first
	// The provider's clock is the host's, so ours stays before the tokens' end.
	for _, before := range []time.Duration{2 * time.Minute, time.Minute} {
		now = first.Expires.Add(-before)
		next, err := p.Login(limit(t), uid, "op")
		if err != nil || next.Subject != "carol" || next.TokenID == last.TokenID {
			t.Fatalf("%s before its end: %+v, %v", before, next, err)
		}
		last = next
		z.rotate(t, "second")
	}
}

// A person logs in by device flow.
func TestZitadelDevice(t *testing.T) {
	z, issuer := zitadel(t)
	p := ours(t, issuer, "device", "device-secret")
	l, err := p.StartDevice(limit(t), "op", uid)
	if err != nil {
		t.Fatal(err)
	}
	if err := z.CompleteDeviceAuthorization(limit(t), l.UserCode, "carol"); err != nil {
		t.Fatal(err)
	}
	got, err := p.WaitDevice(limit(t), l.ID)
	if err != nil || got.Subject != "carol" {
		t.Fatalf("got %+v, %v", got, err)
	}
}
