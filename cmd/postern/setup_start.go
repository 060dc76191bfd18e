package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/postern/postern/internal/config"
	"github.com/postern/postern/pkg/control"
)

// started is what `postern setup --json` prints.
type started struct {
	Written     []string        `json:"written"`
	Agent       string          `json:"agent"`
	Target      string          `json:"target"`
	Placeholder string          `json:"placeholder"`
	Checks      []control.Check `json:"checks"`         // what was tried
	Next        []string        `json:"next,omitempty"` // commands, in order
}

// startFirst starts what there is, tries it, and says what to run next.
func (c *cli) startFirst(ctx context.Context, f *first, written []string) error {
	s := started{Written: written, Agent: f.agent, Target: f.target, Placeholder: f.placeholder, Checks: []control.Check{}}
	wrong := false
	if f.onlyWritten {
		s.Next = c.byHand(f)
	} else if err := c.startUnits(ctx); err != nil {
		if !errors.Is(err, errNoUnits) {
			return err
		}
		s.Next = c.byHand(f)
	} else {
		s.Checks = c.tryFirst(ctx, f)
		for _, k := range s.Checks {
			wrong = wrong || !k.OK
		}
	}
	s.Next = append(s.Next, f.firstRun())
	if err := c.showStarted(&s, f); err != nil {
		return err
	}
	if wrong {
		return exitCode(1)
	}
	return nil
}

func (c *cli) showStarted(s *started, f *first) error {
	if c.json {
		return c.out.print(s)
	}
	c.showChecks(s.Checks)
	if len(s.Checks) == 0 {
		fmt.Fprintln(c.out, "nothing was started; next:")
	} else {
		fmt.Fprintln(c.out, "next:")
	}
	for _, n := range s.Next {
		fmt.Fprintln(c.out, " ", n)
	}
	if f.observe > 0 {
		fmt.Fprintf(c.out, "nothing is enforced for %s; what agent %s did becomes its policy by:\n"+
			"  postern policy learn --agent %[2]s --write candidate.yaml   # read it; postern policy test says what it denies\n"+
			"  install -m 644 candidate.yaml %[3]s\n  postern enforce %[2]s\n",
			f.observe, f.agent, c.config)
	}
	return nil
}

var errNoUnits = errors.New("no units")

// startUnits lets what runs take up the new configuration, and starts it
// elsewhere.
func (c *cli) startUnits(ctx context.Context) error {
	systemd := withSystemd() && c.config == config.DefaultFile
	if !systemd {
		if _, err := c.daemon().Status(ctx); err != nil {
			return errNoUnits
		}
		return c.reloadFirst(ctx)
	}
	for _, args := range [][]string{
		{"enable", "--quiet", "postern-attach.service", "postern-guard.service", "posternd.service"},
		{"start", "postern-attach.service"},
		{"start", "postern-guard.service"},
	} {
		if err := systemctl(ctx, args...); err != nil {
			return err
		}
	}
	if _, err := c.daemon().Status(ctx); err == nil {
		return c.reloadFirst(ctx)
	}
	if err := c.attachFirst(ctx); err != nil {
		return err
	}
	return systemctl(ctx, "restart", "posternd.service")
}

func (c *cli) reloadFirst(ctx context.Context) error {
	if err := c.attachFirst(ctx); err != nil {
		return err
	}
	_, err := c.daemon().Reload(ctx)
	return err
}

// attachFirst makes the cgroups of new agents, which an attach of before has not.
func (c *cli) attachFirst(ctx context.Context) error {
	return command(ctx, "postern-guard", "attach", "--config", c.config)
}

func systemctl(ctx context.Context, args ...string) error { return command(ctx, "systemctl", args...) }

// command runs another program. Our own are taken from beside this one.
func command(ctx context.Context, name string, args ...string) error {
	path := name
	if name == "postern-guard" {
		daemon, err := daemonPath()
		if err != nil {
			return err
		}
		path = filepath.Join(filepath.Dir(daemon), name)
	}
	if out, err := exec.CommandContext(ctx, path, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// tryFirst looks at what runs, and has the daemon log in to the target.
func (c *cli) tryFirst(ctx context.Context, f *first) []control.Check {
	check := func(name string, err error, ok, help string) control.Check {
		if err != nil {
			return control.Check{Name: name, Detail: strings.ReplaceAll(err.Error(), "\n", "; "), Help: help}
		}
		return control.Check{Name: name, OK: true, Detail: ok}
	}
	held, err := c.guard().Status(ctx)
	if err == nil && len(held.Problems) > 0 {
		err = errors.New(held.Problems[0].String())
	}
	out := []control.Check{check("kernel", err, fmt.Sprintf("%s is closed by %d programs", held.Cgroup, len(held.Links)), "postern doctor says more")}
	s, err := c.daemon().Status(ctx)
	out = append(out, check("daemon", err, "posternd "+s.Version+" answers", "journalctl -u posternd says why"))
	if err == nil {
		err = c.daemon().TryLogin(ctx, f.target)
		out = append(out, check("login", err, fmt.Sprintf("%s lets %s in, by its real credential", f.host, f.user),
			"correct it with postern setup --force, or in "+c.config+" and postern reload"))
	}
	return out
}

// byHand is what starts everything where nothing else does.
func (c *cli) byHand(f *first) []string {
	option := ""
	if c.config != config.DefaultFile {
		option = " --config " + quoted(c.config)
	}
	return []string{
		"postern-guard attach" + option,
		"postern-guard serve" + option + " &",
		fmt.Sprintf("setpriv --reuid %s --regid %[1]s --clear-groups --inh-caps +bpf --ambient-caps +bpf posternd%s &", f.daemonUser, option),
	}
}

// firstRun is a command that proves all of it.
func (f *first) firstRun() string {
	host, port, _ := net.SplitHostPort(f.host) // complete has seen to it
	dsn := fmt.Sprintf("host=%s port=%s user=%s dbname=%s", host, port, f.asUser, f.asDatabase)
	return fmt.Sprintf("PGPASSWORD=%s postern run --agent %s -- psql %s -c 'SELECT version()'", quoted(f.placeholder), quoted(f.agent), quoted(dsn))
}

// quoted is a word of a shell.
func quoted(s string) string {
	if s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:@=,+", r)
	}) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
