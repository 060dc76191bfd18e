package analyze

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postern/postern/internal/sql"
)

// What clients send by themselves, when they connect or show a catalog, needs
// nothing but the verbs session and select: the shipped example must work with
// them. psql.sql is what psql 15 sends for its backslash commands.
func TestClients(t *testing.T) {
	files, err := filepath.Glob("testdata/clients/*.sql")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		src, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range strings.Split(string(src), "--;;\n") {
			s, err := Analyze(text)
			if err != nil {
				t.Errorf("%s: %v\n%s", file, err, text)
				continue
			}
			for _, e := range s.Effects {
				if e.Verb != sql.Session && e.Verb != sql.Select {
					t.Errorf("%s: %v\n%s", file, e, text)
				}
			}
			if !s.ReadsOnly {
				t.Errorf("%s: not read only\n%s", file, text)
			}
		}
	}
}
