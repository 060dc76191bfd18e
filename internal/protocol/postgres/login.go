package postgres

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgproto3/v2"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/wire"
)

// maxLoginMessage bounds a message of the upstream before it is trusted.
const maxLoginMessage = 64 << 10

// maxLoginMessages bounds how many of them there may be.
const maxLoginMessages = 200

// login is the upstream's side of a session's start.
type login struct {
	shared *shared
	conn   *wire.Conn
	engine.Login

	proven     bool // the upstream asked for proof of the credential, or needs none
	admitted   bool // it said AuthenticationOk
	parameters []parameter
	pid        uint32
	key        []byte // of the upstream's BackendKeyData
	status     byte   // of its first ReadyForQuery
}

type parameter struct{ name, value []byte }

// upstreamRefusal is an ErrorResponse to our login. Its text may name the real
// user, database and host, so only its code reaches the agent.
type upstreamRefusal struct{ code, message string }

func (e *upstreamRefusal) Error() string {
	return fmt.Sprintf("the upstream refused the login: %s (SQLSTATE %s)", e.message, e.code)
}

// dial reaches the upstream, encrypts and logs in. A login that is refused is
// tried once more where the credential has changed meanwhile.
func (c *conn) dial(ctx context.Context, up engine.Upstream, decided map[string]string) (*login, error) {
	l, err := c.tryDial(ctx, up, decided)
	var no *upstreamRefusal
	if errors.As(err, &no) && no.ofCredential() && up.Refused(ctx) {
		return c.tryDial(ctx, up, decided)
	}
	return l, err
}

func (c *conn) tryDial(ctx context.Context, up engine.Upstream, decided map[string]string) (*login, error) {
	upstream, how, err := up.Conn(ctx)
	if err != nil {
		return nil, err
	}
	l := &login{shared: c.shared, conn: upstream, Login: how}
	upstream.SetDeadline(time.Now().Add(c.env.Limits.Handshake))
	if err = l.encrypt(ctx); err == nil {
		err = l.start(c.startupUpstream(how.Credential.User, how.Credential.Database, decided))
	}
	if err != nil {
		upstream.Close()
		return nil, err
	}
	upstream.SetDeadline(time.Time{})
	return l, nil
}

// ofCredential says whether it is the credential that was refused: invalid_password
// and invalid_authorization_specification, which is what is said of a role that
// is there no longer.
func (e *upstreamRefusal) ofCredential() bool { return e.code == "28P01" || e.code == "28000" }

// tryLogin implements engine.Protocol.TryLogin.
func (s *shared) tryLogin(ctx context.Context, upstream *wire.Conn, how engine.Login, limits engine.Limits) error {
	c := &conn{shared: s, env: engine.Env{Limits: limits}}
	l := &login{shared: s, conn: upstream, Login: how}
	upstream.SetDeadline(time.Now().Add(limits.Handshake))
	if err := l.encrypt(ctx); err != nil {
		return err
	}
	if err := l.start(c.startupUpstream(how.Credential.User, how.Credential.Database, nil)); err != nil {
		return err
	}
	_, err := upstream.Write(encode(nil, &pgproto3.Terminate{}))
	return err
}

// encrypt asks for TLS where the target is configured with it; a server that
// has none is refused, whatever else it offers.
func (l *login) encrypt(ctx context.Context) error {
	if l.TLS == nil {
		return nil
	}
	if _, err := l.conn.Write(encode(nil, &pgproto3.SSLRequest{})); err != nil {
		return fmt.Errorf("ask for TLS: %w", err)
	}
	b, err := l.conn.Peek(1) // whatever comes with it is then seen
	if err != nil {
		return fmt.Errorf("read the answer to SSLRequest: %w", err)
	}
	if b[0] != 'S' {
		return fmt.Errorf("the upstream has no TLS (it answered %q), and the target asks for it", b[0])
	}
	l.conn.Discard(1)
	if err := l.conn.NothingBuffered(); err != nil { // CVE-2021-23222
		return err
	}
	return l.conn.StartTLSClient(ctx, l.TLS)
}

// message reads one whole message.
func (l *login) message() ([]byte, error) {
	head, err := l.conn.Peek(headerBytes)
	if err != nil {
		return nil, err
	}
	n := int32(binary.BigEndian.Uint32(head[1:]))
	if n < 4 || n > maxLoginMessage {
		return nil, fmt.Errorf("%w: %d during login", errLength, n)
	}
	return l.conn.Exactly(int(n) + 1)
}

// start sends the StartupMessage and reads up to ReadyForQuery.
func (l *login) start(startup []byte) error {
	if _, err := l.conn.Write(startup); err != nil {
		return fmt.Errorf("send the start-up message: %w", err)
	}
	for range maxLoginMessages {
		msg, err := l.message()
		if err != nil {
			return fmt.Errorf("log in: %w", err)
		}
		done, err := l.take(msg)
		if done || err != nil {
			return err
		}
	}
	return errors.New("the upstream sends too much before it is ready")
}

func (l *login) take(msg []byte) (done bool, err error) {
	r := body(msg)
	switch msg[0] {
	case 'R':
		return false, l.authenticate(r.int32(), r.b)
	case 'S':
		name, value, err := decodeParameterStatus(msg)
		if err != nil {
			return false, err
		}
		l.parameters = append(l.parameters, parameter{name, value})
	case 'K':
		l.pid, l.key = r.uint32(), r.b
		if r.bad || len(l.key) < 4 || len(l.key) > maxCancelKey {
			return false, malformed("BackendKeyData")
		}
	case 'Z':
		l.status = r.byte()
		if !r.done() || l.status != 'I' || !l.admitted {
			return false, errors.New("the upstream is ready before the login is complete")
		}
		return true, l.checkParameters()
	case 'E':
		n, err := decodeNotice(msg)
		if err != nil {
			return false, err
		}
		return false, &upstreamRefusal{n.field('C'), n.field('M')}
	case 'N', 'v': // a notice; NegotiateProtocolVersion: an older server, which 3.0 always is understood by
	default:
		return false, fmt.Errorf("unexpected message %q during login", msg[0])
	}
	return false, nil
}

