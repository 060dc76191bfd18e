package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/postern/postern/internal/config"
	"github.com/postern/postern/internal/trial"
)

// neverLearnt are verbs that no rule is made for, and why. Whoever wants them
// allowed writes so.
var neverLearnt = map[string]string{
	"unknown":      "what it does cannot be told",
	"do":           "the code in it is not looked into",
	"filter":       "it would tell the values of a masked column",
	"derive":       "it would carry a masked column elsewhere",
	"sensitive":    "it reads password hashes, samples of data or others' statements",
	"admin":        "it concerns the server or other sessions",
	"grant":        "it gives privileges",
	"copy-file":    "it acts outside of the gateway",
	"copy-program": "it acts outside of the gateway",
	"replication":  "no rule opens it",
}

// lesson is what a policy was learnt from recordings.
type lesson struct {
	Policy     config.Policy `json:"-"`
	YAML       string        `json:"policy"`
	Statements int           `json:"statements"`
	Covered    int           `json:"covered"`
	Rules      []covers      `json:"rules"`
	LeftOut    []leftOut     `json:"left_out"`
}

// covers is how many of the statements a rule is for.
type covers struct {
	Rule       string `json:"rule"`
	Statements int    `json:"statements"`
}

// leftOut is a statement that the learnt policy denies.
type leftOut struct {
	Text   string `json:"text"`
	Reason string `json:"reason"`
	Count  int    `json:"count"`
}

// group is what becomes one rule: the objects of a verb under a condition.
type group struct {
	target, verb, when string
	ssh                bool // its objects are no tables
}

func (c *cli) learnCommand() *cobra.Command {
	var meant selection
	var catalog, write string
	cmd := &cobra.Command{
		Use: "learn", Short: "Make the smallest policy for what an agent was recorded to do", Args: cobra.NoArgs,
		Long: "Prints a policy that allows the effects of what was allowed, or observed, in the recordings of an agent, and\n" +
			"nothing else; its masks are those that the agent has. On standard error: how many statements each rule covers, and\n" +
			"what is left out. Never learnt, only listed, is what acts outside of the gateway, what cannot be told, and what\n" +
			"would undo a mask.",
		Example: "  postern policy learn --agent planner --since 24h --write candidate.yaml\n" +
			"  postern policy test candidate.yaml --since 24h",
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if meant.filter.Agent, err = c.onlyAgent(c.config, meant.filter.Agent); err != nil {
				return err
			}
			cfg, problems := config.Load(c.config)
			if cfg == nil {
				return fmt.Errorf("%s cannot be used: %s (`postern check` says all)", c.config, problems[0])
			}
			statements, err := c.recorded(&meant)
			if err != nil {
				return err
			}
			l, err := c.learn(cmd, cfg, meant.filter.Agent, catalog, write, statements)
			if err != nil {
				return err
			}
			if c.json {
				return c.out.print(l)
			}
			if write == "" {
				fmt.Fprint(c.out, l.YAML)
			}
			return c.showLesson(newPrinter(os.Stderr), l)
		},
	}
	meant.flags(cmd)
	cmd.Flags().StringVar(&catalog, "catalog", "", "what is known of the database, for rules by key; see `postern policy catalog`")
	cmd.Flags().StringVar(&write, "write", "", "write a whole configuration with the policy in it, instead of printing it")
	return cmd
}

