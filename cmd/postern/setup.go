package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/postern/postern/internal/config"
)

// maxSecret bounds what is read as a secret, in bytes.
const maxSecret = 64 << 10

// first is what a first configuration is made of.
type first struct {
	agent, slice               string
	runBy                      string
	target, host, dial         string
	verify, ca                 string
	user, database             string // the real ones
	asUser, asDatabase         string // the placeholder's
	placeholder                string
	observe                    time.Duration
	daemonUser                 string
	secretStdin                bool
	force, dryRun, onlyWritten bool
}

func (c *cli) setupCommand() *cobra.Command {
	var f first
	cmd := &cobra.Command{
		Use: "setup [--host HOST:PORT --upstream-user USER …]", Short: "Write a first configuration, start and try it", Args: cobra.NoArgs,
		Long: "Writes a configuration, an age identity and the encrypted secret, starts and\n" +
			"tries it. Asks on a terminal for what no flag says.",
		RunE: func(cmd *cobra.Command, _ []string) error { return c.setup(cmd.Context(), &f) },
	}
	s := cmd.Flags()
	s.SortFlags = false
	s.StringVar(&f.host, "host", "", "`HOST:PORT` of the target, as agents dial it")
	s.StringVar(&f.user, "upstream-user", "", "the real `USER`")
	s.StringVar(&f.database, "upstream-database", "", "the real `NAME`")
	s.BoolVar(&f.secretStdin, "secret-stdin", false, "read its password from standard input")
	s.StringVar(&f.agent, "agent", "planner", "`NAME` of the agent")
	s.StringVar(&f.slice, "slice", "", "its `CGROUP` (agents.slice/agents-NAME.slice)")
	s.StringVar(&f.runBy, "run-by", "", "a `USER` who may postern run it, besides root")
	s.StringVar(&f.target, "target", "", "`NAME` of the target (from its host)")
	s.StringVar(&f.dial, "dial", "", "`HOST:PORT` where it really is")
	s.StringVar(&f.verify, "tls", "full", "`MODE`: full, ca, none, off")
	s.StringVar(&f.ca, "ca", "", "PEM `FILE` of its authority")
	s.StringVar(&f.asUser, "user", "", "`USER` that the agent logs in as (the real)")
	s.StringVar(&f.asDatabase, "database", "", "`NAME` that it asks for (the real)")
	s.StringVar(&f.placeholder, "placeholder", "", "`TEXT` in place of its password (random)")
	s.DurationVar(&f.observe, "observe", 0, "enforce nothing for this long, only record")
	s.StringVar(&f.daemonUser, "daemon-user", "postern", "`USER` of posternd")
	s.BoolVar(&f.force, "force", false, "replace what is there; a backup is kept")
	s.BoolVar(&f.dryRun, "dry-run", false, "print the configuration, do nothing")
	s.BoolVar(&f.onlyWritten, "no-start", false, "write and check it, start nothing")
	s.MarkHidden("daemon-user") //nolint:errcheck // the flag exists
	return cmd
}

func (c *cli) setup(ctx context.Context, f *first) error {
	if !f.dryRun && os.Geteuid() != 0 {
		return errors.New("setup writes for the whole host: use sudo, or --dry-run")
	}
	in := bufio.NewReader(os.Stdin)
	person := term.IsTerminal(int(os.Stdin.Fd())) && !f.secretStdin
	if err := f.complete(in, person, os.Stderr); err != nil {
		return err
	}
	text := f.yaml(c.config)
	if f.dryRun {
		if c.json {
			return c.out.print(map[string]string{c.config: text})
		}
		_, err := fmt.Fprintf(c.out, "# %s\n%s", c.config, text)
		return err
	}
	if err := f.replaceable(c.config); err != nil {
		return err
	}
	secret, err := f.readSecret(in, person)
	if err != nil {
		return err
	}
	defer clear(secret)
	written, err := c.writeFirst(ctx, f, text, secret)
	if err != nil {
		return err
	}
	if !c.json {
		for _, w := range written {
			fmt.Fprintln(c.out, "wrote", w)
		}
	}
	return c.startFirst(ctx, f, written)
}

