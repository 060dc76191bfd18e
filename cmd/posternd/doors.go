package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"

	"github.com/postern/postern/internal/config"
	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/guard"
	"github.com/postern/postern/internal/identity"
	"github.com/postern/postern/internal/redirect"
)

// door is where the connections and lookups of one agent arrive.
type door struct {
	agent    string
	path     string // of the agent's cgroup, relative to the cgroup2 root
	cgroup   uint64 // its id
	policy   uint32
	ports    []int // on loopback, that it may use as they are
	listener *redirect.Listener
	stop     context.CancelFunc
	running  sync.WaitGroup
}

// doors are those of all agents.
type doors struct {
	ctx     context.Context // of the sessions, which outlive the doors
	daemon  *daemon
	mount   string
	cgroups *identity.Cgroups

	mu   sync.Mutex
	open map[string]*door // by agent
}

func newDoors(ctx context.Context, d *daemon, mount string) (*doors, error) {
	cgroups, err := identity.NewCgroups(mount)
	if err != nil {
		return nil, err
	}
	return &doors{ctx: ctx, daemon: d, mount: mount, cgroups: cgroups, open: map[string]*door{}}, nil
}

// policyID is the kernel's number for an agent. It depends on the name alone,
// so that what an older daemon left in the kernel means the same agent.
func policyID(agent string) uint32 {
	sum := sha256.Sum256([]byte(agent))
	return max(1, binary.BigEndian.Uint32(sum[:]))
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
		if other, taken := byID[policyID(a.Name)]; taken {
			return fmt.Errorf("agents %q and %q have the same number in the kernel: rename one of them", other, a.Name)
		}
		byID[policyID(a.Name)] = a.Name
	}
	for i := range cfg.Agents {
		if err := o.ensure(&cfg.Agents[i]); err != nil {
			return fmt.Errorf("agent %s: %w", cfg.Agents[i].Name, err)
		}
	}
	return nil
}

// ensure opens an agent's door, or another one when its cgroup is another.
func (o *doors) ensure(a *config.Agent) error {
	ask, cancel := context.WithTimeout(o.ctx, guardTimeout)
	defer cancel()
	id, err := o.daemon.guard.Cgroup(ask, a.Cgroup)
	if err != nil {
		return err
	}
	o.mu.Lock()
	before := o.open[a.Name]
	o.mu.Unlock()
	if before != nil && before.cgroup == id {
		return o.loopback(before, a.Loopback)
	}
	d := &door{agent: a.Name, path: a.Cgroup, cgroup: id, policy: policyID(a.Name)}
	if err := o.loopback(d, a.Loopback); err != nil {
		return err
	}
	if d.listener, err = o.daemon.kernel.Listen(d.policy); err != nil {
		return err
	}
	o.serve(d)
	// Last: from here on the agent has a way, and it leads to the gateway.
	if err := o.daemon.kernel.SetPolicy(id, d.policy); err != nil {
		d.close()
		return err
	}
	o.mu.Lock()
	o.open[a.Name] = d
	o.mu.Unlock()
	if before != nil {
		before.close()
	}
	return nil
}

// loopback makes the ports that the kernel leaves alone those of the list.
func (o *doors) loopback(d *door, ports []int) error {
	for _, p := range d.ports {
		if err := o.daemon.kernel.ForbidLoopback(d.policy, uint16(p)); err != nil {
			return err
		}
	}
	d.ports = ports
	for _, p := range ports {
		if err := o.daemon.kernel.AllowLoopback(d.policy, uint16(p)); err != nil {
			return err
		}
	}
	return nil
}

// serve accepts connections and answers names until the door is closed.
func (o *doors) serve(d *door) {
	ctx, stop := context.WithCancel(o.ctx)
	d.stop = stop
	d.running.Go(func() {
		claim := func(c net.Conn) (engine.Flow, error) { return o.claim(d, c) }
		if err := o.daemon.gateway.Listen(o.ctx, d.listener, claim); err != nil {
			o.daemon.log.Error("accept", "agent", d.agent, "error", err)
		}
	})
	resolver := o.daemon.names.resolver(d.agent)
	d.running.Go(func() {
		resolver.Run(ctx, d.listener.DNS.UDP, d.listener.DNS.TCP,
			func(from netip.AddrPort) bool {
				r, err := d.listener.Sender(from)
				return err == nil && r.PolicyCgroupID == d.cgroup
			},
			func(c net.Conn) bool {
				r, err := d.listener.Claim(c)
				return err == nil && r.PolicyCgroupID == d.cgroup
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
	for _, d := range o.open {
		d.close()
	}
	clear(o.open)
}

// tidy removes agents that are not configured from the kernel, those of an
// older daemon too.
func (o *doors) tidy(cfg *config.Config) error {
	o.mu.Lock()
	keep, ids := map[uint64]bool{}, map[uint32]bool{}
	for name, d := range o.open {
		configured := false
		for _, a := range cfg.Agents {
			configured = configured || a.Name == name
		}
		if !configured {
			defer d.close()
			delete(o.open, name)
			continue
		}
		keep[d.cgroup], ids[d.policy] = true, true
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
	for _, p := range ports {
		if !ids[p.PolicyID] {
			errs = append(errs, o.daemon.kernel.ForbidLoopback(p.PolicyID, p.Port))
		}
	}
	return errors.Join(errs...)
}

// claim says who made a connection, from the kernel's record of it. A record
// of another cgroup under the same number is an agent's that was renamed or
// moved: nobody's now.
func (o *doors) claim(d *door, c net.Conn) (engine.Flow, error) {
	r, err := d.listener.Claim(c)
	if err != nil {
		return engine.Flow{}, err
	}
	if r.PolicyCgroupID != d.cgroup {
		return engine.Flow{}, redirect.ErrNoRecord
	}
	f := engine.Flow{
		Session: newSession(), Agent: d.agent, CgroupID: r.CgroupID, Netns: r.Netns,
		PID: r.TGID, TID: r.PID, UID: r.UID, GID: r.GID, Comm: r.Comm, Started: r.Started, Original: r.Original,
	}
	if path, err := o.cgroups.Path(r.CgroupID); err == nil {
		f.Cgroup = strings.TrimPrefix(path, o.mount)
		f.Run = runOf(f.Cgroup, d.path)
	}
	f.Name, f.Unclear = o.daemon.names.meant(d.agent, r.Original)
	if facts, err := identity.AtAccept(int(r.TGID)); err == nil {
		f.Exe = facts.Exe
	}
	return f, nil
}

// runOf finds the run that a cgroup belongs to, if postern run made it.
func runOf(cgroup, agent string) string {
	rest, ok := strings.CutPrefix(strings.TrimPrefix(cgroup, "/"), agent+"/")
	first, _, _ := strings.Cut(rest, "/")
	if !ok || !strings.HasPrefix(first, guard.RunPrefix) {
		return ""
	}
	return first
}

// agentOf names the agent of a policy cgroup.
func (o *doors) agentOf(cgroup uint64) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	for name, d := range o.open {
		if d.cgroup == cgroup {
			return name
		}
	}
	return ""
}

// newSession returns an id of sixteen characters: 80 random bits.
func newSession() string {
	var b [10]byte
	rand.Read(b[:]) // never fails: crypto/rand ends the program first
	return strings.ToLower(base32.StdEncoding.EncodeToString(b[:]))
}
