package ssh

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/secret"
	"github.com/postern/postern/internal/wire"
	"github.com/postern/postern/internal/wiretest"
)

const (
	canary      = "canary-password-5577"
	placeholder = "placeholder-web-1234"
	hostName    = "web.internal"
)

// key is a key pair that a test knows of.
type key struct {
	private ed25519.PrivateKey
	signer  ssh.Signer
}

func newKey(t testing.TB) key {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromSigner(private)
	if err != nil {
		t.Fatal(err)
	}
	return key{private, signer}
}

func (k key) public() string { return string(ssh.MarshalAuthorizedKey(k.signer.PublicKey())) }

// pem is the private key in OpenSSH's format.
func (k key) pem(t testing.TB, passphrase string) []byte {
	t.Helper()
	var block *pem.Block
	var err error
	if passphrase == "" {
		block, err = ssh.MarshalPrivateKey(k.private, "")
	} else {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(k.private, "", []byte(passphrase))
	}
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(block)
}

// certify signs a host certificate.
func (k key) certify(t testing.TB, of ssh.PublicKey, principal string) *ssh.Certificate {
	t.Helper()
	c := &ssh.Certificate{Key: of, CertType: ssh.HostCert, ValidPrincipals: []string{principal}, ValidBefore: ssh.CertTimeInfinity}
	if err := c.SignCert(rand.Reader, k.signer); err != nil {
		t.Fatal(err)
	}
	return c
}

// world is one connection: an agent, the engine, and an upstream that runs
// commands of its own.
type world struct {
	t        testing.TB
	gate     *wiretest.Gate
	env      engine.Env
	login    engine.Login
	upstream *ssh.ServerConfig
	run      func(command string, c ssh.Channel) uint32 // of the upstream, returns the exit status

	hostKey   key // the upstream's
	authority key // that signs the gateway's
	shown     key // the gateway's

	refuse      *engine.Denial   // of the session as a whole
	certificate *ssh.Certificate // that the upstream was shown

	far ssh.Conn // the upstream's, of the last login

	unreachable error         // of dialling it
	other       *engine.Login // that there is once the first was refused; nil: none

	mu    sync.Mutex
	seen  []string // what the upstream was asked
	dials int
	err   error // of Greet, or of Relay
	ended chan struct{}
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, gate: &wiretest.Gate{}, hostKey: newKey(t), authority: newKey(t), shown: newKey(t), ended: make(chan struct{})}
	w.env = engine.Env{
		Flow: engine.Flow{Session: "s1"}, Target: "web",
		Placeholder: secret.Placeholder{Password: secret.New([]byte(placeholder))},
		HostKeys: func() ([]engine.HostKey, error) {
			c := w.authority.certify(t, w.shown.signer.PublicKey(), hostName)
			return []engine.HostKey{{Key: crypto.Signer(w.shown.private), Certificate: c.Marshal()}}, nil
		},
		Limits: engine.Limits{MessageBytes: 1 << 20, HeldBytes: 1 << 16, Handshake: 10 * time.Second, Statements: 10},
		Log:    slog.New(slog.DiscardHandler),
	}
	w.login = engine.Login{
		Credential: secret.Credential{User: "deploy", Password: secret.New([]byte(canary))},
		Known:      engine.KnownHosts{Host: hostName, Port: 22, Lines: []byte(hostName + " " + w.hostKey.public())},
	}
	w.upstream = &ssh.ServerConfig{PasswordCallback: func(m ssh.ConnMetadata, p []byte) (*ssh.Permissions, error) {
		w.saw("login %s by password", m.User())
		if m.User() != "deploy" || string(p) != canary {
			return nil, errors.New("no")
		}
		return nil, nil
	}}
	w.upstream.AddHostKey(w.hostKey.signer)
	w.run = func(command string, c ssh.Channel) uint32 {
		io.WriteString(c, "ran "+command+"\n")
		return 0
	}
	return w
}

func (w *world) saw(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen = append(w.seen, strings.TrimSpace(fmt.Sprintf(format, args...)))
}

func (w *world) asked() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]string(nil), w.seen...)
}

// socketPair is a connection over loopback.
func socketPair(t testing.TB) (near, far net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		c, _ := l.Accept()
		accepted <- c
	}()
	near, err = net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	far = <-accepted
	t.Cleanup(func() { near.Close(); far.Close() })
	return near, far
}

