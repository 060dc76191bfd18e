package gateway

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"net"
	"net/netip"
	"strings"

	"github.com/postern/postern/internal/engine"
)

// reentered is a connection that came within another one of the agent's.
type reentered struct {
	net.Conn
	flow engine.Flow
	dial func(context.Context) (net.Conn, error) // by the way that it came
}

// Reenter implements engine.Gate: a connection that was forwarded is served as
// any of the agent's, so what is spoken on it is decided, masked and recorded.
// The log says which session came within which.
func (g *gate) Reenter(host string, port uint16) (engine.Reentry, *engine.Denial) {
	flow := g.flow
	flow.Session, flow.Started, flow.Unclear = newSession(), g.gateway.Now(), ""
	if a, err := netip.ParseAddr(host); err == nil {
		flow.Name, flow.Original = "", netip.AddrPortFrom(a.Unmap(), port)
	} else {
		flow.Name = strings.ToLower(strings.TrimSuffix(host, "."))
		flow.Original = netip.AddrPortFrom(netip.IPv4Unspecified(), port)
	}
	if g.gateway.setup.Load().target(flow) == nil {
		return nil, noTarget(flow)
	}
	g.gateway.Log.Info("a connection re-enters", "session", g.flow.Session, "as", flow.Session, "name", flow.Name, "to", flow.Original)
	return func(ctx context.Context, conn net.Conn, dial func(context.Context) (net.Conn, error)) {
		g.gateway.Serve(ctx, &reentered{conn, flow, dial}, func(net.Conn) (engine.Flow, error) { return flow, nil })
	}, nil
}

// newSession returns an id of sixteen characters: 80 random bits.
func newSession() string {
	var b [10]byte
	rand.Read(b[:]) // never fails: crypto/rand ends the program first
	return strings.ToLower(base32.StdEncoding.EncodeToString(b[:]))
}
