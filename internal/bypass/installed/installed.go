// Package installed has the judge of package bypass look at an installation of
// Postern that is running: its runs are launched by the guard, its counters are
// those of the pinned maps. `postern verify` and the
// tests use it alike.
//
// It takes root. Start reading at Open.
package installed

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/internal/bypass"
	"github.com/postern/postern/internal/bypass/outside"
	"github.com/postern/postern/internal/config"
	"github.com/postern/postern/internal/guard"
	"github.com/postern/postern/internal/identity"
	"github.com/postern/postern/internal/redirect"
)

// Options of Open.
type Options struct {
	Config *config.Config
	// Program calls bypass.Main first, and can be executed by User.
	Program string
	// User is whom runs are launched as; empty: the agent's own in the tier strict,
	// else nobody.
	User    string
	Env     []string // of the runs
	Outside *outside.Outside
}

// Installation is one that runs. The caller closes it.
type Installation struct {
	options Options
	guard   guard.Client
	kernel  *redirect.Kernel
	status  guard.Status
	mount   string
	dir     string
	daemon  int
}

// Open takes hold of an installation. What is not closed in the kernel is an
// error: nothing would be learned from runs, which the guard refuses then.
func Open(ctx context.Context, o Options) (*Installation, error) {
	i := &Installation{options: o, guard: guard.Client{Socket: o.Config.Guard.Socket}}
	if err := i.open(ctx); err != nil {
		return nil, errors.Join(err, i.Close())
	}
	return i, nil
}

func (i *Installation) open(ctx context.Context) (err error) {
	if i.mount, err = identity.CgroupMount(); err != nil {
		return err
	}
	if i.status, err = i.guard.Status(ctx); err != nil {
		return err
	}
	if len(i.status.Problems) > 0 {
		return fmt.Errorf("the policy root is not closed: %s", i.status.Problems[0])
	}
	if i.daemon, err = daemonOf(i.options.Config.Control.Socket); err != nil {
		return err
	}
	// Pins is a layout's folder, in the one of all layouts.
	bpffs := filepath.Dir(filepath.Dir(i.status.Pins))
	if i.kernel, err = redirect.OpenPinned(redirect.Options{Cgroup: i.status.Cgroup, BPFFS: bpffs}); err != nil {
		return err
	}
	// Where agents reach the judge's sockets, if anything lets them.
	if i.dir, err = os.MkdirTemp("", "postern-verify-"); err != nil {
		return err
	}
	return os.Chmod(i.dir, 0o755)
}

// Close lets go of it.
func (i *Installation) Close() error {
	var errs []error
	if i.kernel != nil {
		errs = append(errs, i.kernel.Close())
	}
	if i.dir != "" {
		errs = append(errs, os.RemoveAll(i.dir))
	}
	return errors.Join(errs...)
}

// Glass is for whom the glass is broken: agents, or "*" for all.
func (i *Installation) Glass() []string { return slices.Sorted(maps.Keys(i.status.Glass)) }

// daemonOf is the process that listens at the control socket.
func daemonOf(socket string) (int, error) {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return 0, fmt.Errorf("find the daemon (is posternd running?): %w", err)
	}
	defer conn.Close()
	peer, err := identity.PeerOf(conn.(*net.UnixConn))
	if err != nil {
		return 0, err
	}
	defer peer.Close()
	return peer.PID, nil
}

func ids(name string) (uid, gid uint32, err error) {
	u, err := user.Lookup(name)
	if err != nil {
		return 0, 0, err
	}
	a, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return 0, 0, err
	}
	b, err := strconv.ParseUint(u.Gid, 10, 32)
	return uint32(a), uint32(b), err
}

// anybody is whom runs are launched as that nobody said a user for.
const anybody = "nobody"

// runOf is what is launched, and as whom.
func (i *Installation) runOf(agent config.Agent, tier bypass.Tier) (run guard.Run, uid, gid uint32, err error) {
	run = guard.Run{
		Agent: agent.Name, Args: []string{i.options.Program, bypass.InsideArg}, Env: slices.Clone(i.options.Env), Dir: "/",
		User: cmp.Or(i.options.User, anybody), Tier: tier.String(),
	}
	if i.options.User == "" && tier == bypass.Strict && agent.User != "" {
		run.User = agent.User
	}
	if uid, gid, err = ids(run.User); err != nil {
		return run, 0, 0, err
	}
	if uid == 0 {
		return run, 0, 0, errors.New("no agent runs as root: name another user")
	}
	if tier != bypass.Redirected && !visible(i.options.Program, agent.Mounts) {
		return run, 0, 0, fmt.Errorf("runs of the tier %s do not see %s: install it below /usr or /opt, or add it to agents.mounts", tier, i.options.Program)
	}
	if tier == bypass.Workspace {
		// A project to be in, with nothing in it.
		if run.Dir, err = os.MkdirTemp(i.dir, "project-"); err == nil {
			err = os.Chown(run.Dir, int(uid), int(gid))
		}
	}
	return run, uid, gid, err
}

