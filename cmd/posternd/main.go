// Posternd is the daemon: what agents' connections are redirected to. It runs
// as a user of its own with at most CAP_BPF, holds the secrets, and decides,
// masks and records every request.
//
// This package only wires: daemon.go starts the parts in order, setup.go makes
// of a configuration what the gateway decides by, doors.go opens a listener and
// a resolver per agent, answers.go is what the control socket is told. Start
// with daemon.run.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/internal/config"
	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/protocol/postgres"
	"github.com/postern/postern/internal/protocol/ssh"
	"github.com/postern/postern/internal/relay/messages"
	"github.com/postern/postern/internal/secret/source/file"
	"github.com/postern/postern/internal/version"
)

const usage = `posternd is Postern's daemon. It is started by systemd, or by hand:

  posternd [--config FILE]    serve until stopped; SIGHUP reads FILE again
  posternd --check FILE       say what is wrong with a configuration; exit
                              status 1 if something is
  posternd --decide FILE [--catalog FILE]
                              say what it makes of statements; for
                              ` + "`postern policy`" + `
  posternd --new-identity FILE
                              make an age identity, where there is no such
                              file, and print its public key
  posternd --version
`

// protocols is the list of what is spoken; another protocol is another line.
func protocols(statements postgres.Classifier, loop *messages.Loop, catalogs *postgres.Catalogs) []engine.Protocol {
	return []engine.Protocol{
		postgres.New(postgres.Options{Classifier: statements, Loop: loop, Catalogs: catalogs}),
		ssh.New(),
	}
}

func main() {
	if err := run(os.Args[1:], os.Stdout, os.Stderr); err != nil {
		var p problems
		if !errors.As(err, &p) {
			err = fmt.Errorf("posternd: %w", err)
		}
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string, out, errOut io.Writer) error {
	flags := flag.NewFlagSet("posternd", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	path := flags.String("config", config.DefaultFile, "")
	check := flags.String("check", "", "")
	decide := flags.String("decide", "", "")
	catalog := flags.String("catalog", "", "")
	identity := flags.String("new-identity", "", "")
	showVersion := flags.Bool("version", false, "")
	err := flags.Parse(args)
	if err == nil && flags.NArg() > 0 {
		err = fmt.Errorf("%q is not understood", flags.Arg(0))
	}
	switch {
	case errors.Is(err, flag.ErrHelp):
		_, err := io.WriteString(out, usage)
		return err
	case err != nil:
		return fmt.Errorf("%w; `posternd --help` lists the options", err)
	case *showVersion:
		_, err := fmt.Fprintf(out, "posternd %s\n%s\n", version.String(), version.Build())
		return err
	case *identity != "":
		public, err := file.NewIdentity(*identity)
		if err == nil {
			_, err = fmt.Fprintln(out, public)
		}
		return err
	case *check != "":
		return checkOnly(*check, out, errOut)
	case *decide != "":
		return decideOnly(context.Background(), *decide, *catalog, os.Stdin, out, errOut)
	}
	// Nobody may read this memory or trace this process, not even the same user.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("protect the memory: %w", err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	return serve(ctx, *path, hup)
}

// checkOnly compiles a configuration as the daemon would, and uses it for
// nothing.
func checkOnly(path string, out, errOut io.Writer) error {
	b := &builder{protocols: protocols(nil, nil, nil)}
	cfg, _, warnings, err := b.compile(path)
	for _, w := range warnings {
		fmt.Fprintln(errOut, w)
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%s: no problems (%d agents, %d targets, %d policies)\n", path, len(cfg.Agents), len(cfg.Targets), len(cfg.Policies))
	return err
}
