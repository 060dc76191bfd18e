package postgres

import (
	"bytes"
	"cmp"

	"github.com/postern/postern/internal/engine"
)

// fields is a RowDescription with the origin of each column looked up.
type fields struct {
	raw        []byte // the message, to know it again
	columns    []column
	resolved   *resolved
	generation int // of the catalog that the origins are from
	list       []engine.Field
}

// fieldsOf decodes a RowDescription or NoData. The last one of a statement is
// kept: drivers describe the same statement again and again.
func (c *codec) fieldsOf(msg []byte, r *resolved) (*fields, error) {
	if r != nil && r.last != nil && r.last.generation == c.catalog.generation && bytes.Equal(r.last.raw, msg) {
		return r.last, nil
	}
	f := &fields{raw: bytes.Clone(msg), resolved: r, generation: c.catalog.generation}
	if msg[0] == 'T' {
		var err error
		if f.columns, err = decodeRowDescription(f.raw); err != nil {
			return nil, err
		}
	} else if len(msg) != headerBytes {
		return nil, malformed("NoData")
	}
	c.locate(f)
	if r != nil {
		r.last = f
	}
	return f, nil
}

// locate fills in where each column comes from.
func (c *codec) locate(f *fields) {
	f.list = make([]engine.Field, len(f.columns))
	for i, col := range f.columns {
		var field engine.Field
		if col.table != 0 {
			field = c.catalog.origin(col.table, col.attr)
		} else {
			field.Derived = c.computedFrom(f.resolved, i, len(f.columns))
		}
		field.Name, field.Type, field.Binary = string(col.name), cmp.Or(typeNames[col.typ], c.catalog.types[col.typ]), col.binary
		f.list[i] = field
	}
}

// computedFrom names the masked columns that the computed value at a place in a
// row may come from. Without a statement to ask, or with a cursor that hides one,
// that is all.
func (c *codec) computedFrom(r *resolved, at, of int) []string {
	switch {
	case len(c.catalog.masked) == 0:
		return nil
	case r == nil, c.tainted && hasKind(r.stmt, "fetch"):
		return c.catalog.masked
	case len(r.outputs) == of && of > 0:
		return r.outputs[at]
	}
	return r.derived
}

// current returns f as the catalog now sees it.
func (c *codec) current(f *fields) *fields {
	if f.generation == c.catalog.generation {
		return f
	}
	again := *f
	again.generation = c.catalog.generation
	c.locate(&again)
	return &again
}

// formatted returns f with the format codes of a Bind. Describe of a statement
// does not know them.
func (f *fields) formatted(codes []int16) *fields {
	same := true
	for i, col := range f.columns {
		same = same && col.binary == formatOf(codes, i)
	}
	if same {
		return f
	}
	g := *f
	g.raw = nil
	g.columns = append([]column(nil), f.columns...)
	g.list = append([]engine.Field(nil), f.list...)
	for i := range g.columns {
		g.columns[i].binary = formatOf(codes, i)
		g.list[i].Binary = g.columns[i].binary
	}
	return &g
}

// typeNames are the built-in types by OID (pg_type.dat); a type that is not
// here has no name, and is masked as one that nothing is known of.
var typeNames = map[uint32]string{
	16: "bool", 17: "bytea", 18: "char", 19: "name", 20: "int8", 21: "int2", 23: "int4", 25: "text", 26: "oid",
	27: "tid", 28: "xid", 29: "cid", 114: "json", 142: "xml", 600: "point", 601: "lseg", 602: "path", 603: "box",
	604: "polygon", 628: "line", 650: "cidr", 700: "float4", 701: "float8", 705: "unknown", 718: "circle",
	774: "macaddr8", 790: "money", 829: "macaddr", 869: "inet", 1042: "bpchar", 1043: "varchar", 1082: "date",
	1083: "time", 1114: "timestamp", 1184: "timestamptz", 1186: "interval", 1266: "timetz", 1560: "bit",
	1562: "varbit", 1700: "numeric", 2205: "regclass", 2206: "regtype", 2249: "record", 2278: "void", 2275: "cstring",
	2950: "uuid", 3220: "pg_lsn", 3614: "tsvector", 3615: "tsquery", 3802: "jsonb", 4072: "jsonpath",
	24: "regproc", 2202: "regprocedure", 4089: "regnamespace", 4096: "regrole", 5069: "xid8",
	1000: "_bool", 1001: "_bytea", 1002: "_char", 1003: "_name", 1005: "_int2", 1007: "_int4", 1009: "_text",
	1014: "_bpchar", 1015: "_varchar", 1016: "_int8", 1021: "_float4", 1022: "_float8", 1028: "_oid",
	1115: "_timestamp", 1182: "_date", 1185: "_timestamptz", 1231: "_numeric", 199: "_json", 2951: "_uuid",
	3807: "_jsonb", 1041: "_inet", 143: "_xml",
}
