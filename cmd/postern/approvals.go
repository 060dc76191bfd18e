package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern/postern/pkg/control"
)

func (c *cli) approvalsCommand() *cobra.Command {
	var watch, all bool
	cmd := &cobra.Command{
		Use:   "approvals",
		Short: "Show what waits for a person",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if watch {
				return c.daemon().Watch(cmd.Context(), c.showApproval)
			}
			found, err := c.daemon().Approvals(cmd.Context())
			if err != nil {
				return err
			}
			shown := []control.Approval{}
			for _, a := range found {
				if all || a.State == "pending" {
					shown = append(shown, a)
				}
			}
			if c.json {
				return c.out.print(shown)
			}
			if len(shown) == 0 {
				_, err := fmt.Fprintln(c.out, "nothing waits")
				return err
			}
			for _, a := range shown {
				if err := c.showApproval(a); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "go on showing what changes")
	cmd.Flags().BoolVar(&all, "all", false, "also what was decided lately")
	return cmd
}

// showApproval prints one: what would happen first, then the agent's own words,
// which are shown as such.
func (c *cli) showApproval(a control.Approval) error {
	if c.json {
		return c.out.line(a)
	}
	state := a.State
	switch a.State {
	case "pending":
		state = c.out.yellow(state)
	case "approved", "consumed":
		state = c.out.green(state)
	default:
		state = c.out.red(state)
	}
	fmt.Fprintf(c.out, "%s  %s  agent %s → target %s  %s\n", a.ID, state, a.Agent, a.Target,
		c.out.dim(fmt.Sprintf("rule %s, %s ago", a.Rule, age(time.Since(a.Created)))))
	var effects []string
	for _, e := range a.Effects {
		effects = append(effects, safe(e))
	}
	fmt.Fprintf(c.out, "  would    %s\n", strings.Join(effects, ", "))
	fmt.Fprintf(c.out, "  agent's  %s\n", safe(a.Text))
	for i, p := range a.Params {
		fmt.Fprintf(c.out, "  $%d       %s\n", i+1, short(p, 200))
	}
	if a.Preview != nil {
		c.showPreview(a.Preview)
	}
	switch {
	case a.State == "pending":
		how := "postern approve " + a.ID
		if a.ReasonRequired {
			how += " --reason …"
		}
		fmt.Fprintf(c.out, "  decide   %s, within %s (asked: %s)\n", how, age(time.Until(a.DecideBy)), strings.Join(a.Approvers, ", "))
	case a.DecidedBy != "":
		fmt.Fprintf(c.out, "  decided  by %s: %s\n", a.DecidedBy, safe(a.Reason))
	}
	_, err := fmt.Fprintln(c.out)
	return err
}

// showPreview prints what was done already and is undone unless it is approved.
func (c *cli) showPreview(p *control.Preview) {
	switch {
	case !p.Ran:
		fmt.Fprintf(c.out, "  not run  %s\n", safe(p.Why))
		return
	case p.Error != "":
		fmt.Fprintf(c.out, "  failed   %s\n", safe(p.Error))
	default:
		fmt.Fprintf(c.out, "  changed  %d rows, not committed yet\n", p.Rows)
	}
	if len(p.Sample) == 0 {
		return
	}
	rows := [][]string{p.Columns}
	rows = append(rows, p.Sample...)
	for i, r := range rows {
		what := "        "
		if i == 0 {
			what = "before  "
		}
		cells := make([]string, len(r))
		for j, v := range r {
			cells[j] = short(v, 40)
		}
		fmt.Fprintf(c.out, "  %s %s\n", what, strings.Join(cells, " | "))
	}
}

func (c *cli) decideCommand(verb string) *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:   verb + " ID",
		Short: map[string]string{"approve": "Let a request go ahead, once", "deny": "Refuse a request"}[verb],
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			decide := c.daemon().Deny
			if verb == "approve" {
				decide = c.daemon().Approve
			}
			a, err := decide(cmd.Context(), args[0], reason)
			if err != nil {
				return err
			}
			if c.json {
				return c.out.print(a)
			}
			_, err = fmt.Fprintf(c.out, "%s is %s\n", a.ID, map[string]string{"approve": "approved", "deny": "denied"}[verb])
			return err
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why; it is recorded, and with a denial the agent reads it")
	return cmd
}
