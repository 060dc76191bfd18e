package oidc

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
)

const (
	// keysFolder is where keys are kept, below the state directory.
	keysFolder = "keys"
	// askEvery is how often a provider is asked for keys at most, whatever tokens
	// come: each may name a key that does not exist.
	askEvery = time.Minute
	// askAgain is the same while there are no keys at all, and nobody gets in.
	askAgain = 5 * time.Second
	// refreshAfter is how old keys are when they are asked for again, though they
	// still serve: a key that the provider has withdrawn is accepted for as long.
	refreshAfter = 15 * time.Minute
	// rediscoverAfter is the same for the discovery document.
	rediscoverAfter = 12 * time.Hour
	// maxKeys bounds a key set; Microsoft's has ten.
	maxKeys = 64
	// minRSA and maxRSA bound an RSA key, in bits: below, it can be broken, above,
	// verifying costs too much.
	minRSA, maxRSA = 2048, 8192
)

// keys are those of one issuer, with where they come from.
type keys struct {
	issuer *issuer
	file   string
	now    func() time.Time
	log    *slog.Logger

	turn chan struct{} // capacity 1: who holds it fetches

	mu    sync.Mutex
	state *keyState // nil: none; never changed, only replaced
	asked time.Time // when the provider was last asked
	down  error     // what came of it, nil when all went well
}

// keyState is a set of keys at one moment.
type keyState struct {
	document   *document
	discovered time.Time
	set        []jose.JSONWebKey
	fetched    time.Time
}

func newKeys(i *issuer, file string, now func() time.Time, log *slog.Logger) *keys {
	return &keys{issuer: i, file: file, now: now, log: log, turn: make(chan struct{}, 1)}
}

// oneToken is the key set for one token, as go-oidc asks for it. Its error is
// kept beside, because go-oidc makes a text of it.
type oneToken struct {
	*keys
	keyID     string
	algorithm string
	err       error
}

// VerifySignature implements the KeySet of go-oidc.
func (k *oneToken) VerifySignature(ctx context.Context, jwt string) ([]byte, error) {
	jws, err := jose.ParseSignedCompact(jwt, []jose.SignatureAlgorithm{jose.SignatureAlgorithm(k.algorithm)})
	if err != nil {
		k.err = &refusal{kind: ErrMalformed, issuer: k.issuer.Name, detail: "it is no compact JWS"}
		return nil, k.err
	}
	var payload []byte
	payload, k.err = k.verify(ctx, jws)
	return payload, k.err
}

func (k *oneToken) verify(ctx context.Context, jws *jose.JSONWebSignature) ([]byte, error) {
	state, err := k.current(ctx)
	if err != nil {
		return nil, err
	}
	payload, ok := k.try(state, jws)
	if ok {
		return payload, nil
	}
	// The provider may have changed its keys a moment ago.
	fresh := k.refresh(ctx, state)
	if fresh != state {
		if payload, ok := k.try(fresh, jws); ok {
			return payload, nil
		}
	}
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	help := "is it from this provider? Keys that it has only just begun to use are known within a minute"
	if down := k.reason(); down != nil {
		return nil, &refusal{kind: ErrSignature, issuer: k.issuer.Name, detail: "there may be newer keys, but the provider is down", cause: down, help: help}
	}
	return nil, &refusal{kind: ErrSignature, issuer: k.issuer.Name, help: help}
}

// try verifies by each key that may have been meant.
func (k *oneToken) try(s *keyState, jws *jose.JSONWebSignature) ([]byte, bool) {
	for n := range s.set {
		key := &s.set[n]
		if k.keyID != "" && key.KeyID != k.keyID || key.Algorithm != "" && key.Algorithm != k.algorithm || !fits(key, k.algorithm) {
			continue
		}
		if payload, err := jws.Verify(key.Key); err == nil {
			return payload, true
		}
	}
	return nil, false
}

