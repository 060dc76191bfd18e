package engine

import (
	"path"
	"strings"
)

// MatchColumn says whether a mask's pattern names a column. A pattern is
// "column", "table.column" or "schema.table.column"; each part is a glob, case
// does not matter. The protocol, which finds the columns, and the gate, which
// masks them, both ask here, so that they mean the same.
func MatchColumn(pattern, schema, table, column string) bool {
	parts := strings.Split(strings.ToLower(pattern), ".")
	names := []string{strings.ToLower(schema), strings.ToLower(table), strings.ToLower(column)}
	if len(parts) > len(names) {
		return false
	}
	names = names[len(names)-len(parts):]
	for i, p := range parts {
		if ok, err := path.Match(p, names[i]); err != nil || !ok {
			return false
		}
	}
	return true
}

// Relation is "schema.table", empty for a computed field.
func (f Field) Relation() string {
	if f.Table == "" {
		return ""
	}
	return f.Schema + "." + f.Table
}
