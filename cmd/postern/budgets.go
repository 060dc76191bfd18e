package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern/postern/internal/budget"
	"github.com/postern/postern/pkg/control"
)

func (c *cli) budgetsCommand() *cobra.Command {
	return &cobra.Command{
		Use: "budgets [AGENT]", Short: "Show what is left of agents' budgets", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			all, err := c.daemon().Budgets(cmd.Context())
			if err != nil {
				return err
			}
			shown := []control.Budget{}
			for _, b := range all {
				if len(args) == 0 || b.Agent == args[0] {
					shown = append(shown, b)
				}
			}
			if c.json {
				return c.out.print(shown)
			}
			if len(shown) == 0 {
				_, err := fmt.Fprintln(c.out, "no budgets")
				return err
			}
			return c.showBudgets(shown)
		},
	}
}

func (c *cli) showBudgets(shown []control.Budget) error {
	rows := [][]string{{"AGENT", "BUDGET", "TARGET", "WITHIN", "LEFT", "NEXT", "FREES"}}
	for _, b := range shown {
		var left []string
		for _, kind := range []budget.Kind{budget.Statements, budget.Rows, budget.Bytes, budget.Writes} {
			if a, ok := b.Amounts[kind.String()]; ok {
				left = append(left, leftOf(kind, a))
			}
		}
		frees := ""
		if b.Frees > 0 {
			frees = "in " + age(time.Duration(b.Frees*float64(time.Second)))
		}
		next := map[string]string{"free": "as the rules say", "ask": "asks", "deny": "denied"}[b.State]
		window := budget.Span(time.Duration(b.Window * float64(time.Second)))
		rows = append(rows, []string{b.Agent, b.Name, b.Target, window, strings.Join(left, ", "), next, frees})
	}
	return c.out.table(rows)
}

func leftOf(kind budget.Kind, a control.Amount) string {
	if kind == budget.Bytes {
		return fmt.Sprintf("%s of %s", bytesOf(a.Left), bytesOf(a.Most))
	}
	return fmt.Sprintf("%d of %d %s", a.Left, a.Most, kind)
}
