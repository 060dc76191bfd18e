package postgres

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/sql"
)

// Trial is a session without connections: what the statements in it would do,
// by the same functions as in a real one.
type Trial struct {
	codec *codec
}

// TrialRelation is what a Trial knows of a table or view.
type TrialRelation struct {
	Schema, Name string
	Columns      []string
	Keys         [][]string
	Masked       []string // columns with the values of masked ones, besides those that a pattern names
}

// NewTrial returns a session of which these relations are known, in schemas that
// path names in its order; where path is empty nothing is, and then all columns
// are as good as masked. Masked is the patterns of the policy.
func NewTrial(c Classifier, masked, path []string, relations []TrialRelation) *Trial {
	into := newReading(masked, 1).into
	if len(path) == 0 {
		into = into.outdated()
	}
	for i, r := range relations {
		if len(r.Columns) == 0 && len(masked) > 0 {
			continue // which of its columns are masked cannot be told: it is one that is not known
		}
		rel := &relation{
			oid: firstUserOID + uint32(i), schema: r.Schema, name: r.Name, keys: r.Keys,
			columns: map[int16]string{}, masked: map[int16]bool{},
		}
		for at, name := range r.Columns {
			attr := int16(at + 1)
			rel.columns[attr] = name
			if into.matches(rel, name) || len(masked) > 0 && slices.Contains(r.Masked, name) {
				rel.masked[attr] = true
				into.masked = append(into.masked, rel.column(name))
			}
		}
		into.relations[rel.oid], into.byName[rel.String()] = rel, rel
	}
	if len(path) > 0 {
		into.path = path
	}
	slices.Sort(into.masked)
	return &Trial{&codec{
		catalog: into, classifier: c, stale: func() {},
		limits:     engine.Limits{Statements: maxResolved},
		statements: map[string]*statement{}, portals: map[string]*portal{},
		sqlNames: map[string]*sql.Statement{}, resolved: map[*sql.Statement]*resolved{}, tx: 'I',
		reread: time.Now(),
	}}
}

// Request says what a statement would do, as the gate is asked. It remembers
// what later statements depend on when the caller then calls Ran.
func (t *Trial) Request(ctx context.Context, text string) (*engine.Request, *sql.Statement, *engine.Denial) {
	r := t.codec.keep('Q', engine.Request{Kind: "query", Text: text})
	if !t.codec.Known(r) {
		if d := t.codec.Resolve(ctx, r); d != nil {
			return nil, nil, d
		}
		t.codec.complete(r, t.codec.held.parsed)
	}
	k := t.codec.heldStatement()
	out := *r
	out.Facts = maps.Clone(r.Facts)
	return &out, k.stmt, nil
}

// Ran takes note that the statement of the last Request has run.
func (t *Trial) Ran() {
	k := t.codec.heldStatement()
	t.codec.forget(k.stmt)
	t.codec.learn(k)
	for _, step := range k.stmt.Transactions {
		switch {
		case step.Step == sql.Begin || step.Chain:
			t.codec.tx = 'T'
		case endsTransaction(&sql.Statement{Transactions: []sql.Transaction{step}}) && step.Step != sql.RollbackTo:
			t.codec.tx = 'I'
		}
	}
}

// Skipped forgets the last Request.
func (t *Trial) Skipped() { t.codec.shrink() }

// Masked names the masked columns of the tables that a statement touches.
func (t *Trial) Masked(s *sql.Statement) (columns []string) {
	for _, table := range s.Tables {
		if r, ok := t.codec.catalog.find(table); ok && r != nil {
			columns = append(columns, t.codec.catalog.maskedOf(sql.Column{Table: table, Name: "*"}, nil)...)
		}
	}
	slices.Sort(columns)
	return slices.Compact(columns)
}

// Catalogs is what the sessions of a daemon last read of their databases.
type Catalogs struct{ cache *catalogCache }

// NewCatalogs returns an empty one, for Options.
func NewCatalogs() *Catalogs { return &Catalogs{newCatalogCache()} }

// Of returns the newest reading for a target: the search path, its relations and
// when it was read. It has no columns where the policy masks none.
func (c *Catalogs) Of(target string) (path []string, relations []TrialRelation, read time.Time) {
	found := c.cache.newest(target)
	if found.catalog == nil {
		return nil, nil, time.Time{}
	}
	for _, r := range found.catalog.relations {
		out := TrialRelation{Schema: r.schema, Name: r.name, Keys: r.keys}
		for _, attr := range slices.Sorted(maps.Keys(r.columns)) {
			out.Columns = append(out.Columns, r.columns[attr])
			if r.hides(attr) && !found.catalog.matches(r, r.columns[attr]) {
				out.Masked = append(out.Masked, r.columns[attr])
			}
		}
		relations = append(relations, out)
	}
	return found.catalog.path, relations, found.read
}
