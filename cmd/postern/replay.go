package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/postern/postern/internal/terminal"
	"github.com/postern/postern/pkg/recording"
)

// replay is how a session is to be shown again.
type replay struct {
	pace    recording.Pace
	request uint64 // 0: all of them
	list    bool
	export  string
	output  string
}

func (c *cli) replayCommand() *cobra.Command {
	var how replay
	cmd := &cobra.Command{
		Use: "replay SESSION", Short: "Show a session again, at the pace it had", Args: cobra.ExactArgs(1),
		Long: "Shows every request, its verdict and its answer, as they came. Values that were masked are masked here:\n" +
			"a recording holds what the agent saw. What was shown on a terminal is played on this one: space pauses, → goes on\n" +
			"to what comes next, ↑ and ↓ change the speed, q quits. Nothing of it reaches this terminal but what draws.",
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := c.find(args[0])
			if err != nil {
				return err
			}
			if how.export != "" || how.output != "" {
				return c.exportCast(path, how)
			}
			if c.out.terminal() && term.IsTerminal(int(os.Stdin.Fd())) && !c.json && !how.list {
				on, err := shownOn(path, how.request)
				if err != nil {
					return err
				}
				if on != nil {
					return c.watch(cmd.Context(), path, on, how.pace)
				}
			}
			r, err := recording.Open(path)
			if err != nil {
				return err
			}
			defer r.Close()
			from := requests{r, how.request}
			if c.json {
				return each(from, func(e recording.Event) error { return c.out.line(e) })
			}
			p := player{printer: c.out, all: how.request != 0, texts: map[stream]*text{}}
			return recording.Play(cmd.Context(), from, how.pace, p.show)
		},
	}
	cmd.Flags().Float64Var(&how.pace.Speed, "speed", 1, "how many times as fast; 0 shows all at once")
	cmd.Flags().DurationVar(&how.pace.Idle, "idle-limit", recording.DefaultIdle, "no pause is longer")
	cmd.Flags().Uint64Var(&how.request, "request", 0, "only this one, all of what it wrote")
	cmd.Flags().BoolVar(&how.list, "list", false, "list the requests, also of a terminal")
	cmd.Flags().StringVar(&how.export, "export", "", "write in another format: asciicast, version 3")
	cmd.Flags().StringVarP(&how.output, "output", "o", "", "to a file instead of standard output")
	return cmd
}

// exportCast writes a session for players of terminal recordings.
func (c *cli) exportCast(path string, how replay) error {
	if how.export != "asciicast" {
		return fmt.Errorf("%q is no format; use --export asciicast", how.export)
	}
	r, err := recording.Open(path)
	if err != nil {
		return err
	}
	defer r.Close()
	if how.output == "" || how.output == "-" {
		if c.out.terminal() {
			return errors.New("what a terminal was shown would be on this one: use --output FILE")
		}
		return recording.Asciicast(c.out, r, how.request)
	}
	f, err := os.OpenFile(how.output, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if err = errors.Join(recording.Asciicast(f, r, how.request), f.Close()); err != nil {
		os.Remove(how.output) //nolint:errcheck // it is half a file, and its error is told
	}
	return err
}

// requests passes over what is not about a request; 0 is about all.
type requests struct {
	*recording.Reader
	only uint64
}

// Next implements recording.Source.
func (r requests) Next() (recording.Event, error) {
	for {
		e, err := r.Reader.Next()
		if err != nil || r.only == 0 || requestOf(e.Body) == r.only {
			return e, err
		}
	}
}

// requestOf is the request that an event is about, 0 when it is about none.
func requestOf(b recording.Body) uint64 {
	switch b := b.(type) {
	case *recording.Request:
		return b.ID
	case *recording.Verdict:
		return b.Request
	case *recording.Approval:
		return b.Request
	case *recording.Denial:
		return b.Request
	case *recording.Fields:
		return b.Request
	case *recording.Rows:
		return b.Request
	case *recording.Data:
		return b.Request
	case *recording.Outcome:
		return b.Request
	case *recording.Terminal:
		return b.Request
	case *recording.Stream:
		return b.Request
	case *recording.Exit:
		return b.Request
	case *recording.File:
		return b.Request
	}
	return 0
}

func each(from recording.Source, f func(recording.Event) error) error {
	for {
		e, err := from.Next()
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

// player shows the events of a session to people.
type player struct {
	*printer
	began time.Time
	rows  int  // of the running result
	all   bool // of what was written
	texts map[stream]*text
}

// stream names one of a request.
type stream struct {
	request uint64
	name    string
}

// text is what a stream has shown.
type text struct {
	terminal.Text
	lines int
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
	case *recording.Identity:
		say("──", "%s", safe(behalf(b)))
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
	case *recording.Terminal:
		say("  ", "#%d on a terminal %s of %d×%d", b.Request, safe(b.Type), b.Columns, b.Rows)
	case *recording.Stream:
		p.written(say, b)
	case *recording.Exit:
		p.ended(say, b.Request)
		say("← ", "#%d %s", b.Request, exitOf(b))
	case *recording.File:
		say("  ", "#%d %s", b.Request, fileOf(b))
	case *recording.Outcome:
		p.ended(say, b.Request)
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

// written shows the lines of a stream. They are the agent's, or the upstream's.
func (p *player) written(say func(string, string, ...any), b *recording.Stream) {
	of := stream{b.Request, b.Stream}
	t := p.texts[of]
	if t == nil {
		t = &text{}
		p.texts[of] = t
	}
	for _, line := range t.Write(b.Bytes) {
		p.line(say, of, t, line)
	}
}

func (p *player) line(say func(string, string, ...any), of stream, t *text, line string) {
	const width = 160
	t.lines++
	switch {
	case p.all:
		line = safe(line)
	case t.lines > shownRows+1:
		return
	case t.lines > shownRows:
		line = p.dim(fmt.Sprintf("… more lines; --request %d has all of them", of.request))
	default:
		line = short(line, width)
	}
	mark, between := "← ", "│"
	switch of.name {
	case recording.Stdin:
		mark = "→ "
	case recording.Stderr:
		between = p.red(between)
	}
	say(mark, "#%d %s %s", of.request, between, line)
}

// ended shows the lines of a request's streams that have no end.
func (p *player) ended(say func(string, string, ...any), request uint64) {
	for _, name := range []string{recording.Stdin, recording.Stdout, recording.Stderr} {
		of := stream{request, name}
		if t := p.texts[of]; t != nil {
			if rest := t.Rest(); rest != "" {
				p.line(say, of, t, rest)
			}
			delete(p.texts, of)
		}
	}
}

func exitOf(e *recording.Exit) string {
	if e.Signal != "" {
		return "ended by signal " + safe(e.Signal)
	}
	return fmt.Sprintf("exit %d", e.Status)
}

func fileOf(f *recording.File) string {
	s := f.Verb + " " + safe(f.Path)
	if f.To != "" {
		s += " → " + safe(f.To)
	}
	if f.Bytes > 0 {
		s += ", " + bytesOf(int64(f.Bytes))
	}
	if f.SHA256 != (recording.Hash{}) {
		s += ", sha256 " + f.SHA256.String()[:16] + "…"
	}
	if f.Error != "" {
		s += ": " + safe(f.Error)
	}
	return s
}
