package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern/postern/internal/approval"
	"github.com/postern/postern/internal/budget"
	"github.com/postern/postern/internal/ca"
	"github.com/postern/postern/internal/config"
	"github.com/postern/postern/internal/control"
	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/gateway"
	"github.com/postern/postern/internal/guard"
	"github.com/postern/postern/internal/identity"
	"github.com/postern/postern/internal/metrics"
	"github.com/postern/postern/internal/protocol/postgres"
	"github.com/postern/postern/internal/record"
	"github.com/postern/postern/internal/redirect"
	"github.com/postern/postern/internal/relay/messages"
	"github.com/postern/postern/internal/secret/arena"
	"github.com/postern/postern/internal/secret/lease"
	"github.com/postern/postern/internal/secret/source"
	"github.com/postern/postern/internal/sql"
	"github.com/postern/postern/internal/supervisor"
	"github.com/postern/postern/internal/version"
	"github.com/postern/postern/internal/wire"
)

const (
	// drainTime is how long sessions may go on after the daemon was told to stop.
	drainTime = 10 * time.Second
	// guardTimeout bounds a question to the guard.
	guardTimeout = 5 * time.Second
	// guardPause is between two attempts to reach a guard that is gone.
	guardPause = 200 * time.Millisecond
	// budgetsFile is where, in the state directory, it is kept what agents have
	// used of their budgets.
	budgetsFile = "budgets.json"
)

// daemon is everything that runs.
type daemon struct {
	path    string // of the configuration
	started time.Time
	log     *slog.Logger
	builder *builder
	guard   guard.Client

	store     *record.Store
	approvals *approval.Store
	secrets   *source.Set
	memory    *arena.Arena // that secrets are in
	leases    *lease.Leases
	runs      *runs
	people    *people
	kernel    *redirect.Kernel
	ledger    *budget.Ledger
	gateway   *gateway.Gateway
	loop      *messages.Loop
	catalogs  *postgres.Catalogs
	doors     *doors
	denials   *denials
	names     *names
	metrics   *metrics.Daemon
	attached  *attached

	reloading sync.Mutex
	cfgMu     sync.Mutex
	cfg       *config.Config        // in force, under cfgMu
	sources   map[string]madeSource // the same
}

// serve starts the parts in order, waits for ctx or for one of them to fail,
// and ends them in order.
func serve(ctx context.Context, path string, hup <-chan os.Signal) (err error) {
	tuneGC(ctx)
	cfg, problems := config.Load(path)
	if cfg == nil {
		return problemsOf(problems)
	}
	log := logger(cfg.Log)
	if os.Geteuid() == 0 {
		log.Warn("posternd runs as root; give it a user of its own and CAP_BPF")
	}
	d := &daemon{path: path, started: time.Now(), log: log, cfg: cfg, guard: guard.Client{Socket: cfg.Guard.Socket}, catalogs: postgres.NewCatalogs()}
	registry := prometheus.NewRegistry()
	gatewayMetrics := gateway.NewMetrics(registry)
	host, _ := os.Hostname()
	mount, err := identity.CgroupMount()
	if err != nil {
		return err
	}

	if d.store, err = record.Open(filepath.Join(cfg.StateDir, "recordings"), record.Options{
		TotalBytes: int64(cfg.Record.MaxTotalBytes), Host: host,
	}); err != nil {
		return fmt.Errorf("recordings: %w", err)
	}
	defer closing(&err, d.store.Close)
	statements, setup, err := d.openBuilder(cfg, host, mount)
	if err != nil {
		return err
	}
	if err := d.openPeople(cfg, mount); err != nil {
		return err
	}
	d.approvals = approval.New(approval.Options{OnChange: d.approvalChanged})
	if d.ledger, err = openBudgets(filepath.Join(cfg.StateDir, budgetsFile)); err != nil {
		return err
	}
	d.gateway = gateway.New(gateway.Options{
		Log: log, Store: d.store, Approvals: d.approvals, Metrics: gatewayMetrics, Now: time.Now, Ledger: d.ledger,
		Ended: func(f *engine.Flow) { d.leases.End(f.Session) },
	}, setup)
	if d.kernel, err = openKernel(ctx, d.guard); err != nil {
		return err
	}
	defer closing(&err, d.kernel.Close)
	d.attached = &attached{guard: d.guard}
	d.metrics = metrics.New(registry, d.metricSources(statements))
	if err := d.openNames(cfg, log); err != nil {
		return err
	}
	if err := d.builder.tellHostKeys(cfg); err != nil {
		return err
	}
	if err := d.addSources(cfg); err != nil {
		return err
	}
	d.metrics.Loaded(time.Now())
	return d.run(ctx, cfg, registry, statements, mount, hup)
}

