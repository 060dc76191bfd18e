package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern/postern/internal/identity"
	"github.com/postern/postern/internal/redirect"
	"github.com/postern/postern/internal/sandbox"
	"github.com/postern/postern/pkg/control"
)

func (c *cli) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Show agents, targets and whether the kernel holds them", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := c.daemon().Status(cmd.Context())
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
	fmt.Fprintf(c.out, "posternd %s, up %s, %s (generation %d)\n", s.Version, age(time.Since(s.Started)), s.Config, s.Generation)
	fmt.Fprintf(c.out, "%d sessions, %d waiting approvals, metrics at %s\n\n", s.Sessions, s.Pending, s.Metrics)
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
	for _, tier := range sandbox.Tiers {
		if slices.ContainsFunc(s.Agents, func(a control.Agent) bool { return a.Tier == string(tier) }) {
			fmt.Fprintf(c.out, "tier %s, at least, leaves open: %s\n", tier, tier.Open())
		}
	}
	fmt.Fprintln(c.out)
	rows = [][]string{{"TARGET", "PROTOCOL", "HOSTS"}}
	for _, t := range s.Targets {
		rows = append(rows, []string{t.Name, t.Protocol, strings.Join(t.Hosts, " ")})
	}
	return c.out.table(rows)
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

func (c *cli) doctorCommand() *cobra.Command {
	return &cobra.Command{
		Use: "doctor", Short: "Look for what is missing or wrong on this host", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			checks := c.examine(cmd.Context())
			bad := 0
			for _, k := range checks {
				if !k.OK {
					bad++
				}
			}
			if c.json {
				if err := c.out.print(checks); err != nil {
					return err
				}
			} else {
				c.showChecks(checks)
			}
			if bad > 0 {
				return exitCode(1)
			}
			return nil
		},
	}
}

// examine goes from the kernel up.
func (c *cli) examine(ctx context.Context) []control.Check {
	var checks []control.Check
	add := func(name string, err error, ok, help string) {
		k := control.Check{Name: name, OK: err == nil, Detail: ok, Help: help}
		if err != nil {
			k.Detail = err.Error()
		}
		checks = append(checks, k)
	}
	if os.Geteuid() != 0 {
		add("root", errors.New("not root: what the kernel can do and what is attached cannot be seen"), "", "run it with sudo")
	} else {
		for _, f := range redirect.Probe() {
			k := control.Check{Name: "kernel feature: " + f.Name, OK: f.Answer == redirect.Yes, Detail: f.Detail, Help: f.Help}
			checks = append(checks, k)
		}
	}
	_, err := os.Stat(c.config)
	add("configuration", err, c.config, "write it; the README has an example")
	if err == nil {
		out, err := c.daemonCheck(ctx, c.config)
		if err != nil {
			err = errors.New(strings.TrimSpace(string(out)))
		}
		add("configuration is valid", err, "", "correct it, then `postern reload`")
	}
	cfg := c.settings()
	if mount, err := identity.CgroupMount(); err == nil && os.Geteuid() == 0 {
		status, err := c.guard().Status(ctx)
		add("postern-guard answers", err, cfg.Guard.Socket, "start postern-guard: systemctl start postern-guard")
		problems := status.Problems
		if err != nil {
			status.Status = redirect.StatusOf(redirect.Options{Cgroup: filepath.Join(mount, cfg.Root)})
			problems = status.Problems
		}
		var open error
		if len(problems) > 0 {
			open = fmt.Errorf("%s", problems[0])
		}
		for who, until := range status.Glass {
			add("the glass is whole", fmt.Errorf("broken for %s until %s: these agents go past the gateway", who, until.Format(time.DateTime)), "", "postern break-glass --end")
		}
		add("the policy root is closed", open, fmt.Sprintf("%d programs hold %s", len(status.Links), status.Cgroup), "run `postern-guard attach`")
	}
	s, err := c.daemon().Status(ctx)
	add("posternd answers", err, s.Version, "start posternd: systemctl start posternd")
	for _, a := range s.Agents {
		if a.Mode == "observe" {
			add("agent "+a.Name, errors.New("is observed, not enforced, until "+a.Until.Format(time.RFC3339)), "", "remove mode: observe when you have seen enough")
		}
	}
	return checks
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
