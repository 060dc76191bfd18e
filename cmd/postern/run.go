package main

import (
	"context"
	"os"
	"os/signal"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/postern/postern/internal/guard"
)

func (c *cli) runCommand() *cobra.Command {
	var run guard.Run
	var who asWho
	var as string
	cmd := &cobra.Command{
		Use:   "run --agent NAME [--as WHO] [--tier TIER] -- COMMAND [ARGUMENT…]",
		Short: "Launch an agent inside its policy cgroup",
		Long: "The command is started inside the agent's policy cgroup, without privileges, and reaches nothing but through\n" +
			"the gateway. Its exit status is passed on.\n\n" +
			"  redirected  the host's files and loopback, under the kernel programs\n" +
			"  workspace   as yourself, in the current directory, with an empty home\n" +
			"  strict      as a user of the agent's own, with what is configured\n\n" +
			"Without --tier: workspace on a terminal, elsewhere strict if there is a user.",
		Example: "  postern run --agent planner -- psql 'host=orders-db.internal user=app'\n" +
			"  postern run --agent coder --tier workspace --publish 3000 -- npm run dev",
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			who.narrow = cmd.Flags().Changed("allow")
			if as != "" {
				who.as = []string{as}
			}
			return c.run(cmd.Context(), run, who, args)
		},
	}
	f := cmd.Flags()
	f.StringVar(&run.Agent, "agent", "", "the agent, as the configuration names it")
	f.StringVar(&run.User, "user", "", "who it runs as; root may say")
	f.StringVar(&run.Tier, "tier", "", "not less than agents.tier")
	f.StringArrayVar(&run.Binds, "bind", nil, "`PATH` or PATH:ro that a workspace sees too")
	f.IntSliceVar(&run.Publish, "publish", nil, "a `port` that the host reaches (agents.publish)")
	f.StringVar(&as, "as", "", "for `WHO`: login, device, token-file=PATH, env=NAME")
	f.StringVar(&who.issuer, "issuer", "", "where they log in, of several")
	f.StringArrayVar(&who.allow, "allow", nil, "only `TARGET`, or only TARGET:VERB,…")
	f.BoolVar(&run.AllowHooks, "allow-hooks", false, "leave .git/hooks and .envrc writable")
	cmd.MarkFlagRequired("agent") //nolint:errcheck // the flag exists
	return cmd
}

func (c *cli) run(ctx context.Context, run guard.Run, who asWho, args []string) error {
	if err := unreadable(); err != nil {
		return err
	}
	known, err := c.announce(ctx, run.Agent, who)
	if err != nil {
		return err
	}
	run.Ticket, run.TokenFile = known.ticket, known.token
	if run.Dir, err = os.Getwd(); err != nil {
		return err
	}
	for i, bind := range run.Binds {
		path, mode := bind, ""
		for _, m := range []string{":ro", ":rw"} {
			if before, ok := strings.CutSuffix(bind, m); ok {
				path, mode = before, m
			}
		}
		if path, err = filepath.Abs(path); err != nil {
			return err
		}
		run.Binds[i] = path + mode
	}
	run.Args, run.Env = args, without(os.Environ(), strings.Join(who.as, ""))
	if os.Geteuid() == 0 {
		run.Sudoer = sudoer()
	}
	streams, terminal, err := openStdio()
	if err != nil {
		return err
	}
	defer streams.close()
	run.Terminal = terminal
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2)
	// What an interrupt means is the command's to decide.
	following, stop := context.WithCancel(context.WithoutCancel(ctx))
	var follow sync.WaitGroup
	exit, err := c.guard().Run(context.WithoutCancel(ctx), run, streams.files, signals, func(name string) {
		if known.token != "" {
			follow.Go(func() { c.follow(following, name, known) })
		}
	})
	stop()
	follow.Wait()
	if err != nil {
		return err
	}
	if exit.Code != 0 {
		return exitCode(exit.Code)
	}
	return nil
}

// without leaves the variable out that a token came from.
func without(env []string, as string) []string {
	kind, name, _ := strings.Cut(as, "=")
	if kind != "env" {
		return env
	}
	return slices.DeleteFunc(env, func(v string) bool { return strings.HasPrefix(v, name+"=") })
}

// sudoer is who called sudo.
func sudoer() string {
	u, err := user.LookupId(os.Getenv("SUDO_UID"))
	if err != nil || u.Uid == "0" {
		return ""
	}
	return u.Username
}
