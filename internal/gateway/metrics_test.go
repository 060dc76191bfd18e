package gateway

import (
	"flag"
	"fmt"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/postern/postern/internal/engine"
)

var update = flag.Bool("update", false, "write testdata/metrics.txt anew")

// exported is what Prometheus would be told.
func (w *world) exported() string {
	answer := httptest.NewRecorder()
	promhttp.HandlerFor(w.registry, promhttp.HandlerOpts{}).ServeHTTP(answer, httptest.NewRequest("GET", "/metrics", nil))
	return answer.Body.String()
}

// The names, kinds and labels of the gateway's metrics, each with a child, are
// those of testdata/metrics.txt, and follow Prometheus's rules.
func TestMetrics(t *testing.T) {
	r := prometheus.NewPedanticRegistry()
	m := NewMetrics(r)
	s := &session{target: &Target{Name: "orders", Protocol: engine.Protocol{Name: "lines"}}, flow: engine.Flow{Agent: "planner"}}
	m.targets(&Setup{Targets: []*Target{s.target}})
	m.began(s)
	m.allowed(s)
	m.denied(s, &engine.Denial{})
	m.ended(s, 1, 2)
	m.misuse(s)
	m.credential(s)
	m.waited(s, 1)
	m.budget(s, "budget hourly", "ask")
	m.sessionDenied(s, &engine.Denial{})
	g := &Gateway{Options: Options{Metrics: m}}
	want := []Traffic{{Agent: "planner", Target: "orders", Allowed: 1, Denied: 2, FromAgent: 1, ToAgent: 2}}
	if got := g.Traffic(); !slices.Equal(got, want) {
		t.Errorf("traffic %+v", got)
	}
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for _, f := range families {
		var labels []string
		for _, l := range f.GetMetric()[0].GetLabel() {
			labels = append(labels, l.GetName())
		}
		fmt.Fprintf(&got, "%s %s {%s}\n", f.GetName(), strings.ToLower(f.GetType().String()), strings.Join(labels, ","))
	}
	const file = "testdata/metrics.txt"
	if *update {
		if err := os.WriteFile(file, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if want, err := os.ReadFile(file); err != nil || got.String() != string(want) {
		t.Errorf("the metrics are\n%swant\n%s%v", got.String(), want, err)
	}
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	if err != nil || len(problems) > 0 {
		t.Error(problems, err)
	}
}
