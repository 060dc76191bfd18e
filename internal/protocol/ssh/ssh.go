// Package ssh is the Secure Shell protocol, version 2: toward the agent a server
// that it trusts by the gateway's SSH authority, toward the upstream a client
// with the real key, certificate or password, and between them every channel
// and request decided before it passes.
//
// It knows bytes. The order of things for channels is internal/relay/channels;
// what a command would run is asked of internal/shell, whether it may of the
// gate; files are in the packages sftp and scp. Start with engine.Greet in
// greet.go (the agent's login), then login.go (the upstream's), then codec.go
// (the connection's requests and channels) and session.go (those of one
// session). README.md says what is seen, decided, masked, recorded and refused.
package ssh

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"golang.org/x/crypto/ssh"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/protocol/ssh/line"
	"github.com/postern/postern/internal/protocol/ssh/sftp"
	"github.com/postern/postern/internal/relay/channels"
	"github.com/postern/postern/internal/shell"
	"github.com/postern/postern/internal/wire"
)

// version is how the gateway introduces itself, to both sides. OpenSSH takes no
// extensions for granted that only it has.
const version = "SSH-2.0-Postern"

// The verbs of this package.
const (
	verbSession      = "session"        // a session channel, its terminal and its language
	verbShell        = "shell"          // an interactive shell
	verbSubsystem    = "subsystem"      // the object is its name
	verbEnv          = "env"            // a variable of the environment; the object is its name
	verbForwardLocal = "forward-local"  // ssh -L, -D, -W, -J: a connection from the upstream's side. The object is host:port
	verbForwardBack  = "forward-remote" // ssh -R: connections to the upstream's side come back. The object is host:port there
	verbForwardAgent = "forward-agent"  // ssh -A
	verbForwardX11   = "forward-x11"    // ssh -X
	verbForwardPath  = "forward-socket" // -L and -R of unix sockets. The object is the path there
	verbTunnel       = "tunnel"         // ssh -w
)

// The facts of this package.
const (
	factTerminal  = "ssh.terminal"
	factHost      = "ssh.host"
	factPort      = "ssh.port"
	factSubsystem = "ssh.subsystem"
)

var facts = []engine.Fact{
	{Name: factTerminal, Type: engine.Bool, Help: "a terminal was asked for before"},
	{Name: factHost, Type: engine.Text, Help: "the host of a forwarded connection, as it is named"},
	{Name: factPort, Type: engine.Int, Help: "the port of a forwarded connection"},
	{Name: factSubsystem, Type: engine.Text, Help: "the subsystem"},
}

// New returns the protocol for the list in cmd/posternd.
func New() engine.Protocol {
	return engine.Protocol{
		Name:  "ssh",
		Ports: []uint16{22},
		Verbs: slices.Concat([]string{
			verbSession, verbShell, line.Verb, shell.VerbExec, verbSubsystem, verbEnv, verbForwardLocal, verbForwardBack,
			verbForwardAgent, verbForwardX11, verbForwardPath, verbTunnel, shell.VerbFetch, shell.VerbPush,
		}, sftp.Verbs),
		Facts:     slices.Concat(facts, shell.Facts, sftp.Facts),
		Pivots:    pivots(),
		PivotHelp: "name the commands it is meant for under objects, or put a rule before it that denies with when: request.ssh.pivot",
		TryLogin:  tryLogin,
		New: func(env engine.Env) (engine.Engine, error) {
			switch env.AgentAuth {
			case "", authAny, authPassword:
			default:
				return nil, fmt.Errorf("agent_auth %q: use %s or %s", env.AgentAuth, authAny, authPassword)
			}
			return &conn{env: env}, nil
		},
	}
}

// Pivot says whether an effect acts outside of the gateway, or may: a command does
// unless the facts of its request say that none in it can, and it cannot by itself
// either, for a rule that names it allows it with any words.
func Pivot(e engine.Effect, facts map[string]any) bool {
	switch e.Verb {
	case verbShell, verbTunnel, verbForwardAgent, verbForwardX11:
		return true
	case shell.VerbExec, line.Verb:
		alone := shell.Parse(e.Object, shell.Options{}).Facts()
		return facts[shell.FactPivot] != false || alone[shell.FactPivot] != false
	}
	return false
}

// pivots are what acts outside of the gateway.
func pivots() []engine.Effect {
	out := []engine.Effect{{Verb: verbShell}, {Verb: verbTunnel}, {Verb: verbForwardAgent}}
	for _, name := range shell.Pivots {
		out = append(out, engine.Effect{Verb: shell.VerbExec, Object: name})
	}
	return out
}

// conn is the engine of one connection.
type conn struct {
	env    engine.Env
	agent  *channels.Side // nil before it has logged in
	user   string         // that it logged in as
	denied *engine.Denial // what it proved was wrong: nothing else counts any more
	relay  atomic.Pointer[channels.Session]
}

// Relay implements engine.Engine.
func (c *conn) Relay(ctx context.Context, _ *wire.Conn, up engine.Upstream, gate engine.Gate) error {
	dialling := gate.Beside()
	s := &channels.Session{
		ID: c.env.Flow.Session, Agent: *c.agent, Gate: gate, Codec: newCodec(c.env.Flow.Session),
		Dial:   func(ctx context.Context) (channels.Side, error) { return c.dial(ctx, up, dialling) },
		Limits: c.env.Limits, Log: c.env.Log,
	}
	c.relay.Store(s)
	return s.Run(ctx)
}

// Quiesce implements engine.Quiescer.
func (c *conn) Quiesce() bool {
	relay := c.relay.Load()
	return relay != nil && relay.Quiesce()
}

// dial reaches the upstream and logs in.
func (c *conn) dial(ctx context.Context, up engine.Upstream, gate engine.Gate) (channels.Side, error) {
	socket, login, err := up.Conn(ctx)
	if err != nil {
		c.tellOperators(gate, err)
		return channels.Side{}, err
	}
	side, err := logIn(ctx, socket, login, c.user, c.env.Limits)
	if errors.Is(err, errRefused) && up.Refused(ctx) {
		socket.Close()
		if socket, login, err = up.Conn(ctx); err != nil {
			c.tellOperators(gate, err)
			return channels.Side{}, err
		}
		side, err = logIn(ctx, socket, login, c.user, c.env.Limits)
	}
	if err != nil {
		socket.Close()
		c.tellOperators(gate, err)
		var d *engine.Denial
		if errors.As(err, &d) {
			return channels.Side{}, d
		}
		return channels.Side{}, errLogin
	}
	return side, nil
}

// tellOperators says in the log what the agent is not told. An upstream is quoted
// in it, which may quote the login.
func (c *conn) tellOperators(gate engine.Gate, err error) {
	text := err.Error()
	if cause := errors.Unwrap(err); cause != nil && !strings.Contains(text, cause.Error()) {
		text += ": " + cause.Error()
	}
	c.env.Log.Warn("the upstream cannot be used", "error", string(gate.Scrub([]byte(text))))
}

// Refuse implements engine.Engine: there is room for words in the answer to the
// first channel.
func (c *conn) Refuse(_ *wire.Conn, d *engine.Denial) {
	if c.agent == nil {
		return
	}
	go ssh.DiscardRequests(c.agent.Requests) // ends with the connection, which is closed next
	for n := range c.agent.Channels {
		n.Reject(ssh.Prohibited, channels.Line(d, c.env.Flow.Session)) //nolint:errcheck // the connection is gone then
	}
}