// Conn implements engine.Upstream.
func (w *world) Conn(context.Context) (*wire.Conn, engine.Login, error) {
	w.mu.Lock()
	w.dials++
	w.mu.Unlock()
	if w.unreachable != nil {
		return nil, engine.Login{}, w.unreachable
	}
	near, far := socketPair(w.t)
	go w.serve(far)
	return wire.New(near), w.login, nil
}

// Refused implements engine.Upstream.
func (w *world) Refused(context.Context) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.other == nil {
		return false
	}
	w.login, w.other = *w.other, nil
	return true
}

// serve is the upstream.
func (w *world) serve(c net.Conn) {
	conn, opened, requests, err := ssh.NewServerConn(c, w.upstream)
	if err != nil {
		w.saw("login failed")
		c.Close()
		return
	}
	defer conn.Close()
	w.far = conn
	go func() {
		for r := range requests {
			w.saw("global %s", r.Type)
			r.Reply(r.Type == globalForward, nil)
		}
	}()
	for n := range opened {
		w.saw("open %s", n.ChannelType())
		ch, in, err := n.Accept()
		if err != nil {
			return
		}
		go w.channel(ch, in)
	}
}

func (w *world) channel(c ssh.Channel, in <-chan *ssh.Request) {
	for r := range in {
		var text struct{ Text string }
		switch r.Type {
		case requestExec, requestSubsystem, requestEnv:
			ssh.Unmarshal(append([]byte(nil), r.Payload...), &text)
			if r.Type == requestEnv {
				text.Text = string(r.Payload[4 : 4+r.Payload[3]])
			}
		}
		w.saw("%s %s", r.Type, text.Text)
		r.Reply(true, nil)
		if r.Type == requestExec || r.Type == requestShell {
			go func() {
				status := w.run(text.Text, c)
				c.SendRequest(answerStatus, false, ssh.Marshal(struct{ Code uint32 }{status}))
				c.Close()
			}()
		}
	}
}

// start serves one connection of an agent's.
func (w *world) start() net.Conn {
	w.t.Helper()
	near, far := socketPair(w.t)
	e, err := New().New(w.env)
	if err != nil {
		w.t.Fatal(err)
	}
	client := wire.New(far)
	go func() {
		defer close(w.ended)
		defer client.Close()
		ctx := context.Background()
		client.SetDeadline(time.Now().Add(w.env.Limits.Handshake))
		_, w.err = e.Greet(ctx, client)
		switch {
		case w.err != nil:
		case w.refuse != nil:
			e.Refuse(client, w.refuse)
		default:
			client.SetDeadline(time.Time{})
			w.err = e.Relay(ctx, client, w, w.gate)
		}
	}()
	w.t.Cleanup(func() {
		near.Close()
		<-w.ended
		if n := w.gate.Unended(); n != 0 {
			w.t.Errorf("%d exchanges were not ended exactly once", n)
		}
	})
	return near
}

func (w *world) wait() { <-w.ended }

// agent logs in, verifying the gateway's certificate.
func (w *world) agent(methods ...ssh.AuthMethod) (*ssh.Client, string, error) {
	w.t.Helper()
	var banner string
	checker := &ssh.CertChecker{IsHostAuthority: func(k ssh.PublicKey, _ string) bool {
		return bytes.Equal(k.Marshal(), w.authority.signer.PublicKey().Marshal())
	}}
	conn, opened, requests, err := ssh.NewClientConn(w.start(), hostName+":22", &ssh.ClientConfig{
		User: "agent", Auth: methods, HostKeyCallback: checker.CheckHostKey,
		BannerCallback: func(m string) error { banner += m; return nil },
	})
	if err != nil {
		return nil, banner, err
	}
	return ssh.NewClient(conn, opened, requests), banner, nil
}

func (w *world) mustAgent() *ssh.Client {
	w.t.Helper()
	c, _, err := w.agent()
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

// exec runs a command as an agent would.
func exec(t testing.TB, c *ssh.Client, command, stdin string) (stdout, stderr string, status int) {
	t.Helper()
	s, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var out, errOut bytes.Buffer
	s.Stdout, s.Stderr = &out, &errOut
	if stdin != "" {
		s.Stdin = strings.NewReader(stdin)
	}
	err = s.Run(command)
	var exit *ssh.ExitError
	switch {
	case errors.As(err, &exit):
		status = exit.ExitStatus()
	case err != nil:
		t.Fatal(err)
	}
	return out.String(), errOut.String(), status
}
