package e2e

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// example is a statement and what psql shows of it, … for anything.
var example = regexp.MustCompile("(?s)```sql\n(.*?)```\n```\n(.*?)```")

// TestMaskingExamples runs the examples of docs/masking.md as an agent.
func TestMaskingExamples(t *testing.T) {
	page, err := os.ReadFile("../../docs/masking.md")
	if err != nil {
		t.Fatal(err)
	}
	examples := example.FindAllStringSubmatch(string(page), -1)
	if len(examples) < 8 {
		t.Fatalf("%d examples", len(examples))
	}
	w := theWorld
	ada, err := w.psql("planner", "orders", "SELECT email FROM customers WHERE id = 1")
	if err != nil {
		t.Fatal(ada)
	}
	for _, e := range examples {
		cmd := w.agent("planner", "orders", "psql", "-X", "-q", "-v", "ada="+strings.TrimSpace(ada), "-f", "-")
		cmd.Stdin = strings.NewReader("\\pset footer off\n" + e[1])
		out, _ := cmd.CombinedOutput()
		if shown := plainLines(string(out)); !like(plainLines(e[2]), shown) {
			t.Errorf("%s\nshows\n%s\nand not\n%s", e[1], strings.Join(shown, "\n"), e[2])
		}
	}
}

// plainLines are lines without rulers, hints and the width of columns.
func plainLines(text string) (lines []string) {
	for line := range strings.Lines(text) {
		line = strings.Join(strings.Fields(line), " ")
		if i := strings.Index(line, "ERROR:"); i > 0 {
			line = line[i:]
		}
		if line != "" && strings.Trim(line, "-+") != "" && !strings.HasPrefix(line, "DETAIL:") && !strings.HasPrefix(line, "HINT:") && !strings.HasPrefix(line, "Pager") {
			lines = append(lines, line)
		}
	}
	return lines
}

func like(want, got []string) bool {
	if len(want) != len(got) {
		return false
	}
	for i := range want {
		pattern := strings.ReplaceAll(regexp.QuoteMeta(want[i]), "…", ".*")
		if !regexp.MustCompile("^" + pattern + "$").MatchString(got[i]) {
			return false
		}
	}
	return true
}
