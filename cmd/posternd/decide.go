package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/postern/postern/internal/config"
	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/policy"
	"github.com/postern/postern/internal/protocol/postgres"
	"github.com/postern/postern/internal/protocol/ssh"
	"github.com/postern/postern/internal/shell"
	"github.com/postern/postern/internal/sql"
	"github.com/postern/postern/internal/trial"
	"github.com/postern/postern/pkg/control"
)

// maxQuestion bounds a question: a statement of sql.MaxText, escaped.
const maxQuestion = 8 << 20

// decideOnly answers what a configuration would make of statements and commands,
// one question per line, without the daemon's state and without a connection.
func decideOnly(ctx context.Context, path, catalog string, in io.Reader, out, errOut io.Writer) error {
	b := &builder{protocols: protocols(nil, nil, nil)}
	cfg, set, warnings, err := b.compile(path)
	for _, w := range warnings {
		fmt.Fprintln(errOut, w)
	}
	if err != nil {
		return err
	}
	j := &judge{builder: b, cfg: cfg, set: set, trials: map[string]*postgres.Trial{}}
	if catalog != "" {
		if j.catalog, err = trial.ReadCatalog(catalog); err != nil {
			return err
		}
	}
	if j.statements, err = sql.New(sql.Options{Path: cfg.SQLParse.Path, Workers: 1}); err != nil {
		return fmt.Errorf("%w; sqlparse.path of %s says where it is", err, path)
	}
	ctx, stop := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() { // ends with ctx, and is waited for below
		j.statements.Run(ctx) //nolint:errcheck // it returns none
		close(ended)
	}()
	defer func() { stop(); <-ended }()
	return j.answerAll(ctx, in, out)
}

// judge decides questions under one configuration.
type judge struct {
	*builder
	cfg        *config.Config
	set        *policy.Set
	catalog    *control.Catalog // nil: none
	statements *sql.Classifier
	trials     map[string]*postgres.Trial // by session, agent and target
}

func (j *judge) answerAll(ctx context.Context, in io.Reader, out io.Writer) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, maxQuestion)
	enc := json.NewEncoder(out)
	enc.SetEscapeHTML(false)
	for lines.Scan() {
		var q trial.Question
		if err := json.Unmarshal(lines.Bytes(), &q); err != nil {
			return fmt.Errorf("a question is not understood: %w", err)
		}
		if err := enc.Encode(j.answer(ctx, &q)); err != nil {
			return err
		}
	}
	if errors.Is(lines.Err(), bufio.ErrTooLong) {
		return fmt.Errorf("a question is longer than %d bytes", maxQuestion)
	}
	return lines.Err()
}

func (j *judge) answer(ctx context.Context, q *trial.Question) *trial.Answer {
	agent := slices.IndexFunc(j.cfg.Agents, func(a config.Agent) bool { return a.Name == q.Agent })
	if agent < 0 {
		return &trial.Answer{Error: fmt.Sprintf("%s has no agent %q", j.cfg.File, q.Agent)}
	}
	if !slices.ContainsFunc(j.cfg.Targets, func(t config.Target) bool { return t.Name == q.Target }) {
		return &trial.Answer{Error: fmt.Sprintf("%s has no target %q", j.cfg.File, q.Target)}
	}
	p, _ := j.set.Policy(j.cfg.Agents[agent].Policy)
	a := &trial.Answer{Observed: j.cfg.Agents[agent].Observing(time.Now())}
	var columns []string
	for _, m := range p.Masks(q.Target) {
		a.Masks = append(a.Masks, trial.Mask{Columns: m.Columns, Detect: m.Detect, With: m.With})
		columns = append(columns, m.Columns...)
	}
	in := &policy.Input{
		Target: q.Target, Database: q.Database, User: q.User,
		Agent: policy.Agent{Name: q.Agent, Run: q.Run, Exe: q.Exe, UID: q.UID},
	}
	t := j.trial(q, columns)
	if !j.understand(ctx, q, t, in, a) {
		return a
	}
	v := p.Admit(q.Target)
	if v.Action == policy.Allow {
		v = p.Decide(in)
		a.Effects = matched(p.Explain(in), j.pivots(in))
	}
	a.Action, a.Rule, a.Reason, a.Help = v.Action.String(), v.Rule, v.Reason, v.Help
	if t != nil && !q.Fixed && !j.speaksSSH(q.Target) {
		if v.Action != policy.Deny || a.Observed {
			t.Ran()
		}
		t.Skipped()
	}
	return a
}

