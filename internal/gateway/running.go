package gateway

import (
	"time"

	"github.com/postern/postern/internal/engine"
)

// Running is one session as `postern sessions` shows it while it lasts.
type Running struct {
	Session, Agent, Target string
	Began                  time.Time
	PID, UID               uint32
	Comm                   string
	Identity               *engine.Identity // nil: for nobody
	FromAgent, ToAgent     int64            // bytes, inside TLS
}

// Running returns the sessions that are running.
func (g *Gateway) Running() []Running {
	sessions := g.all()
	out := make([]Running, len(sessions))
	for i, s := range sessions {
		in, sent := s.client.Counters()
		out[i] = Running{
			Session: s.flow.Session, Agent: s.flow.Agent, Target: s.targetName(), Began: s.began,
			PID: s.flow.PID, UID: s.flow.UID, Comm: s.flow.Comm, Identity: s.flow.Identity, FromAgent: in, ToAgent: sent,
		}
	}
	return out
}