// learn makes the policy, and has it decide what it was learnt from.
func (c *cli) learn(cmd *cobra.Command, cfg *config.Config, agent, catalog, write string, statements []asked) (*lesson, error) {
	answers, err := c.decided(cmd, c.config, catalog, statements)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(cfg.Agents, func(a config.Agent) bool { return a.Name == agent })
	if i < 0 {
		return nil, fmt.Errorf("%s has no agent %q", c.config, agent)
	}
	before := cfg.Agents[i].Policy
	l := &lesson{Statements: len(statements), LeftOut: []leftOut{}, Rules: []covers{}}
	l.Policy.Name = agent + "-learnt"
	for _, p := range cfg.Policies {
		if p.Name == before {
			l.Policy.Masks = p.Masks
		}
	}
	groups, refused := gather(statements, answers, func(target string) bool {
		return slices.ContainsFunc(cfg.Targets, func(t config.Target) bool { return t.Name == target && t.Protocol == config.ProtocolSSH })
	})
	l.Policy.Rules = rulesOf(groups)
	if len(l.Policy.Rules) == 0 {
		return nil, errors.New("nothing that was recorded can be learnt from")
	}
	cfg.Policies = slices.DeleteFunc(cfg.Policies, func(p config.Policy) bool { return p.Name == l.Policy.Name })
	cfg.Policies = append(cfg.Policies, l.Policy)
	cfg.Agents[i].Policy = l.Policy.Name
	file, remove, err := candidate(cfg, write)
	if err != nil {
		return nil, err
	}
	defer remove()
	after, err := c.decided(cmd, file, catalog, statements)
	if err != nil {
		return nil, err
	}
	l.count(statements, after, refused)
	text, err := yaml.Marshal(map[string]any{"policies": []config.Policy{l.Policy}})
	l.YAML = string(text)
	return l, err
}

// candidate writes a configuration to a file, a temporary one where none is
// named.
func candidate(cfg *config.Config, path string) (string, func(), error) {
	text, err := config.Marshal(cfg)
	if err != nil {
		return "", nil, err
	}
	if path != "" {
		return path, func() {}, os.WriteFile(path, text, 0o600)
	}
	dir, err := os.MkdirTemp("", "postern-learn-")
	if err != nil {
		return "", nil, err
	}
	path = filepath.Join(dir, "postern.yaml")
	return path, func() { os.RemoveAll(dir) }, os.WriteFile(path, text, 0o600)
}

// gather sorts the effects of what went ahead, and says of the rest why no rule
// is made for it, by the number of the statement.
func gather(statements []asked, answers []trial.Answer, ssh func(target string) bool) (map[group][]string, map[int]string) {
	groups, refused := map[group][]string{}, map[int]string{}
	for i, s := range statements {
		if why := unfit(&s, &answers[i], ssh(s.Target)); why != "" {
			refused[i] = why
			continue
		}
		for _, e := range answers[i].Effects {
			g := group{s.Target, e.Verb, "", ssh(s.Target)}
			if e.Verb == "update" || e.Verb == "delete" {
				g.when = narrowest(&answers[i])
			}
			if o := pattern(e, g.ssh); !slices.Contains(groups[g], o) {
				groups[g] = append(groups[g], o)
			}
		}
	}
	return groups, refused
}

// unfit says why nothing is learnt from a statement.
func unfit(s *asked, a *trial.Answer, ssh bool) string {
	switch {
	case s.was == "deny":
		return "it was denied"
	case s.was == "ask":
		return "a person was asked"
	case a.Refused != "":
		return a.Reason
	}
	for _, e := range a.Effects {
		if e.Pivot {
			return e.String() + ": it acts outside of the gateway"
		}
		if why := neverLearnt[e.Verb]; why != "" {
			return e.String() + ": " + why
		}
		if ssh && strings.Contains(e.Object, "*") {
			return e.String() + ": a rule would take the * for more"
		}
		if e.Object == "" && !withoutObject[e.Verb] {
			return e.Verb + " of something that the statement does not name"
		}
	}
	return ""
}

// withoutObject are verbs whose rules name no objects.
var withoutObject = map[string]bool{"session": true, "explain": true}

// pattern is what a rule names of an effect. The tables of the server's own
// catalogs are not told apart: those that matter have the verb sensitive.
func pattern(e trial.Effect, ssh bool) string {
	switch {
	case ssh:
		return e.Object
	case withoutObject[e.Verb]:
		return ""
	case e.Verb == "select" && strings.HasPrefix(e.Object, "pg_catalog."):
		return "pg_catalog.*"
	case e.Verb == "select" && strings.HasPrefix(e.Object, "information_schema."):
		return "information_schema.*"
	case strings.Contains(e.Object, "*") && !strings.Contains(e.Object, `"`):
		parts := strings.Split(e.Object, ".")
		return `"` + strings.Join(parts, `"."`) + `"`
	}
	return e.Object
}

