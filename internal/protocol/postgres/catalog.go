package postgres

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
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
	types      map[uint32]string
	functions  map[string]bool // that can be written like a column of a row: t.f for f(t)
	blind      bool            // it could not be read
	generation int
}

type relation struct {
	oid     uint32
	schema  string
	name    string
	columns map[int16]string
	masked  map[int16]bool
	derived map[int16]bool // of a view: columns that are computed from masked ones
	sources map[int16]source
	types   map[int16]string // names of columns' types, of a domain what it is over
	hidden  bool             // a view over masked columns that was not followed: every column of it may be one
	view    bool
	keys    [][]string

	generated []string // columns that are computed from others
}

// source is the column that a mask names, of one that has its values: a child's,
// a partition's or a view's.
type source struct {
	of     *relation
	column string
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
	return ok && r.masks()
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

// catalogQuery reads everything in one round trip: the search path, the functions
// that take a row, the relations, the columns that a pattern may mask with the views over them and the
// tables that inherit them, and the unique keys. Every name is qualified, so that no search_path changes it.
func catalogQuery(patterns []string) string {
	const relations = `SELECT c.oid, n.nspname, c.relname, c.relkind FROM pg_catalog.pg_class c
 JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
 WHERE c.relkind IN ('r','p','v','m','f','S') AND c.oid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid`
	const keys = `SELECT i.indrelid, pg_catalog.array_agg(a.attname::pg_catalog.text) FROM pg_catalog.pg_index i
 JOIN pg_catalog.pg_attribute a ON a.attrelid OPERATOR(pg_catalog.=) i.indrelid AND a.attnum OPERATOR(pg_catalog.=) ANY (i.indkey::pg_catalog.int2[])
 WHERE i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL AND i.indrelid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid
 GROUP BY i.indexrelid, i.indrelid HAVING pg_catalog.bool_and(a.attnotnull)`
	const functions = `SELECT DISTINCT p.proname FROM pg_catalog.pg_proc p
 JOIN pg_catalog.pg_type t ON t.oid OPERATOR(pg_catalog.=) p.proargtypes[0]
 WHERE p.oid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid AND t.typtype IN ('c','p','d')`
	const columns = `SELECT a.attrelid, a.attnum, a.attname,
 CASE WHEN a.atthasdef THEN pg_catalog.to_jsonb(a) OPERATOR(pg_catalog.->>) 'attgenerated'::pg_catalog.text END,
 a.atttypid, COALESCE(b.typname, t.typname) FROM pg_catalog.pg_attribute a
 LEFT JOIN pg_catalog.pg_type t ON t.oid OPERATOR(pg_catalog.=) a.atttypid
 LEFT JOIN pg_catalog.pg_type b ON b.oid OPERATOR(pg_catalog.=) t.typbasetype
 WHERE a.attrelid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid AND a.attnum OPERATOR(pg_catalog.>) 0 AND NOT a.attisdropped`
	const views = `SELECT DISTINCT r.ev_class, d.refobjid FROM pg_catalog.pg_depend d
 JOIN pg_catalog.pg_rewrite r ON r.oid OPERATOR(pg_catalog.=) d.objid
 WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
 AND d.refobjid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid`
	const heirs = `SELECT i.inhrelid, i.inhparent FROM pg_catalog.pg_inherits i
 WHERE i.inhrelid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid`
	parts := []string{`SELECT s FROM pg_catalog.unnest(pg_catalog.current_schemas(true)) s`, functions, relations, keys}
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

	dependencies [][2]uint32 // view and relation
	heirs        [][2]uint32 // child and parent
	views        map[*relation][]viewColumn
	asked        bool // for the definitions of views
}

func newReading(patterns []string, generation int) *catalogReading {
	return &catalogReading{into: &catalog{
		patterns: patterns, generation: generation,
		relations: map[uint32]*relation{}, byName: map[string]*relation{}, types: map[uint32]string{},
		functions: map[string]bool{},
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
	if r.asked {
		return r.definition(v)
	}
	want := []int{1, 1, 4, 2, 6, 2, 2}
	if r.result >= len(want) || len(v) != want[r.result] {
		return malformed("catalog row")
	}
	c := r.into
	switch r.result {
	case 0:
		c.path = append(c.path, v[0])
		return nil
	case 1:
		c.functions[v[0]] = true
		return nil
	}
	oid64, err := strconv.ParseUint(v[0], 10, 32)
	if err != nil {
		return malformed("catalog row")
	}
	oid := uint32(oid64)
	if r.result == 2 {
		rel := &relation{oid: oid, schema: v[1], name: v[2], columns: map[int16]string{}, types: map[int16]string{}, masked: map[int16]bool{}, view: v[3] == "v" || v[3] == "m"}
		c.relations[oid], c.byName[rel.String()] = rel, rel
		return nil
	}
	rel := c.relations[oid]
	if rel == nil {
		return nil // an index, or created between two of the queries
	}
	switch r.result {
	case 3:
		rel.keys = append(rel.keys, arrayElements(v[1]))
	case 4:
		attr, err := strconv.ParseInt(v[1], 10, 16)
		if err != nil {
			return malformed("catalog row")
		}
		rel.columns[int16(attr)] = v[2]
		rel.types[int16(attr)] = c.typeName(v[4], v[5])
		if v[3] != "" {
			rel.generated = append(rel.generated, v[2])
		}
		if c.matches(rel, v[2]) {
			rel.masked[int16(attr)] = true
			c.masked = append(c.masked, rel.column(v[2]))
		}
	default:
		other, err := strconv.ParseUint(v[1], 10, 32)
		if err != nil {
			return malformed("catalog row")
		}
		pair := [2]uint32{oid, uint32(other)}
		if r.result == 5 {
			r.dependencies = append(r.dependencies, pair)
		} else {
			r.heirs = append(r.heirs, pair)
		}
	}
	return nil
}

// typeName takes a type's name. Those of extensions, which have an OID of their
// own in every database, are remembered by it.
func (c *catalog) typeName(oid, name string) string {
	if name != "citext" {
		return name
	}
	if n, err := strconv.ParseUint(oid, 10, 32); err == nil && n >= firstUserOID {
		c.types[uint32(n)] = name
	}
	return name
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

// finish returns the catalog, and the query for what is still missing in it: the
// definitions of views over masked columns. Once those have been read too, or
// where there are none, it is empty.
func (r *catalogReading) finish() (c *catalog, more string, err error) {
	if r.err != "" {
		return nil, "", fmt.Errorf("read the upstream's catalog: %s", r.err)
	}
	if !r.asked {
		for r.inherit() {
		}
		if more = r.hide(); more != "" {
			r.asked, r.views = true, map[*relation][]viewColumn{}
			return nil, more, nil
		}
	}
	r.follow()
	slices.Sort(r.into.masked)
	return r.into, "", nil
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
			from := parent.attribute(name)
			if !child.masked[attr] && parent.masked[from] {
				r.mask(child, attr, parent.source(from))
				changed = true
			}
		}
	}
	return changed
}

// mask takes a column as one that has the values of a masked one.
func (r *catalogReading) mask(of *relation, attr int16, from source) {
	if of.sources == nil {
		of.sources = map[int16]source{}
	}
	of.masked[attr], of.sources[attr] = true, from
	r.into.masked = append(r.into.masked, of.column(of.columns[attr]))
}

// attribute returns the number of a column, 0 when there is none of that name.
func (r *relation) attribute(name string) int16 {
	for attr, n := range r.columns {
		if n == name {
			return attr
		}
	}
	return 0
}

// source is the column that a pattern names: r's own, or where it comes from.
func (r *relation) source(attr int16) source {
	if s, ok := r.sources[attr]; ok {
		return s
	}
	return source{r, r.columns[attr]}
}

// masks says whether something of r is masked.
func (r *relation) masks() bool { return r.hidden || len(r.masked)+len(r.derived) > 0 }

// hides says whether a column is masked, or may be.
func (r *relation) hides(attr int16) bool { return r.hidden || r.masked[attr] || r.derived[attr] }

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
// next reading. It reports whether that was all.
func (c *codec) catalogRead(out *messages.Out, r *catalogReading) bool {
	fresh, more, err := r.finish()
	if more != "" {
		out.Up = appendQuery(out.Up, more)
		c.queue.push(entry{kind: 'Q', swallow: true, catalog: r})
		return false
	}
	if err != nil {
		fresh = newReading(c.catalog.patterns, c.catalog.generation+1).into.outdated()
		fresh.blind = true
		c.refresh = true
	}
	c.catalog = fresh
	clear(c.resolved)
	return true
}
