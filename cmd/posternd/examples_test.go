package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postern/postern/internal/config"
	"github.com/postern/postern/internal/identity/oidc"
)

// TestExamplesCompile: what docs/identity.md and docs/secrets.md show can be put
// in force: claims compile, and sources are made.
func TestExamplesCompile(t *testing.T) {
	t.Setenv("AWS_CA_BUNDLE", "") // which the SDK refuses beside a client of ours
	for _, page := range []string{"identity.md", "secrets.md"} {
		src, err := os.ReadFile("../../docs/" + page)
		if err != nil {
			t.Fatal(err)
		}
		for i, part := range strings.Split(string(src), "```yaml\n")[1:] {
			example, _, _ := strings.Cut(part, "```")
			path := filepath.Join(t.TempDir(), "postern.yaml")
			// The authorities of the examples are not on this host.
			example = strings.ReplaceAll(example, "        ca: /etc/ssl/corp-ca.pem\n", "")
			if err := os.WriteFile(path, []byte(example), 0o600); err != nil {
				t.Fatal(err)
			}
			cfg, problems := config.Load(path)
			if cfg == nil {
				t.Fatal(page, i+1, problems)
			}
			log := slog.New(slog.DiscardHandler)
			if _, err := sourcesOf(cfg, t.TempDir(), log, nil); err != nil {
				t.Errorf("%s, example %d: %v", page, i+1, err)
			}
			if _, err := oidc.New(oidc.Options{Issuers: issuersOf(cfg, nil), StateDir: t.TempDir(), Key: make([]byte, 32)}); err != nil {
				t.Errorf("%s, example %d: %v", page, i+1, err)
			}
		}
	}
}
