package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/postern/postern/internal/trial"
	"github.com/postern/postern/pkg/recording"
)

// asked is a statement with what became of it, or is to become of it.
type asked struct {
	trial.Question
	request  uint64
	was      string // "allow", "ask", "deny": what happened, so that what was only observed was allowed
	rule     string
	observed bool
	expected bool // from a fixture: was is what it is to be
	ruled    bool // and rule too
}

// fixture is one expectation in a file.
type fixture struct {
	Agent    string `yaml:"agent"`
	Target   string `yaml:"target"`
	Database string `yaml:"database"`
	Session  string `yaml:"session"` // statements of one session follow each other; left out: one of its own
	SQL      string `yaml:"sql"`
	Expect   string `yaml:"expect"`
	Rule     string `yaml:"rule"` // left out: any
}

// maxFixtures bounds a file of expectations, in bytes.
const maxFixtures = 16 << 20

func readFixtures(path string) ([]asked, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if len(text) > maxFixtures {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, maxFixtures)
	}
	var file struct {
		Tests []fixture `yaml:"tests"`
	}
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	if err := d.Decode(&file); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if len(file.Tests) == 0 {
		return nil, fmt.Errorf("%s: there are no tests in it", path)
	}
	var out []asked
	for i, f := range file.Tests {
		where := fmt.Sprintf("%s: test %d", path, i+1)
		switch {
		case f.Agent == "" || f.Target == "" || strings.TrimSpace(f.SQL) == "":
			return nil, fmt.Errorf("%s: agent, target and sql are required", where)
		case !slices.Contains([]string{"allow", "ask", "deny"}, f.Expect):
			return nil, fmt.Errorf("%s: expect is %q; use allow, ask or deny", where, f.Expect)
		case f.Session == "":
			f.Session = where
		}
		out = append(out, asked{
			Question: trial.Question{Agent: f.Agent, Target: f.Target, Database: f.Database, Session: f.Session, Text: f.SQL},
			request:  uint64(i + 1), was: f.Expect, rule: f.Rule, expected: true, ruled: f.Rule != "",
		})
	}
	return out, nil
}

// selection says which recordings are meant.
type selection struct {
	directory string
	sessions  []string
	filter    recording.Filter
	since     time.Duration
}

func (s *selection) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&s.directory, "recordings", "", "the directory of recordings; default: that of --config")
	cmd.Flags().StringSliceVar(&s.sessions, "session", nil, "only these sessions, by their ids")
	cmd.Flags().StringVar(&s.filter.Agent, "agent", "", "only of this agent")
	cmd.Flags().StringVar(&s.filter.Target, "target", "", "only with this target")
	cmd.Flags().DurationVar(&s.since, "since", 0, "only of the last …, such as 24h")
}

// recorded reads the statements of the recordings that are meant, oldest first.
func (c *cli) recorded(s *selection) ([]asked, error) {
	if s.directory == "" {
		s.directory = c.recordings()
	}
	if s.since > 0 {
		s.filter.Since = time.Now().Add(-s.since)
	}
	var paths []string
	found := map[string]bool{}
	for r, err := range recording.Sessions(s.directory, s.filter) {
		if err != nil {
			return nil, err
		}
		if r.Removed || len(s.sessions) > 0 && !slices.Contains(s.sessions, r.Session) {
			continue
		}
		paths, found[r.Session] = append(paths, r.Path), true
	}
	for _, id := range s.sessions {
		if !found[id] {
			return nil, fmt.Errorf("there is no session %q; `postern sessions` lists them", id)
		}
	}
	slices.Reverse(paths)
	var out []asked
	for _, path := range paths {
		statements, err := readSession(path)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		out = append(out, statements...)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s holds no statements that are meant", s.directory)
	}
	return out, nil
}

