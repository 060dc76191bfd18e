package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/postern/postern/internal/approval"
	"github.com/postern/postern/internal/config"
	"github.com/postern/postern/internal/control"
	"github.com/postern/postern/internal/guard"
	"github.com/postern/postern/internal/identity"
	"github.com/postern/postern/internal/metrics"
	"github.com/postern/postern/internal/sandbox"
	"github.com/postern/postern/internal/sql"
	"github.com/postern/postern/internal/version"
	pkgcontrol "github.com/postern/postern/pkg/control"
)

// answers is what the control socket can be asked; root is the policy root.
func (d *daemon) answers(root string) control.Options {
	return control.Options{
		Log:    d.log,
		Peer:   func(c *net.UnixConn) (control.Peer, error) { return peerOf(c, root) },
		Status: d.status,
		Sessions: func() []pkgcontrol.Session {
			out := []pkgcontrol.Session{}
			for _, r := range d.gateway.Running() {
				out = append(out, pkgcontrol.Session{
					ID: r.Session, Agent: r.Agent, Target: r.Target, Began: r.Began, PID: r.PID, UID: r.UID, Comm: r.Comm,
					Identity: r.Identity.String(), FromAgent: r.FromAgent, ToAgent: r.ToAgent,
				})
			}
			slices.SortFunc(out, func(a, b pkgcontrol.Session) int { return a.Began.Compare(b.Began) })
			return out
		},
		Activity:  d.activity,
		Approvals: d.shownApprovals,
		Budgets:   d.shownBudgets,
		Watch:     d.watch,
		Decide:    d.decide,
		Reload:    d.reload,
		Refresh:   d.refreshSecrets,
		Secrets:   d.shownSecrets,
		People:    d.people.controls(),
		TryLogin:  func(ctx context.Context, target string) error { return d.gateway.TryLogin(ctx, target) },
		Catalog:   func(target string) (pkgcontrol.Catalog, error) { return catalogOf(d.catalogs, target) },
	}
}

// peerOf names a peer by who logged in, which sudo does not change, beside who
// it is.
func peerOf(c *net.UnixConn, root string) (control.Peer, error) {
	p, err := identity.PeerOf(c)
	if err != nil {
		return control.Peer{}, err
	}
	defer p.Close()
	out := control.Peer{PID: p.PID, UID: p.UID, Name: nameOf(p.UID), Agent: p.InPolicyCgroup(root)}
	if login, err := loginOf(p.PID); err == nil && login != p.UID {
		out.Name += " (" + nameOf(login) + ")"
	}
	return out, nil
}

func nameOf(uid uint32) string {
	id := strconv.FormatUint(uint64(uid), 10)
	if u, err := user.LookupId(id); err == nil {
		return u.Username
	}
	return "uid " + id
}

var errNoLogin = errors.New("nobody logged in")

// loginOf is the audit login id (proc(5), loginuid): set when a person logs in,
// kept over su and sudo.
func loginOf(pid int) (uint32, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/loginuid", pid))
	if err != nil {
		return 0, err
	}
	id, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 32)
	if err == nil && id == 1<<32-1 {
		err = errNoLogin
	}
	return uint32(id), err
}

