package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/postern/postern/internal/bypass"
	"github.com/postern/postern/internal/bypass/installed"
	"github.com/postern/postern/internal/bypass/outside"
	"github.com/postern/postern/internal/config"
)

// verification is what `postern verify --json` prints.
type verification struct {
	Stopped int             `json:"stopped"`
	Open    int             `json:"open"` // as the tier is known to be
	Absent  int             `json:"absent"`
	Failed  int             `json:"failed"`
	Agents  []agentVerified `json:"agents"`
}

// agentVerified is one agent's list in one tier.
type agentVerified struct {
	Agent    string           `json:"agent"`
	Tier     string           `json:"tier"`
	Observed bool             `json:"observed,omitempty"` // not enforced: mode observe
	Verdicts []bypass.Verdict `json:"verdicts"`
}

// allTiers is a value of --tier.
const allTiers = "all"

// verifyOptions are the flags.
type verifyOptions struct {
	agents   []string
	tier     string
	user     string
	attempts []string
}

func (c *cli) verifyCommand() *cobra.Command {
	var o verifyOptions
	cmd := &cobra.Command{
		Use:   "verify [--agent NAME]… [--tier TIER] [--user USER]",
		Short: "Try every known way around the gateway, as an agent of this host",
		Long: "It launches a run of each agent that makes every attempt of docs/security.md, really, and says what stopped\n" +
			"each. Outside is a network namespace that it makes and takes away: nothing is sent to a network. Needed are\n" +
			"the documentation addresses 203.0.113.0/24 and 2001:db8:706f:7374::/64, which nobody should have.\n" +
			"The kernel may load modules for rare protocols, as it would for anybody who asks for them.\n" +
			"The exit status is 1 when something was not stopped that must be.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v, err := c.verify(cmd.Context(), o)
			if v != nil && c.json {
				err = errors.Join(err, c.out.print(v))
			}
			if err == nil && v.Failed > 0 {
				return exitCode(1)
			}
			return err
		},
	}
	cmd.Flags().StringSliceVar(&o.agents, "agent", nil, "the agents to verify (default: all)")
	cmd.Flags().StringVar(&o.tier, "tier", "", "redirected, workspace, strict, or all (default: the least that the agent's runs may have)")
	cmd.Flags().StringVar(&o.user, "user", "", "whom the runs are launched as (default: the agent's own in the tier strict, else nobody)")
	cmd.Flags().StringSliceVar(&o.attempts, "attempt", nil, "only these attempts (default: all)")
	return cmd
}

// verify judges one agent after the other; what it has found until an error is
// returned with it.
func (c *cli) verify(ctx context.Context, o verifyOptions) (_ *verification, err error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("this takes root: use sudo")
	}
	cfg, problems := config.Load(c.config)
	if cfg == nil {
		return nil, fmt.Errorf("the configuration has problems: %s; `postern check` lists them", problems[0])
	}
	agents, err := chosen(cfg, o.agents)
	if err != nil {
		return nil, err
	}
	if _, err := o.tiers(&config.Agent{}); err != nil {
		return nil, err
	}
	list, err := listed(o.attempts)
	if err != nil {
		return nil, err
	}
	far, err := outside.Connect(outside.Options{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, far.Close()) }()
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	in, err := installed.Open(ctx, installed.Options{Config: cfg, Program: self, User: o.user, Outside: far, Env: runEnvironment()})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	if glass := in.Glass(); len(glass) > 0 {
		fmt.Fprintf(os.Stderr, "the glass is broken for %s: what they are let through is not stopped\n", strings.Join(glass, ", "))
	}
	v := &verification{Agents: []agentVerified{}}
	for i := range agents {
		tiers, err := o.tiers(&agents[i])
		if err != nil {
			return v, err
		}
		for _, tier := range tiers {
			if err := c.verifyOne(ctx, v, in, agents[i], tier, list); err != nil {
				return v, fmt.Errorf("agent %s, tier %s: %w", agents[i].Name, tier, err)
			}
		}
	}
	return v, nil
}

// tiers are those to verify: the least that the agent's runs may have, the one
// that was asked for, or all that they may have.
func (o verifyOptions) tiers(a *config.Agent) ([]bypass.Tier, error) {
	least, err := bypass.TierNamed(cmp.Or(a.Tier, bypass.Redirected.String()))
	if err != nil {
		return nil, err
	}
	switch o.tier {
	case "":
		return []bypass.Tier{least}, nil
	case allTiers:
		return []bypass.Tier{bypass.Redirected, bypass.Workspace, bypass.Strict}[least:], nil
	}
	tier, err := bypass.TierNamed(o.tier)
	return []bypass.Tier{tier}, err
}

// verifyOne judges one agent in one tier.
func (c *cli) verifyOne(ctx context.Context, v *verification, in *installed.Installation, a config.Agent, tier bypass.Tier, list []bypass.Attempt) error {
	p := newProgress(fmt.Sprintf("agent %s, tier %s", a.Name, tier), list)
	judge, err := in.Judge(ctx, a, tier, p.tell)
	if err != nil {
		return err
	}
	verdicts, err := judge.Run(ctx, list)
	p.end()
	done := agentVerified{Agent: a.Name, Tier: tier.String(), Observed: a.Observing(time.Now()), Verdicts: verdicts}
	v.add(done)
	if err == nil && !c.json {
		err = c.showVerified(done)
	}
	return err
}

// runEnvironment is what attempts look at.
func runEnvironment() []string {
	env := []string{"PATH=/usr/local/bin:/usr/bin:/bin"}
	if path := os.Getenv("SSH_AUTH_SOCK"); path != "" {
		env = append(env, "SSH_AUTH_SOCK="+path)
	}
	return env
}