// fits reports whether a key is for an algorithm, by its kind and curve.
func fits(key *jose.JSONWebKey, algorithm string) bool {
	switch k := key.Key.(type) {
	case *rsa.PublicKey:
		return algorithm[:2] == "RS" || algorithm[:2] == "PS"
	case *ecdsa.PublicKey:
		curve := map[string]elliptic.Curve{"ES256": elliptic.P256(), "ES384": elliptic.P384(), "ES512": elliptic.P521()}[algorithm]
		return curve != nil && k.Curve == curve
	case ed25519.PublicKey:
		return algorithm == "EdDSA"
	}
	return false
}

// current returns keys that may be used: fresh ones if the provider lets us,
// else the last good ones for as long as they may serve.
func (k *keys) current(ctx context.Context) (*keyState, error) {
	k.mu.Lock()
	state := k.state
	k.mu.Unlock()
	switch age, ok := k.age(state); {
	case !ok || age > k.issuer.KeysMaxAge:
		state = k.refresh(ctx, state)
	case age > refreshAfter && len(k.turn) == 0: // one asks for newer ones, the others go on
		state = k.refresh(ctx, state)
	}
	if state == nil {
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		return nil, &refusal{kind: ErrProviderDown, issuer: k.issuer.Name, detail: "its keys are not known", cause: k.reason(), help: "is its url right, and does this host reach it?"}
	}
	if age, ok := k.age(state); !ok || age > k.issuer.KeysMaxAge {
		return nil, &refusal{
			kind: ErrKeysTooOld, issuer: k.issuer.Name, detail: "they are of " + state.fetched.UTC().Format(time.RFC3339),
			cause: k.reason(), help: "does this host reach the provider, and is its clock right?",
		}
	}
	return state, nil
}

// age is how long ago keys were fetched. Keys of the future have none: the clock
// was set back, and nobody knows how old they are.
func (k *keys) age(s *keyState) (time.Duration, bool) {
	if s == nil {
		return 0, false
	}
	age := k.now().Sub(s.fetched)
	return age, age >= -k.issuer.Leeway
}

// refresh fetches keys, once for all who ask meanwhile, if the provider may be
// asked now. It returns the keys there are then; have is what the caller knows.
func (k *keys) refresh(ctx context.Context, have *keyState) *keyState {
	select {
	case k.turn <- struct{}{}:
		defer func() { <-k.turn }()
	case <-ctx.Done():
		return have
	}
	k.mu.Lock()
	state, asked := k.state, k.asked
	k.mu.Unlock()
	wait := askEvery
	if state == nil {
		wait = askAgain
	}
	since := k.now().Sub(asked)
	if state != have || !asked.IsZero() && since >= 0 && since < wait {
		return state
	}
	fresh, err := k.fetch(ctx, state)
	if err != nil {
		k.log.Warn("the keys of an issuer could not be fetched", "issuer", k.issuer.Name, "error", err)
	} else if err := fresh.save(k.file, k.issuer.URL); err != nil {
		// They serve until the daemon restarts without a provider.
		k.log.Warn("the keys of an issuer could not be kept", "issuer", k.issuer.Name, "error", err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.state, k.asked, k.down = fresh, k.now(), err
	return fresh
}

func (k *keys) reason() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.down
}

// endpoints returns the discovery document.
func (k *keys) endpoints(ctx context.Context) (*document, error) {
	k.mu.Lock()
	state := k.state
	k.mu.Unlock()
	if state == nil {
		state = k.refresh(ctx, state)
	}
	if state == nil {
		return nil, &refusal{kind: ErrProviderDown, issuer: k.issuer.Name, cause: k.reason(), help: "is its url right, and does this host reach it?"}
	}
	return state.document, nil
}

// fetch asks the provider. It is everybody's fetch, so it does not end with the
// one who happens to be first. With an error it returns what there is to go on
// with.
func (k *keys) fetch(ctx context.Context, old *keyState) (*keyState, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), fetchTime)
	defer cancel()
	s := &keyState{}
	if old != nil {
		s.document, s.discovered = old.document, old.discovered
	}
	if age := k.now().Sub(s.discovered); s.document == nil || age < 0 || age > rediscoverAfter {
		d, err := k.issuer.remote.discover(ctx)
		if err != nil {
			return old, err
		}
		s.document, s.discovered = d, k.now()
	}
	body, err := k.issuer.remote.get(ctx, s.document.Keys)
	if err == nil {
		s.set, err = parseKeys(body)
	}
	if err == nil {
		s.fetched = k.now()
		return s, nil
	}
	if old != nil {
		// Perhaps the keys have moved: the next fetch begins with the document.
		moved := *old
		moved.discovered = time.Time{}
		old = &moved
	}
	return old, fmt.Errorf("keys: %w", err)
}

