package oidc

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestMessagesOfPage: every error of the package is explained to users, in the
// words that they see.
func TestMessagesOfPage(t *testing.T) {
	page, err := os.ReadFile("../../../docs/identity.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(page), "## What a refusal says")
	table, _, _ = strings.Cut(table, "\n## ")
	source, err := os.ReadFile("errors.go")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`errors\.New\("([^"]+)"\)`).FindAllStringSubmatch(string(source), -1)
	if len(found) < 10 {
		t.Fatalf("%d errors in errors.go", len(found))
	}
	for _, m := range found {
		words := strings.TrimPrefix(m[1], "the login ")
		if !strings.Contains(table, words) {
			t.Errorf("the page does not explain %q", m[1])
		}
	}
}
