// Package mixin turns packaging/grafana/source.yaml into the dashboards that
// Grafana imports, and says which expressions they have. What the expressions
// mean it leaves to the tests. Start with Load and Dashboard.JSON.
package mixin

import (
	"bytes"
	"fmt"
	"os"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Dashboard is one file.
type Dashboard struct {
	File      string   `yaml:"file"`
	Title     string   `yaml:"title"`
	Help      string   `yaml:"help"`
	Variables []string `yaml:"variables"`
	Rows      []Row    `yaml:"rows"`
}

// Row is a heading and what is below it.
type Row struct {
	Title  string   `yaml:"title"`
	Panels []*Panel `yaml:"panels"`
}

// Panel shows what its queries return.
type Panel struct {
	Title string `yaml:"title"`
	// Kind is lines, bars, stat or gauge: Grafana's timeseries, bargauge, stat
	// and gauge.
	Kind string `yaml:"kind"`
	Unit string `yaml:"unit"` // by Grafana's id
	// Thresholds are colours and the value that each begins at, the lowest first.
	Thresholds Thresholds `yaml:"thresholds"`
	Stack      bool       `yaml:"stack"`
	Wide       int        `yaml:"wide"` // columns of 24; 0 is the kind's default
	Help       string     `yaml:"help"`
	Queries    []Query    `yaml:"queries"`

	X, Y, W, H int `yaml:"-"`
}

// Query is an expression of PromQL and what its series are called.
type Query struct {
	Expr   string `yaml:"expr"`
	Legend string `yaml:"legend"`
}

// Threshold is a colour from a value on.
type Threshold struct {
	Colour string
	From   float64
}

// Thresholds keep the order that they are written in.
type Thresholds []Threshold

// UnmarshalYAML reads {colour: value, ...}.
func (t *Thresholds) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind != yaml.MappingNode {
		return fmt.Errorf("line %d: thresholds are {colour: value, ...}", n.Line)
	}
	for i := 0; i < len(n.Content); i += 2 {
		var from float64
		if err := n.Content[i+1].Decode(&from); err != nil {
			return err
		}
		*t = append(*t, Threshold{n.Content[i].Value, from})
	}
	return nil
}

// variables are labels, each with a metric that knows its values.
var variables = map[string]struct{ metric, label string }{
	"instance": {"postern_build_info", "Host"},
	"agent":    {"postern_sessions_total", "Agent"},
	"target":   {"postern_sessions_total", "Target"},
}

// sizes of kinds, in columns and in rows.
var sizes = map[string]struct{ w, h int }{
	"lines": {8, 8}, "bars": {8, 8}, "stat": {4, 4}, "gauge": {8, 8},
}

// columns that a dashboard of Grafana has.
const columns = 24

// Load reads the source. Its panels have their places, and their expressions
// Grafana's variables.
func Load(path string) ([]Dashboard, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var all []Dashboard
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	if err := d.Decode(&all); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	for _, d := range all {
		if err := d.arrange(); err != nil {
			return nil, fmt.Errorf("%s: %s: %w", path, d.File, err)
		}
	}
	return all, nil
}

func (d Dashboard) arrange() error {
	for _, v := range d.Variables {
		if _, ok := variables[v]; !ok {
			return fmt.Errorf("there is no variable %s", v)
		}
	}
	y := 0
	for _, r := range d.Rows {
		y++ // the heading
		x, tallest := 0, 0
		for _, p := range r.Panels {
			size, ok := sizes[p.Kind]
			if !ok {
				return fmt.Errorf("panel %q: there is no kind %q", p.Title, p.Kind)
			}
			p.W, p.H = size.w, size.h
			if p.Wide != 0 {
				p.W = p.Wide
			}
			if x+p.W > columns {
				x, y, tallest = 0, y+tallest, 0
			}
			p.X, p.Y = x, y
			x, tallest = x+p.W, max(tallest, p.H)
			for i, q := range p.Queries {
				for _, v := range d.Variables {
					q.Expr = strings.ReplaceAll(q.Expr, "@"+v, v+`=~"$`+v+`"`)
				}
				if strings.Contains(q.Expr, "@") {
					return fmt.Errorf("panel %q has a variable that the dashboard lacks: %s", p.Title, q.Expr)
				}
				p.Queries[i] = q
			}
		}
		y += tallest
	}
	return nil
}

// Panels are all of a dashboard.
func (d Dashboard) Panels() (all []*Panel) {
	for _, r := range d.Rows {
		all = append(all, r.Panels...)
	}
	return all
}

// Instant says that a panel shows one moment, and not a span.
func (p *Panel) Instant() bool { return p.Kind != "lines" }