func (d *daemon) status() pkgcontrol.Status {
	cfg, now := d.config(), time.Now()
	running := d.gateway.Running()
	perAgent := map[string]int{}
	for _, r := range running {
		perAgent[r.Agent]++
	}
	pending, _ := d.pending()
	s := pkgcontrol.Status{
		Version: version.String(), Started: d.started, Config: d.path, Generation: d.gateway.Setup().Generation + 1,
		Recordings: filepath.Join(cfg.StateDir, "recordings"), Root: cfg.Root, Metrics: cfg.Metrics.Listen,
		Sessions: len(running), Pending: pending,
		Agents: []pkgcontrol.Agent{}, Targets: []pkgcontrol.Target{}, Kernel: d.attached.checks(), Secrets: d.memoryCheck(),
	}
	for i := range cfg.Agents {
		a := &cfg.Agents[i]
		shown := pkgcontrol.Agent{
			Name: a.Name, Cgroup: a.Cgroup, Policy: a.Policy, Mode: "enforce", Tier: a.Tier, Open: sandbox.Tier(a.Tier).Open(), Sessions: perAgent[a.Name],
		}
		if a.Observing(now) {
			shown.Mode, shown.Until = "observe", a.Until
		}
		s.Agents = append(s.Agents, shown)
	}
	for _, t := range cfg.Targets {
		shown := pkgcontrol.Target{Name: t.Name, Protocol: t.Protocol}
		for _, h := range t.Hosts {
			shown.Hosts = append(shown.Hosts, h.String())
		}
		s.Targets = append(s.Targets, shown)
	}
	return s
}

// reload builds the new configuration whole before the old one goes. On an
// error nothing has changed.
func (d *daemon) reload() (pkgcontrol.Reloaded, error) {
	d.reloading.Lock()
	defer d.reloading.Unlock()
	done, err := d.reloadNow()
	if err != nil {
		d.metrics.ReloadOK.Set(0)
		var p problems
		if errors.As(err, &p) {
			return done, control.Problems(p)
		}
		return done, err
	}
	d.metrics.Loaded(time.Now())
	return done, nil
}

func (d *daemon) reloadNow() (pkgcontrol.Reloaded, error) {
	cfg, setup, warnings, err := d.builder.load(d.path, d.gateway.Setup().Names)
	if err != nil {
		return pkgcontrol.Reloaded{}, err
	}
	warnings = append(warnings, needRestart(d.config(), cfg)...)
	provider, err := providerOf(cfg, d)
	if err != nil {
		return pkgcontrol.Reloaded{}, err
	}
	if err := d.doors.prepare(cfg); err != nil {
		return pkgcontrol.Reloaded{}, err
	}
	if err := d.addSources(cfg); err != nil {
		return pkgcontrol.Reloaded{}, err
	}
	if err := d.builder.tellHostKeys(cfg); err != nil {
		return pkgcontrol.Reloaded{}, err
	}
	d.people.use(provider)
	ended := d.gateway.Reload(setup)
	d.forgetSecrets(cfg)
	d.names.follow(cfg)
	d.cfgMu.Lock()
	d.cfg = cfg
	d.cfgMu.Unlock()
	if err := d.doors.tidy(cfg); err != nil {
		return pkgcontrol.Reloaded{}, err
	}
	return pkgcontrol.Reloaded{Generation: setup.Generation + 1, Ended: ended, Warnings: warnings}, nil
}

// needRestart names what a reload does not change.
func needRestart(before, after *config.Config) []string {
	var out []string
	for _, c := range []struct {
		key     string
		changed bool
	}{
		{"root (besides, postern-guard detach and attach)", before.Root != after.Root},
		{"state_dir", before.StateDir != after.StateDir},
		{"control", before.Control != after.Control},
		{"guard", before.Guard != after.Guard},
		{"metrics", before.Metrics != after.Metrics},
		{"record.max_total_bytes", before.Record.MaxTotalBytes != after.Record.MaxTotalBytes},
		{"secrets.file", before.Secrets.File != after.Secrets.File},
		{"sqlparse", before.SQLParse != after.SQLParse},
		{"log", before.Log != after.Log},
	} {
		if c.changed {
			out = append(out, c.key+" has changed: it takes effect when posternd is started again")
		}
	}
	return out
}

func (d *daemon) pending() (n int, oldest time.Duration) {
	now := time.Now()
	for _, a := range d.approvals.List() {
		if a.State == approval.Pending {
			n++
			oldest = max(oldest, now.Sub(a.Created))
		}
	}
	return n, oldest
}

