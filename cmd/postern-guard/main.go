// Postern-guard is the root helper: it attaches the kernel programs that hold
// the policy cgroups closed, and serves what takes root to the daemon and to
// `postern run`. It parses nothing from the network and holds no secret.
//
// What it does on request is in internal/guard, what it attaches in
// internal/redirect and bpf. Start with commands.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/postern/postern/internal/config"
	"github.com/postern/postern/internal/guard"
	"github.com/postern/postern/internal/identity"
	"github.com/postern/postern/internal/redirect"
	"github.com/postern/postern/internal/supervisor"
	"github.com/postern/postern/internal/version"
)

const usage = `postern-guard holds the policy cgroups closed. It runs as root.

  postern-guard attach    attach the kernel programs, make the agents' cgroups
  postern-guard serve     answer the daemon and launch runs, until stopped
  postern-guard reload    have the one that serves become the version installed
                          now, with its runs: it executes what it was started as
  postern-guard check     say whether the policy root is closed; 1 if not
  postern-guard detach    remove the programs: THE AGENTS ARE OPEN AFTERWARDS
  postern-guard version

Options of all of them:
  --config FILE        configuration (default /etc/postern/postern.yaml)
  --bpffs DIR          where the programs are pinned (default /sys/fs/bpf)
  --daemon-user USER   who posternd runs as, by name or number (default postern)
  --grace TIME         serve: how long connections wait for a daemon that is
                       away (default 15s)
  --bubblewrap FILE    serve: what makes sandboxes (default: bwrap on the PATH,
                       or /usr/bin/bwrap)
  --json               machine-readable output
`

// options are the flags of every command.
type options struct {
	config, bpffs, daemon string
	bubblewrap            string
	json                  bool
	grace                 time.Duration
	rehearse              int // the handover that the guard before would leave; 0: serve
	out                   io.Writer
}

func main() {
	if guard.Main(os.Args) {
		return
	}
	if err := run(os.Args[1:], os.Stdout); err != nil {
		if !errors.Is(err, errOpen) {
			fmt.Fprintln(os.Stderr, "postern-guard:", err)
		}
		os.Exit(1)
	}
}

// errOpen is the answer of check when something is wrong; it has been printed.
var errOpen = errors.New("the policy root is not closed")

func run(args []string, out io.Writer) error {
	commands := map[string]func(options) error{
		"attach": attach, "serve": serve, "reload": reload, "check": check, "detach": detach,
		"version": func(options) error { _, err := fmt.Fprintln(out, "postern-guard", version.String()); return err },
	}
	if len(args) == 0 || args[0] == "--help" || args[0] == "-h" || args[0] == "help" {
		_, err := io.WriteString(out, usage)
		return err
	}
	command, ok := commands[args[0]]
	if !ok {
		return fmt.Errorf("%q is no command; `postern-guard --help` lists them", args[0])
	}
	o := options{out: out}
	flags := flag.NewFlagSet(args[0], flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&o.config, "config", config.DefaultFile, "")
	flags.StringVar(&o.bpffs, "bpffs", redirect.DefaultBPFFS, "")
	flags.StringVar(&o.daemon, "daemon-user", "postern", "")
	flags.StringVar(&o.bubblewrap, "bubblewrap", "", "")
	flags.BoolVar(&o.json, "json", false, "")
	flags.DurationVar(&o.grace, "grace", 0, "")
	flags.IntVar(&o.rehearse, "rehearse", 0, "") // of serve, by the guard before: see successor
	err := flags.Parse(args[1:])
	if errors.Is(err, flag.ErrHelp) {
		_, err := io.WriteString(out, usage)
		return err
	}
	if err == nil && flags.NArg() > 0 {
		err = fmt.Errorf("%q is not understood", flags.Arg(0))
	}
	if err != nil {
		return fmt.Errorf("%s: %w; `postern-guard --help` lists the options", args[0], err)
	}
	return command(o)
}