func readSession(path string) ([]asked, error) {
	r, err := recording.Open(path)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	var out []asked
	var from trial.Question
	byRequest := map[uint64]int{}
	err = each(r, func(e recording.Event) error {
		switch b := e.Body.(type) {
		case *recording.Opened:
			from = trial.Question{Agent: b.Agent, Target: b.Target, Run: b.Run, Exe: b.Exe, UID: b.UID, Session: b.Session}
		case *recording.Intent:
			from.Database, from.User = b.Database, b.User
		case *recording.Request:
			a := asked{Question: from, request: b.ID}
			a.Text = b.Text
			a.Fixed = b.Form == "startup" || b.Form == "call" || b.Text == ""
			for _, effect := range b.Effects {
				a.Effects = append(a.Effects, trial.Effect{Verb: effect.Verb, Object: effect.Object})
			}
			byRequest[b.ID] = len(out)
			out = append(out, a)
		case *recording.Verdict:
			if i, ok := byRequest[b.Request]; ok {
				out[i].was, out[i].rule, out[i].observed = b.Action, b.Rule, b.Observed
				if b.Observed {
					out[i].was = "allow"
				}
			}
		case *recording.Denial:
			if i, ok := byRequest[b.Request]; ok && out[i].was == "allow" {
				out[i].was = "deny" // refused whatever the policy says
			}
		}
		return nil
	})
	return slices.DeleteFunc(out, func(a asked) bool { return a.was == "" }), err // of the last one nothing is known where the daemon died
}

// decided asks what a configuration makes of statements. A text on record that
// is not understood any more, because something in it was masked, is decided by
// its effects on record.
func (c *cli) decided(cmd *cobra.Command, candidate, catalog string, statements []asked) ([]trial.Answer, error) {
	questions := make([]trial.Question, len(statements))
	for i := range statements {
		questions[i] = statements[i].Question
	}
	answers, err := ask(cmd.Context(), candidate, catalog, questions)
	if err != nil {
		return nil, err
	}
	again := false
	for i := range answers {
		if answers[i].Refused != "" && len(questions[i].Effects) > 0 && strings.Contains(questions[i].Text, "[redacted]") {
			questions[i].Fixed, again = true, true
		}
	}
	if again {
		if answers, err = ask(cmd.Context(), candidate, catalog, questions); err != nil {
			return nil, err
		}
	}
	for i := range answers {
		if answers[i].Error != "" {
			return nil, fmt.Errorf("%s (session %s, statement %d)", answers[i].Error, statements[i].Session, statements[i].request)
		}
	}
	return answers, nil
}

// change is statements of which something else would become.
type change struct {
	Was      string   `json:"was"`
	Rule     string   `json:"rule,omitempty"`
	Would    string   `json:"would"`
	By       string   `json:"by,omitempty"`
	Reason   string   `json:"reason,omitempty"`
	Missing  []string `json:"missing_facts,omitempty"` // with them an allowing rule may match
	Text     string   `json:"text"`
	Agent    string   `json:"agent"`
	Target   string   `json:"target"`
	Session  string   `json:"session"` // the first
	Request  uint64   `json:"request"`
	Count    int      `json:"count"`
	Expected bool     `json:"expected,omitempty"` // by a fixture
}

// outcome of a test, as --json prints it.
type outcome struct {
	Statements int      `json:"statements"`
	Same       int      `json:"same"`
	Changed    int      `json:"changed"`
	ByOther    int      `json:"by_another_rule"` // the verdict is the same
	Changes    []change `json:"changes"`
}

func compare(statements []asked, answers []trial.Answer) outcome {
	o := outcome{Statements: len(statements), Changes: []change{}}
	at := map[string]int{}
	for i, s := range statements {
		a := &answers[i]
		differs := a.Action != s.was || s.ruled && a.Rule != s.rule
		if !differs {
			o.Same++
			if a.Rule != s.rule && !s.expected {
				o.ByOther++
			}
			continue
		}
		o.Changed++
		key := fmt.Sprintf("%q %q %q %q %q %q %q", s.was, s.rule, a.Action, a.Rule, s.Agent, s.Target, s.Text)
		if found, ok := at[key]; ok {
			o.Changes[found].Count++
			continue
		}
		at[key] = len(o.Changes)
		ch := change{
			Was: s.was, Rule: s.rule, Would: a.Action, By: a.Rule, Reason: a.Reason, Text: s.Text,
			Agent: s.Agent, Target: s.Target, Session: s.Session, Request: s.request, Count: 1, Expected: s.expected,
		}
		for _, e := range a.Effects {
			for _, m := range e.Missed {
				ch.Missing = append(ch.Missing, m.Facts...)
			}
		}
		slices.Sort(ch.Missing)
		ch.Missing = slices.Compact(ch.Missing)
		o.Changes = append(o.Changes, ch)
	}
	return o
}

