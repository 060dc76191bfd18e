package postgres

import (
	"bytes"
	"crypto/md5"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/jackc/pgproto3/v2"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/secret"
	"github.com/postern/postern/internal/wire"
)

// Words of agent_auth: how an agent proves that it holds the placeholder.
const (
	authSCRAM    = "scram-sha-256" // the default
	authMD5      = "md5"
	authPassword = "password" // in clear text
)

// maxPassword bounds every answer to an authentication request.
const maxPassword = 8 << 10

// authenticate lets the agent prove that it holds its placeholder for this
// target. A wrong user fails in the same words, after the same exchange, as a
// wrong password.
func (c *conn) authenticate(client *wire.Conn) error {
	var ok bool
	var err error
	switch c.env.AgentAuth {
	case authMD5:
		ok, err = c.askMD5(client)
	case authPassword:
		ok, err = c.askPassword(client)
	default:
		ok, err = c.askSCRAM(client)
	}
	if err != nil {
		if errors.Is(err, errSCRAM) {
			return &engine.Denial{Code: engine.Malformed, Reason: err.Error()}
		}
		return fmt.Errorf("authenticate the agent: %w", err)
	}
	if !ok {
		return c.misuse()
	}
	_, err = client.Write(encode(nil, &pgproto3.AuthenticationOk{}))
	return err
}

// misuse is what a wrong user, database or password is: a placeholder, or
// something else, where it does not belong. It names neither.
func (c *conn) misuse() error {
	return &engine.Denial{
		Code:   engine.Misuse,
		Reason: fmt.Sprintf("user, database and password are not the placeholder that this agent holds for target %q", c.env.Target),
		Help:   "use the placeholder's user, database and password, unchanged",
	}
}

// nameIsRight says whether user and database are the placeholder's. A database
// that was not named is the user's name, as in PostgreSQL; a placeholder
// without database accepts any.
func (c *conn) nameIsRight(user, database string) bool {
	p := c.env.Placeholder
	if user != p.User {
		return false
	}
	return p.Database == "" || database == p.Database || database == "" && p.User == p.Database
}

// answer reads one password message ('p').
func answer(client *wire.Conn) ([]byte, error) {
	head, err := client.Peek(headerBytes)
	if err != nil {
		return nil, err
	}
	n := int32(binary.BigEndian.Uint32(head[1:]))
	if head[0] != 'p' || n < 4 || n > maxPassword {
		return nil, malformed("password")
	}
	client.Discard(headerBytes)
	b, err := client.Exactly(int(n) - 4)
	if err != nil {
		return nil, err
	}
	return b, notEarly(client)
}

// passwordText is the body of a PasswordMessage: a string and its NUL.
func passwordText(b []byte) ([]byte, error) {
	if i := bytes.IndexByte(b, 0); i < 0 || i != len(b)-1 {
		return nil, malformed("password")
	}
	return b[:len(b)-1], nil
}

func (c *conn) askPassword(client *wire.Conn) (bool, error) {
	if _, err := client.Write(encode(nil, &pgproto3.AuthenticationCleartextPassword{})); err != nil {
		return false, err
	}
	b, err := answer(client)
	if err != nil {
		return false, err
	}
	password, err := passwordText(b)
	return err == nil && c.known && c.env.Placeholder.Password.Equal(password), err
}

func (c *conn) askMD5(client *wire.Conn) (bool, error) {
	var salt [4]byte
	rand.Read(salt[:])
	if _, err := client.Write(encode(nil, &pgproto3.AuthenticationMD5Password{Salt: salt})); err != nil {
		return false, err
	}
	b, err := answer(client)
	if err != nil {
		return false, err
	}
	digest, err := passwordText(b)
	if err != nil {
		return false, err
	}
	want := secret.New(md5Password(c.env.Placeholder.User, c.env.Placeholder.Password, salt[:]))
	return c.known && want.Equal(digest), nil
}

// md5Password is "md5" and the hex of md5(hex(md5(password user)) salt).
func md5Password(user string, password secret.Secret, salt []byte) []byte {
	inner := md5.New()
	inner.Write(password.Reveal())
	inner.Write([]byte(user))
	outer := md5.New()
	outer.Write([]byte(hex.EncodeToString(inner.Sum(nil))))
	outer.Write(salt)
	return []byte("md5" + hex.EncodeToString(outer.Sum(nil)))
}

func (c *conn) askSCRAM(client *wire.Conn) (bool, error) {
	s := scramServer{
		keys:    c.shared.agentKeys.derive(c.env.Placeholder.Password, processSalt, scramIterations),
		binding: c.binding,
	}
	mechanisms := []string{scramPlain}
	if s.binding != nil {
		mechanisms = []string{scramPlus, scramPlain}
	}
	if _, err := client.Write(encode(nil, &pgproto3.AuthenticationSASL{AuthMechanisms: mechanisms})); err != nil {
		return false, err
	}
	b, err := answer(client)
	if err != nil {
		return false, err
	}
	r := reader{b: b}
	mechanism, first := string(r.cstring()), r.value()
	s.plus = mechanism == scramPlus
	if !r.done() || mechanism != scramPlain && !(s.plus && s.binding != nil) {
		return false, malformed("SASLInitialResponse")
	}
	reply, err := s.first(first)
	if err != nil {
		return false, err
	}
	if _, err := client.Write(encode(nil, &pgproto3.AuthenticationSASLContinue{Data: reply})); err != nil {
		return false, err
	}
	if b, err = answer(client); err != nil {
		return false, err
	}
	reply, ok, err := s.final(b)
	if err != nil || !ok || !c.known {
		return false, err
	}
	_, err = client.Write(encode(nil, &pgproto3.AuthenticationSASLFinal{Data: reply}))
	return err == nil, err
}
