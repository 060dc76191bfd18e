package dashboards

import (
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/promql/parser"

	"github.com/postern/postern/test/dashboards/mixin"
)

const prometheusDir = "../../packaging/prometheus"

// expression is one of a dashboard or a rule.
type expression struct {
	where string
	text  string // without Grafana's variables
	names []string
}

// legend and templated find the labels that a text is filled with.
var (
	legend    = regexp.MustCompile(`\{\{\s*(\w+)\s*\}\}`)
	templated = regexp.MustCompile(`\$labels\.(\w+)`)
)

func rules(t *testing.T) []mixin.Rule {
	t.Helper()
	all, err := mixin.Rules(filepath.Join(prometheusDir, "rules.yaml"), filepath.Join(prometheusDir, "alerts.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// expressions are all that there are.
func expressions(t *testing.T) (all []expression) {
	t.Helper()
	for _, d := range load(t) {
		for _, p := range d.Panels() {
			for _, q := range p.Queries {
				e := expression{where: "panel " + d.File + ": " + p.Title, text: mixin.Plain(q.Expr, "5m", "6h")}
				for _, m := range legend.FindAllStringSubmatch(q.Legend, -1) {
					e.names = append(e.names, m[1])
				}
				all = append(all, e)
			}
		}
	}
	for _, r := range rules(t) {
		e := expression{where: "rule " + r.Alert + r.Record, text: r.Expr}
		for _, text := range r.Annotations {
			for _, m := range templated.FindAllStringSubmatch(text, -1) {
				e.names = append(e.names, m[1])
			}
		}
		all = append(all, e)
	}
	if len(all) < 100 {
		t.Fatalf("only %d expressions were found", len(all))
	}
	return all
}

// exported are the labels of each metric, by the lists that the gateway's and
// the daemon's tests hold to what is exported, and of those that client_golang
// and Prometheus itself bring and that are used here.
func exported(t *testing.T) map[string][]string {
	t.Helper()
	all := map[string][]string{"up": nil}
	for _, name := range []string{"process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds", "process_max_fds", "go_goroutines"} {
		all[name] = nil
	}
	for _, list := range []string{"../../internal/gateway/testdata/metrics.txt", "../../internal/metrics/testdata/metrics.txt"} {
		for line := range strings.Lines(read(t, list)) {
			words := strings.Fields(line)
			var names []string
			for n := range strings.SplitSeq(strings.Trim(words[2], "{}"), ",") {
				if n != "" {
					names = append(names, n)
				}
			}
			if words[1] != "histogram" {
				all[words[0]] = names
				continue
			}
			all[words[0]+"_count"], all[words[0]+"_sum"] = names, names
			all[words[0]+"_bucket"] = append(slices.Clone(names), "le")
		}
	}
	for name := range all {
		all[name] = append(slices.Clone(all[name]), "instance", "job")
	}
	// What rules record has the labels that their expressions keep.
	for _, r := range rules(t) {
		if r.Record != "" {
			all[r.Record] = kept(t, r.Expr, all)
		}
	}
	return all
}

// kept are the labels of an expression's result.
func kept(t *testing.T, text string, metrics map[string][]string) []string {
	t.Helper()
	names := map[string]bool{}
	grouped := false
	parser.Inspect(parse(t, text), func(n parser.Node, _ []parser.Node) error {
		switch n := n.(type) {
		case *parser.AggregateExpr:
			for _, g := range n.Grouping {
				names[g], grouped = true, true
			}
		case *parser.VectorSelector:
			if !grouped {
				for _, l := range metrics[n.Name] {
					names[l] = true
				}
			}
		}
		return nil
	})
	if strings.HasPrefix(text, "histogram_quantile") {
		delete(names, "le")
	}
	return slices.Collect(maps.Keys(names))
}

func parse(t *testing.T, text string) parser.Expr {
	t.Helper()
	e, err := parser.NewParser(parser.Options{}).ParseExpr(text)
	if err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return e
}

// TestExpressions: each parses, names metrics that are exported, matches and
// groups by labels that they have, and legends and annotations have no others.
func TestExpressions(t *testing.T) {
	metrics := exported(t)
	for _, e := range expressions(t) {
		for _, problem := range problems(parse(t, e.text), e.names, metrics) {
			t.Errorf("%s: %s, in %s", e.where, problem, e.text)
		}
	}
	for _, wrong := range []string{
		`postern_request_total`, `postern_requests_total{user="x"}`, `sum by (query) (postern_requests_total)`,
		`rate(postern_approvals_pending[5m])`, `postern_requests_total > 5`,
	} {
		if len(problems(parse(t, wrong), nil, metrics)) == 0 {
			t.Errorf("nothing is found to be wrong with %s", wrong)
		}
	}
	if p := problems(parse(t, `sum by (kind) (rate(postern_masked_values_total[5m]))`), []string{"target"}, metrics); len(p) == 0 {
		t.Error("a legend may have a label that is not there")
	}
}

// problems of an expression whose legend has these names.
func problems(e parser.Expr, names []string, metrics map[string][]string) (all []string) {
	there := map[string]bool{}
	grouped := false
	say := func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)) }
	parser.Inspect(e, func(n parser.Node, path []parser.Node) error {
		switch n := n.(type) {
		case *parser.AggregateExpr:
			for _, g := range n.Grouping {
				there[g] = true
			}
			grouped = true
			all = append(all, lacking(n, metrics)...)
		case *parser.VectorSelector:
			of, ok := metrics[n.Name]
			if !ok {
				say("%s is not exported", n.Name)
			}
			for _, m := range n.LabelMatchers {
				if m.Name != "__name__" && !slices.Contains(of, m.Name) {
					say("%s has no label %s", n.Name, m.Name)
				}
			}
			if !grouped {
				for _, l := range of {
					there[l] = true
				}
			}
			if problem := counted(n.Name, path); problem != "" {
				say("%s", problem)
			}
		}
		return nil
	})
	for _, name := range names {
		if !there[name] {
			say("its result has no label %s", name)
		}
	}
	return all
}

