package postgres

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/sql"
)

// Classifier tells what a statement would do; *sql.Classifier is one.
type Classifier interface {
	// Known answers from memory.
	Known(text string) (*sql.Statement, bool)
	// Classify may wait for a worker. Its errors are *sql.ErrSyntax and sql.ErrWorker.
	Classify(ctx context.Context, text string) (*sql.Statement, error)
	// Sample writes a query for some of the rows that a text is about to change; nil
	// when there is none. It may wait for a worker.
	Sample(ctx context.Context, text string) (*sql.Sample, error)
}

// Known implements messages.Resolver.
func (c *codec) Known(r *engine.Request) bool {
	if r.Refused != nil || r.Kind == "call" {
		return true
	}
	s := c.held.parsed
	if s == nil && c.held.portal != nil {
		s = c.held.portal.statement.sql
	}
	if s == nil {
		var ok bool
		if s, ok = c.classifier.Known(r.Text); !ok {
			return false
		}
	}
	c.complete(r, s)
	return true
}

// Resolve implements messages.Resolver. It runs without the session's lock and
// touches nothing but what is held.
func (c *codec) Resolve(ctx context.Context, r *engine.Request) *engine.Denial {
	s, err := c.classifier.Classify(ctx, r.Text)
	if err != nil {
		return notUnderstood(err)
	}
	c.held.parsed = s
	return nil
}

func notUnderstood(err error) *engine.Denial {
	var syntax *sql.ErrSyntax
	if errors.As(err, &syntax) {
		return &engine.Denial{
			Code:   engine.ByPolicy,
			Reason: "the statement is not understood: " + syntax.Error(),
			Help:   "correct it; what PostgreSQL's grammar does not accept is not sent",
		}
	}
	return &engine.Denial{
		Code:   engine.Unavailable,
		Reason: "the statement could not be analysed, so it was not sent",
		Help:   "make it shorter or simpler, or try again",
	}
}

// complete puts what is known of s into r.
func (c *codec) complete(r *engine.Request, s *sql.Statement) {
	source := s
	if len(s.Executes) > 0 && len(s.Prepares)+len(s.Deallocates) == 0 {
		s = s.Execute(c.prepared)
	}
	k := c.known(s)
	k.source = source
	c.held.restored = nil
	if len(k.comparisons) > 0 {
		values, all := c.restore(k, r)
		if c.held.restored = values; all {
			k = c.excused(k)
			k.source = source
		}
	}
	r.Effects, r.Facts, r.Memo, r.Refused = k.effects, k.facts, k, k.refused
	r.Count, r.Writes, r.Upkeep, r.Passing = k.charge.count, k.charge.writes, k.charge.upkeep, c.passing()
	c.holdable(r, k)
}

// known returns s with this session's catalog applied; nil for nil.
func (c *codec) known(s *sql.Statement) *resolved {
	if s == nil {
		return nil
	}
	if r, ok := c.resolved[s]; ok {
		return r
	}
	q := s.Resolve(c.catalog.schemaOf)
	r := &resolved{source: s, stmt: q, facts: maps.Clone(q.Facts), derived: c.catalog.derivedFrom(q), charge: chargeOf(q)}
	r.effects = slices.Concat(q.Effects, c.catalog.calls(q), c.catalog.effects(q, nil))
	r.comparisons = c.catalog.comparisons(q)
	if len(r.derived) > 0 {
		r.outputs = c.catalog.outputs(q)
	}
	if c.catalog.lacks(q) && c.now().Sub(c.reread) >= catalogAge {
		c.refresh, c.reread = true, c.now() // another session has made it: the next attempt may know it
	}
	if byKey, known := sql.ByKey(q, c.catalog.keysOf); known {
		r.facts[sql.FactByKey] = byKey
	}
	for _, e := range q.Effects {
		switch e.Verb {
		case sql.CopyIn:
			r.copies = copyInto
		case sql.CopyOut:
			r.copies = copyFrom
		}
	}
	r.unheld = c.catalog.unheld(q)
	r.refused = foreignEncoding(q.Copied)
	if len(c.resolved) >= maxResolved {
		clear(c.resolved)
	}
	c.resolved[s] = r
	return r
}

// startupRequest asks the policy about start-up parameters that are decisions.
func startupRequest(parameters map[string]string) (*engine.Request, *engine.Denial) {
	r := &engine.Request{Kind: "startup", Facts: map[string]any{}}
	for name, value := range parameters {
		if name == "replication" {
			return nil, &engine.Denial{
				Code:   engine.ByPolicy,
				Reason: "replication connections are not supported through the gateway",
				Help:   "connect without the start-up parameter replication",
			}
		}
		r.Text += fmt.Sprintf("SET %s = %q; ", name, value)
		r.Effects = append(r.Effects, engine.Effect{Verb: sql.Set, Object: name})
	}
	return r, nil
}
