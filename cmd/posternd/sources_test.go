package main

import (
	"io"
	"log/slog"
	"testing"
	"time"

	"github.com/postern/postern/internal/config"
)

// TestSourcesOutliveAReload: a source that is configured as before is the same
// one, which may have logged in by what can be used once; another is made anew.
func TestSourcesOutliveAReload(t *testing.T) {
	parse := func(sources string) *config.Config {
		t.Helper()
		cfg, problems := config.Parse("postern.yaml", []byte("secrets:\n  sources:\n"+sources+"agents: []\n"), time.Now())
		if cfg == nil {
			t.Fatal(problems)
		}
		return cfg
	}
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	const bao = "    - {name: bao, vault: {address: \"https://bao.internal\", auth: {method: approle, role_id: r, secret_id_file: /s, wrapped: true}}}\n"
	first, err := sourcesOf(parse(bao), "/", log, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		sources string
		same    bool
	}{
		"as before":       {bao, true},
		"on another line": {"    - {name: other, exec: {command: [/bin/true]}}\n" + bao, true},
		"another age":     {"    - {name: bao, refresh: 1m, vault: {address: \"https://bao.internal\", auth: {method: approle, role_id: r, secret_id_file: /s, wrapped: true}}}\n", true},
		"another role":    {"    - {name: bao, vault: {address: \"https://bao.internal\", auth: {method: approle, role_id: q, secret_id_file: /s, wrapped: true}}}\n", false},
		"another kind":    {"    - {name: bao, exec: {command: [/bin/true]}}\n", false},
	} {
		next, err := sourcesOf(parse(c.sources), "/", log, first)
		if err != nil {
			t.Fatal(err)
		}
		if same := next["bao"].source == first["bao"].source; same != c.same {
			t.Errorf("%s: the same source: %t", name, same)
		}
	}
	for _, name := range []string{"file", "systemd", "env"} {
		if first[name].source == nil {
			t.Errorf("there is no source %s", name)
		}
	}
}
