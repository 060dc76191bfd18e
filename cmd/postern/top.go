package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/postern/postern/pkg/control"
)

// topInterval is how often the view is drawn anew, and over what rates are taken.
const topInterval = time.Second

func (c *cli) topCommand() *cobra.Command {
	var once bool
	cmd := &cobra.Command{
		Use: "top", Short: "Watch what agents do: sessions, requests, denials, what waits", Args: cobra.NoArgs,
		Long: "A row per agent and target, drawn anew every second; q ends it. Where the output is no terminal, and with\n" +
			"--once, it is printed once. Rates are those of the last second, DENIED and BYPASS count since the daemon\n" +
			"started. BYPASS is what the kernel denied to the agent: attempts to go around the gateway.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if c.json || once || !term.IsTerminal(int(os.Stdin.Fd())) || !c.out.terminal() {
				return c.topOnce(cmd.Context())
			}
			return c.watchTop(cmd.Context())
		},
	}
	cmd.Flags().BoolVar(&once, "once", false, "print it once")
	return cmd
}

// topOnce takes a second, for the rates.
func (c *cli) topOnce(ctx context.Context) error {
	before, err := c.readTop(ctx)
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(topInterval):
	}
	now, err := c.readTop(ctx)
	if err != nil {
		return err
	}
	v := viewOf(before, now)
	if c.json {
		return c.out.print(v)
	}
	for _, l := range v.lines(time.Now()) {
		fmt.Fprintln(c.out, c.painted(l, 0))
	}
	return nil
}

// topReading is what one look at the daemon found.
type topReading struct {
	status    control.Status
	activity  control.Activity
	approvals []control.Approval // that wait
}

func (c *cli) readTop(ctx context.Context) (r topReading, err error) {
	d := c.daemon()
	if r.status, err = d.Status(ctx); err != nil {
		return r, err
	}
	if r.activity, err = d.Activity(ctx); err != nil {
		return r, err
	}
	all, err := d.Approvals(ctx)
	for _, a := range all {
		if a.State == "pending" {
			r.approvals = append(r.approvals, a)
		}
	}
	slices.SortFunc(r.approvals, func(a, b control.Approval) int { return a.DecideBy.Compare(b.DecideBy) })
	return r, err
}

// topView is what `postern top --json` prints. Fields are added, never changed
// or removed.
type topView struct {
	At       time.Time         `json:"at"`
	Started  time.Time         `json:"started"`
	Version  string            `json:"version"`
	Sessions int               `json:"sessions"`
	Pending  int               `json:"pending_approvals"`
	Requests float64           `json:"requests_per_second"`
	Denials  float64           `json:"denials_per_second"`
	Bypasses float64           `json:"bypass_attempts_per_second"`
	Bypass   map[string]uint64 `json:"bypass_attempts"`
	Traffic  []topRow          `json:"traffic"`
	Waiting  []topWaiting      `json:"waiting"`
	Checks   []control.Check   `json:"wrong"` // what of the kernel is not as it should be
}

type topRow struct {
	control.Traffic
	Requests float64 `json:"requests_per_second"`
	Denials  float64 `json:"denials_per_second"`
	In       float64 `json:"bytes_from_agent_per_second"`
	Out      float64 `json:"bytes_to_agent_per_second"`
}

type topWaiting struct {
	ID       string    `json:"id"`
	Agent    string    `json:"agent"`
	Target   string    `json:"target"`
	Rule     string    `json:"rule"`
	Text     string    `json:"text"` // the agent's own words
	DecideBy time.Time `json:"decide_by"`
}