// parseKeys takes the public keys that may sign from a key set, and leaves out
// those that it does not know (RFC 7517, 5).
func parseKeys(body []byte) ([]jose.JSONWebKey, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if json.Unmarshal(body, &set) != nil || set.Keys == nil {
		return nil, errors.New("it is no key set")
	}
	if len(set.Keys) > maxKeys {
		return nil, fmt.Errorf("it has more than %d keys", maxKeys)
	}
	var out []jose.JSONWebKey
	for _, raw := range set.Keys {
		var key jose.JSONWebKey
		if json.Unmarshal(raw, &key) != nil || !usable(&key) {
			continue
		}
		out = append(out, jose.JSONWebKey{Key: key.Key, KeyID: key.KeyID, Algorithm: key.Algorithm, Use: key.Use})
	}
	if len(out) == 0 {
		return nil, errors.New("none of its keys can be used: RSA of 2048 to 8192 bits, P-256, P-384, P-521 and Ed25519 can")
	}
	return out, nil
}

func usable(key *jose.JSONWebKey) bool {
	if key.Use != "" && key.Use != "sig" || len(key.KeyID) > maxKeyID {
		return false
	}
	switch k := key.Key.(type) {
	case *rsa.PublicKey:
		bits := k.N.BitLen()
		return bits >= minRSA && bits <= maxRSA && k.E >= 3 && k.E&1 == 1
	case *ecdsa.PublicKey, ed25519.PublicKey:
		return key.Valid()
	}
	return false
}

// savedKeys is the file, JSON.
type savedKeys struct {
	Issuer     string          `json:"issuer"`
	Document   *document       `json:"document"`
	Discovered time.Time       `json:"discovered"`
	Keys       json.RawMessage `json:"keys"`
	Fetched    time.Time       `json:"fetched"`
}

func (s *keyState) save(file, issuer string) error {
	set, err := json.Marshal(jose.JSONWebKeySet{Keys: s.set})
	if err != nil {
		return err
	}
	text, err := json.Marshal(savedKeys{issuer, s.document, s.discovered, set, s.fetched})
	if err != nil {
		return err
	}
	return replace(file, text)
}

// load takes the keys of a former life, if they are still this issuer's. What is
// wrong with them is checked as if they came from the provider.
func (k *keys) load() {
	text, err := readFile(k.file, 2*maxBody)
	if errors.Is(err, os.ErrNotExist) {
		return
	}
	var saved savedKeys
	if err == nil {
		err = json.Unmarshal(text, &saved)
	}
	if err == nil && saved.Issuer != k.issuer.URL {
		return // the name has been given to another one
	}
	if err == nil && saved.Document == nil {
		err = errors.New("it has no discovery document")
	}
	if err == nil {
		err = saved.Document.check(k.issuer.URL)
	}
	s := &keyState{document: saved.Document, discovered: saved.Discovered, fetched: saved.Fetched}
	if err == nil {
		s.set, err = parseKeys(saved.Keys)
	}
	if err != nil {
		k.log.Warn("the kept keys of an issuer are of no use", "issuer", k.issuer.Name, "error", err)
		return
	}
	k.state = s
}
