package analyze

import (
	pg "github.com/pganalyze/pg_query_go/v6"

	"github.com/postern/postern/internal/sql"
)

// copy returns the columns that a COPY sends to the client. What it writes to a
// file or hands to a program is written elsewhere.
func (t *tracer) copy(m *pg.CopyStmt, e *env) []output {
	var out []output
	if m.Query != nil {
		out = t.statement(inner(m.Query), e)
	} else if !m.IsFrom {
		table := t.table(&sql.Table{Schema: m.Relation.GetSchemaname(), Name: m.Relation.GetRelname()})
		from := &env{relations: []*relation{table}}
		for _, n := range m.Attlist {
			name := n.GetString_().GetSval()
			out = append(out, output{name: name, from: from.unqualified(name)})
		}
		if len(m.Attlist) == 0 {
			out = table.outputs()
		}
	}
	if m.IsProgram || m.Filename != "" {
		t.derive(all(out))
		return nil
	}
	return out
}

// copyOut says how m writes its rows; nil when it is no COPY … TO STDOUT.
func copyOut(text string, m *pg.CopyStmt) *sql.Copied {
	if m == nil || m.IsFrom || m.IsProgram || m.Filename != "" {
		return nil
	}
	o := &sql.Copied{Delimiter: '\t', Null: `\N`}
	if m.Query != nil {
		o.Query = copied(text)
	} else {
		t := sql.Table{Schema: m.Relation.GetSchemaname(), Name: m.Relation.GetRelname()}
		var names []string
		for _, n := range m.Attlist {
			names = append(names, n.GetString_().GetSval())
		}
		if len(names) == 0 {
			o.Table = t
		}
		o.Query = sql.SelectColumns(t, names)
	}
	if !copyOptions(o, m.Options) || o.Query == "" {
		return nil
	}
	return o
}

// copyOptions reports whether all that matters for how rows are written is known.
func copyOptions(o *sql.Copied, options []*pg.Node) bool {
	given := map[string]string{}
	for _, n := range options {
		switch d := n.GetDefElem(); d.GetDefname() {
		case "header":
			o.Header = d.Arg == nil || !isFalse(d.Arg)
		case "format", "delimiter", "null", "quote", "escape", "encoding":
			given[d.GetDefname()] = d.GetArg().GetString_().GetSval()
		}
	}
	if given["format"] == "csv" {
		o.CSV, o.Delimiter, o.Null, o.Quote, o.Escape = true, ',', "", '"', '"'
	}
	if null, ok := given["null"]; ok {
		o.Null = null
	}
	o.Encoding = given["encoding"]
	single := func(name string, at *byte) bool {
		v, ok := given[name]
		if ok && len(v) == 1 {
			*at = v[0]
		}
		return !ok || len(v) == 1
	}
	known := single("delimiter", &o.Delimiter) && single("quote", &o.Quote)
	if _, ok := given["escape"]; !ok && o.CSV {
		o.Escape = o.Quote
	}
	return known && single("escape", &o.Escape)
}

// copied is the query between the parentheses of COPY ( … ) TO, which the
// server's own lexer finds.
func copied(text string) string {
	scan, err := pg.Scan(text)
	if err != nil {
		return ""
	}
	depth, from := 0, 0
	for _, t := range scan.Tokens {
		switch t.Token {
		case pg.Token_ASCII_40:
			if depth++; depth == 1 {
				from = int(t.End)
			}
		case pg.Token_ASCII_41:
			if depth--; depth == 0 {
				query := text[from:t.Start]
				if tree, err := pg.Parse(query); err != nil || len(tree.Stmts) != 1 {
					return ""
				}
				return query
			}
		}
	}
	return ""
}
