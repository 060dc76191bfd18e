package e2e

import (
	"strings"
	"testing"
	"time"
)

// TestFaithfulConnect: what cannot be reached looks to an agent as it would
// without the gateway, and what is no target is refused at once and on record.
func TestFaithfulConnect(t *testing.T) {
	w := theWorld
	dial := func(host string) string {
		t.Helper()
		out, err := w.agent("planner", "orders", "psql", "-X", "-h", host, "-c", "SELECT 1").CombinedOutput()
		if err == nil {
			t.Errorf("%s: %s", host, out)
		}
		return string(out)
	}
	// psql tries both addresses of the name.
	for range 2 {
		if out := dial("dead-db.internal"); strings.Count(out, "Connection refused") != 2 {
			t.Errorf("an upstream that refuses: %s", out)
		}
	}
	began := time.Now()
	mustContain(t, dial("203.0.113.9"), "refused")
	mustContain(t, dial("203.0.113.9"), "Permission denied")
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("denied after %v", took)
	}
	line, err := w.postern.LogLine("to=203.0.113.9:5432")
	if err != nil {
		t.Fatal(err)
	}
	mustContain(t, line, "level=WARN msg=denied", "agent=planner", `reason="no target is configured for 203.0.113.9:5432"`)
	_, id, _ := strings.Cut(line, "session=")
	id, _, _ = strings.Cut(id, " ")
	mustContain(t, w.cli(t, "replay", "--speed", "0", id), "no target is configured for 203.0.113.9:5432")
	if out, err := w.psql("planner", "orders", "SELECT 'still reached'"); err != nil {
		t.Error(out)
	}
}