func (d *daemon) metricSources(statements *sql.Classifier) metrics.Sources {
	kinds := func(denied bool) func() (map[string]uint64, error) {
		return func() (map[string]uint64, error) {
			counts, err := d.kernel.Stats()
			if err != nil {
				return nil, err
			}
			out := map[string]uint64{}
			for kind, n := range counts {
				if kind.Denied() == denied {
					out[kind.String()] = n
				}
			}
			return out, nil
		}
	}
	return metrics.Sources{
		Pending:     d.pending,
		RecordBytes: func() (used, quota int64) { return d.store.Usage().Total, int64(d.config().Record.MaxTotalBytes) },
		Denied:      kinds(true),
		Passed:      kinds(false),
		Parsed: func() map[string]uint64 {
			s := statements.Stats()
			return map[string]uint64{"cached": s.Hits, "parsed": s.Misses, "killed": s.Killed, "died": s.Died, "refused": s.Refused}
		},
		Leases:   d.leaseUse,
		Runs:     d.runs.perAgent,
		Budgets:  d.budgetUse,
		Attached: d.attached.hooks,
		Glass:    d.attached.glass,
	}
}

// attached remembers for a moment what the guard says of the programs.
type attached struct {
	guard guard.Client

	mu     sync.Mutex
	at     time.Time
	status guard.Status
	err    error
}

// attachedAge is how old the guard's answer may be for a metric; people are told
// how it is now.
const attachedAge = 2 * time.Second

func (a *attached) ask(age time.Duration) (guard.Status, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if time.Since(a.at) < age {
		return a.status, a.err
	}
	ctx, cancel := context.WithTimeout(context.Background(), guardTimeout)
	defer cancel()
	a.status, a.err = a.guard.Status(ctx)
	a.at = time.Now()
	return a.status, a.err
}

func (a *attached) hooks() map[string]bool {
	status, err := a.ask(attachedAge)
	if err != nil {
		return nil
	}
	out := map[string]bool{}
	for _, l := range slices.Concat(status.Links, status.Optional) {
		out[l.Hook] = true
	}
	for _, p := range status.Problems {
		if p.Hook != "" {
			out[p.Hook] = false
		}
	}
	return out
}

func (a *attached) glass() map[string]time.Time {
	status, err := a.ask(attachedAge)
	if err != nil {
		return nil
	}
	return status.Glass
}

func (a *attached) checks() []pkgcontrol.Check {
	status, err := a.ask(0)
	if err != nil {
		return []pkgcontrol.Check{{Name: "guard", Detail: err.Error(), Help: "start postern-guard; until then no run can be launched"}}
	}
	out := []pkgcontrol.Check{}
	for _, p := range status.Problems {
		out = append(out, pkgcontrol.Check{Name: "kernel", Detail: p.String(), Help: "run `postern-guard attach`"})
	}
	for who, until := range status.Glass {
		out = append(out, pkgcontrol.Check{
			Name: "glass", Detail: "THE GLASS IS BROKEN for " + who + " until " + until.Format(time.DateTime) + ": these agents go past the gateway",
			Help: "postern break-glass --end",
		})
	}
	if len(out) == 0 {
		out = append(out, pkgcontrol.Check{Name: "kernel", OK: true, Detail: fmt.Sprintf("%s is closed by %d programs", status.Cgroup, len(status.Links))})
	}
	return out
}

// stateKey reads 32 random bytes, and makes them on the first start.
func stateKey(path string) ([]byte, error) {
	key, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		key = make([]byte, 32)
		rand.Read(key) // never fails: crypto/rand ends the program first
		if err := os.WriteFile(path+".new", key, 0o600); err != nil {
			return nil, err
		}
		return key, os.Rename(path+".new", path)
	}
	if err == nil && len(key) != 32 {
		err = fmt.Errorf("%s is damaged: it has %d bytes instead of 32; pseudonyms and hashes change when it is removed", path, len(key))
	}
	return key, err
}
