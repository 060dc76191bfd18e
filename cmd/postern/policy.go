package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/postern/postern/internal/config"
	"github.com/postern/postern/internal/trial"
)

func (c *cli) policyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "policy", Short: "What a policy makes of statements, without sending them",
		Long: "Asks the daemon's own program, with the grammar of PostgreSQL, what a configuration would decide. Nothing is\n" +
			"sent anywhere, and neither daemon nor database need to run. What only the database knows (schemas, columns, keys,\n" +
			"views) is in a catalog: `postern policy catalog` prints the one that the daemon has read, --catalog takes it.\n" +
			"Without one, names stand as they are written, unique keys are not known, and where the policy masks columns\n" +
			"every column counts as masked.",
	}
	cmd.AddCommand(c.explainCommand(), c.policyTestCommand(), c.learnCommand(), c.catalogCommand())
	return cmd
}

func (c *cli) catalogCommand() *cobra.Command {
	var target string
	cmd := &cobra.Command{
		Use: "catalog", Short: "Print what the daemon has read of a target's database, for --catalog", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			target, err := c.onlyTarget(c.config, target)
			if err != nil {
				return err
			}
			catalog, err := c.daemon().Catalog(cmd.Context(), target)
			if err != nil {
				return err
			}
			if c.json {
				return c.out.print(catalog)
			}
			out := yaml.NewEncoder(c.out)
			out.SetIndent(2)
			return errors.Join(out.Encode(catalog), out.Close())
		},
	}
	cmd.Flags().StringVar(&target, "target", "", "whose database; may be left out where there is one target")
	return cmd
}

// onlyTarget is the target that is meant where none is named.
func (c *cli) onlyTarget(file, named string) (string, error) {
	cfg := config.Legible(file)
	if named == "" && len(cfg.Targets) == 1 {
		return cfg.Targets[0].Name, nil
	}
	if named == "" {
		return "", fmt.Errorf("%s has %d targets: name one with --target", file, len(cfg.Targets))
	}
	return named, nil
}

// onlyAgent is the same of agents.
func (c *cli) onlyAgent(file, named string) (string, error) {
	cfg := config.Legible(file)
	if named == "" && len(cfg.Agents) == 1 {
		return cfg.Agents[0].Name, nil
	}
	if named == "" {
		return "", fmt.Errorf("%s has %d agents: name one with --agent", file, len(cfg.Agents))
	}
	return named, nil
}

// ask has the daemon's own program answer questions under a configuration. The
// answers are in the order of the questions.
func ask(ctx context.Context, file, catalog string, questions []trial.Question) ([]trial.Answer, error) {
	path, err := daemonPath()
	if err != nil {
		return nil, fmt.Errorf("find posternd: %w", err)
	}
	args := []string{"--decide", file}
	if catalog != "" {
		args = append(args, "--catalog", catalog)
	}
	var in, out, said bytes.Buffer
	for i := range questions {
		if err := json.NewEncoder(&in).Encode(&questions[i]); err != nil {
			return nil, err
		}
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = &in, &out, &said
	if err := cmd.Run(); err != nil {
		var failed *exec.ExitError
		if !errors.As(err, &failed) {
			return nil, err
		}
		return nil, fmt.Errorf("%s", strings.TrimPrefix(strings.TrimSpace(said.String()), "posternd: "))
	}
	var answers []trial.Answer
	lines := bufio.NewReader(&out)
	for dec := json.NewDecoder(lines); ; {
		var a trial.Answer
		if err := dec.Decode(&a); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, fmt.Errorf("read the answers of %s: %w", path, err)
		}
		answers = append(answers, a)
	}
	if len(answers) != len(questions) {
		return nil, fmt.Errorf("%s answered %d of %d questions", path, len(answers), len(questions))
	}
	return answers, nil
}

// maxStatement is the longest text that is read from a file, in bytes.
const maxStatement = 1 << 20

// statementFrom takes SQL from the arguments, a file or, by "-", standard input.
func statementFrom(args []string, file string, stdin io.Reader) (string, error) {
	if (len(args) == 1) == (file != "") {
		return "", errors.New("give the SQL as one argument in quotes, or by --file (- reads standard input)")
	}
	text := ""
	if len(args) == 1 {
		text = args[0]
	} else {
		in := stdin
		if file != "-" {
			f, err := os.Open(file)
			if err != nil {
				return "", err
			}
			defer f.Close()
			in = f
		}
		b, err := io.ReadAll(io.LimitReader(in, maxStatement+1))
		if err != nil {
			return "", err
		}
		if len(b) > maxStatement {
			return "", fmt.Errorf("the SQL is longer than %d bytes", maxStatement)
		}
		text = string(b)
	}
	if strings.TrimSpace(text) == "" {
		return "", errors.New("there is no SQL in it")
	}
	return text, nil
}

