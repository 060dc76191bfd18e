package dashboards

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/postern/postern/test/dashboards/mixin"
)

const grafana = "../../packaging/grafana"

func load(t *testing.T) []mixin.Dashboard {
	t.Helper()
	all, err := mixin.Load(filepath.Join(grafana, "source.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestGenerated: the files are those of the source, and there are no others.
func TestGenerated(t *testing.T) {
	var want []string
	for _, d := range load(t) {
		text, err := d.JSON()
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(grafana, d.File+".json")
		want = append(want, file)
		if read(t, file) != string(text) {
			t.Errorf("%s is not what source.yaml says: make dashboards", file)
		}
	}
	found, err := filepath.Glob(filepath.Join(grafana, "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(want)
	if !slices.Equal(found, want) {
		t.Errorf("there are %q, want %q", found, want)
	}
}

// units are Grafana's ids that the dashboards use, and what the name of a metric
// of that unit ends with; "" where the unit is of something computed.
var units = map[string]string{
	"short": "", "percentunit": "", "ops": "_total|_count", "reqps": "_total", "s": "_seconds|_seconds_bucket|_seconds_sum",
	"bytes": "_bytes", "Bps": "_bytes_total", "dateTimeFromNow": "_seconds", "bool_on_off": "",
}

// TestStructure: each panel has a title of its own, a unit that its metric is
// in, something to read by, and a help that is a sentence.
func TestStructure(t *testing.T) {
	uids := map[string]bool{}
	for _, d := range load(t) {
		if uids[d.File] || !strings.HasPrefix(d.Title, "Postern / ") || !strings.HasSuffix(d.Help, ".") {
			t.Errorf("%s: %q, %q", d.File, d.Title, d.Help)
		}
		uids[d.File] = true
		if !slices.Contains(d.Variables, "instance") {
			t.Errorf("%s has no variable for the host", d.File)
		}
		for _, r := range d.Rows {
			titles := map[string]bool{}
			for _, p := range r.Panels {
				name := d.File + ": " + p.Title
				if titles[p.Title] {
					t.Errorf("%s is twice in the row %s", name, r.Title)
				}
				titles[p.Title] = true
				checkPanel(t, name, p)
			}
		}
		overlap(t, d)
	}
}

func checkPanel(t *testing.T, name string, p *mixin.Panel) {
	t.Helper()
	if p.X+p.W > 24 || p.W < 4 || len(p.Queries) == 0 {
		t.Errorf("%s: %d columns from %d, %d queries", name, p.W, p.X, len(p.Queries))
	}
	if len(p.Help) < 40 || len(p.Help) > 260 || !strings.HasSuffix(p.Help, ".") {
		t.Errorf("%s: its help has %d letters and has to say what to do: %q", name, len(p.Help), p.Help)
	}
	suffix, ok := units[p.Unit]
	if !ok {
		t.Errorf("%s: the unit %q is not known to be one of Grafana's", name, p.Unit)
	}
	if p.Kind != "lines" && p.Unit != "dateTimeFromNow" && len(p.Thresholds) == 0 && name != "overview: Versions" {
		t.Errorf("%s: nothing says which values are bad: it has no thresholds", name)
	}
	for i := 1; i < len(p.Thresholds); i++ {
		if p.Thresholds[i].From <= p.Thresholds[i-1].From {
			t.Errorf("%s: its thresholds do not rise", name)
		}
	}
	for _, q := range p.Queries {
		if suffix != "" && !regexp.MustCompile(`(`+suffix+`)[{\[ )]`).MatchString(q.Expr) {
			t.Errorf("%s: nothing in %s is in the unit %s", name, q.Expr, p.Unit)
		}
		if len(p.Queries) > 1 && q.Legend == "" {
			t.Errorf("%s: nothing tells its series apart", name)
		}
	}
}

func overlap(t *testing.T, d mixin.Dashboard) {
	t.Helper()
	taken := map[[2]int]string{}
	for _, p := range d.Panels() {
		for x := p.X; x < p.X+p.W; x++ {
			for y := p.Y; y < p.Y+p.H; y++ {
				if other, ok := taken[[2]int{x, y}]; ok && other != p.Title {
					t.Fatalf("%s: %s lies on %s", d.File, p.Title, other)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
	}
}

// command finds those of ours that a text tells people to run.
var command = regexp.MustCompile("`postern ([a-z-]+)([^`]*)`")

// TestCommandsExist: what panels and alerts tell people to run is there, with
// its flags.
func TestCommandsExist(t *testing.T) {
	found := 0
	for _, path := range []string{grafana + "/source.yaml", "../../docs/dashboards.md", "../../docs/alerts.md", prometheusDir + "/alerts.yaml"} {
		for _, m := range command.FindAllStringSubmatch(read(t, path), -1) {
			found++
			help, err := exec.Command("../../build/postern", m[1], "--help").CombinedOutput()
			if err != nil {
				t.Fatalf("%v: run `make build` first: %s", err, help)
			}
			wanted := []string{"postern " + m[1]}
			for word := range strings.FieldsSeq(m[2]) {
				if strings.HasPrefix(word, "--") {
					wanted = append(wanted, word)
				}
			}
			for _, w := range wanted {
				if !strings.Contains(string(help), w) {
					t.Errorf("%s says %s, but its help has no %s", path, m[0], w)
				}
			}
		}
	}
	if found < 20 {
		t.Errorf("only %d commands were found", found)
	}
}

// schema runs Grafana's types over a dashboard.
func schema(t *testing.T, name, text string) (string, error) {
	t.Helper()
	node, err := filepath.Abs("node")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(node, "node_modules", ".bin", "tsc")); err != nil {
		t.Fatalf("%v: run `make dashboard-modules` first", err)
	}
	dir := t.TempDir()
	if err := os.Symlink(filepath.Join(node, "node_modules"), filepath.Join(dir, "node_modules")); err != nil {
		t.Fatal(err)
	}
	for file, text := range map[string]string{
		"schema.ts":  read(t, "node/schema.ts"),
		name + ".ts": "import type { Ours } from './schema';\nexport default (" + text + ") satisfies Ours;\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), "node_modules/.bin/tsc", "--noEmit", "--strict", "--skipLibCheck", "--module", "esnext",
		"--moduleResolution", "bundler", "--target", "es2022", name+".ts")
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestSchema: each dashboard is one by Grafana's own types, and the types would
// say if it were not.
func TestSchema(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(grafana, "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		text := read(t, file)
		if !json.Valid([]byte(text)) {
			t.Errorf("%s is no JSON", file)
			continue
		}
		if out, err := schema(t, strings.TrimSuffix(filepath.Base(file), ".json"), text); err != nil {
			t.Errorf("%s: %s", file, out)
		}
	}
	whole := read(t, files[0])
	for right, wrong := range map[string]string{
		`"colorMode": "value"`: `"colorMode": "purple"`, `"schemaVersion": `: `"scheme": `, `"mode": "absolute"`: `"mode": "sometimes"`,
		`"drawStyle": "line"`: `"drawStyle": "circle"`, `"type": "bargauge"`: `"type": "bars"`,
	} {
		if !strings.Contains(whole, right) {
			t.Fatalf("%s has no %s", files[0], right)
		}
		if out, err := schema(t, "wrong", strings.Replace(whole, right, wrong, 1)); err == nil {
			t.Errorf("%s is taken for a dashboard with %s: %s", files[0], wrong, out)
		}
	}
}