// lacking are labels that an aggregation groups by and its metrics do not have.
func lacking(a *parser.AggregateExpr, metrics map[string][]string) (all []string) {
	parser.Inspect(a.Expr, func(n parser.Node, _ []parser.Node) error {
		if v, ok := n.(*parser.VectorSelector); ok {
			for _, g := range a.Grouping {
				if !slices.Contains(metrics[v.Name], g) {
					all = append(all, fmt.Sprintf("%s has no label %s to group by", v.Name, g))
				}
			}
		}
		return nil
	})
	return all
}

// counted says what is wrong with the function around a metric: what counts is
// looked at by its growth, and nothing else is.
func counted(name string, path []parser.Node) string {
	counter := strings.HasSuffix(name, "_total") || strings.HasSuffix(name, "_bucket") || strings.HasSuffix(name, "_count") || strings.HasSuffix(name, "_sum")
	if strings.Contains(name, ":") {
		return ""
	}
	grows, shape := false, false
	for _, n := range path {
		if c, ok := n.(*parser.Call); ok {
			grows = grows || c.Func.Name == "rate" || c.Func.Name == "increase"
		}
		if b, ok := n.(*parser.BinaryExpr); ok {
			shape = shape || b.Op == parser.LUNLESS
		}
	}
	switch {
	case grows && !counter:
		return name + " does not count, and is looked at by its growth"
	case counter && !grows && !shape:
		return name + " counts, and is looked at by its value"
	}
	return ""
}

// TestEveryMetricIsShown: an operator sees each metric on some panel.
func TestEveryMetricIsShown(t *testing.T) {
	shown := map[string]bool{}
	for _, e := range expressions(t) {
		if !strings.HasPrefix(e.where, "panel ") {
			continue
		}
		parser.Inspect(parse(t, e.text), func(n parser.Node, _ []parser.Node) error {
			if v, ok := n.(*parser.VectorSelector); ok {
				shown[v.Name] = true
			}
			return nil
		})
	}
	for name := range exported(t) {
		// A histogram is shown by any of its parts.
		base := name
		for _, part := range []string{"_bucket", "_sum", "_count"} {
			base = strings.TrimSuffix(base, part)
		}
		if strings.Contains(name, ":") || name == "up" {
			continue // recorded of others; of Prometheus itself, for alerts
		}
		if !shown[name] && !shown[base+"_bucket"] && !shown[base+"_count"] && !shown[base+"_sum"] {
			t.Errorf("no panel shows %s", name)
		}
	}
}

// TestEveryAlertIsExplained: each has a severity, annotations that say what is
// the matter, a section of docs/alerts.md that they lead to, and unit tests;
// and the page has no section for an alert that is not there.
func TestEveryAlertIsExplained(t *testing.T) {
	const page = "../../docs/alerts.md"
	sections := map[string]bool{}
	text := read(t, page)
	for line := range strings.Lines(text) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "## Postern"); ok {
			sections["Postern"+name] = true
		}
	}
	tests := read(t, filepath.Join(prometheusDir, "tests.yaml"))
	for _, r := range rules(t) {
		if r.Alert == "" {
			continue
		}
		if !sections[r.Alert] {
			t.Errorf("docs/alerts.md has no section %s", r.Alert)
		}
		_, section, _ := strings.Cut(text, "## "+r.Alert+"\n")
		section, _, _ = strings.Cut(section, "\n## ")
		for _, part := range []string{"**Means:**", "**Look at:**", "**Silence:**"} {
			if !strings.Contains(section, part) {
				t.Errorf("the section of %s in docs/alerts.md has no %s", r.Alert, part)
			}
		}
		delete(sections, r.Alert)
		if !slices.Contains([]string{"critical", "warning", "info"}, r.Labels["severity"]) {
			t.Errorf("%s has the severity %q", r.Alert, r.Labels["severity"])
		}
		anchor := "docs/alerts.md#" + strings.ToLower(r.Alert)
		if !strings.HasSuffix(r.Annotations["runbook_url"], anchor) {
			t.Errorf("%s leads to %q, not to %s", r.Alert, r.Annotations["runbook_url"], anchor)
		}
		for _, a := range []string{"summary", "description"} {
			if !strings.HasSuffix(r.Annotations[a], ".") {
				t.Errorf("the %s of %s is no sentence: %q", a, r.Alert, r.Annotations[a])
			}
		}
		if strings.Count(tests, "alertname: "+r.Alert+"\n") < 2 {
			t.Errorf("tests.yaml does not show that %s fires, and that it does not", r.Alert)
		}
	}
	for name := range sections {
		t.Errorf("docs/alerts.md explains %s, which is no alert", name)
	}
}
