package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern/postern/pkg/control"
)

func (c *cli) secretsCommand() *cobra.Command {
	return &cobra.Command{
		Use: "secrets", Short: "What secrets there are, how old they are, and what is lent out; never a value", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			all, err := c.daemon().Secrets(cmd.Context())
			if err != nil {
				return err
			}
			if c.json {
				return c.out.print(all)
			}
			return c.showSecrets(all, time.Now())
		},
	}
}

func (c *cli) showSecrets(all control.Secrets, now time.Time) error {
	ago := func(t time.Time) string {
		if t.IsZero() {
			return "never"
		}
		return age(now.Sub(t))
	}
	rows := [][]string{{"SOURCE", "SECRET", "TARGETS", "FETCHED", "USED", "ENDS", "STATE"}}
	for _, s := range all.Secrets {
		name, ends, state := s.Path, "", "ok"
		if s.Key != "" {
			name += " " + s.Key
		}
		if !s.Expires.IsZero() {
			ends = age(s.Expires.Sub(now))
		}
		switch {
		case s.Stale:
			state = c.out.red("stale: " + safe(s.Error))
		case s.Error != "":
			state = c.out.yellow("last asked: " + safe(s.Error))
		case s.Fetched.IsZero():
			state = "not needed yet"
		}
		rows = append(rows, []string{s.Source, safe(name), strings.Join(s.Targets, " "), ago(s.Fetched), ago(s.Used), ends, state})
	}
	if err := c.out.table(rows); err != nil || len(all.Leases) == 0 {
		return err
	}
	fmt.Fprintln(c.out)
	rows = [][]string{{"SOURCE", "TARGET", "FOR", "MADE", "ENDS", "STATE"}}
	for _, l := range all.Leases {
		ends, state := "", "in use"
		if !l.Expires.IsZero() {
			ends = age(l.Expires.Sub(now))
		}
		switch {
		case l.Error != "":
			state = c.out.red(safe(l.Error))
		case l.Ending:
			state = "is being revoked"
		}
		rows = append(rows, []string{l.Source, l.Target, safe(l.For), ago(l.Began), ends, state})
	}
	return c.out.table(rows)
}

func (c *cli) secretCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "secret", Short: "Secrets of targets"}
	cmd.AddCommand(&cobra.Command{
		Use: "refresh [TARGET]", Short: "Fetch secrets anew; sessions that begin from now on use what was found", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			target := strings.Join(args, "")
			if err := c.daemon().RefreshSecrets(cmd.Context(), target); err != nil {
				return err
			}
			if c.json {
				return c.out.print(struct{}{})
			}
			what := "every secret was fetched anew"
			if target != "" {
				what = "the secrets of " + target + " were fetched anew"
			}
			_, err := fmt.Fprintln(c.out, what)
			return err
		},
	}, &cobra.Command{
		Use: "test TARGET", Short: "Fetch the credential of a target, log in with it and hang up; says which step failed", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := c.daemon().TryLogin(cmd.Context(), args[0]); err != nil {
				return err
			}
			if c.json {
				return c.out.print(struct{}{})
			}
			_, err := fmt.Fprintf(c.out, "%s: the credential was fetched, the target was reached, and it took the login\n", args[0])
			return err
		},
	})
	return cmd
}
