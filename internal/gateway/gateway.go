// Package gateway is where the parts meet: it accepts what the kernel
// redirected and takes each connection through claim, record, identify, greet,
// decide, relay and end. Serve, in serve.go, is that list; whoever has read it
// has understood Postern.
//
// session.go holds the steps, gate.go how one request is decided, exchange.go
// how its answer is masked, upstream.go how the target is reached, setup.go
// what all of that is decided by. The package knows no protocol.
package gateway

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern/postern/internal/approval"
	"github.com/postern/postern/internal/budget"
	"github.com/postern/postern/internal/dial"
	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/record"
)

// Options are the parts that a Gateway is made of.
type Options struct {
	Log       *slog.Logger
	Store     *record.Store
	Approvals *approval.Store
	Metrics   *Metrics
	Now       func() time.Time
	Dialer    dial.Dialer        // how upstreams are reached
	Ledger    *budget.Ledger     // what agents have used of their budgets; nil: a new one
	Ended     func(*engine.Flow) // told of each session that is over; nil: nobody wants to know
}

// Gateway serves the connections of all agents.
type Gateway struct {
	Options
	setup atomic.Pointer[Setup]

	mu       sync.Mutex
	sessions map[string]*session
	perAgent map[string]int
	draining bool
	running  sync.WaitGroup
	holds    holds
}

// New returns a gateway that serves by setup. It starts nothing.
func New(o Options, setup *Setup) *Gateway {
	g := &Gateway{Options: o, sessions: map[string]*session{}, perAgent: map[string]int{}}
	if g.Ledger == nil {
		g.Ledger = budget.NewLedger(o.Now)
	}
	g.setup.Store(setup)
	g.Metrics.targets(setup)
	return g
}

// Acceptor is where connections come from. After it was closed, Accept returns
// net.ErrClosed; other errors are of the moment.
type Acceptor interface {
	Accept() (net.Conn, error)
}

// Listen accepts from l until it is closed, each connection on a goroutine of
// its own: accepting does no protocol I/O, so nobody waits for anybody.
func (g *Gateway) Listen(ctx context.Context, l Acceptor, claim Claim) error {
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			// Out of descriptors or memory: who is served goes on, who comes waits.
			g.Log.Error("accept", "error", err)
			select {
			case <-time.After(acceptPause):
				continue
			case <-ctx.Done():
				return nil
			}
		}
		g.running.Go(func() { g.Serve(ctx, conn, claim) })
	}
}

// acceptPause is how long a failing accept rests, so that it does not spin.
const acceptPause = 50 * time.Millisecond

// Drain ends sessions on which nothing is under way, lets the others end by
// themselves until ctx does, then ends those that are left, and returns when all
// have ended. Clients are told. The caller has closed the listeners; what they had
// accepted is served as long as there is time.
func (g *Gateway) Drain(ctx context.Context) {
	stopping := &engine.Denial{Code: engine.Ended, Reason: "the gateway is stopping", Help: "connect again in a moment"}
	done := make(chan struct{})
	go func() { g.running.Wait(); close(done) }()
	tick := time.NewTicker(drainEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		g.endSessions(func(s *session) *engine.Denial {
			if !s.quiescent() {
				return nil
			}
			return stopping
		})
		select {
		case <-done:
			return
		case <-tick.C:
		case <-ctx.Done():
		}
	}
	g.mu.Lock()
	g.draining = true
	g.mu.Unlock()
	g.endSessions(func(*session) *engine.Denial { return stopping })
	<-done
}

// drainEvery is how often it is looked for sessions on which nothing is under way.
const drainEvery = 100 * time.Millisecond

// endSessions ends the sessions for which why returns a reason.
func (g *Gateway) endSessions(why func(*session) *engine.Denial) (ended int) {
	for _, s := range g.all() {
		if d := why(s); d != nil {
			s.cancel(d)
			ended++
		}
	}
	return ended
}

func (g *Gateway) all() []*session {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := make([]*session, 0, len(g.sessions))
	for _, s := range g.sessions {
		out = append(out, s)
	}
	return out
}

// Reload makes setup the one that counts from now on. Sessions that it would
// not have begun end; their number is returned.
func (g *Gateway) Reload(setup *Setup) (ended int) {
	setup.Generation = g.setup.Load().Generation + 1
	g.setup.Store(setup)
	g.Metrics.targets(setup)
	return g.endSessions(func(s *session) *engine.Denial { return s.outdated(setup) })
}

// Setup returns the setup in force.
func (g *Gateway) Setup() *Setup { return g.setup.Load() }

// Reap ends sessions that have been idle for too long, until ctx ends.
func (g *Gateway) Reap(ctx context.Context) {
	tick := time.NewTicker(reapEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		limit := g.setup.Load().Limits.Idle
		now := g.Now()
		g.endSessions(func(s *session) *engine.Denial {
			if s.idleSince(now) < limit {
				return nil
			}
			return &engine.Denial{Code: engine.Ended, Reason: "the session was idle for " + limit.String(), Help: "connect again"}
		})
	}
}

// reapEvery is how often idle sessions are looked for.
const reapEvery = 30 * time.Second

// enter counts a session in, within the limits.
func (g *Gateway) enter(s *session, limits Limits) *engine.Denial {
	g.mu.Lock()
	defer g.mu.Unlock()
	agent := s.flow.Agent
	switch {
	case g.draining:
		return &engine.Denial{Code: engine.Unavailable, Reason: "the gateway is stopping", Help: "connect again in a moment"}
	case len(g.sessions) >= limits.Sessions:
		return &engine.Denial{Code: engine.Limit, Reason: "too many sessions", Help: "raise limits.sessions"}
	case g.perAgent[agent] >= limits.SessionsPerAgent:
		return &engine.Denial{Code: engine.Limit, Reason: "too many sessions of this agent", Help: "close some, or raise limits.sessions_per_agent"}
	}
	g.sessions[s.flow.Session] = s
	g.perAgent[agent]++
	return nil
}

func (g *Gateway) leave(s *session) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.sessions, s.flow.Session)
	if g.perAgent[s.flow.Agent]--; g.perAgent[s.flow.Agent] <= 0 {
		delete(g.perAgent, s.flow.Agent)
	}
}

// unclaimed is a connection that the kernel has no record of: somebody dialled
// the gateway directly. It is closed without a word.
func (g *Gateway) unclaimed(conn net.Conn, err error) {
	g.Metrics.unclaimed.Inc()
	g.Log.Warn("closed a connection without a record in the kernel", "from", conn.RemoteAddr(), "error", err)
}

// refused is a connection that no session could be begun for.
func (g *Gateway) refused(flow engine.Flow, err error) {
	g.Metrics.refused.Inc()
	g.Log.Error("refused a connection", "agent", flow.Agent, "to", flow.Original, "name", flow.Name, "error", err)
}
