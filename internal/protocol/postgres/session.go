package postgres

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/relay/messages"
	"github.com/postern/postern/internal/sql"
	"github.com/postern/postern/internal/wire"
)

// session logs in upstream, tells the agent that it is ready, and relays.
func (c *conn) session(ctx context.Context, client *wire.Conn, up engine.Upstream, gate engine.Gate) error {
	if d := c.decideStartup(ctx, gate); d != nil {
		c.Refuse(client, d)
		return d
	}
	l, err := c.dial(ctx, up, c.decisions)
	if err != nil {
		c.Refuse(client, unreachable(err))
		return refusal(err)
	}
	defer l.conn.Close()
	identity := c.scrubber(l)
	cat, key, err := c.catalog(l, gate.Masked())
	if err != nil {
		c.Refuse(client, unreachable(err))
		return refusal(err)
	}
	codec := &codec{
		gate: gate, catalog: cat, classifier: c.shared.classifier, session: c.env.Flow.Session,
		limits: c.env.Limits, identity: identity, stale: func() { c.shared.catalogs.forget(key) },
		statements: map[string]*statement{}, portals: map[string]*portal{},
		sqlNames: map[string]*sql.Statement{}, resolved: map[*sql.Statement]*resolved{},
		tx: 'I',
	}
	relay := &messages.Session{
		Client: client, Upstream: l.conn, Codec: codec, Resolver: codec, Gate: gate, Limits: c.env.Limits,
		Loop: c.shared.loop,
	}
	o := &owner{agent: c.env.Flow.Agent, target: c.env.Target, relay: relay, pid: l.pid, key: l.key}
	cancelKey := c.shared.register(o, c.minor)
	defer c.shared.unregister(cancelKey)
	if _, err := client.Write(welcome(l, identity, cancelKey)); err != nil {
		return fmt.Errorf("tell the client that it is logged in: %w", err)
	}
	c.relay.Store(relay)
	return relay.Run(ctx)
}

// decideStartup submits the start-up parameters that matter, if there are any.
func (c *conn) decideStartup(ctx context.Context, gate engine.Gate) *engine.Denial {
	if len(c.decisions) == 0 {
		return nil
	}
	r, d := startupRequest(c.decisions)
	if d != nil {
		return d
	}
	x, err := gate.Submit(ctx, r)
	if err != nil {
		if !errors.As(err, &d) {
			d = &engine.Denial{Code: engine.Unavailable, Reason: "the start-up parameters could not be decided"}
		}
		return d
	}
	x.End(engine.Outcome{})
	return nil
}

// refusal is how a session ends whose upstream cannot be had: a denial, for its
// record and the metrics, with the reason, for the log.
func refusal(err error) error {
	if d := unreachable(err); !errors.Is(err, d) {
		return fmt.Errorf("%w: %w", d, err)
	}
	return err
}

// unreachable is what an agent is told of a failed login: which step, and
// nothing that names the real user, host or address.
func unreachable(err error) *engine.Denial {
	var d *engine.Denial
	if errors.As(err, &d) {
		return d
	}
	reason := "the upstream cannot be reached"
	if errors.Is(err, engine.ErrCredential) {
		reason = engine.ErrCredential.Error()
	}
	var refusal *upstreamRefusal
	if errors.As(err, &refusal) {
		reason = fmt.Sprintf("the upstream refused the gateway's login (SQLSTATE %.5s)", refusal.code)
	}
	return &engine.Denial{
		Code:   engine.Unavailable,
		Reason: reason,
		Help:   "an operator finds the reason in the daemon's log under this session's id",
	}
}

// scrubber hides who the agent really is upstream.
func (c *conn) scrubber(l *login) scrubber {
	p := c.env.Placeholder
	pairs := [][2]string{{l.Credential.User, p.User}}
	if p.Database != "" {
		pairs = append(pairs, [2]string{l.Credential.Database, p.Database})
	}
	for _, name := range l.Hidden {
		pairs = append(pairs, [2]string{name, "[upstream]"})
	}
	return newScrubber(p.User, pairs...)
}

// welcome is everything between AuthenticationOk and the first request.
func welcome(l *login, identity scrubber, cancelKey []byte) []byte {
	var b []byte
	for _, p := range l.parameters {
		b = identity.appendParameter(b, p.name, p.value)
	}
	b = appendMessage(b, 'K', cancelKey)
	return appendReady(b, 'I')
}

// catalog returns what the session knows of its database: shared when somebody
// read it a moment ago, else read now. It returns the key of the shared one.
func (c *conn) catalog(l *login, patterns []string) (*catalog, string, error) {
	now := time.Now()
	names := make([]string, 0, len(c.decisions))
	for k, v := range c.decisions {
		names = append(names, k+"="+v)
	}
	slices.Sort(names)
	key := fmt.Sprintf("%q %q %q %q %q", c.env.Target, l.Credential.User, l.Credential.Database, patterns, names)
	if cat := c.shared.catalogs.load(key, now); cat != nil {
		return cat, key, nil
	}
	cat, err := l.readCatalog(patterns, c.env.Limits.Handshake)
	if err != nil {
		return nil, key, err
	}
	c.shared.catalogs.store(key, cat, now)
	return cat, key, nil
}

// readCatalog runs the query before anything of the agent's has been sent.
func (l *login) readCatalog(patterns []string, within time.Duration) (*catalog, error) {
	l.conn.SetDeadline(time.Now().Add(within))
	defer l.conn.SetDeadline(time.Time{})
	if _, err := l.conn.Write(appendQuery(nil, catalogQuery(patterns))); err != nil {
		return nil, fmt.Errorf("read the upstream's catalog: %w", err)
	}
	reading := newReading(patterns, 1)
	for {
		msg, err := l.message()
		if err != nil {
			return nil, fmt.Errorf("read the upstream's catalog: %w", err)
		}
		switch msg[0] {
		case 'D':
			err = reading.row(msg[headerBytes:])
		case 'C':
			err = reading.endResult()
		case 'E':
			var n notice
			if n, err = decodeNotice(msg); err == nil {
				reading.err = n.field('M')
			}
		case 'S':
			var name, value []byte
			if name, value, err = decodeParameterStatus(msg); err == nil {
				err = meaning(string(name), string(value))
			}
		case 'Z':
			cat, more, err := reading.finish()
			if more == "" {
				return cat, err
			}
			if _, err := l.conn.Write(appendQuery(nil, more)); err != nil {
				return nil, fmt.Errorf("read the upstream's catalog: %w", err)
			}
		case 'T', 'N':
		default:
			err = protocolError(msg[0], "while the catalog was read")
		}
		if err != nil {
			return nil, err
		}
	}
}

// cancelKeyBytes is the length of the keys that agents are given with protocol
// 3.2; with 3.0 it is four.
const cancelKeyBytes = 32

// newCancelKey makes process id and key of a BackendKeyData.
func newCancelKey(minor int) []byte {
	n := 4
	if minor >= 2 {
		n = cancelKeyBytes
	}
	b := make([]byte, 4+n)
	rand.Read(b)
	pid := binary.BigEndian.Uint32(b) & 0x7fffffff // clients print it as a signed number
	binary.BigEndian.PutUint32(b, max(pid, 1))
	return b
}
