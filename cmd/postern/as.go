package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/pkg/control"
)

const (
	// followInterval is how often a token file is looked at.
	followInterval = 5 * time.Second
	// maxToken bounds a token.
	maxToken = 16 << 10
)

// asWho is how a run says for whom it is.
type asWho struct {
	as     []string // the words of --as
	issuer string
	allow  []string
	narrow bool
}

// asWords are the ways.
const asWords = "login, device, token-file PATH, env VARIABLE"

// parseAs reads --as: one word, and what it takes from the next argument or
// behind "=".
func parseAs(text string) (kind, value string, err error) {
	kind, value, _ = strings.Cut(text, "=")
	switch kind {
	case "login", "device":
		if value != "" {
			err = fmt.Errorf("--as %s takes nothing", kind)
		}
	case "token-file", "env":
		if value == "" {
			err = fmt.Errorf("--as %s takes a value: --as %s=…", kind, kind)
		}
	case "":
	default:
		err = fmt.Errorf("--as %s is none of %s", safe(kind), asWords)
	}
	return kind, value, err
}

// announced is a run that the daemon knows of.
type announced struct {
	ticket string
	token  string // the file that its token comes from; empty: none
	first  string // what was in it
}

// announce tells the daemon for whom the run is. Without --as it is for who has
// logged in, if somebody has and the agent asks for that; else for nobody.
func (c *cli) announce(ctx context.Context, agent string, w asWho) (announced, error) {
	kind, value, err := parseAs(strings.Join(w.as, "="))
	if err != nil {
		return announced{}, err
	}
	start := control.RunStart{Agent: agent, Issuer: w.issuer, Allow: w.allow, Narrowed: w.narrow}
	out := announced{}
	switch kind {
	case "login":
		start.Login = true
	case "device":
		start.Login = true
		if err := c.loggedIn(ctx, w.issuer); err != nil {
			return announced{}, err
		}
	case "token-file":
		if out.token, err = filepath.Abs(value); err == nil {
			out.first, err = readToken(out.token)
		}
		start.Token = out.first
	case "env":
		if start.Token = os.Getenv(value); start.Token == "" {
			err = fmt.Errorf("--as env: %s is not set", safe(value))
		}
	default:
		if start.Login, err = c.implied(ctx, agent, w.issuer); err == nil && !start.Login && !w.narrow {
			return announced{}, nil
		}
	}
	if err != nil {
		return announced{}, err
	}
	t, err := c.daemon().AnnounceRun(ctx, start)
	if err != nil {
		return announced{}, err
	}
	if t.Identity != nil && c.out.terminal() {
		fmt.Fprintln(c.told(), c.out.dim("for "+safe(describeIdentity(*t.Identity))))
	}
	out.ticket = t.Ticket
	return out, nil
}

// implied says whether a run is for who has logged in though nobody said so: the
// agent acts for somebody, and somebody there is.
func (c *cli) implied(ctx context.Context, agent, issuer string) (bool, error) {
	for _, a := range c.settings().Agents {
		if a.Name != agent || !a.Identity.Required {
			continue
		}
		logins, err := c.daemon().Logins(ctx)
		if err != nil {
			return false, err
		}
		if len(logins) == 0 && issuer == "" {
			return false, fmt.Errorf("agent %s acts for somebody: postern login, or postern run --as", agent)
		}
		return true, nil
	}
	return false, nil
}

// loggedIn logs in unless that was done.
func (c *cli) loggedIn(ctx context.Context, issuer string) error {
	logins, err := c.daemon().Logins(ctx)
	if err != nil {
		return err
	}
	for _, i := range logins {
		if (issuer == "" || i.Issuer == issuer) && time.Until(i.Expires) > 0 {
			return nil
		}
	}
	_, err = c.login(ctx, issuer, false)
	return err
}

var errToken = errors.New("it is not a file with a token")

func readToken(path string) (string, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // a FIFO would hang
	if err != nil {
		return "", err
	}
	defer f.Close()
	st, err := f.Stat()
	if err == nil && (!st.Mode().IsRegular() || st.Size() > maxToken) {
		err = errToken
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxToken))
	if err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	text := strings.TrimSpace(string(b))
	if text == "" {
		return "", fmt.Errorf("%s: %w", path, errToken)
	}
	return text, nil
}

// follow gives the daemon each next token of a run, until ctx ends. What keeps it
// from that is said once: the run goes on until its identity expires.
func (c *cli) follow(ctx context.Context, run string, a announced) {
	last, told := a.first, ""
	tick := time.NewTicker(followInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		token, err := readToken(a.token)
		if err == nil && token == last {
			continue
		}
		if err == nil {
			_, err = c.daemon().RenewRun(ctx, run, control.RunToken{Token: token})
		}
		switch {
		case err == nil:
			last, told = token, ""
		case ctx.Err() == nil && err.Error() != told:
			told = err.Error()
			fmt.Fprintln(c.told(), "postern: the next token:", safe(told))
		}
	}
}

// unreadable keeps others of the same user from reading this process: its
// environment may hold a token.
func unreadable() error { return unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0) }
