// Postern is the command line: it launches agents, decides approvals, shows
// what happened and what is wrong. It asks the daemon and the guard over their
// sockets and reads recordings from disk; it has no state of its own.
//
// One file per group of commands. Start with root.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/postern/postern/internal/bypass"
	"github.com/postern/postern/internal/config"
	"github.com/postern/postern/internal/guard"
	"github.com/postern/postern/internal/version"
	"github.com/postern/postern/pkg/control"
)

func main() {
	bypass.Main() // inside of a run that `postern verify` launched
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := root(os.Stdout).ExecuteContext(ctx)
	stop()
	var code exitCode
	switch {
	case errors.As(err, &code):
		os.Exit(int(code))
	case err != nil && !errors.Is(err, context.Canceled):
		report(os.Stderr, err)
		os.Exit(1)
	}
}

// exitCode ends the program with a status and no message.
type exitCode int

func (c exitCode) Error() string { return fmt.Sprintf("exit status %d", int(c)) }

// cli is what all commands share.
type cli struct {
	out    *printer
	errs   io.Writer // what is no result
	json   bool
	config string
}

func root(out *os.File) *cobra.Command {
	c := &cli{out: newPrinter(out), errs: os.Stderr}
	cmd := &cobra.Command{
		Use:   "postern",
		Short: "Run AI agents with placeholders, and see what they do",
		Long: "Postern takes every connection of the agents on this host through a gateway that holds the real\n" +
			"credentials, decides each request, masks what comes back and records it all.",
		Version: version.String(), SilenceErrors: true, SilenceUsage: true,
	}
	cmd.SetHelpFunc(func(cmd *cobra.Command, _ []string) { fmt.Fprint(cmd.OutOrStdout(), help(cmd)) })
	cmd.SetVersionTemplate("postern {{.Version}}\n")
	cmd.PersistentFlags().BoolVar(&c.json, "json", false, "machine-readable output")
	cmd.PersistentFlags().StringVar(&c.config, "config", config.DefaultFile, "the daemon's configuration")
	cmd.AddCommand(
		c.scanCommand(), c.setupCommand(), c.enforceCommand(), c.runCommand(), c.loginCommand(), c.logoutCommand(), c.whoamiCommand(), c.adoptCommand(), c.releaseCommand(),
		c.statusCommand(), c.topCommand(), c.doctorCommand(), c.verifyCommand(), c.breakGlassCommand(),
		c.approvalsCommand(), c.budgetsCommand(), c.decideCommand("approve"), c.decideCommand("deny"),
		c.sessionsCommand(), c.replayCommand(), c.auditCommand(),
		c.policyCommand(), c.checkCommand(), c.reloadCommand(), c.secretsCommand(), c.secretCommand(), c.placeholderCommand(),
	)
	return cmd
}

// settings are the paths of the configuration.
func (c *cli) settings() *config.Config { return config.Legible(c.config) }

func (c *cli) daemon() *control.Client { return control.New(c.settings().Control.Socket) }

func (c *cli) guard() guard.Client { return guard.Client{Socket: c.settings().Guard.Socket} }

// report prints an error and, where there is one, what to do about it.
func report(to *os.File, err error) {
	p := newPrinter(to)
	var refusal *control.Error
	if errors.As(err, &refusal) {
		for _, problem := range refusal.Problems {
			fmt.Fprintln(to, safe(problem))
		}
	}
	fmt.Fprintln(to, p.red("postern:"), err)
	if errors.Is(err, control.ErrNotRunning) {
		fmt.Fprintln(to, "  start it with: systemctl start posternd, or posternd --config FILE")
	}
	if errors.Is(err, guard.ErrNotRunning) {
		fmt.Fprintln(to, "  start it with: systemctl start postern-guard, or postern-guard serve --config FILE")
	}
}