// visible says whether a program of the host is in a sandbox too.
func visible(program string, mounts []config.Mount) bool {
	places := []string{"/usr", "/opt"}
	for _, m := range mounts {
		places = append(places, m.Path)
	}
	return slices.ContainsFunc(places, func(p string) bool { return program == p || strings.HasPrefix(program, p+"/") })
}

// Judge is one of an agent's runs in a tier. Each judges once.
func (i *Installation) Judge(ctx context.Context, agent config.Agent, tier bypass.Tier, tell func(bypass.Verdict)) (*bypass.Judge, error) {
	run, uid, gid, err := i.runOf(agent, tier)
	if err != nil {
		return nil, fmt.Errorf("agent %s: %w", agent.Name, err)
	}
	cgroup := filepath.Join(i.mount, agent.Cgroup)
	id, err := identity.CgroupID(cgroup)
	if err != nil {
		return nil, fmt.Errorf("agent %s: %w", agent.Name, err)
	}
	dir, err := os.MkdirTemp(i.dir, "run-")
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, err
	}
	j := &bypass.Judge{
		Tier: tier, UID: uid, GID: gid, Outside: i.options.Outside, Dir: dir, Tell: tell, Unix: agent.Unix,
		Given: bypass.Given{
			CgroupMount: i.mount, Pins: i.status.Pins, Daemon: i.daemon,
			Control: i.options.Config.Control.Socket, Guard: i.options.Config.Guard.Socket,
		},
		Gateways: func() (own, others []bypass.Ports, err error) { return i.gateways(id) },
		Counts:   i.kernel.Counts,
		Launch: func(stdin, stdout, stderr *os.File) (func() error, error) {
			return i.launch(ctx, run, [3]*os.File{stdin, stdout, stderr}), nil
		},
	}
	j.Name = i.known(agent)
	for _, l := range i.status.Links {
		j.Given.Links = append(j.Given.Links, l.LinkID)
	}
	for _, other := range i.options.Config.Agents {
		if other.Name != agent.Name {
			j.Given.OtherCgroups = append(j.Given.OtherCgroups, filepath.Join(i.mount, other.Cgroup))
		}
	}
	return j, nil
}

// known is a name of a target that the agent's policy speaks of; empty where
// there is none.
func (i *Installation) known(agent config.Agent) string {
	cfg := i.options.Config
	p := slices.IndexFunc(cfg.Policies, func(p config.Policy) bool { return p.Name == agent.Policy })
	if p < 0 {
		return ""
	}
	for _, t := range cfg.Targets {
		if t.RealAddresses {
			continue // the host's own resolver has to know it
		}
		opens := slices.ContainsFunc(cfg.Policies[p].Rules, func(r config.Rule) bool {
			return r.Deny == "" && (r.Target == t.Name || r.Target == "*")
		})
		for _, h := range t.Hosts {
			if _, err := netip.ParseAddr(h.Host); opens && err != nil && !strings.Contains(h.Host, "*") {
				return h.Host
			}
		}
	}
	return ""
}

// gateways are those of the agent whose cgroup it is, and those of others.
func (i *Installation) gateways(cgroup uint64) (own, others []bypass.Ports, err error) {
	policies, err := i.kernel.Policies()
	if err != nil {
		return nil, nil, err
	}
	found, err := i.kernel.Gateways()
	if err != nil {
		return nil, nil, err
	}
	for _, g := range found {
		ports := bypass.Ports{TCP: g.TCP, DNSTCP: g.DNSTCP, DNSUDP: g.DNSUDP}
		if g.PolicyID == policies[cgroup] {
			own = append(own, ports)
		} else {
			others = append(others, ports)
		}
	}
	return own, others, nil
}

// launch asks the guard for a run. Its end, and why there is none, is told by
// what it returns.
func (i *Installation) launch(ctx context.Context, run guard.Run, stdio [3]*os.File) func() error {
	ended := make(chan error, 1)
	// The judge closes its own copies while the guard is still being asked.
	var copies [3]*os.File
	for n, f := range stdio {
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return func() error { return err }
		}
		copies[n] = os.NewFile(uintptr(fd), f.Name())
	}
	go func() {
		exit, err := i.guard.Run(ctx, run, copies, nil, nil)
		for _, f := range copies {
			f.Close()
		}
		if err == nil && exit.Code != 0 {
			err = fmt.Errorf("it ended with code %d", exit.Code)
		}
		ended <- err
	}()
	return func() error { return <-ended }
}
