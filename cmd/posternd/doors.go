package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern/postern/internal/config"
	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/guard"
	"github.com/postern/postern/internal/identity"
	"github.com/postern/postern/internal/redirect"
)

// resident is an agent as the kernel knows it.
type resident struct {
	agent  string
	path   string        // of the agent's cgroup, relative to the cgroup2 root
	cgroup atomic.Uint64 // its id, which is another one when the cgroup was made anew
	policy uint32
	uses   map[redirect.LoopbackPort]redirect.Use // what it has on loopback
}

// door is where the connections and lookups of one agent arrive, from one
// network namespace.
type door struct {
	*resident
	listener *redirect.Listener
	stop     context.CancelFunc
	running  sync.WaitGroup
}

// doorKey: 0 is the gateway's own network namespace.
type doorKey struct {
	agent string
	netns uint64
}

// doors are those of all agents. The guard opens them and keeps them open while
// there is no daemon; here they are served.
type doors struct {
	ctx     context.Context // of the sessions, which outlive the doors
	daemon  *daemon
	mount   string
	cgroups *identity.Cgroups

	containers *containers
	work       sync.WaitGroup
	following  atomic.Bool // anew waits for a reload to end
	mu         sync.Mutex
	residents  map[string]*resident // by agent
	open       map[doorKey]*door
	closed     bool
}

func newDoors(ctx context.Context, d *daemon, mount string) (*doors, error) {
	cgroups, err := identity.NewCgroups(mount)
	if err != nil {
		return nil, err
	}
	return &doors{
		ctx: ctx, daemon: d, mount: mount, cgroups: cgroups, containers: newContainers(d.guard),
		residents: map[string]*resident{}, open: map[doorKey]*door{},
	}, nil
}

// follow opens the doors of a configuration, and takes out of the kernel what
// it does not have.
func (o *doors) follow(cfg *config.Config) error {
	if err := o.prepare(cfg); err != nil {
		return err
	}
	return o.tidy(cfg)
}

// prepare opens what a configuration has and nobody opened yet.
func (o *doors) prepare(cfg *config.Config) error {
	byID := map[uint32]string{}
	for _, a := range cfg.Agents {
		id := redirect.PolicyID(a.Name)
		if other, taken := byID[id]; taken {
			return fmt.Errorf("agents %q and %q have the same number in the kernel: rename one of them", other, a.Name)
		}
		byID[id] = a.Name
	}
	for i := range cfg.Agents {
		if err := o.ensure(cfg, &cfg.Agents[i]); err != nil {
			return fmt.Errorf("agent %s: %w", cfg.Agents[i].Name, err)
		}
	}
	return nil
}

// ensure opens an agent's door at home, and puts its cgroup under its policy.
func (o *doors) ensure(cfg *config.Config, a *config.Agent) error {
	ask, cancel := context.WithTimeout(o.ctx, guardTimeout)
	defer cancel()
	id, err := o.daemon.guard.Cgroup(ask, a.Cgroup)
	if err != nil {
		return err
	}
	o.mu.Lock()
	r := o.residents[a.Name]
	if r == nil || r.path != a.Cgroup {
		r = &resident{agent: a.Name, path: a.Cgroup, policy: redirect.PolicyID(a.Name)}
	}
	o.mu.Unlock()
	if err := o.loopback(r, usesOf(cfg, a)); err != nil {
		return err
	}
	r.cgroup.Store(id)
	at, files, err := o.daemon.guard.Listen(ask, a.Name)
	if err != nil {
		return err
	}
	defer closeFiles(files)
	if err := o.adopt(r, at, files); err != nil {
		return err
	}
	// Last: from here on the agent has a way, and it leads to the gateway.
	return o.enter(ask, id, r, a.Unix)
}

// enter puts an agent's cgroup under its policy. Where the kernel cannot hold it
// to its list of Unix sockets it is not let in: who wrote a list relies on it.
func (o *doors) enter(ctx context.Context, id uint64, r *resident, paths []string) error {
	if paths != nil {
		status, err := o.daemon.guard.Status(ctx)
		if err != nil {
			return err
		}
		if len(status.Optional) == 0 {
			return errors.Join(errors.New("unix: this kernel cannot hold Unix sockets (Linux 6.7 can); remove the key, or use the tier workspace or strict"),
				o.daemon.kernel.RemovePolicy(id))
		}
	}
	return o.daemon.kernel.SetPolicy(id, r.policy, paths)
}

