package gateway

import (
	"context"
	"net"

	"github.com/postern/postern/internal/engine"
)

// Claim takes the kernel's record of an accepted connection. It does no I/O on
// the connection. An error means that the connection is nobody's.
type Claim func(net.Conn) (engine.Flow, error)

// Serve is the life of one connection, from accept to its last record.
func (g *Gateway) Serve(ctx context.Context, conn net.Conn, claim Claim) {
	defer conn.Close()

	flow, err := claim(conn) // who calls, and where to: from the kernel, never from the agent
	if err != nil {
		g.unclaimed(conn, err)
		return
	}
	s, err := g.begin(ctx, conn, flow) // on record from here on; no record, no session
	if err != nil {
		g.refused(flow, err)
		return
	}
	defer s.end()

	protocol, err := s.identify() // which target, and so which protocol
	if err != nil {
		return
	}
	eng, err := s.engine(protocol)
	if err != nil {
		return
	}
	intent, err := s.greet(eng) // TLS, and the placeholder checked; nothing has been dialled
	if err != nil {
		return
	}
	if d := s.admit(intent); d != nil {
		s.refuse(eng, d)
		return
	}
	s.relay(eng) // every request through the gate, every answer through its exchange
}
