package main

import (
	"context"
	"os"
	"os/signal"
	"os/user"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/postern/postern/internal/guard"
)

func (c *cli) runCommand() *cobra.Command {
	var run guard.Run
	cmd := &cobra.Command{
		Use:   "run --agent NAME [--user USER] -- COMMAND [ARGUMENT…]",
		Short: "Launch an agent inside its policy cgroup",
		Long: "The command is started inside the agent's policy cgroup, without privileges, and in a mount namespace in\n" +
			"which the host's certificate authority is trusted. It reaches nothing but through the gateway. It ends\n" +
			"when postern run does, and its exit status is passed on.",
		Example: "  postern run --agent planner -- psql 'host=orders-db.internal user=app sslmode=verify-full'",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			if run.Dir, err = os.Getwd(); err != nil {
				return err
			}
			run.Args, run.Env = args, os.Environ()
			if run.User == "" && os.Geteuid() == 0 {
				run.User = sudoer()
			}
			signals := make(chan os.Signal, 16)
			signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2)
			// What an interrupt means is the command's to decide.
			exit, err := c.guard().Run(context.WithoutCancel(cmd.Context()), run, [3]*os.File{os.Stdin, os.Stdout, os.Stderr}, signals, nil)
			if err != nil {
				return err
			}
			if exit.Code != 0 {
				return exitCode(exit.Code)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&run.Agent, "agent", "", "the agent, as the configuration names it")
	cmd.Flags().StringVar(&run.User, "user", "", "who it runs as; only root may say (with sudo: who called sudo)")
	cmd.MarkFlagRequired("agent") //nolint:errcheck // the flag exists
	return cmd
}

// sudoer is who called sudo.
func sudoer() string {
	u, err := user.LookupId(os.Getenv("SUDO_UID"))
	if err != nil || u.Uid == "0" {
		return ""
	}
	return u.Username
}