// usesOf is what an agent has on loopback: the ports that are listed for it,
// and those that are targets, everybody's.
func usesOf(cfg *config.Config, a *config.Agent) map[redirect.LoopbackPort]redirect.Use {
	uses := map[redirect.LoopbackPort]redirect.Use{}
	policy := redirect.PolicyID(a.Name)
	for _, t := range cfg.Targets {
		for _, h := range t.Hosts {
			ip, err := netip.ParseAddr(h.Host)
			if h.Host == "localhost" || err == nil && ip.IsLoopback() {
				uses[redirect.LoopbackPort{PolicyID: policy, Port: uint16(h.Port)}] = redirect.Target
			}
		}
	}
	for _, p := range a.Loopback {
		uses[redirect.LoopbackPort{PolicyID: policy, Port: uint16(p)}] = redirect.AsIs
	}
	return uses
}

// loopback makes the uses in the kernel those of the list.
func (o *doors) loopback(r *resident, uses map[redirect.LoopbackPort]redirect.Use) error {
	for p := range r.uses {
		if _, keeps := uses[p]; !keeps {
			if err := o.daemon.kernel.ForgetLoopback(p); err != nil {
				return err
			}
		}
	}
	r.uses = uses
	for p, use := range uses {
		if err := o.daemon.kernel.UseLoopback(p, use); err != nil {
			return err
		}
	}
	return nil
}

// adopt serves a listener that the guard opened, in place of another one at the
// same door. The files remain the caller's.
func (o *doors) adopt(r *resident, at redirect.Door, files []*os.File) error {
	key := doorKey{r.agent, at.Netns}
	o.mu.Lock()
	defer o.mu.Unlock()
	before := o.open[key]
	if o.closed || before != nil && before.listener.Door() == at && before.resident == r {
		return nil
	}
	l, err := o.daemon.kernel.Adopt(at, files)
	if err != nil {
		return err
	}
	d := &door{resident: r, listener: l}
	o.serve(d)
	o.residents[r.agent], o.open[key] = r, d
	if before != nil {
		go before.close()
	}
	return nil
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// serve accepts connections and answers names until the door is closed.
func (o *doors) serve(d *door) {
	ctx, stop := context.WithCancel(o.ctx)
	d.stop = stop
	claim := func(c net.Conn) (engine.Flow, error) { return o.claim(d, c) }
	for _, l := range d.listener.TCP {
		d.running.Go(func() {
			if err := o.daemon.gateway.Listen(o.ctx, l, claim); err != nil {
				o.daemon.log.Error("accept", "agent", d.agent, "error", err)
			}
		})
	}
	resolver := o.daemon.names.resolver(d.agent)
	d.running.Go(func() {
		resolver.Run(ctx, d.listener.DNS.UDP, d.listener.DNS.TCP,
			func(from netip.AddrPort) bool {
				r, err := d.listener.Sender(from)
				return err == nil && r.PolicyCgroupID == d.cgroup.Load()
			},
			func(c net.Conn) bool {
				r, err := d.listener.Claim(c)
				return err == nil && r.PolicyCgroupID == d.cgroup.Load()
			})
	})
}

func (d *door) close() {
	d.listener.Close() //nolint:errcheck // nothing depends on it any more
	d.stop()
	d.running.Wait()
}

func (o *doors) closeAll() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	for _, d := range o.open {
		d.close()
	}
	clear(o.open)
}

// tidy removes agents that are not configured from the kernel, those of an
// older daemon too.
func (o *doors) tidy(cfg *config.Config) error {
	configured := map[string]bool{}
	for _, a := range cfg.Agents {
		configured[a.Name] = true
	}
	o.mu.Lock()
	keep, ids := map[uint64]bool{}, map[uint32]bool{}
	for key, d := range o.open {
		if !configured[key.agent] {
			defer d.close()
			delete(o.open, key)
			delete(o.residents, key.agent)
			continue
		}
		keep[d.cgroup.Load()], ids[d.policy] = true, true
	}
	o.mu.Unlock()
	policies, err := o.daemon.kernel.Policies()
	if err != nil {
		return err
	}
	var errs []error
	for cgroup := range policies {
		if !keep[cgroup] {
			errs = append(errs, o.daemon.kernel.RemovePolicy(cgroup))
		}
	}
	ports, err := o.daemon.kernel.LoopbackPorts()
	errs = append(errs, err)
	for p := range ports {
		if !ids[p.PolicyID] {
			errs = append(errs, o.daemon.kernel.ForgetLoopback(p))
		}
	}
	return errors.Join(errs...)
}

