package main

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/redirect"
)

const (
	// answersHold is how long it is not asked again whether an upstream answers,
	// failsHold whether it still does not, deniedHolds whether it still is no target.
	answersHold = 2 * time.Second
	failsHold   = time.Second
	deniedHolds = 2 * time.Second
	// waitInterval is after what a connection is told to wait, again and again: less
	// than the kernel waits for a first word (HOLD_NS). Each time it is told to for
	// waitTime, so that it goes on should the daemon die.
	waitInterval = 100 * time.Millisecond
	waitTime     = time.Second
	// silence is how long connections wait whose upstream never answers: as long as
	// for the upstream itself, with the kernel's usual six attempts.
	silence = 127 * time.Second
	// maxForetold bounds the destinations that are tried at once; connections to
	// more of them go on to the gateway as if nothing had been asked.
	maxForetold = 256
	// maxWaiting bounds the connections to one destination that are told to wait,
	// which is done again and again: others go on likewise.
	maxWaiting = 1024
)

// asks are what the kernel asks for while connections wait.
type asks struct {
	doors   *doors
	running sync.WaitGroup

	mu      sync.Mutex
	waiting map[destination][]uint64 // tokens
}

type destination struct {
	policy uint32
	at     netip.AddrPort
}

func newAsks(d *doors) *asks {
	return &asks{doors: d, waiting: map[destination][]uint64{}}
}

// Run answers what the kernel asks until ctx ends, and returns when nothing of it
// is left. What waits then goes on by itself.
func (a *asks) Run(ctx context.Context) error {
	defer a.running.Wait()
	return a.doors.daemon.kernel.Asks(ctx, func(q redirect.Ask) { a.hear(ctx, q) })
}

// hear does not block.
func (a *asks) hear(ctx context.Context, q redirect.Ask) {
	r := a.doors.residentOf(q.Record.PolicyID)
	if r == nil || q.Record.PolicyCgroupID != r.cgroup.Load() {
		return
	}
	if q.Listener {
		a.running.Go(func() { a.open(ctx, r, q.Record) })
		return
	}
	to := destination{q.Record.PolicyID, q.Record.Original}
	a.mu.Lock()
	defer a.mu.Unlock()
	tokens, asked := a.waiting[to]
	if !asked && len(a.waiting) >= maxForetold || len(tokens) >= maxWaiting {
		return
	}
	a.waiting[to] = append(tokens, q.Record.Token)
	if !asked {
		a.running.Go(func() { a.foretell(ctx, r, q.Record, to) })
	}
}

// open has the guard open a listener where the agent is.
func (a *asks) open(ctx context.Context, r *resident, record redirect.Record) {
	ask, cancel := context.WithTimeout(ctx, guardTimeout)
	defer cancel()
	d := a.doors.daemon
	if err := d.guard.ListenAt(ask, r.agent, int(record.TGID), record.Netns); err != nil {
		d.log.Warn("no listener where an agent is", "agent", r.agent, "pid", record.TGID, "error", err)
	}
}

// foretell finds out what would come of a connection, and tells those that wait
// and the kernel, for those that come next. When ctx ends nobody is told
// anything: another daemon will serve them.
func (a *asks) foretell(ctx context.Context, r *resident, record redirect.Record, to destination) {
	d := a.doors.daemon
	found := make(chan struct{})
	a.running.Go(func() { a.wait(to, found) })
	dial, cancel := context.WithTimeout(ctx, d.gateway.Setup().Limits.Handshake)
	flow, err := a.doors.flowOf(r, record)
	if err == nil {
		err = d.gateway.Foretell(dial, flow)
	}
	cancel()
	close(found)
	if err != nil && ctx.Err() != nil {
		return
	}
	errno, holds := outcome(err)
	if denial := new(engine.Denial); errors.As(err, &denial) {
		d.log.Warn("denied", "session", flow.Session, "agent", r.agent, "to", record.Original, "name", flow.Name, "rule", denial.Rule,
			"reason", denial.Reason, "pid", record.TGID, "uid", record.UID, "comm", record.Comm)
	}
	if err := d.kernel.Remember(to.policy, to.at, errno, holds); err != nil {
		d.log.Error("tell the kernel of a destination", "error", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	tokens := a.waiting[to]
	delete(a.waiting, to)
	switch errno {
	case 0:
		a.answer(redirect.Go, 0, tokens)
	case unix.ETIMEDOUT:
		a.answer(redirect.Wait, silence, tokens)
	default:
		a.answer(redirect.Refuse, 0, tokens)
	}
}

// wait has the connections to a destination wait until it is known what comes
// of it.
func (a *asks) wait(to destination, found <-chan struct{}) {
	tick := time.NewTicker(waitInterval)
	defer tick.Stop()
	for {
		select {
		case <-found:
			return
		case <-tick.C:
		}
		a.mu.Lock()
		a.answer(redirect.Wait, waitTime, a.waiting[to])
		a.mu.Unlock()
	}
}

// answer is called with mu held.
func (a *asks) answer(v redirect.Verdict, wait time.Duration, tokens []uint64) {
	for _, token := range tokens {
		if err := a.doors.daemon.kernel.Answer(token, v, wait); err != nil {
			a.doors.daemon.log.Error("tell the kernel of a connection", "error", err)
		}
	}
}

// outcome is what an agent is told of an upstream, and for how long that holds.
func outcome(err error) (errno syscall.Errno, holds time.Duration) {
	var denial *engine.Denial
	var timeout net.Error
	var name *net.DNSError
	switch {
	case err == nil:
		return 0, answersHold
	case errors.As(err, &denial):
		return unix.EACCES, deniedHolds
	case errors.Is(err, unix.ECONNREFUSED):
		return unix.ECONNREFUSED, failsHold
	case errors.Is(err, unix.EHOSTUNREACH), errors.As(err, &name) && !name.IsTimeout:
		return unix.EHOSTUNREACH, failsHold
	case errors.Is(err, unix.ENETUNREACH):
		return unix.ENETUNREACH, failsHold
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return unix.ETIMEDOUT, failsHold
	}
	return unix.ECONNREFUSED, failsHold
}
