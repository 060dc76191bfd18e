package main

import (
	"errors"
	"fmt"
	"io"
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
			rows := [][]string{{"BEGAN", "SESSION", "AGENT", "CONTAINER", "TARGET", "LASTED", "EVENTS", "STATE"}}
			for _, s := range found {
				lasted, events, state := "", "", "open"
				if s.How != "" {
					lasted, events, state = age(s.Closed.Sub(s.Opened)), fmt.Sprint(s.Events), s.How
				}
				if s.Removed {
					state = "removed"
				}
				rows = append(rows, []string{s.Opened.Local().Format(time.DateTime), s.Session, s.Agent, safe(containerOf(s.Container)), s.Target, lasted, events, state})
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

func (c *cli) replayCommand() *cobra.Command {
	var speed float64
	cmd := &cobra.Command{
		Use: "replay SESSION", Short: "Show a session again, at the pace it had", Args: cobra.ExactArgs(1),
		Long: "Shows every request, its verdict and its answer, as they came. Values that were masked are masked here:\n" +
			"a recording holds what the agent saw.",
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := c.find(args[0])
			if err != nil {
				return err
			}
			r, err := recording.Open(path)
			if err != nil {
				return err
			}
			defer r.Close()
			if c.json {
				return each(r, func(e recording.Event) error { return c.out.line(e) })
			}
			p := player{printer: c.out}
			return recording.Play(cmd.Context(), r, speed, p.show)
		},
	}
	cmd.Flags().Float64Var(&speed, "speed", 1, "how many times as fast; 0 shows all at once")
	return cmd
}

func each(r *recording.Reader, f func(recording.Event) error) error {
	for {
		e, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = f(e)
		}
		if err != nil {
			return err
		}
	}
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

// player shows the events of a session to people.
type player struct {
	*printer
	began time.Time
	rows  int // of the running result
}

// shownRows is how many rows of a result are shown; --json has all of them.
const shownRows = 10

func (p *player) show(e recording.Event) error {
	if p.began.IsZero() {
		p.began = e.Time
	}
	at := p.dim(fmt.Sprintf("%9.3fs", e.Time.Sub(p.began).Seconds()))
	say := func(mark, format string, args ...any) {
		fmt.Fprintf(p, "%s  %s %s\n", at, mark, fmt.Sprintf(format, args...))
	}
	switch b := e.Body.(type) {
	case *recording.Opened:
		say("──", "agent %s (%s, pid %d, uid %d) → %s, target %s", b.Agent, safe(b.Comm), b.PID, b.UID, hostOf(b), b.Target)
	case *recording.Container:
		say("──", "in the container %s", safe(containerOf(b)))
	case *recording.Intent:
		say("──", "%s as %s, database %s", b.Purpose, safe(b.User), safe(b.Database))
	case *recording.Upstream:
		say("──", "reached the upstream in %s", b.Took.Round(time.Microsecond))
	case *recording.Request:
		say("→ ", "#%d %s", b.ID, safe(b.Text))
		for i, v := range b.Params {
			text := "NULL"
			if !v.Null {
				text = short(string(v.Value), 100)
			}
			say("  ", "   $%d = %s", i+1, text)
		}
	case *recording.Verdict:
		p.verdict(say, b)
	case *recording.Approval:
		say(p.yellow("?"), "#%d approval %s %s %s %s", b.Request, b.ID, b.State, b.Approver, safe(b.Reason))
	case *recording.Denial:
		say(p.red("✗"), "#%d told: %s%s", b.Request, safe(b.Reason), hint(b.Help))
	case *recording.Fields:
		var names []string
		for _, f := range b.Fields {
			names = append(names, safe(f.Name))
		}
		p.rows = 0
		say("← ", "#%d %s", b.Request, p.dim(strings.Join(names, " | ")))
	case *recording.Rows:
		p.showRows(say, b)
	case *recording.Data:
		say(map[string]string{"up": "→ ", "down": "← "}[b.Direction], "#%d %d bytes: %s", b.Request, len(b.Bytes), short(string(b.Bytes), 100))
	case *recording.Outcome:
		say("← ", "#%d %s %s, %d rows in %s", b.Request, b.Status, safe(b.Tag), b.Rows, b.Took.Round(time.Microsecond))
	case *recording.End:
		say("──", "end: %d requests, %d denied, %s up, %s down %s", b.Requests, b.Denied, bytesOf(int64(b.Up)), bytesOf(int64(b.Down)), safe(b.Error))
	default:
		say("  ", "%s", e.Body.Kind())
	}
	return nil
}

func hostOf(b *recording.Opened) string {
	if b.Name == "" {
		return b.Original.String()
	}
	return fmt.Sprintf("%s:%d", b.Name, b.Original.Port())
}

func hint(help string) string {
	if help == "" {
		return ""
	}
	return " (" + safe(help) + ")"
}

func (p *player) verdict(say func(string, string, ...any), b *recording.Verdict) {
	mark := map[string]string{"allow": p.green("✓"), "deny": p.red("✗"), "ask": p.yellow("?")}[b.Action]
	rule := ""
	if b.Rule != "" {
		rule = " by rule " + b.Rule
	}
	observed := ""
	if b.Observed {
		observed = " (observed only: it went ahead)"
	}
	say(mark, "#%d %s%s%s", b.Request, b.Action, rule, observed)
}

func (p *player) showRows(say func(string, string, ...any), b *recording.Rows) {
	for values := range b.All() {
		p.rows++
		if p.rows > shownRows {
			if p.rows == shownRows+1 {
				say("← ", "   %s", p.dim("… more rows; --json has all of them"))
			}
			continue
		}
		var cells []string
		for _, v := range values {
			if v == nil {
				cells = append(cells, p.dim("NULL"))
				continue
			}
			cells = append(cells, short(string(v), 60))
		}
		say("← ", "   %s", strings.Join(cells, " | "))
	}
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
