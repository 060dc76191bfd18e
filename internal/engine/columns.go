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

// CutColumn splits the object of an effect on a column, "schema.table.column" or
// "table.column", at its last dot outside quotes.
func CutColumn(object string) (relation, column string) {
	at, quoted := -1, false
	for i := range len(object) {
		switch {
		case object[i] == '"':
			quoted = !quoted
		case object[i] == '.' && !quoted:
			at = i
		}
	}
	if at < 0 {
		return "", object
	}
	return object[:at], object[at+1:]
}

// Relation is "schema.table", empty for a computed field.
func (f Field) Relation() string {
	if f.Table == "" {
		return ""
	}
	return f.Schema + "." + f.Table
}
