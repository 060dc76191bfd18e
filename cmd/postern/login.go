package main

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os/exec"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern/postern/pkg/control"
)

func (c *cli) loginCommand() *cobra.Command {
	var browser bool
	cmd := &cobra.Command{
		Use: "login [ISSUER]", Short: "Say who you are, at your identity provider",
		Long: "The login is yours on this host: runs that you launch with --as login are for you, and you decide approvals\n" +
			"that ask you. The tokens are the daemon's; nothing is stored where an agent of yours could read it.\n\n" +
			"Without --browser a code is shown that you enter in any browser.",
		Example: "  postern login\n  postern login corp --browser",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			issuer := strings.Join(args, "")
			who, err := c.login(cmd.Context(), issuer, browser)
			if err != nil {
				return err
			}
			if c.json {
				return c.out.print(who)
			}
			_, err = fmt.Fprintf(c.out, "logged in as %s until %s\n", safe(describeIdentity(who)), who.Expires.Local().Format(time.DateTime))
			return err
		},
	}
	cmd.Flags().BoolVar(&browser, "browser", false, "open a browser on this host, which comes back to a port on loopback")
	return cmd
}

func (c *cli) logoutCommand() *cobra.Command {
	return &cobra.Command{
		Use: "logout [ISSUER]", Short: "Forget a login; runs that go on keep their identity until it expires", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := c.daemon().Logout(cmd.Context(), strings.Join(args, "")); err != nil {
				return err
			}
			if c.json {
				return c.out.print(struct{}{})
			}
			_, err := fmt.Fprintln(c.out, "logged out")
			return err
		},
	}
}

func (c *cli) whoamiCommand() *cobra.Command {
	return &cobra.Command{
		Use: "whoami", Short: "Who you are logged in as, and the runs that are for somebody", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			logins, err := c.daemon().Logins(cmd.Context())
			if err != nil {
				return err
			}
			runs, err := c.daemon().Runs(cmd.Context())
			if err != nil {
				return err
			}
			if c.json {
				return c.out.print(map[string]any{"logins": logins, "runs": runs})
			}
			if len(logins) == 0 {
				fmt.Fprintln(c.out, "not logged in: postern login")
			}
			for _, i := range logins {
				fmt.Fprintf(c.out, "%s until %s\n", safe(describeIdentity(i)), i.Expires.Local().Format(time.DateTime))
			}
			if len(runs) == 0 {
				return nil
			}
			rows := [][]string{{"RUN", "AGENT", "FOR", "SINCE", "ONLY"}}
			for _, r := range runs {
				who, only := "", ""
				if r.Identity != nil {
					who = describeIdentity(*r.Identity)
				}
				if r.Narrowed {
					only = strings.Join(append(r.Allowed, ""), " ")
				}
				rows = append(rows, []string{r.Name, r.Agent, safe(who), age(time.Since(r.Began)), only})
			}
			return c.out.table(rows)
		},
	}
}

// describeIdentity is one line about somebody.
func describeIdentity(i control.Identity) string {
	name := i.Name
	if name == "" {
		name = i.Subject
	}
	text := name + " (" + i.Issuer + ")"
	if len(i.Roles) > 0 {
		return text + ", roles " + strings.Join(i.Roles, ", ")
	}
	if len(i.Groups) > 0 {
		return text + ", groups " + strings.Join(i.Groups, ", ")
	}
	return text
}

// login logs in by a code that is typed elsewhere, or by a browser on this host.
func (c *cli) login(ctx context.Context, issuer string, browser bool) (control.Identity, error) {
	if browser {
		return c.loginByBrowser(ctx, issuer)
	}
	l, err := c.daemon().StartLogin(ctx, control.LoginStart{Issuer: issuer, By: control.LoginByDevice})
	if err != nil {
		return control.Identity{}, err
	}
	at := l.Whole
	if at == "" {
		at = l.URL
	}
	fmt.Fprintf(c.told(), "Open %s\nand enter %s; this waits until %s\n", safe(at), safe(l.Code), l.Expires.Local().Format(time.TimeOnly))
	return c.daemon().WaitLogin(ctx, l.ID)
}

// told is where people are told what is no result.
func (c *cli) told() io.Writer { return c.errs }

// cameBack is what the browser came back with.
type cameBack struct {
	answer control.LoginAnswer
	err    error
}

// maxCameBack bounds how many requests of others the port listens to.
const maxCameBack = 32

// loginByBrowser listens on loopback until the browser comes back.
func (c *cli) loginByBrowser(ctx context.Context, issuer string) (control.Identity, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return control.Identity{}, err
	}
	defer l.Close()
	start, err := c.daemon().StartLogin(ctx, control.LoginStart{
		Issuer: issuer, By: control.LoginByCode, RedirectURI: "http://" + l.Addr().String() + "/callback",
	})
	if err != nil {
		return control.Identity{}, err
	}
	u, err := url.Parse(start.URL)
	if err != nil {
		return control.Identity{}, errors.New("the provider's address cannot be read")
	}
	state := u.Query().Get("state")
	back := make(chan cameBack, 1)
	server := http.Server{Handler: callback(state, back), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 5 * time.Second, MaxHeaderBytes: 64 << 10}
	done := make(chan struct{})
	go func() { defer close(done); server.Serve(l) }() //nolint:errcheck // it ends below
	defer func() {
		server.Shutdown(context.WithoutCancel(ctx)) //nolint:errcheck // what is open is short
		<-done
	}()
	fmt.Fprintf(c.told(), "Opening a browser at\n%s\n", safe(start.URL))
	open := exec.CommandContext(ctx, "xdg-open", start.URL)
	if err := open.Start(); err == nil {
		go open.Wait() //nolint:errcheck // whether it opened, the person sees
	}
	select {
	case b := <-back:
		if b.err != nil {
			return control.Identity{}, b.err
		}
		return c.daemon().FinishLogin(ctx, start.ID, b.answer)
	case <-ctx.Done():
		return control.Identity{}, ctx.Err()
	}
}

// callback hears the browser, and no page that guesses the port.
func callback(state string, back chan<- cameBack) http.Handler {
	heard := 0
	turn := make(chan struct{}, 1)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		turn <- struct{}{}
		defer func() { <-turn }()
		q := r.URL.Query()
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		heard++
		ours := subtle.ConstantTimeCompare([]byte(q.Get("state")), []byte(state)) == 1
		if r.Method != http.MethodGet || r.URL.Path != "/callback" || !ours || heard > maxCameBack {
			http.Error(w, "not what was waited for", http.StatusNotFound)
			return
		}
		b := cameBack{answer: control.LoginAnswer{State: state, Code: q.Get("code")}}
		if b.answer.Code == "" {
			b.err = errors.New("the provider did not log you in; its page said why")
		}
		select {
		case back <- b:
		default: // it came twice
		}
		fmt.Fprintln(w, "You can close this page; the terminal says how it went.")
	})
}