// attend is the daemon's life line to the guard, made again when it breaks,
// until ctx ends.
func (o *doors) attend(ctx context.Context) {
	defer o.work.Wait()
	for first := true; ctx.Err() == nil; first = false {
		if !first {
			o.comeBack()
		}
		err := o.daemon.guard.Attend(ctx, func(n guard.News) { o.hear(n) })
		if ctx.Err() != nil {
			return
		}
		o.daemon.log.Warn("the guard is gone; agents go on, nothing new is launched", "error", err)
		for ctx.Err() == nil {
			select {
			case <-ctx.Done():
			case <-time.After(guardPause):
			}
			if _, err := o.daemon.guard.Status(ctx); err == nil {
				break
			}
		}
	}
}

// comeBack gives a guard that was started anew the listeners that are open, and
// looks whether what it did not see changed the agents' cgroups.
func (o *doors) comeBack() {
	o.mu.Lock()
	var open []*door
	for _, d := range o.open {
		open = append(open, d)
	}
	o.mu.Unlock()
	for _, d := range open {
		files, err := d.listener.Files()
		if err == nil {
			ask, cancel := context.WithTimeout(o.ctx, guardTimeout)
			err = o.daemon.guard.Keep(ask, d.listener.Door(), files)
			cancel()
			closeFiles(files)
		}
		if err != nil {
			o.daemon.log.Error("the guard does not keep a listener", "agent", d.agent, "error", err)
		}
	}
	o.anew()
}

// hear acts on what the guard tells.
func (o *doors) hear(n guard.News) {
	defer closeFiles(n.Files)
	switch {
	case n.Door != nil:
		if r := o.residentOf(n.Door.PolicyID); r != nil {
			if err := o.adopt(r, *n.Door, n.Files); err != nil {
				o.daemon.log.Error("listener in a network namespace", "agent", r.agent, "error", err)
			}
		}
	case n.Closed != nil:
		r := o.residentOf(n.Closed.PolicyID)
		if r == nil {
			return
		}
		key := doorKey{r.agent, n.Closed.Netns}
		o.mu.Lock()
		d := o.open[key]
		delete(o.open, key)
		o.mu.Unlock()
		if d != nil {
			go d.close()
		}
	case n.Launch != nil:
		o.work.Go(func() { o.daemon.runs.announced(o.ctx, n.Launch) })
	case n.Ended != "":
		o.work.Go(func() { o.daemon.runs.ended(n.Ended) })
	case n.Again:
		o.anew()
	}
}

// anew follows the configuration in force, whose cgroups may have other ids than
// the doors know. It does not keep who tells waiting.
func (o *doors) anew() {
	if !o.following.CompareAndSwap(false, true) {
		return
	}
	o.work.Go(func() {
		if err := o.followInForce(); err != nil && o.ctx.Err() == nil {
			o.daemon.log.Error("after a cgroup was made anew", "error", err)
		}
	})
}

// followInForce follows the configuration in force, but not while another one is
// put in force: that would take out again what only the new one has.
func (o *doors) followInForce() error {
	o.daemon.reloading.Lock()
	defer o.daemon.reloading.Unlock()
	o.following.Store(false) // what is told from here on may come too late for this one
	return o.follow(o.daemon.config())
}

func (o *doors) residentOf(policy uint32) *resident {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, r := range o.residents {
		if r.policy == policy {
			return r
		}
	}
	return nil
}

// claim says who made a connection, from the kernel's record of it. A record
// of another cgroup under the same number is an agent's that was renamed or
// moved: nobody's now.
func (o *doors) claim(d *door, c net.Conn) (engine.Flow, error) {
	r, err := d.listener.Claim(c)
	if err != nil {
		return engine.Flow{}, err
	}
	if r.PolicyCgroupID != d.cgroup.Load() {
		return engine.Flow{}, redirect.ErrNoRecord
	}
	return o.flowOf(d.resident, r)
}