// narrowest is the strictest condition that a statement meets. Of several
// statements each makes a rule, and the loosest is the last.
func narrowest(a *trial.Answer) string {
	switch {
	case a.Facts["sql.by_key"] == true:
		return "request.sql.by_key"
	case a.Facts["sql.restricted"] == true:
		return "request.sql.restricted"
	}
	return ""
}

// rulesOf makes rules of groups: verbs with the same objects share one.
func rulesOf(groups map[group][]string) (rules []config.Rule) {
	keys := slices.SortedFunc(maps.Keys(groups), func(a, b group) int {
		return strings.Compare(fmt.Sprint(a.target, " ", order(a.when), a.verb), fmt.Sprint(b.target, " ", order(b.when), b.verb))
	})
	at := map[string]int{}
	for _, g := range keys {
		objects := slices.Sorted(slices.Values(groups[g]))
		objects = slices.DeleteFunc(objects, func(o string) bool { return o == "" })
		key := fmt.Sprintf("%q %q %q", g.target, g.when, objects)
		if i, ok := at[key]; ok {
			rules[i].Verbs = append(rules[i].Verbs, g.verb)
			continue
		}
		at[key] = len(rules)
		rule := config.Rule{Name: fmt.Sprintf("learnt-%d", len(rules)+1), Target: g.target, Verbs: []string{g.verb}, When: g.when, Allow: true}
		if g.ssh {
			rule.Objects = objects
		} else {
			rule.Tables = objects
		}
		rules = append(rules, rule)
	}
	return rules
}

func order(when string) int {
	return slices.Index([]string{"request.sql.by_key", "request.sql.restricted", ""}, when)
}

// count has the answers of the learnt policy.
func (l *lesson) count(statements []asked, answers []trial.Answer, refused map[int]string) {
	covered, at := map[string]int{}, map[string]int{}
	for i := range answers {
		if answers[i].Action == "allow" {
			l.Covered++
			rules := map[string]bool{}
			for _, e := range answers[i].Effects {
				rules[e.Rule] = true
			}
			for r := range rules {
				covered[r]++
			}
			continue
		}
		why := refused[i]
		if why == "" {
			why = answers[i].Reason
		}
		key := why + "\x00" + statements[i].Text
		if found, ok := at[key]; ok {
			l.LeftOut[found].Count++
			continue
		}
		at[key] = len(l.LeftOut)
		l.LeftOut = append(l.LeftOut, leftOut{statements[i].Text, why, 1})
	}
	for _, r := range l.Policy.Rules {
		l.Rules = append(l.Rules, covers{r.Name, covered[r.Name]})
	}
}

func (c *cli) showLesson(p *printer, l *lesson) error {
	rows := [][]string{{"RULE", "COVERS", "ALLOWS"}}
	for i, r := range l.Policy.Rules {
		allows := strings.Join(r.Verbs, ", ")
		if objects := slices.Concat(r.Tables, r.Objects); len(objects) > 0 {
			allows += " on " + short(strings.Join(objects, ", "), 80)
		}
		if r.When != "" {
			allows += " when " + r.When
		}
		rows = append(rows, []string{r.Name, fmt.Sprint(l.Rules[i].Statements), allows})
	}
	if err := p.table(rows); err != nil {
		return err
	}
	fmt.Fprintf(p, "%d of %d statements are covered\n", l.Covered, l.Statements)
	for _, o := range l.LeftOut {
		fmt.Fprintf(p, "%s %s (%d times)\n  %s\n", p.yellow("left out:"), short(o.Text, 120), o.Count, safe(o.Reason))
	}
	return nil
}
