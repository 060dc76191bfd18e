// Package secret holds the types that secrets live in: Secret, which prints as
// "[secret]" wherever it lands, Credential, what an upstream is logged in to
// with, and Placeholder, what the agent holds instead.
//
// The package fetches nothing; the sources are in secret/source. Start with
// Secret.Reveal, the only way out of the type: every caller of it is a place
// where a secret meets the wire, and docs/security.md lists them.
package secret

import (
	"bytes"
	"crypto/subtle"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"time"
)

// mask is what every formatted Secret looks like.
const mask = "[secret]"

// Secret is a value that must reach an upstream and nothing else. The zero
// value is an empty secret. It formats as "[secret]" under every verb of fmt,
// in slog, and in JSON, YAML and text encodings, so that a struct that holds
// one can be logged without care.
//
// The bytes are behind a function because fmt walks into unexported fields
// without asking their methods, and follows pointers for a verb it cannot
// print, but never calls a function.
type Secret struct {
	value func() []byte
	wipe  func() // nil: the bytes are overwritten where they are
}

// New takes ownership of value; the caller forgets its slice.
func New(value []byte) Secret { return Secret{value: func() []byte { return value }} }

// Lent returns a Secret whose bytes belong to somebody else, such as an arena:
// value returns them for as long as they are lent and nil after; wipe overwrites
// them and takes them back, any number of times. Both are called from any
// goroutine.
func Lent(value func() []byte, wipe func()) Secret { return Secret{value: value, wipe: wipe} }

// Reveal returns the secret's bytes, which stay owned by the Secret: they are
// not changed and not kept beyond the write that needs them.
func (s Secret) Reveal() []byte {
	if s.value == nil {
		return nil
	}
	return s.value()
}

// Empty reports whether there is nothing in it.
func (s Secret) Empty() bool { return len(s.Reveal()) == 0 }

// Equal compares in constant time for values of equal length.
func (s Secret) Equal(other []byte) bool {
	return subtle.ConstantTimeCompare(s.Reveal(), other) == 1
}

// Wipe overwrites the bytes. Every copy of this Secret is empty-handed after.
func (s Secret) Wipe() {
	if s.wipe != nil {
		s.wipe()
		return
	}
	clear(s.Reveal())
}

// Format is for the verbs that String does not serve (%d, %x, %c).
func (Secret) Format(f fmt.State, _ rune) { io.WriteString(f, mask) } //nolint:errcheck // fmt has no way to say it

func (Secret) String() string               { return mask }
func (Secret) GoString() string             { return mask }
func (Secret) MarshalText() ([]byte, error) { return []byte(mask), nil }
func (Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + mask + `"`), nil }
func (Secret) MarshalYAML() (any, error)    { return mask, nil }
func (Secret) LogValue() slog.Value         { return slog.StringValue(mask) }

// Credential is what a session logs in to its upstream with. User and Database
// are not secrets, yet the agent never sees them either: it knows the
// placeholder's.
type Credential struct {
	User        string
	Database    string
	Password    Secret
	Certificate *tls.Certificate // client certificate, nil when none
	SSH         SSH
}

// Same says whether two log in as the same, by the same proof.
func (c Credential) Same(o Credential) bool {
	same := func(a, b Secret) bool { return a.Equal(b.Reveal()) }
	certificate := func(c Credential) []byte {
		if c.Certificate == nil || len(c.Certificate.Certificate) == 0 {
			return nil
		}
		return c.Certificate.Certificate[0]
	}
	return c.User == o.User && c.Database == o.Database && same(c.Password, o.Password) && same(c.SSH.Key, o.SSH.Key) &&
		same(c.SSH.Passphrase, o.SSH.Passphrase) && same(c.SSH.Authority, o.SSH.Authority) && c.SSH.Signed == o.SSH.Signed &&
		bytes.Equal(certificate(c), certificate(o))
}

// Wipe overwrites what is secret in it. Every copy of it is empty-handed after.
func (c Credential) Wipe() {
	for _, s := range []Secret{c.Password, c.SSH.Key, c.SSH.Passphrase, c.SSH.Authority} {
		s.Wipe()
	}
}

// SSH is what a login by SSH proves itself with besides a password.
type SSH struct {
	Key        Secret        // a private key, in OpenSSH's format or PEM
	Passphrase Secret        // that opens Key
	Signed     string        // a certificate of Key, in the format of authorized_keys; empty: none
	Authority  Secret        // the private key of an authority, which signs a certificate for each login
	Principals []string      // of the certificate; empty: the user
	Life       time.Duration // of the certificate
	Agent      string        // the socket of an ssh-agent
}

// Placeholder is what an agent holds: it works only for the agent, target and
// protocol it was issued for. Password is no secret in the sense of Secret,
// but it is never logged: it is a canary.
type Placeholder struct {
	User     string
	Database string // empty: the agent may name any of its own; upstream gets Credential.Database
	Password Secret
}
