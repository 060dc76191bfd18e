package bypass

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// update writes the table: make generate.
var update = flag.Bool("update", false, "write the list of attempts to docs/security.md")

const (
	securityPage = "../../docs/security.md"
	tableBegins  = "<!-- the list of attempts: make generate -->\n"
	tableEnds    = "<!-- end of the list -->\n"
)

// TestListIsInTheDocumentation: docs/security.md has the list as it is.
func TestListIsInTheDocumentation(t *testing.T) {
	page, err := os.ReadFile(securityPage)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(page), tableBegins)
	_, after, ok2 := strings.Cut(rest, tableEnds)
	if !ok || !ok2 {
		t.Fatalf("%s has no place for the list", securityPage)
	}
	want := before + tableBegins + table() + tableEnds + after
	if want == string(page) {
		return
	}
	if !*update {
		t.Fatalf("%s has another list than internal/bypass: run make generate", securityPage)
	}
	if err := os.WriteFile(securityPage, []byte(want), 0o644); err != nil {
		t.Fatal(err)
	}
}

// table has a row for each attempt.
func table() string {
	var out strings.Builder
	out.WriteString("| attempt | by | what it does | redirected: stopped by | workspace and strict: stopped by |\n|---|---|---|---|---|\n")
	for _, a := range All() {
		var families []string
		for _, f := range a.Families {
			families = append(families, string(f))
		}
		redirected := stops(a.Must[Redirected])
		if a.Unix {
			redirected += "; with `agents.unix`, Linux 6.7: `unix`"
		}
		boxed := stops(a.Must[Workspace])
		if strict := stops(a.Must[Strict]); strict != boxed {
			boxed += "; strict: " + strict
		}
		fmt.Fprintf(&out, "| `%s` | %s | %s | %s | %s |\n", a.Name, strings.Join(families, " "), a.Tries, redirected, boxed)
	}
	return out.String()
}

func stops(m Must) string {
	if m.Open != "" {
		return "**open**"
	}
	var by []string
	for _, h := range m.By {
		if words := "`" + string(h) + "`"; !slices.Contains(by, words) {
			by = append(by, words)
		}
	}
	return strings.Join(by, ", ")
}
