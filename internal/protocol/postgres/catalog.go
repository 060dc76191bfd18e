package postgres

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/relay/messages"
	"github.com/postern/postern/internal/sql"
)

// firstUserOID is FirstNormalObjectId: relations below it are the server's own.
const firstUserOID = 16384

const (
	// catalogAge is how long sessions share one reading of the catalog. What
	// appears meanwhile is unknown, and what is unknown is masked.
	catalogAge = 30 * time.Second
	// maxCatalogRows bounds what a reading may bring.
	maxCatalogRows = 1_000_000
	// maxCatalogs bounds how many readings are shared.
	maxCatalogs = 64
)

// catalog is what a session knows of its database: enough to tell where a
// column comes from, which rows a key names, and what a table's schema is. It
// is never trusted to widen: what is not in it is masked, and no key.
type catalog struct {
	patterns   []string // of masked columns, as the policy writes them
	path       []string // current_schemas(true)
	relations  map[uint32]*relation
	byName     map[string]*relation
	masked     []string // every masked column, "schema.table.column"
	generation int
}

type relation struct {
	oid     uint32
	schema  string
	name    string
	columns map[int16]string // those with a name that a pattern masks; all of them in a hidden relation
	masked  map[int16]bool
	heirs   map[int16]*relation // by a masked column of a parent or partitioned table: whose it is
	hidden  bool                // a view over masked columns: every column of it may be one
	keys    [][]string

	generated []string // columns that are computed from others
}

func (r *relation) String() string { return sql.Object(r.schema, r.name) }

// column is the object of an effect on a column.
func (r *relation) column(name string) string { return r.String() + "." + sql.Object("", name) }

// outdated returns c when what names mean is about to change: relations keep
// their OIDs, but no name is known, so that all of them are masked.
func (c *catalog) outdated() *catalog {
	o := *c
	o.path, o.byName, o.masked = nil, nil, c.patterns
	o.generation++
	return &o
}

// maskedRelation says whether an error that names this table may quote a
// masked value.
func (c *catalog) maskedRelation(schema, table string) bool {
	if table == "" {
		return false
	}
	if c.byName == nil {
		return len(c.patterns) > 0
	}
	r, ok := c.byName[sql.Object(schema, table)]
	return ok && (r.hidden || len(r.masked) > 0)
}

// schemaOf finds an unqualified table by the search path.
func (c *catalog) schemaOf(table string) string {
	for _, s := range c.path {
		if _, ok := c.byName[sql.Object(s, table)]; ok {
			return s
		}
		if s == "pg_catalog" && strings.HasPrefix(table, "pg_") {
			return s
		}
	}
	return ""
}

// keysOf returns the unique keys of a table, nil when it is not known.
func (c *catalog) keysOf(schema, table string) [][]string {
	if schema == "" {
		schema = c.schemaOf(table)
	}
	r, ok := c.byName[sql.Object(schema, table)]
	if !ok {
		return nil
	}
	if r.keys == nil {
		return [][]string{}
	}
	return r.keys
}

// catalogQuery reads everything in one round trip: the search path, the
// relations, the columns that a pattern may mask with the views over them and the
// tables that inherit them, and the unique keys. Every name is qualified, so that no search_path changes it.
func catalogQuery(patterns []string) string {
	const relations = `SELECT c.oid, n.nspname, c.relname, c.relkind FROM pg_catalog.pg_class c
 JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
 WHERE c.relkind IN ('r','p','v','m','f') AND c.oid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid`
	const keys = `SELECT i.indrelid, pg_catalog.array_agg(a.attname::pg_catalog.text) FROM pg_catalog.pg_index i
 JOIN pg_catalog.pg_attribute a ON a.attrelid OPERATOR(pg_catalog.=) i.indrelid AND a.attnum OPERATOR(pg_catalog.=) ANY (i.indkey::pg_catalog.int2[])
 WHERE i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL AND i.indrelid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid
 GROUP BY i.indexrelid, i.indrelid HAVING pg_catalog.bool_and(a.attnotnull)`
	const columns = `SELECT a.attrelid, a.attnum, a.attname,
 CASE WHEN a.atthasdef THEN pg_catalog.to_jsonb(a) OPERATOR(pg_catalog.->>) 'attgenerated'::pg_catalog.text END FROM pg_catalog.pg_attribute a
 WHERE a.attrelid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid AND a.attnum OPERATOR(pg_catalog.>) 0 AND NOT a.attisdropped`
	const views = `SELECT DISTINCT r.ev_class, d.refobjid, d.refobjsubid FROM pg_catalog.pg_depend d
 JOIN pg_catalog.pg_rewrite r ON r.oid OPERATOR(pg_catalog.=) d.objid
 WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
 AND d.refobjid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid`
	const heirs = `SELECT i.inhrelid, i.inhparent FROM pg_catalog.pg_inherits i
 WHERE i.inhrelid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid`
	parts := []string{`SELECT s FROM pg_catalog.unnest(pg_catalog.current_schemas(true)) s`, relations, keys}
	if len(patterns) > 0 {
		parts = append(parts, columns, views, heirs)
	}
	return strings.Join(parts, ";")
}

