package policy

import (
	"strings"

	"github.com/postern/postern/internal/engine"
)

// pattern matches objects: "schema.name" or "name", with * for any characters.
//
// An object may lack its schema, because the text of the request does not say
// it. So there are two questions: is it surely meant (for allow), and may it be
// meant (for deny and ask)? A pattern without schema surely means the object
// as requests name it: without schema, or in public or pg_catalog; and possibly
// that name in any schema. For the second question case is ignored.
type pattern struct {
	schema, name glob
	bare         bool // no schema in the pattern
	all          bool // "*": every object, unknown ones too
}

func parsePattern(s string) pattern {
	schema, name, qualified := cut(s)
	if s == "*" || s == "*.*" {
		return pattern{all: true}
	}
	if !qualified {
		return pattern{name: parseGlob(s), bare: true}
	}
	return pattern{schema: parseGlob(schema), name: parseGlob(name)}
}

// matches says whether a rule is surely, and whether it may be, for an effect.
func (r *rule) matches(e *engine.Effect) (sure, possible bool) {
	if !ofColumn(e.Verb) {
		sure, possible = matchAny(r.tables, e.Object)
		if len(r.objects) > 0 && possible {
			s, p := matchObjects(r.objects, e.Object)
			sure, possible = sure && s, p
		}
		return sure, possible
	}
	relation, column := engine.CutColumn(e.Object)
	sure, possible = matchAny(r.tables, relation)
	if len(r.columns) > 0 && possible {
		s, p := matchColumn(r.columns, relation, column)
		sure, possible = sure && s, p
	}
	return sure, possible
}

// matchColumn matches patterns as masks do. Where the schema is not known, a
// pattern that has one may be meant.
func matchColumn(patterns []string, relation, column string) (sure, possible bool) {
	schema, table, qualified := cut(relation)
	for _, p := range patterns {
		if qualified || strings.Count(p, ".") < 2 {
			sure = sure || engine.MatchColumn(p, unquote(schema), unquote(table), unquote(column))
			continue
		}
		_, p, _ = strings.Cut(p, ".")
		possible = possible || engine.MatchColumn(p, "", unquote(table), unquote(column))
	}
	return sure, sure || possible
}

func unquote(s string) string {
	if len(s) < 2 || s[0] != '"' {
		return s
	}
	return strings.ReplaceAll(s[1:len(s)-1], `""`, `"`)
}

// matchAny matches against any of the patterns; no patterns match everything.
func matchAny(patterns []pattern, object string) (sure, possible bool) {
	if len(patterns) == 0 {
		return true, true
	}
	for i := range patterns {
		s, p := patterns[i].match(object)
		sure, possible = sure || s, possible || p
		if sure {
			break
		}
	}
	return sure, possible
}

func (p *pattern) match(object string) (sure, possible bool) {
	if p.all {
		return true, true
	}
	if object == "" {
		return false, true
	}
	schema, name, qualified := cut(object)
	sure, possible = p.name.matches(name, false), p.name.matches(name, true)
	switch {
	case !possible:
		return false, false
	case p.bare:
		return sure && (!qualified || schema == "public" || schema == "pg_catalog"), true
	case !qualified:
		return sure && p.schema.any(), true
	}
	return sure && p.schema.matches(schema, false), p.schema.matches(schema, true)
}

// cut splits at the first dot outside quotes. The halves keep their quotes.
func cut(s string) (schema, name string, qualified bool) {
	if strings.IndexByte(s, '"') < 0 {
		schema, name, qualified = strings.Cut(s, ".")
	} else {
		quoted := false
		for i := 0; i < len(s) && !qualified; i++ {
			switch {
			case s[i] == '"':
				quoted = !quoted
			case s[i] == '.' && !quoted:
				schema, name, qualified = s[:i], s[i+1:], true
			}
		}
	}
	if !qualified {
		return "", s, false
	}
	return schema, name, true
}

// glob is one part of a pattern. A quoted part is literal: objects quote just
// the names that have a dot or a quote in them.
type glob struct {
	parts   []string // between the stars
	literal bool
}

func parseGlob(s string) glob {
	if strings.HasPrefix(s, `"`) {
		if inner := s[1 : len(s)-1]; !strings.ContainsAny(inner, `."`) {
			s = inner
		}
		return glob{parts: []string{s}, literal: true}
	}
	return glob{parts: strings.Split(s, "*")}
}

func (g glob) any() bool {
	return !g.literal && len(g.parts) > 1 && strings.Join(g.parts, "") == ""
}

func (g glob) matches(s string, fold bool) bool {
	first, last := g.parts[0], g.parts[len(g.parts)-1]
	if len(g.parts) == 1 {
		return equal(s, first, fold)
	}
	if len(s) < len(first)+len(last) || !equal(s[:len(first)], first, fold) || !equal(s[len(s)-len(last):], last, fold) {
		return false
	}
	s = s[len(first) : len(s)-len(last)]
	for _, part := range g.parts[1 : len(g.parts)-1] {
		at := find(s, part, fold)
		if at < 0 {
			return false
		}
		s = s[at+len(part):]
	}
	return true
}

func find(s, part string, fold bool) int {
	for i := 0; i+len(part) <= len(s); i++ {
		if equal(s[i:i+len(part)], part, fold) {
			return i
		}
	}
	return -1
}

func equal(a, b string, fold bool) bool { return a == b || fold && strings.EqualFold(a, b) }