// understand fills in what the statement does. It is false where the answer is
// complete, because the statement is refused whatever the policy says.
func (j *judge) understand(ctx context.Context, q *trial.Question, t *postgres.Trial, in *policy.Input, a *trial.Answer) bool {
	for _, e := range q.Effects {
		in.Effects = append(in.Effects, engine.Effect{Verb: e.Verb, Object: e.Object})
	}
	if q.Fixed {
		return true
	}
	if j.speaksSSH(q.Target) {
		asCommand(q, in, a)
		return true
	}
	r, stmt, refused := t.Request(ctx, q.Text)
	if refused == nil {
		refused = r.Refused
	}
	if refused != nil {
		a.Action, a.Refused, a.Reason, a.Help = policy.Deny.String(), refused.Code.String(), refused.Reason, refused.Help
		t.Skipped()
		return false
	}
	if j.catalog != nil || len(q.Effects) == 0 {
		in.Effects = r.Effects
	}
	in.Facts, in.Passing, a.Kinds = r.Facts, r.Passing, stmt.Kinds
	a.Facts = maps.Clone(r.Facts)
	maps.Copy(a.Facts, r.Passing)
	if j.catalog != nil {
		a.Masked = t.Masked(stmt)
	}
	for _, f := range sql.Facts {
		if _, ok := a.Facts[f.Name]; !ok && (f.Name != sql.FactLimit || stmt.Limit >= 0) {
			a.Unknown = append(a.Unknown, f.Name)
		}
	}
	return true
}

func (j *judge) speaksSSH(target string) bool {
	return slices.ContainsFunc(j.cfg.Targets, func(t config.Target) bool { return t.Name == target && t.Protocol == config.ProtocolSSH })
}

// asCommand takes a text for a command. What is on record of something else, such
// as a file operation, has effects that are no command's, and no facts.
func asCommand(q *trial.Question, in *policy.Input, a *trial.Answer) {
	script := shell.Parse(q.Text, shell.Options{})
	effects := script.Effects()
	if len(q.Effects) > 0 && !slices.Equal(effects, in.Effects) {
		return
	}
	in.Effects, in.Facts = effects, script.Facts()
	a.Facts = in.Facts
	for _, f := range shell.Facts {
		if _, ok := a.Facts[f.Name]; !ok && f.Name != shell.FactRepository {
			a.Unknown = append(a.Unknown, f.Name)
		}
	}
}

// pivots says which effects of a request act outside of the gateway.
func (j *judge) pivots(in *policy.Input) func(engine.Effect) bool {
	if !j.speaksSSH(in.Target) {
		return sql.Pivot
	}
	return func(e engine.Effect) bool { return ssh.Pivot(e, in.Facts) }
}

func matched(matches []policy.Match, pivot func(engine.Effect) bool) (out []trial.Effect) {
	for _, m := range matches {
		e := trial.Effect{Verb: m.Effect.Verb, Object: m.Effect.Object, Pivot: pivot(m.Effect), Rule: m.Rule, Action: m.Action.String()}
		for _, missed := range m.Missed {
			e.Missed = append(e.Missed, trial.Miss(missed))
		}
		out = append(out, e)
	}
	return out
}

// trial returns the session of a question.
func (j *judge) trial(q *trial.Question, masked []string) *postgres.Trial {
	key := fmt.Sprintf("%q %q %q", q.Session, q.Agent, q.Target)
	if t, ok := j.trials[key]; ok {
		return t
	}
	var path []string
	var relations []postgres.TrialRelation
	if j.catalog != nil {
		path = j.catalog.Path
		for name, r := range j.catalog.Relations {
			schema, table := sql.Split(name)
			relations = append(relations, postgres.TrialRelation{Schema: schema, Name: table, Columns: r.Columns, Keys: r.Keys, Masked: r.Masked})
		}
	}
	if len(j.trials) >= maxTrials {
		clear(j.trials)
	}
	t := postgres.NewTrial(j.statements, masked, path, relations)
	j.trials[key] = t
	return t
}

// maxTrials bounds the sessions that are remembered at once. Questions of one
// session follow each other.
const maxTrials = 256

// catalogOf is what was last read of a target's database.
func catalogOf(c *postgres.Catalogs, target string) (control.Catalog, error) {
	path, relations, read := c.Of(target)
	if len(path) == 0 {
		return control.Catalog{}, fmt.Errorf("no session with target %s has read its catalog since the daemon started: let an agent connect to it", target)
	}
	out := control.Catalog{Read: read, Path: path, Relations: map[string]control.Relation{}}
	for _, r := range relations {
		out.Relations[sql.Object(r.Schema, r.Name)] = control.Relation{Columns: r.Columns, Keys: r.Keys, Masked: r.Masked}
	}
	return out, nil
}