// load reads the configuration and says where the programs belong.
func (o options) load() (cfg *config.Config, mount string, where redirect.Options, err error) {
	cfg, problems := config.Load(o.config)
	if cfg == nil {
		return nil, "", where, fmt.Errorf("%s (%d problems; `postern check %s` lists them)", problems[0], len(problems), o.config)
	}
	where, mount, err = o.at(cfg.Root)
	return cfg, mount, where, err
}

// at is where the programs of a policy root belong.
func (o options) at(root string) (where redirect.Options, mount string, err error) {
	if mount, err = identity.CgroupMount(); err != nil {
		return where, "", err
	}
	return redirect.Options{Cgroup: filepath.Join(mount, root), BPFFS: o.bpffs, MountBPFFS: true, Create: true, Foretell: true}, mount, nil
}

func needRoot() error {
	if os.Geteuid() != 0 {
		return errors.New("this takes root: use sudo")
	}
	return nil
}

// attach closes the root also when the configuration has problems: a mistake in a
// rule is not to leave agents open after the next start of the host.
func attach(o options) error {
	if err := needRoot(); err != nil {
		return err
	}
	root, cfg, problem := guard.Root(o.config)
	where, mount, err := o.at(root)
	if err != nil {
		return err
	}
	report, err := redirect.Attach(where)
	if err != nil {
		return errors.Join(err, problem)
	}
	if problem != nil {
		return errors.Join(fmt.Errorf("%s is closed; the configuration has problems (`postern check %s` lists them): %w", where.Cgroup, o.config, problem),
			guard.Anchor(where.Cgroup))
	}
	if err := guard.RememberRoot(cfg); err != nil {
		fmt.Fprintln(os.Stderr, "postern-guard: the policy root cannot be remembered for the next start of the host:", err)
	}
	for _, a := range cfg.Agents {
		if err := os.MkdirAll(filepath.Join(mount, a.Cgroup), 0o755); err != nil {
			return fmt.Errorf("make the cgroup of agent %s: %w", a.Name, err)
		}
	}
	if err := guard.Anchor(where.Cgroup); err != nil {
		return err
	}
	if o.json {
		return json.NewEncoder(o.out).Encode(report)
	}
	_, err = fmt.Fprintf(o.out, "%s is closed: %d programs attached, %d updated, %d as they were\n",
		where.Cgroup, len(report.Attached), len(report.Updated), len(report.Kept))
	return err
}

func detach(o options) error {
	if err := needRoot(); err != nil {
		return err
	}
	root, _, _ := guard.Root(o.config) // what is wrong with the rest does not matter for this
	where, _, err := o.at(root)
	if err != nil {
		return err
	}
	if err := errors.Join(redirect.Detach(where), guard.Weigh(where.Cgroup)); err != nil {
		return err
	}
	_, err = fmt.Fprintf(o.out, "%s is open: nothing is attached any more\n", where.Cgroup)
	return err
}

func check(o options) error {
	if err := needRoot(); err != nil {
		return err
	}
	_, _, where, err := o.load()
	if err != nil {
		return err
	}
	status := redirect.StatusOf(where)
	if o.json {
		if err := json.NewEncoder(o.out).Encode(status); err != nil {
			return err
		}
	} else {
		for _, p := range status.Problems {
			fmt.Fprintln(o.out, p)
		}
	}
	if len(status.Problems) > 0 {
		return errOpen
	}
	if !o.json {
		fmt.Fprintf(o.out, "%s is closed by %d programs\n", status.Cgroup, len(status.Links))
	}
	return nil
}

