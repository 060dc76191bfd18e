// Package postgres is PostgreSQL's frontend/backend protocol, versions 3.0 and
// 3.2: toward the agent a server that accepts its placeholder, toward the
// upstream a client with the real credential, and between them every message
// understood, decided and masked before it passes.
//
// It knows bytes. What a statement would do is asked of internal/sql, whether
// it may is asked of the gate. Start with engine.Greet in greet.go (start-up
// and the agent's authentication), then login.go (the upstream's), then
// codec.go: request.go and response.go hold one function per message. README.md
// says what is seen, decided, masked, recorded and refused.
package postgres

import (
	"context"
	"crypto/rand"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/relay/messages"
	"github.com/postern/postern/internal/secret"
	"github.com/postern/postern/internal/sql"
	"github.com/postern/postern/internal/wire"
)

// Options are what the protocol needs from the program around it.
type Options struct {
	Classifier Classifier
	Loop       *messages.Loop // serves sessions in their steady state; nil: each has goroutines of its own
	Catalogs   *Catalogs      // where what sessions read of their databases can be looked up; nil: nowhere
}

// New returns the protocol for the list in cmd/posternd.
func New(o Options) engine.Protocol {
	shared := &shared{
		classifier: o.Classifier,
		loop:       o.Loop,
		sessions:   map[string]*owner{},
		agentKeys:  newKeyCache(),
		loginKeys:  newKeyCache(),
		catalogs:   newCatalogCache(),
	}
	if o.Catalogs != nil {
		shared.catalogs = o.Catalogs.cache
	}
	return engine.Protocol{
		Name:  "postgres",
		Ports: []uint16{5432},
		Verbs: sql.Verbs,
		Facts: sql.Facts, Pivots: sql.Pivots,
		PivotHelp: "name the functions it is meant for under tables, or put a rule before it that denies with when: request.sql.pivot",
		TryLogin:  shared.tryLogin,
		New: func(env engine.Env) (engine.Engine, error) {
			switch env.AgentAuth {
			case "", authSCRAM, authMD5, authPassword:
			default:
				return nil, fmt.Errorf("agent_auth %q: use %s, %s or %s", env.AgentAuth, authSCRAM, authMD5, authPassword)
			}
			return &conn{env: env, shared: shared}, nil
		},
	}
}

// shared is what the connections of one daemon have in common.
type shared struct {
	classifier Classifier
	loop       *messages.Loop
	agentKeys  *keyCache // SCRAM keys of placeholders
	loginKeys  *keyCache // SCRAM keys of credentials
	catalogs   *catalogCache

	mu       sync.Mutex
	sessions map[string]*owner // by the cancel key that the agent was given
}

// conn is the engine of one connection.
type conn struct {
	env    engine.Env
	shared *shared

	minor     int               // protocol 3.minor as agreed with the agent
	cancel    []byte            // of a CancelRequest: process id and key
	startup   map[string]string // parameters that pass as they are
	decisions map[string]string // parameters that the policy decides
	known     bool              // user and database are those of the placeholder
	secured   bool              // the agent's leg is TLS
	binding   []byte

	relay atomic.Pointer[messages.Session] // nil before it has logged in
}

// Quiesce implements engine.Quiescer.
func (c *conn) Quiesce() bool {
	relay := c.relay.Load()
	return relay != nil && relay.Quiesce()
}

// Relay implements engine.Engine.
func (c *conn) Relay(ctx context.Context, client *wire.Conn, up engine.Upstream, gate engine.Gate) error {
	if c.cancel != nil {
		return c.forwardCancel(ctx, up)
	}
	return c.session(ctx, client, up, gate)
}

// keyCache remembers SCRAM keys, because deriving them takes 0.7 ms. Its keys
// are derived from random salts, never from a password alone.
type keyCache struct {
	mu   sync.Mutex
	keys map[string]scramKeys
}

// keyCacheSize bounds a keyCache; there is one entry per credential in use.
const keyCacheSize = 1024

func newKeyCache() *keyCache { return &keyCache{keys: map[string]scramKeys{}} }

// keys returns the keys of password under salt, by way of the cache. The cache
// key is an HMAC of the password under the salt, so that a rotated password
// misses.
func (k *keyCache) derive(password secret.Secret, salt []byte, iterations int) scramKeys {
	id := fmt.Sprintf("%d %s", iterations, sum(salt, string(password.Reveal())))
	k.mu.Lock()
	keys, ok := k.keys[id]
	k.mu.Unlock()
	if ok {
		return keys
	}
	keys = deriveKeys(password, append([]byte(nil), salt...), iterations)
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.keys) >= keyCacheSize {
		clear(k.keys)
	}
	k.keys[id] = keys
	return keys
}

// processSalt salts the keys of placeholders: one per process, so that they
// are derived once.
var processSalt = func() []byte {
	b := make([]byte, 16)
	rand.Read(b)
	return b
}()
