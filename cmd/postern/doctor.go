package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern/postern/internal/config"
	"github.com/postern/postern/internal/guard"
	"github.com/postern/postern/internal/identity"
	"github.com/postern/postern/internal/redirect"
	"github.com/postern/postern/internal/sandbox"
	"github.com/postern/postern/pkg/control"
)

// diagnosis is what `postern doctor --json` prints; docs/doctor.md has it to the
// field. Fields are added, never changed or removed.
type diagnosis struct {
	OK     bool          `json:"ok"` // nothing that is required is missing
	Checks []finding     `json:"checks"`
	Links  []attachment  `json:"links"`
	Agents []agentInTier `json:"agents"`
}

// finding is one thing that was looked at.
type finding struct {
	ID       string `json:"id"` // stable, such as kernel.hook_connect4
	Name     string `json:"name"`
	State    string `json:"state"`    // ok, missing, wrong, unknown
	Required bool   `json:"required"` // Postern does not hold without it
	Detail   string `json:"detail,omitempty"`
	Costs    string `json:"costs,omitempty"` // what is weaker without it
	Help     string `json:"help,omitempty"`  // how to get it
}

// The states of a finding.
const (
	stateOK      = "ok"
	stateMissing = "missing" // not on this host
	stateWrong   = "wrong"   // there, and not as it should be
	stateUnknown = "unknown" // it could not be told
)

// attachment is one program in the kernel.
type attachment struct {
	redirect.LinkState
	Optional bool `json:"optional"`
}

// agentInTier is how much holds an agent.
type agentInTier struct {
	Agent    string   `json:"agent"`
	Least    string   `json:"least"`              // the tier that its runs have at least
	Possible []string `json:"possible"`           // the tiers that they may be launched in on this host
	Open     string   `json:"open"`               // what the least of them leaves open
	Raise    string   `json:"raise,omitempty"`    // what would close more
	Observed bool     `json:"observed,omitempty"` // mode observe: nothing is enforced
}

func (c *cli) doctorCommand() *cobra.Command {
	return &cobra.Command{
		Use: "doctor", Short: "Look for what is missing or wrong on this host", Args: cobra.NoArgs,
		Long: "It looks at the kernel, the host, what is attached and what runs, and says for each thing that is missing what\n" +
			"it costs and how to get it. The exit status is 1 when something is missing or wrong that is required.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			d := c.examine(cmd.Context())
			if c.json {
				if err := c.out.print(d); err != nil {
					return err
				}
			} else if err := c.showDiagnosis(d); err != nil {
				return err
			}
			if !d.OK {
				return exitCode(1)
			}
			return nil
		},
	}
}

func (c *cli) showDiagnosis(d *diagnosis) error {
	for _, f := range d.Checks {
		mark := c.out.green("ok  ")
		switch {
		case f.State == stateOK:
		case f.Required:
			mark = c.out.red("FAIL")
		default:
			mark = c.out.yellow("less")
		}
		fmt.Fprintf(c.out, "%s  %s", mark, f.Name)
		if f.Detail != "" {
			fmt.Fprintf(c.out, ": %s", short(f.Detail, 200))
		}
		fmt.Fprintln(c.out)
		if f.State == stateOK {
			continue
		}
		if f.Costs != "" {
			fmt.Fprintf(c.out, "      costs: %s\n", f.Costs)
		}
		if f.Help != "" {
			fmt.Fprintf(c.out, "      → %s\n", f.Help)
		}
	}
	rows := [][]string{{"HOOK", "LINK", "PROGRAM", "CGROUP"}}
	for _, l := range d.Links {
		rows = append(rows, []string{l.Hook, fmt.Sprint(l.LinkID), fmt.Sprint(l.ProgramID), fmt.Sprint(l.CgroupID)})
	}
	agents := [][]string{{"AGENT", "TIER, AT LEAST", "POSSIBLE", "LEAVES OPEN"}}
	for _, a := range d.Agents {
		agents = append(agents, []string{a.Agent, a.Least, strings.Join(a.Possible, " "), a.Open})
	}
	for _, table := range [][][]string{rows, agents} {
		if len(table) == 1 {
			continue
		}
		fmt.Fprintln(c.out)
		if err := c.out.table(table); err != nil {
			return err
		}
	}
	for _, a := range d.Agents {
		if a.Raise != "" {
			fmt.Fprintf(c.out, "%s → %s\n", a.Agent, a.Raise)
		}
	}
	return nil
}

// add notes a finding; one that is required and not there is why it is not OK.
func (d *diagnosis) add(f finding) {
	d.Checks = append(d.Checks, f)
	d.OK = d.OK && (f.State == stateOK || !f.Required)
}

// require adds something that is there or is not, with why.
func (d *diagnosis) require(id, name string, err error, ok, help string) {
	f := finding{ID: id, Name: name, State: stateOK, Required: true, Detail: ok}
	if err != nil {
		f.State, f.Detail, f.Help = stateWrong, err.Error(), help
	}
	d.add(f)
}