// openBuilder opens what configurations are built with, and builds the first.
func (d *daemon) openBuilder(cfg *config.Config, host, mount string) (*sql.Classifier, *gateway.Setup, error) {
	authority, sshAuthority, err := openCA(cfg.StateDir, host)
	if err != nil {
		return nil, nil, err
	}
	maskKey, err := stateKey(filepath.Join(cfg.StateDir, "mask.key"))
	if err != nil {
		return nil, nil, err
	}
	if err := d.openSecrets(cfg); err != nil {
		return nil, nil, err
	}
	statements, err := sql.New(sql.Options{Path: cfg.SQLParse.Path, Workers: cfg.SQLParse.Workers, Log: d.log})
	if err != nil {
		return nil, nil, err
	}
	d.loop = messages.NewLoop(runtime.GOMAXPROCS(0)/2, wire.NewEpoll)
	d.builder = &builder{
		protocols: protocols(statements, d.loop, d.catalogs), ca: authority, ssh: sshAuthority,
		secrets: d.secrets, leases: d.leases, mount: mount, maskKey: maskKey,
	}
	_, setup, warnings, err := d.builder.load(d.path, nil)
	for _, w := range warnings {
		d.log.Warn("configuration", "problem", w)
	}
	return statements, setup, err
}

// run is the daemon's life: everything that serves, until ctx ends.
func (d *daemon) run(ctx context.Context, cfg *config.Config, registry *prometheus.Registry, statements *sql.Classifier, mount string, hup <-chan os.Signal) (err error) {
	// What sessions need outlives ctx until they have drained.
	background, stopBackground := context.WithCancel(context.WithoutCancel(ctx))
	defer stopBackground()
	if d.doors, err = newDoors(background, d, mount); err != nil {
		return err
	}
	d.denials = newDenials(d.log, d.doors.agentOf)
	controlListener, err := control.Listen(cfg.Control.Socket)
	if err != nil {
		return fmt.Errorf("control socket: %w", err)
	}
	metricsListener, err := metrics.Listen(cfg.Metrics.Listen)
	if err != nil {
		controlListener.Close()
		return err
	}
	front, stopFront := context.WithCancelCause(ctx)
	var behind, before sync.WaitGroup
	failed := func(err error) {
		if err != nil && front.Err() == nil {
			stopFront(err)
		}
	}
	behind.Go(func() { failed(statements.Run(background)) })
	behind.Go(func() { d.approvals.Run(background) })
	behind.Go(func() { failed(d.loop.Run(background)) })
	behind.Go(func() { d.gateway.Reap(background) })
	behind.Go(func() { d.names.memory.Run(background) })
	behind.Go(func() { d.leases.Run(background) })
	behind.Go(func() { d.runs.attend(background) })
	behind.Go(func() {
		d.ledger.Run(background, filepath.Join(cfg.StateDir, budgetsFile), func(err error) { d.log.Error("save the budgets", "error", err) })
	})
	before.Go(func() { failed(control.New(d.answers(filepath.Join(mount, cfg.Root))).Serve(front, controlListener)) })
	if metricsListener != nil {
		before.Go(func() { failed(metrics.Serve(front, metricsListener, registry, d.log)) })
	}
	behind.Go(func() { d.denials.Run(background) })
	before.Go(func() { failed(ignore(d.kernel.Events(front, d.denials.hear), context.Canceled)) })
	before.Go(func() { failed(ignore(newAsks(d.doors).Run(front), context.Canceled)) })
	before.Go(func() { d.follow(front, hup) })
	if err := d.doors.followInForce(); err != nil {
		stopFront(err)
	} else {
		behind.Go(func() { d.doors.attend(background) })
		d.log.Info("serving", "version", version.String(), "config", d.path, "agents", len(cfg.Agents),
			"targets", len(cfg.Targets), "control", cfg.Control.Socket, "metrics", cfg.Metrics.Listen)
	}
	if front.Err() == nil {
		d.supervised(front, &before, cfg)
	}
	<-front.Done()
	cause := context.Cause(front)
	d.warned(supervisor.Stopping())
	d.log.Info("stopping", "sessions", len(d.gateway.Running()))
	d.doors.closeAll()
	drain, cancel := context.WithTimeout(background, drainTime)
	d.gateway.Drain(drain)
	cancel()
	before.Wait()
	stopBackground()
	behind.Wait()
	return ignore(cause, context.Canceled)
}

