package dashboards

import (
	"os/exec"
	"testing"
)

// promtool is Prometheus's own tool, in the folder of the rules.
func promtool(t *testing.T, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "promtool", args...)
	cmd.Dir = prometheusDir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("promtool %q: %v (apt-get install prometheus)\n%s", args, err, out)
	}
}

// TestRules: each alert fires where it should and not where it should not, and
// rules record what they say.
func TestRules(t *testing.T) {
	promtool(t, "check", "rules", "--lint-fatal", "rules.yaml", "alerts.yaml")
	promtool(t, "test", "rules", "tests.yaml")
}

// TestScrapeExamples: Prometheus takes them.
func TestScrapeExamples(t *testing.T) {
	promtool(t, "check", "config", "--syntax-only", "prometheus.yaml")
	promtool(t, "check", "config", "--syntax-only", "--agent", "forward.yaml")
}
