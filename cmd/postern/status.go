package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern/postern/pkg/control"
)

func (c *cli) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Show agents, targets and whether the kernel holds them", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := c.daemon().Status(cmd.Context())
			if errors.Is(err, control.ErrNotRunning) {
				return errors.Join(err, c.showGuard(cmd.Context()))
			}
			if err != nil {
				return err
			}
			if c.json {
				return c.out.print(s)
			}
			return c.showStatus(s)
		},
	}
}

func (c *cli) showStatus(s control.Status) error {
	fmt.Fprintf(c.out, "posternd %s, up %s\n", s.Version, age(time.Since(s.Started)))
	fmt.Fprintf(c.out, "  configuration  %s, generation %d\n", s.Config, s.Generation)
	fmt.Fprintf(c.out, "  recordings     %s\n", s.Recordings)
	fmt.Fprintf(c.out, "  metrics        %s\n", s.Metrics)
	fmt.Fprintf(c.out, "  sessions       %d\n", s.Sessions)
	waiting := fmt.Sprint(s.Pending)
	if s.Pending > 0 {
		waiting = c.out.yellow(waiting + ", see: postern approvals")
	}
	fmt.Fprintf(c.out, "  waiting        %s\n\n", waiting)
	c.showChecks(s.Kernel)
	fmt.Fprintln(c.out)
	rows := [][]string{{"AGENT", "MODE", "TIER", "POLICY", "SESSIONS", "CGROUP"}}
	for _, a := range s.Agents {
		mode := a.Mode
		if a.Mode == "observe" {
			mode = "OBSERVE until " + a.Until.Local().Format(time.DateTime)
		}
		rows = append(rows, []string{a.Name, mode, a.Tier, a.Policy, fmt.Sprint(a.Sessions), a.Cgroup})
	}
	if err := c.out.table(rows); err != nil {
		return err
	}
	shown := map[string]bool{}
	for _, a := range s.Agents {
		if !shown[a.Tier] {
			fmt.Fprintf(c.out, "tier %s, at least, leaves open: %s\n", a.Tier, a.Open)
		}
		shown[a.Tier] = true
	}
	fmt.Fprintln(c.out)
	rows = [][]string{{"TARGET", "PROTOCOL", "HOSTS"}}
	for _, t := range s.Targets {
		rows = append(rows, []string{t.Name, t.Protocol, strings.Join(t.Hosts, " ")})
	}
	return c.out.table(rows)
}

// showGuard says whether agents are held while there is no daemon.
func (c *cli) showGuard(ctx context.Context) error {
	checks := c.guardChecks(ctx)
	if c.json {
		return c.out.print(map[string]any{"running": false, "kernel": checks})
	}
	c.showChecks(checks)
	return nil
}

func (c *cli) guardChecks(ctx context.Context) []control.Check {
	status, err := c.guard().Status(ctx)
	if err != nil {
		return []control.Check{{Name: "guard", Detail: err.Error(), Help: "systemctl start postern-guard; as root `postern-guard check` says what the kernel does"}}
	}
	checks := []control.Check{{Name: "kernel", OK: true, Detail: fmt.Sprintf("%s is closed by %d programs: agents get no connection until posternd runs", status.Cgroup, len(status.Links))}}
	if len(status.Problems) > 0 {
		checks = nil
	}
	for _, p := range status.Problems {
		checks = append(checks, control.Check{Name: "kernel", Detail: p.String(), Help: "run `postern-guard attach`"})
	}
	for who, until := range status.Glass {
		checks = append(checks, control.Check{
			Name: "glass", Detail: "THE GLASS IS BROKEN for " + who + " until " + until.Format(time.DateTime) + ": these agents go past the gateway",
			Help: "postern break-glass --end",
		})
	}
	return checks
}

func (c *cli) showChecks(checks []control.Check) {
	for _, k := range checks {
		mark := c.out.green("ok  ")
		if !k.OK {
			mark = c.out.red("FAIL")
		}
		fmt.Fprintf(c.out, "%s  %s", mark, k.Name)
		if k.Detail != "" {
			fmt.Fprintf(c.out, ": %s", k.Detail)
		}
		fmt.Fprintln(c.out)
		if !k.OK && k.Help != "" {
			fmt.Fprintf(c.out, "      → %s\n", k.Help)
		}
	}
}

// daemonCheck lets the daemon's own program read a configuration: what it says
// is what the daemon would do.
func (c *cli) daemonCheck(ctx context.Context, file string) ([]byte, error) {
	path, err := daemonPath()
	if err != nil {
		return nil, err
	}
	return exec.CommandContext(ctx, path, "--check", file).CombinedOutput()
}

func daemonPath() (string, error) {
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), "posternd")
		if _, err := os.Stat(beside); err == nil {
			return beside, nil
		}
	}
	for _, at := range []string{"/usr/sbin/posternd", "/usr/local/sbin/posternd"} {
		if _, err := os.Stat(at); err == nil {
			return at, nil
		}
	}
	return exec.LookPath("posternd")
}