// supervised tells systemd that the daemon serves, and from then on that it does
// not hang.
func (d *daemon) supervised(ctx context.Context, running *sync.WaitGroup, cfg *config.Config) {
	d.warned(supervisor.Ready(fmt.Sprintf("%d agents, %d targets", len(cfg.Agents), len(cfg.Targets))))
	running.Go(func() { supervisor.Watch(ctx, d.loop.Turn, d.warned) })
}

func (d *daemon) warned(err error) {
	if err != nil {
		d.log.Warn("systemd", "error", err)
	}
}

func ignore(err, what error) error {
	if errors.Is(err, what) {
		return nil
	}
	return err
}

func closing(err *error, f func() error) { *err = errors.Join(*err, f()) }

func logger(c config.Log) *slog.Logger {
	var level slog.Level
	level.UnmarshalText([]byte(c.Level)) //nolint:errcheck // config knows these words only
	o := &slog.HandlerOptions{Level: level}
	if c.Format == "json" {
		return slog.New(slog.NewJSONHandler(os.Stderr, o))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, o))
}

func problemsOf(found []config.Problem) problems {
	var out problems
	for _, p := range found {
		out = append(out, p.String())
	}
	return out
}

// openCA opens the authorities and puts the certificate where the guard finds it.
func openCA(stateDir, host string) (*ca.CA, *ca.SSH, error) {
	authority, err := ca.Open(filepath.Join(stateDir, "ca"), ca.Options{Host: host})
	if err != nil {
		return nil, nil, err
	}
	forSSH, err := ca.OpenSSH(filepath.Join(stateDir, "ca"), ca.Options{})
	if err != nil {
		return nil, nil, err
	}
	at := filepath.Join(stateDir, guard.RootFile)
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		return nil, nil, err
	}
	if err := os.WriteFile(at+".new", authority.RootPEM(), 0o644); err != nil {
		return nil, nil, err
	}
	return authority, forSSH, os.Rename(at+".new", at)
}

func openKernel(ctx context.Context, g guard.Client) (*redirect.Kernel, error) {
	ctx, cancel := context.WithTimeout(ctx, guardTimeout)
	defer cancel()
	maps, err := g.Maps(ctx)
	if err != nil {
		return nil, fmt.Errorf("kernel maps: %w", err)
	}
	defer func() {
		for _, f := range maps {
			f.Close()
		}
	}()
	return redirect.Open(maps)
}

// follow reads the configuration again whenever it is asked to by signal.
func (d *daemon) follow(ctx context.Context, hup <-chan os.Signal) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-hup:
			done, err := d.reload()
			if err != nil {
				d.log.Error("the old configuration stays in force", "error", err)
				continue
			}
			d.log.Info("configuration reloaded", "generation", done.Generation, "sessions_ended", done.Ended, "by", "SIGHUP")
		}
	}
}

func (d *daemon) config() *config.Config {
	d.cfgMu.Lock()
	defer d.cfgMu.Unlock()
	return d.cfg
}

func (d *daemon) approvalChanged(a approval.Approval) {
	d.log.Info("approval", "approval", a.ID, "state", string(a.State), "agent", a.Agent, "target", a.Target, "rule", a.Rule, "session", a.Session)
}
