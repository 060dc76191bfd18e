package main

import (
	"cmp"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern/postern/pkg/recording"
)

func (c *cli) recordings() string { return filepath.Join(c.settings().StateDir, "recordings") }

func (c *cli) sessionsCommand() *cobra.Command {
	var filter recording.Filter
	var since time.Duration
	var limit int
	cmd := &cobra.Command{
		Use: "sessions", Short: "List what was recorded, newest first", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if since > 0 {
				filter.Since = time.Now().Add(-since)
			}
			found := []entry{}
			for s, err := range recording.Sessions(c.recordings(), filter) {
				if err != nil {
					return err
				}
				e := entry{Summary: s}
				e.Container, e.Identity = beginningOf(s.Path)
				if found = append(found, e); len(found) == limit {
					break
				}
			}
			if c.json {
				return c.out.print(found)
			}
			rows := [][]string{{"BEGAN", "SESSION", "AGENT", "FOR", "CONTAINER", "TARGET", "PROTOCOL", "LASTED", "EVENTS", "STATE"}}
			for _, s := range found {
				lasted, events, state := "", "", "open"
				if s.How != "" {
					lasted, events, state = age(s.Closed.Sub(s.Opened)), fmt.Sprint(s.Events), s.How
				}
				if s.Removed {
					state = "removed"
				}
				rows = append(rows, []string{s.Opened.Local().Format(time.DateTime), s.Session, s.Agent, safe(nameIn(s.Identity)), safe(containerOf(s.Container)), s.Target, s.Protocol, lasted, events, state})
			}
			return c.out.table(rows)
		},
	}
	cmd.Flags().StringVar(&filter.Agent, "agent", "", "only of this agent")
	cmd.Flags().StringVar(&filter.Target, "target", "", "only with this target")
	cmd.Flags().DurationVar(&since, "since", 0, "only of the last …, such as 24h")
	cmd.Flags().IntVar(&limit, "limit", 100, "at most this many")
	return cmd
}

// entry is a session, the container that its agent was in, and for whom it ran.
type entry struct {
	recording.Summary
	Container *recording.Container `json:"container,omitempty"`
	Identity  *recording.Identity  `json:"identity,omitempty"`
}

// beginningOf reads the beginning of a session's file, where the container and
// the identity are. A file that is not there any more has none.
func beginningOf(path string) (c *recording.Container, i *recording.Identity) {
	r, err := recording.Open(path)
	if err != nil {
		return nil, nil
	}
	defer r.Close()
	for range 3 { // opened, and what may be behind it
		e, err := r.Next()
		if err != nil {
			return c, i
		}
		switch b := e.Body.(type) {
		case *recording.Container:
			c = b
		case *recording.Identity:
			i = b
		}
	}
	return c, i
}

// nameIn is what people call who it was.
func nameIn(i *recording.Identity) string {
	if i == nil {
		return ""
	}
	return cmp.Or(i.Name, i.Subject)
}

// behalf says for whom a session was, and with what less than the policy.
func behalf(i *recording.Identity) string {
	who := ""
	if i.Issuer != "" {
		who = "for " + nameIn(i) + " (" + i.Issuer + " " + i.Subject + ")"
		if len(i.Groups) > 0 {
			who += ", groups " + strings.Join(i.Groups, ", ")
		}
	}
	if i.Narrowed {
		who = strings.TrimPrefix(who+"; launched with "+cmp.Or(strings.Join(i.Allowed, " "), "nothing")+" only", "; ")
	}
	return who
}

// containerOf is what people call a container.
func containerOf(c *recording.Container) string {
	switch {
	case c == nil:
		return ""
	case c.Engine == "runc" || c.ID == "":
		return c.Engine + " " + c.Name
	}
	return strings.TrimSpace(fmt.Sprintf("%s %.12s %s", c.Engine, c.ID, c.Name))
}

// find takes the id of a session, or enough of its beginning.
func (c *cli) find(id string) (string, error) {
	var found []string
	for s, err := range recording.Sessions(c.recordings(), recording.Filter{}) {
		if err != nil {
			return "", err
		}
		if s.Session == id {
			return s.Path, nil
		}
		if strings.HasPrefix(s.Session, id) {
			found = append(found, s.Path)
		}
	}
	switch len(found) {
	case 0:
		return "", fmt.Errorf("there is no session %q; `postern sessions` lists them", id)
	case 1:
		return found[0], nil
	}
	return "", fmt.Errorf("%d sessions begin with %q: write more of it", len(found), id)
}

func (c *cli) auditCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "audit", Short: "The evidence"}
	cmd.AddCommand(&cobra.Command{
		Use: "verify [DIRECTORY]", Short: "Check that no recording was altered, cut, exchanged or removed", Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			dir := c.recordings()
			if len(args) == 1 {
				dir = args[0]
			}
			report, err := recording.Verify(dir)
			if err != nil {
				return err
			}
			if c.json {
				err = c.out.print(report)
			} else {
				err = c.showReport(report)
			}
			if err == nil && !report.OK() {
				return exitCode(1)
			}
			return err
		},
	})
	return cmd
}

func (c *cli) showReport(r *recording.Report) error {
	for _, p := range r.Problems {
		fmt.Fprintln(c.out, c.out.red("FAIL"), p)
	}
	verdict := c.out.green("ok")
	if !r.OK() {
		verdict = c.out.red(fmt.Sprintf("%d problems", len(r.Problems)))
	}
	_, err := fmt.Fprintf(c.out, "%s: %d sessions (%d not closed, %d removed by retention), %d events, %s\nhead %s\n",
		verdict, r.Sessions, len(r.NotClosed), r.Removed, r.Events, bytesOf(r.Bytes), r.Head)
	return err
}