// examine goes from the kernel up.
func (c *cli) examine(ctx context.Context) *diagnosis {
	d := &diagnosis{OK: true, Checks: []finding{}, Links: []attachment{}, Agents: []agentInTier{}}
	cfg := c.settings()
	if os.Geteuid() != 0 {
		d.require("root", "root", errors.New("not root: what the kernel can do and what is attached cannot be seen"), "", "run it with sudo")
	} else {
		d.kernel()
	}
	d.host(ctx)
	c.examineInstallation(ctx, d, cfg)
	for i := range cfg.Agents {
		d.agent(&cfg.Agents[i])
	}
	return d
}

// kernel is what the programs take, and what newer kernels add.
func (d *diagnosis) kernel() {
	for _, f := range redirect.Probe() {
		d.add(findingOf(f, true, "Postern does not attach, and agents stay where they are"))
	}
	for _, n := range redirect.ProbeNewer() {
		d.add(findingOf(n.Feature, false, n.Costs))
	}
}

func findingOf(f redirect.Feature, required bool, costs string) finding {
	id := "kernel." + strings.ReplaceAll(strings.ReplaceAll(strings.ToLower(f.Name), " ", "_"), "'", "")
	out := finding{ID: id, Name: f.Name, State: stateOK, Required: required, Detail: f.Detail}
	if f.Answer == redirect.Yes {
		return out
	}
	out.State, out.Costs, out.Help = stateMissing, costs, f.Help
	if f.Answer == redirect.Unknown {
		out.State = stateUnknown
	}
	return out
}

// examineInstallation is the configuration, what is attached, and what runs.
func (c *cli) examineInstallation(ctx context.Context, d *diagnosis, cfg *config.Config) {
	_, err := os.Stat(c.config)
	d.require("configuration", "configuration", err, c.config, "write it; the README has an example")
	if err == nil {
		out, err := c.daemonCheck(ctx, c.config)
		if err != nil {
			err = errors.New(strings.TrimSpace(string(out)))
		}
		d.require("configuration.valid", "configuration is valid", err, "", "correct it, then `postern reload`")
	}
	if mount, err := identity.CgroupMount(); err == nil && os.Geteuid() == 0 {
		status, err := c.guard().Status(ctx)
		d.require("guard", "postern-guard answers", err, cfg.Guard.Socket, "start postern-guard: systemctl start postern-guard")
		if err != nil {
			status.Status = redirect.StatusOf(redirect.Options{Cgroup: filepath.Join(mount, cfg.Root)})
		}
		d.attached(status)
	}
	s, err := c.daemon().Status(ctx)
	d.require("daemon", "posternd answers", err, s.Version, "start posternd: systemctl start posternd")
	if err == nil {
		d.secrets(s.Secrets)
	}
	for _, a := range s.Agents {
		if a.Mode == "observe" {
			d.require("observed."+a.Name, "agent "+a.Name+" is enforced",
				errors.New("it is observed until "+a.Until.Format(time.RFC3339)), "", "remove mode: observe when you have seen enough")
		}
	}
}

// secrets says how the daemon keeps them in memory.
func (d *diagnosis) secrets(c control.Check) {
	var err error
	if !c.OK {
		err = errors.New(c.Detail)
	}
	d.option("secrets.memory", "secrets in memory are hidden from root too", err, c.Detail, "who is root reads them in the daemon's memory", c.Help)
}

// attached compares by id what holds the policy root.
func (d *diagnosis) attached(status guard.Status) {
	for _, l := range status.Links {
		d.Links = append(d.Links, attachment{l, false})
	}
	for _, l := range status.Optional {
		d.Links = append(d.Links, attachment{l, true})
	}
	for who, until := range status.Glass {
		d.require("glass", "the glass is whole", fmt.Errorf("broken for %s until %s: these agents go past the gateway", who, until.Format(time.DateTime)),
			"", "postern break-glass --end")
	}
	var open error
	if len(status.Problems) > 0 {
		var all []string
		for _, p := range status.Problems {
			all = append(all, p.String())
		}
		open = errors.New(strings.Join(all, "; "))
	}
	d.require("attached", "the policy root is closed", open, fmt.Sprintf("%d programs hold %s", len(status.Links), status.Cgroup), "run `postern-guard attach`")
}

// agent says what its tier leaves open, and what would close it.
func (d *diagnosis) agent(a *config.Agent) {
	least := sandbox.Tier(a.Tier)
	in := agentInTier{
		Agent: a.Name, Least: a.Tier, Possible: []string{}, Open: least.Open(), Observed: a.Observing(time.Now()),
	}
	for _, tier := range sandbox.Tiers {
		if !tier.AtLeast(least) || tier != sandbox.Redirected && bubblewrap() != nil {
			continue
		}
		in.Possible = append(in.Possible, string(tier))
	}
	switch {
	case least != sandbox.Redirected:
	case bubblewrap() != nil:
		in.Raise = "install bubblewrap, then set its tier to workspace or strict"
	case a.User == "":
		in.Raise = "set its tier to workspace, or give it a user of its own and the tier strict"
	default:
		in.Raise = "set its tier to strict"
	}
	d.Agents = append(d.Agents, in)
	if least != sandbox.Redirected {
		d.require("agent."+a.Name+".tier", "agent "+a.Name+" can be launched", bubblewrap(), "in the tier "+a.Tier, helpBubblewrap)
	}
}
