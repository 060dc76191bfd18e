package main

import (
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
				if found = append(found, entry{s, containerIn(s.Path)}); len(found) == limit {
					break
				}
			}
			if c.json {
				return c.out.print(found)
			}
			rows := [][]string{{"BEGAN", "SESSION", "AGENT", "CONTAINER", "TARGET", "PROTOCOL", "LASTED", "EVENTS", "STATE"}}
			for _, s := range found {
				lasted, events, state := "", "", "open"
				if s.How != "" {
					lasted, events, state = age(s.Closed.Sub(s.Opened)), fmt.Sprint(s.Events), s.How
				}
				if s.Removed {
					state = "removed"
				}
				rows = append(rows, []string{s.Opened.Local().Format(time.DateTime), s.Session, s.Agent, safe(containerOf(s.Container)), s.Target, s.Protocol, lasted, events, state})
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

// entry is a session, and the container that its agent was in.
type entry struct {
	recording.Summary
	Container *recording.Container `json:"container,omitempty"`
}

// containerIn reads the beginning of a session's file, where the container is.
// A file that is not there any more has none.
func containerIn(path string) *recording.Container {
	r, err := recording.Open(path)
	if err != nil {
		return nil
	}
	defer r.Close()
	for range 2 { // behind opened
		e, err := r.Next()
		if err != nil {
			return nil
		}
		if c, ok := e.Body.(*recording.Container); ok {
			return c
		}
	}
	return nil
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