func chosen(cfg *config.Config, names []string) ([]config.Agent, error) {
	if len(names) == 0 {
		return cfg.Agents, nil
	}
	var agents []config.Agent
	for _, name := range names {
		i := slices.IndexFunc(cfg.Agents, func(a config.Agent) bool { return a.Name == name })
		if i < 0 {
			return nil, fmt.Errorf("there is no agent %q", name)
		}
		agents = append(agents, cfg.Agents[i])
	}
	return agents, nil
}

func listed(names []string) ([]bypass.Attempt, error) {
	all := bypass.All()
	if len(names) == 0 {
		return all, nil
	}
	for _, name := range names {
		if !slices.ContainsFunc(all, func(a bypass.Attempt) bool { return a.Name == name }) {
			return nil, fmt.Errorf("there is no attempt %q; docs/security.md lists them", name)
		}
	}
	return slices.DeleteFunc(all, func(a bypass.Attempt) bool { return !slices.Contains(names, a.Name) }), nil
}

func (v *verification) add(a agentVerified) {
	v.Agents = append(v.Agents, a)
	n := count(a.Verdicts)
	v.Stopped += n[bypass.Stopped]
	v.Open += n[bypass.Open]
	v.Absent += n[bypass.Absent]
	v.Failed += n[bypass.Failed]
}

func count(verdicts []bypass.Verdict) map[bypass.Result]int {
	n := map[bypass.Result]int{}
	for _, v := range verdicts {
		n[v.Result]++
	}
	return n
}

// showVerified prints a table, what is open and what to do about it, and a
// summary.
func (c *cli) showVerified(a agentVerified) error {
	if a.Observed {
		fmt.Fprintf(c.out, "%s agent %s is observed, not enforced: what it may not is let through by the gateway\n", c.out.yellow("warning:"), a.Agent)
	}
	rows := [][]string{{"ATTEMPT", "FAMILIES", "RESULT", "BY", "HOW IT ENDED"}}
	for _, row := range merged(a.Verdicts) {
		v := row.verdict
		result := map[bypass.Result]string{
			bypass.Stopped: "pass", bypass.Open: "open in this tier", bypass.Absent: "nothing to try", bypass.Failed: "FAIL",
		}[v.Result]
		var by []string
		for _, h := range v.By {
			by = append(by, string(h))
		}
		rows = append(rows, []string{v.Attempt, strings.Join(row.families, " "), result, strings.Join(by, " "), short(v.Detail, 70)})
	}
	if err := c.out.table(rows); err != nil {
		return err
	}
	for _, v := range a.Verdicts {
		if v.Result != bypass.Failed {
			continue
		}
		fmt.Fprintf(c.out, "%s %s (%s): it %s, and %s\n", c.out.red("FAIL"), v.Attempt, v.Family, v.Tries, safe(v.Detail))
		for _, f := range v.Frames {
			fmt.Fprintf(c.out, "      arrived outside: %s\n", safe(f))
		}
	}
	open := openOnes(a.Verdicts)
	for _, help := range slices.Sorted(maps.Keys(open)) {
		fmt.Fprintf(c.out, "open in the tier %s: %s\n      → %s\n", a.Tier, strings.Join(open[help], ", "), help)
	}
	n := count(a.Verdicts)
	failed := fmt.Sprintf("%d FAILED", n[bypass.Failed])
	if n[bypass.Failed] > 0 {
		failed = c.out.red(failed)
	}
	_, err := fmt.Fprintf(c.out, "agent %s, tier %s: %d stopped, %d open in this tier, %d with nothing to try, %s\n\n",
		a.Agent, a.Tier, n[bypass.Stopped], n[bypass.Open], n[bypass.Absent], failed)
	return err
}

// verdictRow is a line of the table: families that fared alike are in one.
type verdictRow struct {
	verdict  bypass.Verdict
	families []string
}

func merged(verdicts []bypass.Verdict) (rows []verdictRow) {
	for _, v := range verdicts {
		if n := len(rows); n > 0 && rows[n-1].verdict.Attempt == v.Attempt && rows[n-1].verdict.Result == v.Result &&
			slices.Equal(rows[n-1].verdict.By, v.By) {
			rows[n-1].families = append(rows[n-1].families, string(v.Family))
			continue
		}
		rows = append(rows, verdictRow{v, []string{string(v.Family)}})
	}
	return rows
}

// openOnes are the attempts that are known to be open, by what to do about it.
func openOnes(verdicts []bypass.Verdict) map[string][]string {
	open := map[string][]string{}
	for _, v := range verdicts {
		if v.Result == bypass.Open && !slices.Contains(open[v.Help], v.Attempt) {
			open[v.Help] = append(open[v.Help], v.Attempt)
		}
	}
	return open
}

// progress shows on a terminal which attempt is being made.
type progress struct {
	what        string
	done, total int
	shown       bool
}

func newProgress(what string, list []bypass.Attempt) *progress {
	p := &progress{what: what, shown: term.IsTerminal(int(os.Stderr.Fd()))}
	for _, a := range list {
		p.total += len(a.Families)
	}
	return p
}

// clearLine goes to the beginning of the line and empties it.
const clearLine = "\r\x1b[K"

func (p *progress) tell(v bypass.Verdict) {
	p.done++
	if p.shown {
		fmt.Fprintf(os.Stderr, "%s%s: %d of %d, %s", clearLine, p.what, p.done, p.total, v.Attempt)
	}
}

func (p *progress) end() {
	if p.shown {
		fmt.Fprint(os.Stderr, clearLine)
	}
}
