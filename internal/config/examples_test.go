package config

import (
	"strings"
	"testing"
	"time"
)

// TestExamplesOfPages: every configuration that these pages show has no problems
// by itself, and there are some.
func TestExamplesOfPages(t *testing.T) {
	for page, least := range map[string]int{"identity.md": 3, "secrets.md": 2} {
		found := 0
		for i, part := range strings.Split(text(t, "../../docs/"+page), "```yaml\n") {
			if i == 0 {
				continue
			}
			example, _, _ := strings.Cut(part, "```")
			found++
			if cfg, problems := Parse(page, []byte(example), time.Now()); cfg == nil || len(problems) > 0 {
				t.Errorf("%s, example %d: %v", page, found, problems)
			}
		}
		if found < least {
			t.Errorf("%s shows %d configurations", page, found)
		}
	}
}