func serve(o options) error {
	if err := needRoot(); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	before, err := guard.Inherit() // soon: what is executed is not to have any of it
	if err != nil {
		return err
	}
	stored := supervisor.Stored()
	cfg, _, where, err := o.load()
	if err != nil {
		return err
	}
	daemon, err := uidOf(o.daemon)
	if err != nil {
		return err
	}
	if before != nil { // there are runs, which are not to be left for what can be mended
		redirect.Attach(where) //nolint:errcheck // the check tells
	}
	if problems := redirect.Check(where); len(problems) > 0 {
		return fmt.Errorf("the policy root is not closed (%s): run `postern-guard attach` first", problems[0])
	}
	if o.rehearse != 0 {
		return guard.Rehearse(guard.Options{Redirect: where}, o.rehearse)
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	server, err := guard.New(guard.Options{
		Log: log, Config: o.config, Redirect: where, Daemon: daemon, Grace: o.grace, Bubblewrap: o.bubblewrap,
		Successor: o.successor, Store: supervisor.Store{}, Stored: stored,
		Attended: func(there bool) {
			status := "; no daemon is connected"
			if there {
				status = "; the daemon is connected"
			}
			if err := supervisor.Status(where.Cgroup + " is closed" + status); err != nil {
				log.Warn("systemd", "error", err)
			}
		},
	})
	if err != nil {
		return err
	}
	l, err := listen(cfg.Guard.Socket, before)
	if l == nil {
		return err
	}
	if err != nil {
		log.Error("the guard listens where it did before", "error", err)
	}
	log.Info("guard serves", "socket", cfg.Guard.Socket, "root", where.Cgroup, "version", version.String())
	if err := supervisor.Ready(where.Cgroup + " is closed"); err != nil {
		log.Warn("systemd", "error", err)
	}
	go supervisor.Watch(ctx, func(ctx context.Context) error {
		_, err := guard.Client{Socket: l.Addr().String()}.Status(ctx)
		return err
	}, func(err error) { log.Error("the guard does not answer itself", "error", err) })
	return server.Serve(ctx, l, before)
}

// listen takes over the socket of the guard before, if that has left it and the
// configuration names no other by now, or no other that can be had.
func listen(at string, before *guard.Inheritance) (*net.UnixListener, error) {
	if before != nil && before.Socket.Addr().String() == at {
		return before.Socket, nil
	}
	l, err := listenAnew(at)
	switch {
	case before == nil:
	case err != nil:
		return before.Socket, err
	default:
		before.Socket.Close()
	}
	return l, err
}

func listenAnew(at string) (*net.UnixListener, error) {
	for _, dir := range []string{guard.RunDir, filepath.Dir(at)} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
	}
	return guard.Listen(at)
}

// successor is what serves after this process: the program where this one was, which
// may be of another version by now, with the same options. It is to say first that it
// would: that it knows the options, and what this guard leaves, and likes what it finds.
func (o options) successor(ctx context.Context) ([]string, error) {
	program, err := exec.LookPath(os.Args[0])
	if err == nil {
		program, err = filepath.Abs(program)
	}
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	rehearsal := append(slices.Clone(os.Args[1:]), "--rehearse", strconv.Itoa(guard.HandoverVersion))
	out, err := exec.CommandContext(ctx, program, rehearsal...).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("%s would not serve: %w: %s", program, err, strings.TrimSpace(string(out)))
	}
	return append([]string{program}, os.Args[1:]...), nil
}

const (
	// checkTime bounds how long the next guard may take to look at what is attached.
	checkTime = 30 * time.Second
	// reloadTime bounds a reload: what is being launched may take a minute.
	reloadTime = 2 * time.Minute
)

func reload(o options) error {
	if err := needRoot(); err != nil {
		return err
	}
	cfg, _, _, err := o.load()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), reloadTime)
	defer cancel()
	return guard.Client{Socket: cfg.Guard.Socket}.Reload(ctx)
}

func uidOf(name string) (uint32, error) {
	if n, err := strconv.ParseUint(name, 10, 32); err == nil {
		return uint32(n), nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		return 0, fmt.Errorf("%w: name the daemon's user with --daemon-user", err)
	}
	n, err := strconv.ParseUint(u.Uid, 10, 32)
	return uint32(n), err
}