// catalogReading collects the answer to catalogQuery.
type catalogReading struct {
	into   *catalog
	result int
	rows   int
	err    string

	dependencies [][3]uint32
	heirs        [][2]uint32 // child and parent
}

func newReading(patterns []string, generation int) *catalogReading {
	return &catalogReading{into: &catalog{
		patterns: patterns, generation: generation,
		relations: map[uint32]*relation{}, byName: map[string]*relation{},
	}}
}

func (r *catalogReading) begin([]byte) error { return nil }

func (r *catalogReading) endResult() error { r.result++; return nil }

// row takes one DataRow in text format.
func (r *catalogReading) row(b []byte) error {
	if r.rows++; r.rows > maxCatalogRows {
		return errors.New("the upstream's catalog is too large to be read")
	}
	var v []string
	if err := rowValues(b, func(_ int, value []byte) { v = append(v, string(value)) }); err != nil {
		return err
	}
	want := []int{1, 4, 2, 4, 3, 2}
	if r.result >= len(want) || len(v) != want[r.result] {
		return malformed("catalog row")
	}
	c := r.into
	if r.result == 0 {
		c.path = append(c.path, v[0])
		return nil
	}
	oid64, err := strconv.ParseUint(v[0], 10, 32)
	if err != nil {
		return malformed("catalog row")
	}
	oid := uint32(oid64)
	if r.result == 1 {
		rel := &relation{oid: oid, schema: v[1], name: v[2], columns: map[int16]string{}, masked: map[int16]bool{}}
		c.relations[oid], c.byName[rel.String()] = rel, rel
		return nil
	}
	rel := c.relations[oid]
	if rel == nil {
		return nil // an index, a sequence, or created between two of the queries
	}
	switch r.result {
	case 2:
		rel.keys = append(rel.keys, arrayElements(v[1]))
	case 3:
		attr, err := strconv.ParseInt(v[1], 10, 16)
		if err != nil {
			return malformed("catalog row")
		}
		rel.columns[int16(attr)] = v[2]
		if v[3] != "" {
			rel.generated = append(rel.generated, v[2])
		}
		if c.matches(rel, v[2]) {
			rel.masked[int16(attr)] = true
			c.masked = append(c.masked, rel.column(v[2]))
		}
	case 4:
		ref, err1 := strconv.ParseUint(v[1], 10, 32)
		attr, err2 := strconv.ParseUint(v[2], 10, 32)
		if err1 != nil || err2 != nil {
			return malformed("catalog row")
		}
		r.dependencies = append(r.dependencies, [3]uint32{oid, uint32(ref), uint32(attr)})
	case 5:
		parent, err := strconv.ParseUint(v[1], 10, 32)
		if err != nil {
			return malformed("catalog row")
		}
		r.heirs = append(r.heirs, [2]uint32{oid, uint32(parent)})
	}
	return nil
}

// matches says whether a pattern of the policy names this column: "column",
// "table.column" or "schema.table.column", each part a glob.
func (c *catalog) matches(r *relation, column string) bool {
	for _, p := range c.patterns {
		if engine.MatchColumn(p, r.schema, r.name, column) {
			return true
		}
	}
	return false
}

