package gateway

import (
	"context"
	"net"

	"github.com/postern/postern/internal/engine"
)

// Foretell says of a connection that an agent is making, and that is not yet
// accepted, whether it would have an upstream: nil, why the upstream cannot be
// reached, or the *engine.Denial of a destination that is no target, which is
// then on record as a session that ended at once. It connects to where the
// target is and says nothing there. A target that the policy does not open is
// no error here: the protocol tells the agent, in its own words.
func (g *Gateway) Foretell(ctx context.Context, flow engine.Flow) error {
	setup := g.setup.Load()
	target := setup.target(flow)
	if target == nil {
		return g.deny(ctx, flow)
	}
	agent := setup.agentFor(&flow)
	if agent == nil || !agent.mayReach(&flow, target.Name, g.Now()) {
		return nil
	}
	_, conn, err := g.dial(ctx, target, hostOf(flow))
	if err != nil {
		return err
	}
	return conn.Close()
}

// deny puts on record that a connection was denied before it was accepted.
func (g *Gateway) deny(ctx context.Context, flow engine.Flow) error {
	nobody, far := net.Pipe()
	far.Close()
	defer nobody.Close()
	s, err := g.begin(ctx, nobody, flow)
	if err != nil {
		g.refused(flow, err)
		return noTarget(flow)
	}
	defer s.end()
	_, err = s.identify()
	return err
}
