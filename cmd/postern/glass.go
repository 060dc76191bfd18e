package main

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern/postern/internal/guard"
)

func (c *cli) breakGlassCommand() *cobra.Command {
	var g guard.Glass
	var end bool
	cmd := &cobra.Command{
		Use:   "break-glass --for TIME --reason TEXT [--agent NAME] | --end [--agent NAME]",
		Short: "Let agents past the gateway for a while, in an emergency",
		Long: "Agents connect where they want, undecided and unmasked, until the time is over: the kernel ends it by\n" +
			"itself, whether or not anything of Postern runs. It takes root, is on record, and shows in the status, the\n" +
			"log and the metrics. Runs of the tiers workspace and strict have no network of their own and stay closed.",
		Example: "  sudo postern break-glass --for 15m --reason 'gateway down, incident 4711'",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case end && (g.For != 0 || g.Reason != ""):
				return errors.New("--end goes without --for and --reason")
			case !end && g.For <= 0:
				return errors.New("say for how long: --for 15m, at most " + guard.MaxGlass.String())
			case !end && g.Reason == "":
				return errors.New("say why: --reason TEXT")
			}
			if err := c.guard().BreakGlass(cmd.Context(), g); err != nil {
				return err
			}
			if c.json {
				return c.out.print(struct {
					Agent  string    `json:"agent"` // "*": all
					Broken bool      `json:"broken"`
					Until  time.Time `json:"until"`
				}{cmp.Or(g.Agent, "*"), !end, time.Now().Add(g.For)})
			}
			who := "all agents"
			if g.Agent != "" {
				who = "agent " + g.Agent
			}
			if end {
				fmt.Fprintln(c.out, "mended for", who)
				return nil
			}
			fmt.Fprintf(c.out, "%s: %s may go past the gateway until %s\n", c.out.red("THE GLASS IS BROKEN"), who,
				time.Now().Add(g.For).Format(time.DateTime))
			return nil
		},
	}
	cmd.Flags().DurationVar(&g.For, "for", 0, "how long, at most "+guard.MaxGlass.String())
	cmd.Flags().StringVar(&g.Reason, "reason", "", "why; it is on record")
	cmd.Flags().StringVar(&g.Agent, "agent", "", "this agent only")
	cmd.Flags().BoolVar(&end, "end", false, "end it now, without --agent whomever it was broken for")
	return cmd
}
