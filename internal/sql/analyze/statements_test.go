package analyze

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/postern/postern/internal/sql"
)

var update = flag.Bool("update", false, "rewrite what testdata/statements.txt expects")

// testdata/statements.txt is the table: headings begin with #, a statement is
// one line, in which \n, \r and \t are escaped, and below it, indented, stands
// what it does: effects | columns | restricted? | equal columns per part.
func TestStatements(t *testing.T) { golden(t, "testdata/statements.txt", 200, describe) }

// golden compares a table of statements, and what stands below each, with what
// describe says of them.
func golden(t *testing.T, file string, least int, describe func(string) string) {
	t.Helper()
	src, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	heading, count := "", 0
	lines := strings.Split(strings.TrimSuffix(string(src), "\n"), "\n")
	for i := 0; i < len(lines); i++ {
		line := lines[i]
		out.WriteString(line + "\n")
		switch {
		case line == "":
			continue
		case strings.HasPrefix(line, "# "):
			heading = line[2:]
			continue
		case strings.HasPrefix(line, "\t"):
			t.Fatalf("line %d: no statement", i+1)
		}
		want := ""
		if i+1 < len(lines) && strings.HasPrefix(lines[i+1], "\t") {
			want = lines[i+1][1:]
			i++
		}
		count++
		got := describe(line)
		out.WriteString("\t" + got + "\n")
		if got != want && !*update {
			t.Errorf("%s: %s\n got %s\nwant %s", heading, line, got, want)
		}
	}
	if count < least {
		t.Errorf("only %d statements", count)
	}
	if *update {
		if err := os.WriteFile(file, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// analyzed reads one line of a table; refused is why the grammar does not.
func analyzed(line string) (s *sql.Statement, refused string) {
	s, err := Analyze(strings.NewReplacer(`\n`, "\n", `\r`, "\r", `\t`, "\t").Replace(line))
	var syntax *sql.ErrSyntax
	switch {
	case errors.As(err, &syntax):
		return nil, "refused: " + syntax.Error()
	case err != nil:
		return nil, "error: " + err.Error()
	}
	return s, ""
}

func describe(line string) string {
	s, refused := analyzed(line)
	if s == nil {
		return refused
	}
	var effects, keys []string
	for _, e := range s.Effects {
		effects = append(effects, strings.TrimSpace(e.Verb+" "+e.Object))
	}
	for _, p := range s.Parts {
		k := p.Verb + "(" + strings.Join(p.EqualColumns, " ") + ")"
		if p.Written {
			k = "written"
		}
		keys = append(keys, k)
	}
	restricted := "unrestricted"
	if s.Restricted {
		restricted = "restricted"
	}
	return fmt.Sprintf("%s | %s | %s | %s", strings.Join(effects, ", "), strings.Join(s.Columns, " "), restricted, strings.Join(keys, " "))
}
