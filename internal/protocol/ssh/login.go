package ssh

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/relay/channels"
	"github.com/postern/postern/internal/secret"
	"github.com/postern/postern/internal/wire"
)

// skew is how far an upstream's clock may be behind.
const skew = 2 * time.Minute

// errLogin is what an agent is told of a login that failed: whatever else there
// is to say of it is about the credential.
var errLogin = &engine.Denial{
	Code: engine.Unavailable, Reason: "the upstream did not accept the gateway's login",
	Help: "an operator finds the reason in the daemon's log under this session's id",
}

// errRefused: the upstream, which is who it should be, did not take the login.
var errRefused = errors.New("the login was not accepted")

// logIn speaks with an upstream that was dialled: verifies its host key, and
// proves the credential. The caller closes the connection when it fails. Where
// the credential names no user, it is the agent's.
func logIn(ctx context.Context, socket *wire.Conn, how engine.Login, user string, limits engine.Limits) (channels.Side, error) {
	socket.SetDeadline(time.Now().Add(limits.Handshake))
	stop := context.AfterFunc(ctx, func() { socket.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	known, err := newVerifier(how.Known)
	if err != nil {
		return channels.Side{}, err
	}
	user = cmp.Or(how.Credential.User, user)
	methods, done, err := proofs(ctx, how.Credential, user)
	if err != nil {
		return channels.Side{}, err
	}
	defer done()
	config := &ssh.ClientConfig{
		User: user, Auth: methods, ClientVersion: version, HostKeyCallback: known.check, HostKeyAlgorithms: known.algorithms(),
	}
	conn, opened, requests, err := ssh.NewClientConn(socket, known.address(), config)
	if known.denial != nil {
		return channels.Side{}, fmt.Errorf("%w: %w", known.denial, known.cause)
	}
	if err != nil && known.proven && ctx.Err() == nil {
		// What is left to fail is the proof of the credential.
		err = fmt.Errorf("%w: %w", errRefused, err)
	}
	if err != nil {
		return channels.Side{}, err
	}
	if !stop() {
		return channels.Side{}, context.Cause(ctx)
	}
	socket.SetDeadline(time.Time{})
	return channels.Side{Conn: conn, Channels: opened, Requests: requests}, nil
}

// tryLogin implements engine.Protocol.TryLogin.
func tryLogin(ctx context.Context, upstream *wire.Conn, how engine.Login, limits engine.Limits) error {
	side, err := logIn(ctx, upstream, how, "", limits)
	if err != nil {
		return err
	}
	return side.Conn.Close()
}

// proofs are the ways of logging in with a credential, best first. done is
// called after the login.
func proofs(ctx context.Context, c secret.Credential, user string) (methods []ssh.AuthMethod, done func(), err error) {
	var signers []ssh.Signer
	done = func() {}
	if !c.SSH.Authority.Empty() {
		s, err := certified(c.SSH, user)
		if err != nil {
			return nil, nil, fmt.Errorf("credential.certificate: %w", err)
		}
		signers = append(signers, s)
	}
	if !c.SSH.Key.Empty() {
		s, err := privateKey(c.SSH.Key, c.SSH.Passphrase)
		if err != nil {
			return nil, nil, fmt.Errorf("credential.key: %w", err)
		}
		if c.SSH.Signed != "" {
			if s, err = signed(c.SSH.Signed, s); err != nil {
				return nil, nil, fmt.Errorf("credential.issue: %w", err)
			}
		}
		signers = append(signers, s)
	}
	if c.SSH.Agent != "" {
		socket, err := new(net.Dialer).DialContext(ctx, "unix", c.SSH.Agent)
		if err != nil {
			return nil, nil, fmt.Errorf("credential.agent: %w", err)
		}
		done = func() { socket.Close() }
		if deadline, ok := ctx.Deadline(); ok {
			socket.SetDeadline(deadline) //nolint:errcheck // unix sockets have deadlines
		}
		held, err := agent.NewClient(socket).Signers()
		if err != nil {
			socket.Close()
			return nil, nil, fmt.Errorf("credential.agent: %w", err)
		}
		signers = append(signers, held...)
	}
	if len(signers) > 0 {
		methods = append(methods, ssh.PublicKeys(signers...))
	}
	if !c.Password.Empty() {
		methods = append(methods, ssh.PasswordCallback(func() (string, error) { return string(c.Password.Reveal()), nil }), ssh.KeyboardInteractive(answers(c.Password)))
	}
	return methods, done, nil
}

// privateKey reads a private key.
func privateKey(key, passphrase secret.Secret) (ssh.Signer, error) {
	var signer ssh.Signer
	var err error
	if passphrase.Empty() {
		signer, err = ssh.ParsePrivateKey(key.Reveal())
	} else {
		signer, err = ssh.ParsePrivateKeyWithPassphrase(key.Reveal(), passphrase.Reveal())
	}
	var locked *ssh.PassphraseMissingError
	if errors.As(err, &locked) {
		return nil, errors.New("the key is encrypted: add credential.passphrase")
	}
	if err != nil {
		return nil, errors.New("it is no private key in PEM or OpenSSH's format, or the passphrase is not its own")
	}
	return signer, nil
}

// signed is a key with the certificate that somebody else has signed for it.
func signed(text string, key ssh.Signer) (ssh.Signer, error) {
	public, _, _, _, err := ssh.ParseAuthorizedKey([]byte(text))
	if err != nil {
		return nil, errors.New("what was signed is no certificate")
	}
	certificate, ok := public.(*ssh.Certificate)
	if !ok || certificate.CertType != ssh.UserCert {
		return nil, errors.New("what was signed is no certificate of a user")
	}
	return ssh.NewCertSigner(certificate, key)
}

// certified makes a key for this login, and a certificate for it that is good for
// nothing but sessions of these principals for a short while.
func certified(c secret.SSH, user string) (ssh.Signer, error) {
	authority, err := privateKey(c.Authority, secret.Secret{})
	if err != nil {
		return nil, err
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	signer, err := ssh.NewSignerFromSigner(key)
	if err != nil {
		return nil, err
	}
	principals := c.Principals
	if len(principals) == 0 {
		principals = []string{user}
	}
	var serial [8]byte
	rand.Read(serial[:])
	now := time.Now()
	certificate := &ssh.Certificate{
		Key: signer.PublicKey(), CertType: ssh.UserCert, KeyId: "postern " + user, Serial: binary.BigEndian.Uint64(serial[:]),
		ValidPrincipals: principals, ValidAfter: uint64(now.Add(-skew).Unix()), ValidBefore: uint64(now.Add(c.Life).Unix()),
		// What is not decided by rules otherwise, the upstream is told to refuse. It
		// would refuse a terminal and forwarding without the extension, which rules
		// allow or not.
		Permissions: ssh.Permissions{Extensions: map[string]string{
			"permit-pty": "", "permit-port-forwarding": "", "permit-agent-forwarding": "", "permit-X11-forwarding": "",
		}},
	}
	if err := certificate.SignCert(rand.Reader, authority); err != nil {
		return nil, err
	}
	return ssh.NewCertSigner(certificate, signer)
}

// answers gives the password to the one question that hides what is typed.
func answers(password secret.Secret) ssh.KeyboardInteractiveChallenge {
	given := false
	return func(_, _ string, questions []string, echos []bool) ([]string, error) {
		switch {
		case len(questions) == 0:
			return nil, nil
		case len(questions) > 1 || echos[0]:
			return nil, errors.New("the upstream asks for more than a password")
		case given:
			return nil, errors.New("the upstream asks for the password twice: it is wrong, or a second factor is wanted")
		}
		given = true
		return []string{string(password.Reveal())}, nil
	}
}