func (c *cli) policyTestCommand() *cobra.Command {
	var meant selection
	var fixtures []string
	var catalog string
	cmd := &cobra.Command{
		Use: "test [CANDIDATE]", Short: "Say what a configuration would change, by recorded sessions or by fixtures", Args: cobra.MaximumNArgs(1),
		Long: "Decides what was recorded, or what --fixtures expect, by a candidate configuration, and prints what would become\n" +
			"of it that did not. Exit status 1 when something would change. What was only observed counts as allowed.\n" +
			"Recorded effects have the schemas and masked columns of their time; with --catalog they are found anew.",
		Example: "  postern policy test candidate.yaml --since 24h\n  postern policy test candidate.yaml --fixtures expectations.yaml",
		RunE: func(cmd *cobra.Command, args []string) error {
			candidate := c.config
			if len(args) == 1 {
				candidate = args[0]
			}
			var statements []asked
			for _, f := range fixtures {
				more, err := readFixtures(f)
				if err != nil {
					return err
				}
				statements = append(statements, more...)
			}
			if len(fixtures) == 0 {
				var err error
				if statements, err = c.recorded(&meant); err != nil {
					return err
				}
			}
			answers, err := c.decided(cmd, candidate, catalog, statements)
			if err != nil {
				return err
			}
			o := compare(statements, answers)
			if c.json {
				err = c.out.print(o)
			} else {
				err = c.showOutcome(&o)
			}
			if err == nil && o.Changed > 0 {
				return exitCode(1)
			}
			return err
		},
	}
	meant.flags(cmd)
	cmd.Flags().StringSliceVar(&fixtures, "fixtures", nil, "files of expectations instead of recordings")
	cmd.Flags().StringVar(&catalog, "catalog", "", "what is known of the database; see `postern policy catalog`")
	return cmd
}

var (
	pastTense = map[string]string{"allow": "was allowed", "ask": "was asked about", "deny": "was denied"}
	wouldBe   = map[string]string{"allow": "would be allowed", "ask": "would be asked about", "deny": "would be denied"}
	expects   = map[string]string{"allow": "is expected to be allowed", "ask": "is expected to be asked about", "deny": "is expected to be denied"}
)

func (c *cli) showOutcome(o *outcome) error {
	p := c.out
	byRule := func(rule string) string {
		if rule == "" {
			return ""
		}
		return " by rule " + rule
	}
	for _, ch := range o.Changes {
		before := pastTense[ch.Was]
		if ch.Expected {
			before = expects[ch.Was]
		}
		would := wouldBe[ch.Would]
		switch ch.Would {
		case "allow":
			would = p.green(would)
		case "ask":
			would = p.yellow(would)
		default:
			would = p.red(would)
		}
		times := ""
		if ch.Count > 1 {
			times = fmt.Sprintf(" (%d times)", ch.Count)
		}
		fmt.Fprintf(p, "%s%s, %s%s%s\n", before, byRule(ch.Rule), would, byRule(ch.By), times)
		fmt.Fprintf(p, "  %s\n", short(ch.Text, 160))
		if ch.Reason != "" {
			fmt.Fprintf(p, "  %s\n", p.dim(safe(ch.Reason)))
		}
		if len(ch.Missing) > 0 {
			fmt.Fprintf(p, "  %s\n", p.dim("a rule may allow it, but not known is "+strings.Join(ch.Missing, ", ")+": give --catalog"))
		}
		fmt.Fprintf(p, "  %s\n", p.dim(fmt.Sprintf("%s → %s, %s #%d", ch.Agent, ch.Target, ch.Session, ch.Request)))
	}
	word := p.green("nothing would change")
	if o.Changed > 0 {
		word = p.red(fmt.Sprintf("%d would change", o.Changed))
	}
	_, err := fmt.Fprintf(p, "%d statements, %s (%d by another rule)\n", o.Statements, word, o.ByOther)
	return err
}
