package postgres

import (
	"context"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/sql"
	"github.com/postern/postern/internal/wiretest"
)

// grammar stands in for PostgreSQL's, which is C in a worker: it knows the
// statements of the transcripts by their first words, and refuses all others.
type grammar struct{}

// Known knows nothing, except in a loop that is not to be left.
func (g *grammar) Known(text string) (*sql.Statement, bool) {
	if driver != wiretest.Looping {
		return nil, false
	}
	s, err := g.Classify(context.Background(), text)
	return s, err == nil
}

func (*grammar) Classify(_ context.Context, text string) (*sql.Statement, error) {
	s := &sql.Statement{Limit: -1}
	for _, part := range strings.Split(text, ";") {
		if part = strings.TrimSpace(strings.ToLower(part)); part == "" {
			continue
		}
		if err := classify(s, part); err != nil {
			return nil, err
		}
	}
	if len(s.Kinds) != 1 {
		s.Copied = nil
		s.Equalities = slices.DeleteFunc(s.Equalities, func(q sql.Equality) bool {
			if q.Literal > 0 {
				s.Uses = append(s.Uses, sql.Use{Purpose: sql.Filters, Column: q.Column})
			}
			return q.Literal > 0
		})
	}
	if len(s.Effects) == 0 {
		s.Effects = []engine.Effect{{Verb: sql.Session, Object: "empty"}}
	}
	s.Seal()
	return s, nil
}

// Sample knows one kind of statement.
func (*grammar) Sample(_ context.Context, text string) (*sql.Sample, error) {
	rest, ok := strings.CutPrefix(text, "delete ")
	switch {
	case !ok:
		return nil, nil
	case strings.Contains(text, "$2"):
		return &sql.Sample{Query: "sample " + strings.ReplaceAll(rest, "$2", "$1"), Params: []int{2}}, nil
	}
	return &sql.Sample{Query: "sample " + rest}, nil
}

var (
	tableName  = regexp.MustCompile(`(?:from|into|update|join|table|copy)\s+([a-z_]+)`)
	equality   = regexp.MustCompile(`\b(email|id) = (?:\$(\d)|'[^']*'|\d+)`)
	columnName = regexp.MustCompile(`\b(email|total|id|address)\b`)
)

// least is how many words a statement has that is not cut short.
var least = map[string]int{"set": 4, "prepare": 4, "execute": 2, "deallocate": 2, "discard": 2}

func classify(s *sql.Statement, part string) error {
	words := strings.Fields(part)
	kind, table := words[0], ""
	if len(words) < least[kind] {
		return &sql.ErrSyntax{Message: "it is cut short"}
	}
	add := func(verb, object string) { s.Effects = append(s.Effects, engine.Effect{Verb: verb, Object: object}) }
	if m := tableName.FindStringSubmatch(part); m != nil && kind != "fetch" {
		table = m[1]
		s.Tables = append(s.Tables, sql.Table{Name: table})
	}
	s.Columns = append(s.Columns, columnName.FindAllString(part, -1)...)
	s.Star = s.Star || strings.Contains(part, "*")
	s.Equalities = append(s.Equalities, equalities(part, table)...)
	switch kind {
	case "select", "insert", "update", "delete":
		add(kind, table)
		s.Parts = append(s.Parts, sql.Part{Verb: kind, Table: sql.Table{Name: table}})
	case "drop", "alter", "create":
		add(sql.DDL, table)
	case "begin":
		add(sql.Session, "begin")
		s.Transactions = append(s.Transactions, sql.Transaction{Step: sql.Begin})
	case "commit", "rollback":
		add(sql.Session, kind)
		s.Transactions = append(s.Transactions, sql.Transaction{Step: sql.Commit})
	case "set":
		add(sql.Set, words[1])
		s.Settings = append(s.Settings, sql.Setting{Name: words[1], Value: words[3], Known: true})
	case "close", "fetch":
		add(sql.Session, kind)
	case "do":
		add(sql.Do, "plpgsql")
	case "declare":
		kind = "declare cursor"
		add(sql.Session, kind)
		add(sql.Select, table)
	case "prepare":
		inner := &sql.Statement{Limit: -1}
		if err := classify(inner, strings.TrimSpace(strings.Join(words[3:], " "))); err != nil {
			return err
		}
		inner.Seal()
		s.Effects = append(s.Effects, inner.Effects...)
		s.Prepares = append(s.Prepares, sql.Prepared{Name: words[1], Statement: inner})
	case "execute":
		add(engine.Unknown, sql.ExecuteObject(words[1]))
		s.Executes = append(s.Executes, words[1])
	case "deallocate", "discard":
		add(sql.Session, kind)
		name := strings.TrimSuffix(words[1], "all")
		if part == "discard all" {
			s.Settings = append(s.Settings, sql.Setting{Name: "all", Reset: true})
		}
		s.Deallocates = append(s.Deallocates, name)
	case "copy":
		if strings.Contains(part, "from stdin") {
			add(sql.Insert, table)
			add(sql.CopyIn, table)
		} else {
			add(sql.Select, table)
			add(sql.CopyOut, table)
			s.Copied = copiedOf(part, table)
		}
	default:
		return &sql.ErrSyntax{Message: "syntax error at or near \"" + kind + "\"", Position: 1}
	}
	s.Kinds = append(s.Kinds, kind)
	return nil
}

// copiedOf is the form of a COPY … TO STDOUT.
func copiedOf(part, table string) *sql.Copied {
	t, columns := sql.Table{Name: table}, columnName.FindAllString(part, -1)
	o := &sql.Copied{
		Query: sql.SelectColumns(t, columns), Null: `\N`, Delimiter: '\t',
		CSV: strings.Contains(part, "csv"), Header: strings.Contains(part, "header"), Quote: '"', Escape: '"',
	}
	if o.CSV {
		o.Delimiter, o.Null = ',', ""
	}
	if len(columns) == 0 {
		o.Table = t
	}
	return o
}

// equalities finds what columns are compared with, or set to.
func equalities(part, table string) (out []sql.Equality) {
	literal := 0
	for _, m := range equality.FindAllStringSubmatch(part, -1) {
		q := sql.Equality{
			Column:  sql.Column{Table: sql.Table{Name: table}, Name: m[1]},
			Assigns: strings.Contains(part, "set "+m[0]),
		}
		if q.Param, _ = strconv.Atoi(m[2]); q.Param == 0 {
			literal++
			q.Literal = literal
		}
		out = append(out, q)
	}
	return out
}