func (c *cli) explainCommand() *cobra.Command {
	var q trial.Question
	var file, catalog string
	cmd := &cobra.Command{
		Use: "explain [SQL]", Short: "Say what a statement would do, and what the policy makes of it", Args: cobra.MaximumNArgs(1),
		Example: "  postern policy explain --agent planner 'DELETE FROM orders WHERE id = 7'\n" +
			"  postern policy explain --file migration.sql --json",
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if q.Text, err = statementFrom(args, file, cmd.InOrStdin()); err != nil {
				return err
			}
			if q.Agent, err = c.onlyAgent(c.config, q.Agent); err != nil {
				return err
			}
			if q.Target, err = c.onlyTarget(c.config, q.Target); err != nil {
				return err
			}
			answers, err := ask(cmd.Context(), c.config, catalog, []trial.Question{q})
			if err != nil {
				return err
			}
			a := &answers[0]
			switch {
			case a.Error != "":
				return errors.New(a.Error)
			case c.json:
				return c.out.print(a)
			}
			return c.showAnswer(&q, a, catalog)
		},
	}
	cmd.Flags().StringVar(&q.Agent, "agent", "", "who sends it; may be left out where there is one agent")
	cmd.Flags().StringVar(&q.Target, "target", "", "where to; may be left out where there is one target")
	cmd.Flags().StringVar(&q.Database, "database", "", "the database, as the agent names it; unknown unless given")
	cmd.Flags().StringVarP(&file, "file", "f", "", "a file with the SQL; - reads standard input")
	cmd.Flags().StringVar(&catalog, "catalog", "", "what is known of the database; see `postern policy catalog`")
	return cmd
}

// action is a verdict in its colour.
func (p *printer) action(word string) string {
	switch word {
	case "allow":
		return p.green(word)
	case "ask":
		return p.yellow(word)
	}
	return p.red(word)
}

func (c *cli) showAnswer(q *trial.Question, a *trial.Answer, catalog string) error {
	p := c.out
	verdict := p.action(a.Action)
	if a.Rule != "" {
		verdict += " by rule " + a.Rule
	}
	fmt.Fprintf(p, "%s  %s → %s\n", verdict, q.Agent, q.Target)
	if a.Reason != "" {
		fmt.Fprintf(p, "  %s\n", safe(a.Reason))
	}
	if a.Help != "" {
		fmt.Fprintf(p, "  %s\n", p.dim(safe(a.Help)))
	}
	if a.Observed && a.Action != "allow" {
		fmt.Fprintln(p, p.yellow("  the agent is only observed now: it would go ahead, and this verdict is put on record"))
	}
	if a.Refused != "" {
		return nil
	}
	// tabwriter counts the bytes of colours, so that rows are not coloured.
	rows := [][]string{{"EFFECT", "OBJECT", "VERDICT", "RULE", ""}}
	for _, e := range a.Effects {
		note := ""
		if e.Pivot {
			note = "acts outside of the gateway"
		}
		for _, m := range e.Missed {
			note = strings.TrimLeft(note+"; ", "; ") + m.Rule + " may have matched, but not known is: request." + strings.Join(m.Facts, ", request.")
		}
		rows = append(rows, []string{e.Verb, safe(e.Object), e.Action, orNone(e.Rule), note})
	}
	fmt.Fprintln(p)
	if err := p.table(rows); err != nil {
		return err
	}
	rows = [][]string{{"FACT", "VALUE"}}
	for _, name := range factNames(a) {
		value, known := a.Facts[name]
		text := "not known"
		if known {
			b, err := json.Marshal(value)
			if err != nil {
				return err
			}
			text = safe(string(b))
		}
		rows = append(rows, []string{"request." + name, text})
	}
	fmt.Fprintln(p)
	if err := p.table(rows); err != nil {
		return err
	}
	c.showMasks(a, catalog)
	return nil
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

func factNames(a *trial.Answer) []string {
	names := slices.Clone(a.Unknown)
	for name := range a.Facts {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func (c *cli) showMasks(a *trial.Answer, catalog string) {
	p := c.out
	fmt.Fprintln(p)
	for _, m := range a.Masks {
		if len(m.Columns) > 0 {
			fmt.Fprintf(p, "masks    %s with %s\n", strings.Join(m.Columns, ", "), m.With)
		}
		if len(m.Detect) > 0 {
			fmt.Fprintf(p, "detects  %s\n", strings.Join(m.Detect, ", "))
		}
	}
	if len(a.Masked) > 0 {
		fmt.Fprintf(p, "masked   %s\n", safe(strings.Join(a.Masked, ", ")))
	}
	if _, command := a.Facts["ssh.command"]; command {
		return // there is nothing that a catalog could tell
	}
	if catalog == "" {
		fmt.Fprintln(p, p.dim("catalog  none: names stand as written, unique keys are not known, and every column counts as masked where a mask names any"))
		fmt.Fprintln(p, p.dim("         `postern policy catalog > catalog.yaml` has the daemon's; then --catalog catalog.yaml"))
	} else {
		fmt.Fprintf(p, "catalog  %s\n", catalog)
	}
}
