package postgres

import (
	"bytes"
	"encoding/binary"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// viewsOf is what the columns of the views in testdata/views are: m for one that
// has the values of a masked column, d for one that is computed from one.
var viewsOf = map[string]string{
	"plain": "id email:m", "renamed": `"weird :resorigtbl (name)":m ":resno" name`, "starred": "id name email:m",
	"joined": "id state email:m loud low:d", "using": "id customer name email:m",
	"computed": "id shout three:d n t", "counted": "name n m:d", "unioned": "id:d email:d",
	"nested": "id t:d shout", "deeper": "id t:d e:m", "whole": "id r:d j:d",
	"sublink": "id e:d", "cte": "id e:m l:d", "subquery": "e:m n", "filtered": "id",
	"cased": "id has:d name", "windowed": "id r:d", "lateral": "id x:m", "valued": "id x:d", "function": "id i:d",
	"stored": "id mail:m name", "over_stored": "id mail:m name",
}

// readRecorded feeds a reading with what a server answered, and returns the
// catalog. Definitions are changed by edit, nil for none.
func readRecorded(t *testing.T, file string, edit func(definition string) string) *catalog {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	r := newReading(emails, 1)
	section := 0
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSuffix(line, "\n")
		if line == "" {
			r.endResult()
			if section++; section == 7 {
				if _, more, err := r.finish(); more == "" || err != nil {
					t.Fatalf("no definitions are asked for: %v", err)
				}
			}
			continue
		}
		var body []byte
		values := strings.Split(line, "\t")
		body = binary.BigEndian.AppendUint16(body, uint16(len(values)))
		for i, v := range values {
			if v == `\N` {
				body = binary.BigEndian.AppendUint32(body, 0xffffffff)
				continue
			}
			plain := appendUnescaped(nil, []byte(v))
			if section == 7 && i == 1 && edit != nil {
				plain = []byte(edit(string(plain)))
			}
			body = append(binary.BigEndian.AppendUint32(body, uint32(len(plain))), plain...)
		}
		if err := r.row(body); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
	}
	c, more, err := r.finish()
	if err != nil || more != "" {
		t.Fatalf("%q, %v", more, err)
	}
	return c
}

// describeView writes a view's columns as viewsOf does.
func describeView(r *relation) string {
	var out []string
	for _, attr := range slices.Sorted(maps.Keys(r.columns)) {
		name := r.columns[attr]
		if strings.ContainsAny(name, " :") {
			name = strconv.Quote(name)
		}
		switch {
		case r.hidden:
			name += ":?"
		case r.masked[attr]:
			if s := r.source(attr); s.of.name != "customers" || s.column != "email" {
				name += ":from " + s.of.name + "." + s.column
			}
			name += ":m"
		case r.derived[attr]:
			name += ":d"
		}
		out = append(out, name)
	}
	return strings.Join(out, " ")
}

// The definitions are those of PostgreSQL 13, 15, 17 and 18, as they keep them.
func TestViewsByTheirDefinitions(t *testing.T) {
	files, err := filepath.Glob("testdata/views/*.txt")
	if err != nil || len(files) != 4 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, file := range files {
		c := readRecorded(t, file, nil)
		for name, want := range viewsOf {
			r := c.byName["public."+name]
			if r == nil {
				t.Errorf("%s: no view %s", file, name)
			} else if got := describeView(r); got != want {
				t.Errorf("%s: %s\n\tgot  %s\n\twant %s", file, name, got, want)
			}
		}
		if !c.functions["shout_of"] {
			t.Errorf("%s: the function of a row is not known", file)
		}
		renamed := c.byName["public.renamed"]
		if f := c.origin(renamed.oid, 1); f.Table != "customers" || f.Column != "email" || f.Derived != nil {
			t.Errorf("%s: the first column of renamed comes from %+v", file, f)
		}
		if f := c.origin(c.byName["public.joined"].oid, 5); f.Column != "" || f.Derived == nil {
			t.Errorf("%s: a computed column comes from %+v", file, f)
		}
	}
}

// A definition that is cut, garbled or too deep leaves the whole view masked, and
// what is over it.
func TestViewsThatAreNotUnderstood(t *testing.T) {
	for name, edit := range map[string]func(string) string{
		"none":    func(string) string { return "" },
		"cut":     func(s string) string { return s[:len(s)/2] },
		"more":    func(s string) string { return s + ")" },
		"two":     func(s string) string { return "(" + s[1:len(s)-1] + s[1:len(s)-1] + ")" },
		"fields":  func(s string) string { return strings.ReplaceAll(s, ":resno", ":resnumber") },
		"numbers": func(s string) string { return strings.ReplaceAll(s, ":resno 2", ":resno 3") },
		"deep":    func(s string) string { return strings.Repeat("(", 1e5) + s },
		"kind":    func(s string) string { return strings.Replace(s, "{QUERY", "{QUEUE", 1) },
		"targets": func(s string) string { return strings.Replace(s, ":targetList", ":targetLists", 1) },
	} {
		c := readRecorded(t, "testdata/views/15.txt", edit)
		for _, view := range []string{"plain", "nested", "over_stored"} {
			if got := describeView(c.byName["public."+view]); strings.Count(got, ":?") != strings.Count(got, " ")+1 {
				t.Errorf("%s: %s is %s", name, view, got)
			}
		}
	}
}

func FuzzViewColumns(f *testing.F) {
	b, err := os.ReadFile("testdata/views/15.txt")
	if err != nil {
		f.Fatal(err)
	}
	for line := range bytes.Lines(b) {
		if _, rule, ok := bytes.Cut(line, []byte("\t({QUERY")); ok {
			f.Add("({QUERY" + string(appendUnescaped(nil, bytes.TrimSuffix(rule, []byte("\n")))))
		}
	}
	f.Fuzz(func(t *testing.T, rule string) {
		columns, ok := viewColumns(rule)
		if !ok && columns != nil {
			t.Error("columns, and not understood")
		}
	})
}
