package oidc

import (
	"crypto/cipher"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/postern/postern/internal/secret"
)

const (
	// loginsFolder is where logins are kept, below the state directory.
	loginsFolder = "logins"
	loginEnd     = ".login"
	// maxLogin bounds a file: a thousand groups of 320 bytes, in JSON, with a
	// refresh token.
	maxLogin = 1 << 20
	// maxRefresh bounds a refresh token; Entra's are 2 KiB.
	maxRefresh = 16 << 10
)

// whose says which login is meant.
type whose struct {
	uid    uint32
	issuer string // name in the configuration
}

// login is what is kept of one.
type login struct {
	identity Identity
	refresh  secret.Secret // empty: none was given
}

// store keeps logins in files, sealed by XChaCha20-Poly1305: nonce, then what
// is sealed. Each is bound to its uid, issuer and URL, so that one cannot be put
// in the place of another.
type store struct {
	folder string
	seal   cipher.AEAD
	tried  sync.Map // whose → time.Time: of logins that could not be refreshed

	mu   sync.Mutex
	held map[whose]*holding
}

func newStore(folder string, key []byte) (*store, error) {
	seal, err := chacha20poly1305.NewX(key)
	if err != nil {
		return nil, fmt.Errorf("key for logins: %w", err)
	}
	return &store{folder: folder, seal: seal, held: map[whose]*holding{}}, nil
}

func (s *store) file(w whose) string {
	return filepath.Join(s.folder, strconv.FormatUint(uint64(w.uid), 10)+"-"+w.issuer+loginEnd)
}

// bound is the associated data of a login. No part can hold the separator.
func bound(w whose, url string) []byte {
	return []byte(strings.Join([]string{"postern login v1", strconv.FormatUint(uint64(w.uid), 10), w.issuer, url}, "\x00"))
}

// savedLogin is what is sealed, JSON.
type savedLogin struct {
	Identity Identity `json:"identity"`
	Refresh  []byte   `json:"refresh,omitempty"`
}

// put keeps a login; the former one is gone only when this one is on disk.
func (s *store) put(w whose, url string, l login) error {
	plain, err := json.Marshal(savedLogin{l.identity, l.refresh.Reveal()})
	if err != nil {
		return fmt.Errorf("keep login: %w", err)
	}
	defer clear(plain)
	nonce := make([]byte, s.seal.NonceSize(), s.seal.NonceSize()+len(plain)+s.seal.Overhead())
	rand.Read(nonce) //nolint:errcheck // it never fails
	if err := replace(s.file(w), s.seal.Seal(nonce, nonce, plain, bound(w, url))); err != nil {
		return fmt.Errorf("keep login: %w", err)
	}
	return nil
}

var errSealed = errors.New("the kept login cannot be opened: log in again")

// get returns a login, or an error of os.ErrNotExist.
func (s *store) get(w whose, url string) (login, error) {
	sealed, err := readFile(s.file(w), maxLogin)
	if err != nil {
		return login{}, fmt.Errorf("kept login: %w", err)
	}
	size := s.seal.NonceSize()
	if len(sealed) < size {
		return login{}, errSealed
	}
	plain, err := s.seal.Open(nil, sealed[:size], sealed[size:], bound(w, url))
	if err != nil {
		return login{}, errSealed
	}
	defer clear(plain)
	var l savedLogin
	if json.Unmarshal(plain, &l) != nil {
		return login{}, errSealed
	}
	return login{l.Identity, secret.New(l.Refresh)}, nil
}

func (s *store) remove(w whose) error {
	if err := os.Remove(s.file(w)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("forget login: %w", err)
	}
	return nil
}