// complete asks for what is missing, or says which flag does.
func (f *first) complete(in *bufio.Reader, person bool, out io.Writer) error {
	for _, q := range []struct {
		into           *string
		question, flag string
		needed         bool
	}{
		{&f.host, "Host and port of the database, as the agent dials it", "host", true},
		{&f.user, "Its real user", "upstream-user", true},
		{&f.database, "Its real database (empty: as the user)", "upstream-database", false},
		{&f.ca, "PEM file of the authority that signed its certificate (empty: the host's own)", "ca", false},
	} {
		if *q.into != "" || q.flag == "ca" && f.verify != "full" && f.verify != "ca" {
			continue
		}
		if person {
			fmt.Fprintf(out, "%s: ", q.question)
			line, err := in.ReadString('\n')
			if err != nil {
				return fmt.Errorf("read the answer: %w", err)
			}
			*q.into = strings.TrimSpace(line)
		}
		if *q.into == "" && q.needed {
			return fmt.Errorf("--%s is missing", q.flag)
		}
	}
	if _, _, err := net.SplitHostPort(f.host); err != nil {
		f.host = net.JoinHostPort(f.host, "5432")
	}
	host, _, err := net.SplitHostPort(f.host)
	if err != nil {
		return fmt.Errorf("--host %s: write HOST:PORT", f.host)
	}
	if net.ParseIP(host) == nil {
		host, _, _ = strings.Cut(host, ".")
	}
	f.target = cmp.Or(f.target, strings.Trim(notOfNames.ReplaceAllString(strings.ToLower(host), "-"), "-"))
	f.slice = cmp.Or(f.slice, config.DefaultRoot+"/agents-"+strings.ReplaceAll(f.agent, "-", "_")+".slice")
	f.database = cmp.Or(f.database, f.user)
	f.asUser, f.asDatabase = cmp.Or(f.asUser, f.user), cmp.Or(f.asDatabase, f.database)
	f.placeholder = cmp.Or(f.placeholder, "placeholder-"+randomText(placeholderLength))
	if !plainName.MatchString(f.target) {
		return fmt.Errorf("--target %q: use letters, digits, - and _: it names a file too", f.target)
	}
	if f.ca != "" {
		if f.ca, err = filepath.Abs(f.ca); err != nil {
			return err
		}
	}
	return nil
}

var (
	notOfNames = regexp.MustCompile(`[^a-z0-9]+`)
	plainName  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$`)
)

// readSecret does not show what is typed.
func (f *first) readSecret(in *bufio.Reader, person bool) ([]byte, error) {
	var secret []byte
	var err error
	switch {
	case person:
		secret, err = typed(fmt.Sprintf("Password of %s at %s (not shown): ", f.user, f.host))
	case !f.secretStdin:
		return nil, errors.New("the secret is missing: --secret-stdin reads it from standard input")
	default:
		secret, err = io.ReadAll(io.LimitReader(in, maxSecret+1))
		secret = bytes.TrimSuffix(bytes.TrimSuffix(secret, []byte("\n")), []byte("\r"))
	}
	switch {
	case err != nil:
		return nil, fmt.Errorf("read the secret: %w", err)
	case len(secret) == 0:
		return nil, errors.New("the secret is empty")
	case len(secret) > maxSecret:
		return nil, fmt.Errorf("the secret is longer than %d bytes", maxSecret)
	case bytes.Equal(secret, []byte(f.placeholder)):
		return nil, errors.New("the placeholder is the secret: give the agent another one")
	}
	return secret, nil
}

// typed asks when the terminal shows nothing any more: who types fast would see
// the beginning.
func typed(question string) ([]byte, error) {
	fd := int(os.Stdin.Fd())
	before, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil, err
	}
	silent := *before
	silent.Lflag &^= unix.ECHO
	if err := unix.IoctlSetTermios(fd, unix.TCSETSF, &silent); err != nil {
		return nil, err
	}
	defer unix.IoctlSetTermios(fd, unix.TCSETS, before) //nolint:errcheck // nothing is left to do
	fmt.Fprint(os.Stderr, question)
	secret, err := term.ReadPassword(fd)
	fmt.Fprintln(os.Stderr)
	return secret, err
}
