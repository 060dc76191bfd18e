package boot

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestUnitsAreInTheDocuments compares the units that are tested with those that
// docs/architecture.md tells people to install.
func TestUnitsAreInTheDocuments(t *testing.T) {
	page, err := os.ReadFile("../../docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	units, err := filepath.Glob("units/*.service")
	if err != nil || len(units) == 0 {
		t.Fatalf("no units: %v", err)
	}
	for _, unit := range units {
		text, err := os.ReadFile(unit)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(page), "```ini\n"+string(text)+"```\n") {
			t.Errorf("docs/architecture.md does not have the text of %s", unit)
		}
	}
}