// finish follows views to the masked columns they are made of, through views of
// views, until nothing changes.
func (r *catalogReading) finish() (*catalog, error) {
	if r.err != "" {
		return nil, fmt.Errorf("read the upstream's catalog: %s", r.err)
	}
	for r.inherit() {
	}
	for changed := true; changed; {
		changed = false
		for _, d := range r.dependencies {
			view, of := r.into.relations[d[0]], r.into.relations[d[1]]
			if view == nil || of == nil || view.hidden || view == of {
				continue
			}
			whole := d[2] == 0 && len(of.masked) > 0
			if of.hidden || whole || of.masked[int16(d[2])] {
				view.hidden, changed = true, true
			}
		}
	}
	slices.Sort(r.into.masked)
	return r.into, nil
}

// inherit masks in tables that inherit, partitions among them, what is masked in
// their parents: a pattern that names the parent means its rows, and those are in
// the children. It reports whether something changed.
func (r *catalogReading) inherit() (changed bool) {
	for _, h := range r.heirs {
		child, parent := r.into.relations[h[0]], r.into.relations[h[1]]
		if child == nil || parent == nil {
			continue
		}
		for attr, name := range child.columns {
			if child.masked[attr] || !parent.masks(name) {
				continue
			}
			if child.heirs == nil {
				child.heirs = map[int16]*relation{}
			}
			child.masked[attr], child.heirs[attr] = true, parent.owner(name)
			r.into.masked = append(r.into.masked, child.column(name))
			changed = true
		}
	}
	return changed
}

// masks says whether the column of this name is masked.
func (r *relation) masks(name string) bool {
	for attr := range r.masked {
		if r.columns[attr] == name {
			return true
		}
	}
	return false
}

// owner is the relation whose column of this name a pattern masks: r, or the one
// that it inherits it from.
func (r *relation) owner(name string) *relation {
	for attr, parent := range r.heirs {
		if r.columns[attr] == name {
			return parent
		}
	}
	return r
}

// arrayElements takes the text form of an array of names apart.
func arrayElements(s string) []string {
	s = strings.TrimSuffix(strings.TrimPrefix(s, "{"), "}")
	var out []string
	var b strings.Builder
	quoted := false
	for i := 0; i < len(s); i++ {
		switch ch := s[i]; {
		case ch == '\\' && i+1 < len(s):
			i++
			b.WriteByte(s[i])
		case ch == '"':
			quoted = !quoted
		case ch == ',' && !quoted:
			out = append(out, b.String())
			b.Reset()
		default:
			b.WriteByte(ch)
		}
	}
	return append(out, b.String())
}

// readCatalog asks again, within the session. The client's ReadyForQuery waits
// for the answer.
func (c *codec) readCatalog(out *messages.Out) {
	c.refresh = false
	c.stale()
	reading := newReading(c.catalog.patterns, c.catalog.generation+1)
	out.Up = appendQuery(out.Up, catalogQuery(c.catalog.patterns))
	c.queue.push(entry{kind: 'Q', swallow: true, catalog: reading})
}

// catalogRead takes the answer in use. Should it have failed, for which a short
// statement_timeout is enough, everything is unknown, and so masked, until the
// next reading.
func (c *codec) catalogRead(r *catalogReading) {
	fresh, err := r.finish()
	if err != nil {
		fresh = newReading(c.catalog.patterns, c.catalog.generation+1).into.outdated()
		c.refresh = true
	}
	c.catalog = fresh
	clear(c.resolved)
}

// catalogCache shares readings between the sessions of one credential.
type catalogCache struct {
	mu       sync.Mutex
	readings map[string]cachedCatalog
}

type cachedCatalog struct {
	catalog *catalog
	read    time.Time
}

func newCatalogCache() *catalogCache { return &catalogCache{readings: map[string]cachedCatalog{}} }

func (c *catalogCache) load(key string, now time.Time) *catalog {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r, ok := c.readings[key]; ok && now.Sub(r.read) < catalogAge {
		return r.catalog
	}
	return nil
}

func (c *catalogCache) store(key string, cat *catalog, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.readings) >= maxCatalogs {
		clear(c.readings)
	}
	c.readings[key] = cachedCatalog{cat, now}
}

func (c *catalogCache) forget(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.readings, key)
}