// viewOf is the difference of two readings. Where the daemon was started anew
// between them, its counters began anew too.
func viewOf(before, now topReading) topView {
	v := topView{
		At: now.activity.At, Started: now.status.Started, Version: now.status.Version, Sessions: now.status.Sessions,
		Pending: len(now.approvals), Bypass: now.activity.Bypass, Traffic: []topRow{}, Waiting: []topWaiting{}, Checks: []control.Check{},
	}
	if !before.activity.Started.Equal(now.activity.Started) {
		before = topReading{activity: control.Activity{At: now.activity.Started}}
	}
	seconds := now.activity.At.Sub(before.activity.At).Seconds()
	rate := func(before, now float64) float64 {
		if seconds <= 0 {
			return 0
		}
		return max(0, now-before) / seconds
	}
	v.Bypasses = rate(sum(before.activity.Bypass), sum(now.activity.Bypass))
	for _, t := range now.activity.Traffic {
		var b control.Traffic
		for _, old := range before.activity.Traffic {
			if old.Agent == t.Agent && old.Target == t.Target {
				b = old
			}
		}
		row := topRow{
			Traffic: t, Requests: rate(float64(b.Allowed+b.Denied), float64(t.Allowed+t.Denied)), Denials: rate(float64(b.Denied), float64(t.Denied)),
			In: rate(float64(b.FromAgent), float64(t.FromAgent)), Out: rate(float64(b.ToAgent), float64(t.ToAgent)),
		}
		v.Requests += row.Requests
		v.Denials += row.Denials
		v.Traffic = append(v.Traffic, row)
	}
	for _, a := range now.approvals {
		v.Waiting = append(v.Waiting, topWaiting{a.ID, a.Agent, a.Target, a.Rule, a.Text, a.DecideBy})
	}
	for _, k := range now.status.Kernel {
		if !k.OK {
			v.Checks = append(v.Checks, k)
		}
	}
	return v
}

func sum(counts map[string]uint64) (n float64) {
	for _, c := range counts {
		n += float64(c)
	}
	return n
}

// topLine is one line of the view, with what is drawn in which colour.
type topLine struct {
	text  string
	paint func(p *printer, s string) string // nil: as it is
}

func red(p *printer, s string) string    { return p.red(s) }
func yellow(p *printer, s string) string { return p.yellow(s) }
func dim(p *printer, s string) string    { return p.dim(s) }

// painted cuts a line to a width first, if there is one, so that what is cut off
// is never the end of a colour.
func (c *cli) painted(l topLine, width int) string {
	text := strings.TrimRight(l.text, " ")
	if width > 0 {
		text = short(text, width)
	}
	if l.paint == nil {
		return text
	}
	return l.paint(c.out, text)
}

// lines is the view for people, at most 80 columns wide as long as names are of
// usual lengths.
func (v topView) lines(now time.Time) []topLine {
	out := []topLine{
		{fmt.Sprintf("postern top  %s  up %s  posternd %s", now.Format(time.TimeOnly), age(now.Sub(v.Started)), v.Version), nil},
		{fmt.Sprintf("%d sessions  %s requests/s  %s denied/s  %d waiting  %.0f bypass attempts (%s/s)",
			v.Sessions, rateOf(v.Requests), rateOf(v.Denials), v.Pending, sum(v.Bypass), rateOf(v.Bypasses)), nil},
	}
	for _, k := range v.Checks {
		out = append(out, topLine{safe(k.Name + ": " + k.Detail), red})
	}
	const columns = "%-14s %-14s %4s %7s %7s %7s %4s %7s %6s"
	out = append(out, topLine{}, topLine{fmt.Sprintf(columns, "AGENT", "TARGET", "SESS", "REQ/S", "DENY/S", "DENIED", "WAIT", "OUT/S", "BYPASS"), dim})
	for _, t := range v.Traffic {
		l := topLine{text: fmt.Sprintf(columns, short(t.Agent, 14), short(orDash(t.Target), 14), fmt.Sprint(t.Sessions), rateOf(t.Requests),
			rateOf(t.Denials), countOf(t.Denied), fmt.Sprint(t.Pending), countOf(uint64(t.Out)), countOf(t.Traffic.Bypass))}
		switch {
		case t.Denials > 0:
			l.paint = red
		case t.Pending > 0:
			l.paint = yellow
		}
		out = append(out, l)
	}
	if len(v.Waiting) > 0 {
		out = append(out, topLine{}, topLine{"WAITING (postern approve ID, postern deny ID)", dim})
	}
	for _, w := range v.Waiting {
		out = append(out, topLine{fmt.Sprintf("%s  %6s  %s → %s  %s", w.ID, age(w.DecideBy.Sub(now)), w.Agent, w.Target, short(w.Text, 60)), yellow})
	}
	return out
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func rateOf(r float64) string {
	if r > 0 && r < 10 {
		return fmt.Sprintf("%.1f", r)
	}
	return countOf(uint64(r + .5))
}

// countOf is a number in at most six columns.
func countOf(n uint64) string {
	switch {
	case n < 100_000:
		return fmt.Sprint(n)
	case n < 10_000_000:
		return fmt.Sprintf("%.1fk", float64(n)/1e3)
	case n < 10_000_000_000:
		return fmt.Sprintf("%.1fM", float64(n)/1e6)
	}
	return fmt.Sprintf("%.0fG", float64(n)/1e9)
}