// checkParameters makes sure that statements mean to the upstream what they
// mean to the grammar.
func (l *login) checkParameters() error {
	for _, p := range l.parameters {
		if err := meaning(string(p.name), string(p.value)); err != nil {
			return err
		}
	}
	return nil
}

func meaning(name, value string) error {
	switch {
	case name == "client_encoding" && value != "UTF8",
		name == "standard_conforming_strings" && value != "on":
		return fmt.Errorf("the upstream insists on %s = %s, under which statements cannot be understood", name, value)
	}
	return nil
}

const (
	authOK       = 0
	authClear    = 3
	authMD5Code  = 5
	authSASL     = 10
	authContinue = 11
	authFinal    = 12
)

// authenticate answers one authentication request.
func (l *login) authenticate(code int32, data []byte) error {
	switch code {
	case authOK:
		return l.accepted()
	case authClear:
		if !l.Verified {
			return errors.New("the upstream asks for the password in clear text over a connection that is not verified; set tls.verify to full")
		}
		return l.sendPassword(l.Credential.Password.Reveal())
	case authMD5Code:
		if !l.Verified {
			return errors.New("the upstream asks for an MD5 digest over a connection that is not verified; set tls.verify to full, or SCRAM on the server")
		}
		if len(data) != 4 {
			return malformed("AuthenticationMD5Password")
		}
		return l.sendPassword(md5Password(l.Credential.User, l.Credential.Password, data))
	case authSASL:
		return l.scram(data)
	}
	return fmt.Errorf("the upstream asks for authentication method %d, which is not supported", code)
}

// accepted checks that the upstream let us in for a reason: a server that asks
// for nothing has not been shown to know the password either, and may be
// somebody else's.
func (l *login) accepted() error {
	if !l.proven && l.Credential.Certificate == nil && !l.Credential.Password.Empty() {
		return errors.New("the upstream accepted the login without asking for the password")
	}
	l.proven, l.admitted = true, true
	return nil
}

func (l *login) sendPassword(password []byte) error {
	if l.Credential.Password.Empty() {
		return errors.New("the upstream asks for a password, and the target's credential has none")
	}
	if l.proven {
		return errors.New("the upstream asks for the password twice")
	}
	l.proven = true
	msg := appendMessage(nil, 'p', append(append([]byte(nil), password...), 0))
	defer clear(msg)
	_, err := l.conn.Write(msg)
	return err
}

// scram does the whole SASL exchange; -PLUS whenever the upstream offers it
// and its certificate has a binding.
func (l *login) scram(data []byte) error {
	if l.proven {
		return errors.New("the upstream asks for the password twice")
	}
	if l.Credential.Password.Empty() {
		return errors.New("the upstream asks for a password, and the target's credential has none")
	}
	mechanism, gs2, binding, err := l.mechanism(data)
	if err != nil {
		return err
	}
	derive := func(salt []byte, iterations int) scramKeys {
		return l.shared.loginKeys.derive(l.Credential.Password, salt, iterations)
	}
	client := newSCRAMClient(derive, gs2, binding)
	first := &pgproto3.SASLInitialResponse{AuthMechanism: mechanism, Data: client.first()}
	if _, err := l.conn.Write(encode(nil, first)); err != nil {
		return err
	}
	challenge, err := l.sasl(authContinue)
	if err != nil {
		return err
	}
	final, err := client.final(challenge)
	if err != nil {
		return err
	}
	if _, err := l.conn.Write(encode(nil, &pgproto3.SASLResponse{Data: final})); err != nil {
		return err
	}
	outcome, err := l.sasl(authFinal)
	if err != nil {
		return err
	}
	if err := client.verify(outcome); err != nil {
		return err
	}
	l.proven = true
	return nil
}

func (l *login) mechanism(data []byte) (name, gs2 string, binding []byte, err error) {
	r := reader{b: data}
	var offered []string
	for len(offered) <= 8 {
		m := string(r.cstring())
		if m == "" {
			break
		}
		offered = append(offered, m)
	}
	if !r.done() {
		return "", "", nil, malformed("AuthenticationSASL")
	}
	binding = upstreamBinding(l.conn.TLS())
	switch {
	case binding != nil && slices.Contains(offered, scramPlus):
		return scramPlus, "p=tls-server-end-point,,", binding, nil
	case !slices.Contains(offered, scramPlain):
		return "", "", nil, fmt.Errorf("the upstream offers %.100q, none of which is supported", offered)
	case binding != nil:
		return scramPlain, "y,,", nil, nil
	}
	return scramPlain, "n,,", nil, nil
}

// sasl reads the next authentication message, which must have this code.
func (l *login) sasl(want int32) ([]byte, error) {
	msg, err := l.message()
	if err != nil {
		return nil, err
	}
	if msg[0] == 'E' {
		_, err := l.take(msg)
		return nil, err
	}
	r := body(msg)
	if code := r.int32(); msg[0] != 'R' || r.bad || code != want {
		return nil, fmt.Errorf("unexpected message %q instead of SASL step %d", msg[0], want)
	}
	return r.b, nil
}
