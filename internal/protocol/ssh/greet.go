package ssh

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/crypto/ssh"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/relay/channels"
	"github.com/postern/postern/internal/wire"
)

// How agents prove that they hold the placeholder. The kernel has said who they
// are, so that no proof is needed.
const (
	authAny      = "any"      // none, any key, or the placeholder's password
	authPassword = "password" // the placeholder's password
)

// Greet implements engine.Engine: key exchange, and the agent's login.
func (c *conn) Greet(_ context.Context, client *wire.Conn) (engine.Intent, error) {
	config, err := c.serverConfig()
	if err != nil {
		return engine.Intent{}, err
	}
	spoken, ciphers, err := greet(client)
	if err != nil {
		return engine.Intent{}, err
	}
	config.Ciphers = ciphers
	server, opened, requests, err := ssh.NewServerConn(spoken, config)
	if c.denied != nil {
		return engine.Intent{User: c.user}, c.denied
	}
	if err != nil {
		return engine.Intent{User: c.user}, err
	}
	c.agent = &channels.Side{Conn: server, Channels: opened, Requests: requests}
	c.user = server.User()
	return engine.Intent{Purpose: engine.PurposeSession, User: c.user}, nil
}

func (c *conn) serverConfig() (*ssh.ServerConfig, error) {
	config := &ssh.ServerConfig{
		ServerVersion:               version,
		PasswordCallback:            func(m ssh.ConnMetadata, p []byte) (*ssh.Permissions, error) { return nil, c.password(m, p) },
		KeyboardInteractiveCallback: c.interactive,
	}
	if c.env.AgentAuth != authPassword {
		config.NoClientAuth = true
		config.NoClientAuthCallback = func(m ssh.ConnMetadata) (*ssh.Permissions, error) { return nil, c.known(m) }
		// Nothing depends on which key it is.
		config.PublicKeyCallback = func(m ssh.ConnMetadata, _ ssh.PublicKey) (*ssh.Permissions, error) { return nil, c.known(m) }
	}
	keys, err := c.env.HostKeys()
	if err != nil {
		return nil, fmt.Errorf("the gateway's host keys: %w", err)
	}
	for _, k := range keys {
		signer, err := ssh.NewSignerFromSigner(k.Key)
		if err != nil {
			return nil, fmt.Errorf("the gateway's host keys: %w", err)
		}
		public, err := ssh.ParsePublicKey(k.Certificate)
		if err != nil {
			return nil, fmt.Errorf("the gateway's host certificate: %w", err)
		}
		certificate, ok := public.(*ssh.Certificate)
		if !ok {
			return nil, errors.New("the gateway's host certificate is a bare key")
		}
		certified, err := ssh.NewCertSigner(certificate, signer)
		if err != nil {
			return nil, fmt.Errorf("the gateway's host certificate: %w", err)
		}
		config.AddHostKey(certified)
		config.AddHostKey(signer)
	}
	return config, nil
}

// known checks the user, where the placeholder has one.
func (c *conn) known(m ssh.ConnMetadata) error {
	c.user = m.User()
	want := c.env.Placeholder.User
	if c.denied == nil && want != "" && m.User() != want {
		return c.misuse(fmt.Sprintf("the user is not the one of the placeholder for target %s", c.env.Target))
	}
	if c.denied != nil {
		return c.denied
	}
	return nil
}

// password checks that it is the placeholder's. Any other is one that the agent
// is not to have.
func (c *conn) password(m ssh.ConnMetadata, given []byte) error {
	if err := c.known(m); err != nil {
		return err
	}
	if p := c.env.Placeholder.Password; p.Empty() || !p.Equal(given) {
		return c.misuse(fmt.Sprintf("the password is not the placeholder for target %s", c.env.Target))
	}
	return nil
}

func (c *conn) interactive(m ssh.ConnMetadata, ask ssh.KeyboardInteractiveChallenge) (*ssh.Permissions, error) {
	answers, err := ask("", "", []string{"Password: "}, []bool{false})
	if err != nil {
		return nil, err
	}
	if len(answers) != 1 {
		return nil, errors.New("one question has one answer")
	}
	return nil, c.password(m, []byte(answers[0]))
}

// misuse ends the login, whatever else is tried. It is told in a banner, for
// which there is room only now.
func (c *conn) misuse(reason string) error {
	c.denied = &engine.Denial{
		Code: engine.Misuse, Reason: reason,
		Help: "log in with the placeholder's user and password, as postern status shows the target",
	}
	if c.env.AgentAuth != authPassword {
		c.denied.Help = "log in with the placeholder's user, and with any key, no key, or the placeholder's password"
	}
	return &ssh.BannerError{Err: c.denied, Message: channels.Text(c.denied, c.env.Flow.Session)}
}
