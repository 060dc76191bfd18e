package live

import (
	"net/url"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/prometheus/promql/parser"

	"github.com/postern/postern/test/dashboards/mixin"
)

// rate is what Grafana would take for $__rate_interval at this pace.
const rate = "15s"

// span is $__range.
const span = "3m"

// nothing are panels that have no data under this load, and why.
var nothing = map[string]string{}

// missing are selectors that match no series under this load, and why.
var missing = map[string]string{
	`postern_sessions_denied_total offset 10m`: "the world is not that old",
}

func dashboards(t *testing.T) []mixin.Dashboard {
	t.Helper()
	all, err := mixin.Load(filepath.Join(packaging, "grafana", "source.yaml"))
	if err != nil || len(all) != 5 {
		t.Fatal(len(all), err)
	}
	return all
}

// TestPanelsReturnData: each query of each panel does, under a load that has
// something of everything.
func TestPanelsReturnData(t *testing.T) {
	now := time.Now()
	empty := map[string]bool{}
	for _, d := range dashboards(t) {
		for _, p := range d.Panels() {
			for _, q := range p.Queries {
				name := d.File + ": " + p.Title
				found, err := theWorld.panel(p, q, now)
				switch {
				case err != nil:
					t.Errorf("%s: %v", name, err)
				case len(found) == 0 && nothing[name] == "":
					t.Errorf("%s has no data: %s", name, q.Expr)
				case len(found) == 0:
					empty[name] = true
				}
			}
		}
	}
	for name := range nothing {
		if !empty[name] {
			t.Errorf("%s is listed as one without data, but it has some, or is no panel", name)
		}
	}
}

// panel is what a query of a panel returns.
func (w *world) panel(p *mixin.Panel, q mixin.Query, now time.Time) ([]series, error) {
	expr := mixin.Plain(q.Expr, rate, span)
	if p.Instant() {
		return w.prometheus.query(expr, now)
	}
	return w.prometheus.span(expr, w.began, now, time.Second)
}

// TestMetricsExist: each metric that a dashboard or a rule names is there, with
// the labels and values that it is asked for by.
func TestMetricsExist(t *testing.T) {
	var texts []string
	for _, d := range dashboards(t) {
		for _, p := range d.Panels() {
			for _, q := range p.Queries {
				texts = append(texts, mixin.Plain(q.Expr, rate, span))
			}
		}
	}
	rules, err := mixin.Rules(filepath.Join(packaging, "prometheus", "rules.yaml"), filepath.Join(packaging, "prometheus", "alerts.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rules {
		texts = append(texts, r.Expr)
	}
	selectors := map[string]*parser.VectorSelector{}
	for _, text := range texts {
		e, err := parser.NewParser(parser.Options{}).ParseExpr(text)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		parser.Inspect(e, func(n parser.Node, _ []parser.Node) error {
			if v, ok := n.(*parser.VectorSelector); ok {
				v.OriginalOffset = 0
				selectors[v.String()] = v
			}
			return nil
		})
	}
	if len(selectors) < 60 {
		t.Fatalf("only %d selectors were found", len(selectors))
	}
	for text := range selectors {
		var found []map[string]string
		err := theWorld.prometheus.get("/api/v1/series", url.Values{"match[]": {text}}, &found)
		if err != nil {
			t.Errorf("%s: %v", text, err)
		}
		if (len(found) == 0) != (missing[text] != "") {
			t.Errorf("%s matches %d series; listed as missing: %q", text, len(found), missing[text])
		}
	}
}

// TestAlertsFire: of what this world does on purpose, a real Prometheus alerts.
func TestAlertsFire(t *testing.T) {
	found, err := theWorld.prometheus.query(`ALERTS{alertstate="firing"}`, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	var firing []string
	for _, s := range found {
		firing = append(firing, s.Labels["alertname"])
	}
	for _, want := range []string{"PosternGlassBroken", "PosternPastTheGateway", "PosternPlaceholderMisuse", "PosternSecretSentBack"} {
		if !slices.Contains(firing, want) {
			t.Errorf("%s does not fire; %q do", want, firing)
		}
	}
	for _, wrong := range []string{"PosternDown", "PosternHookDetached", "PosternNotOnRecord", "PosternNoGateway", "PosternRecordingsNearlyFull"} {
		if slices.Contains(firing, wrong) {
			t.Errorf("%s fires", wrong)
		}
	}
}
