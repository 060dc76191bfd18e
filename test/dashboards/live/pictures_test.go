package live

import (
	"bytes"
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/postern/postern/test/dashboards/mixin"
)

// shown is how much of the past pictures show, and maxPicture how large they may
// be in the repository.
const (
	shown      = 2 * time.Minute
	maxPicture = 200 << 10
)

// drawn is a panel with what it shows, for node/draw.js.
type drawn struct {
	Title      string           `json:"title"`
	Kind       string           `json:"kind"`
	Unit       string           `json:"unit"`
	Stack      bool             `json:"stack"`
	Thresholds mixin.Thresholds `json:"thresholds"`
	X          int              `json:"x"`
	Y          int              `json:"y"`
	W          int              `json:"w"`
	H          int              `json:"h"`
	Series     []named          `json:"series"`
}

type named struct {
	Name   string       `json:"name"`
	Points [][2]float64 `json:"points"`
}

type drawnRow struct {
	Title  string  `json:"title"`
	Panels []drawn `json:"panels"`
}

var label = regexp.MustCompile(`\{\{\s*(\w+)\s*\}\}`)

// legend fills in a legend.
func legend(text string, labels map[string]string) string {
	return label.ReplaceAllStringFunc(text, func(m string) string { return labels[label.FindStringSubmatch(m)[1]] })
}

func (w *world) draw(p *mixin.Panel, now time.Time) (drawn, error) {
	d := drawn{
		Title: p.Title, Kind: p.Kind, Unit: p.Unit, Stack: p.Stack, Thresholds: p.Thresholds,
		X: p.X, Y: p.Y, W: p.W, H: p.H, Series: []named{},
	}
	for _, q := range p.Queries {
		found, err := w.panel(p, q, now)
		if err != nil {
			return d, err
		}
		for _, s := range found {
			from := float64(now.Add(-shown).Unix())
			points := slices.DeleteFunc(s.Points, func(x [2]float64) bool { return x[0] < from })
			if len(points) > 0 {
				d.Series = append(d.Series, named{legend(q.Legend, s.Labels), points})
			}
		}
	}
	return d, nil
}

// TestPictures draws each dashboard with the data of this world; `make pictures`
// keeps them.
func TestPictures(t *testing.T) {
	keep := os.Getenv(picturesEnv)
	now := time.Now()
	for _, d := range dashboards(t) {
		var rows []drawnRow
		panels, canvases := 0, 0
		for _, r := range d.Rows {
			row := drawnRow{Title: r.Title}
			for _, p := range r.Panels {
				one, err := theWorld.draw(p, now)
				if err != nil {
					t.Fatal(err)
				}
				row.Panels = append(row.Panels, one)
				panels++
				if p.Kind == "lines" {
					canvases++
				}
			}
			rows = append(rows, row)
		}
		data, err := json.Marshal(map[string]any{"title": d.Title, "help": d.Help, "rows": rows})
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		from, to := filepath.Join(dir, "data.json"), filepath.Join(dir, "picture.png")
		if err := os.WriteFile(from, data, 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.CommandContext(t.Context(), "node", "../node/picture.js", from, to).CombinedOutput()
		if want := fmt.Sprintf("%d panels, %d canvases\n", panels, canvases); err != nil || string(out) != want {
			t.Fatalf("%s: %v: %s, want %s", d.File, err, out, want)
		}
		small, err := compact(to)
		if err != nil {
			t.Fatal(err)
		}
		if len(small) > maxPicture || len(small) < 10<<10 {
			t.Errorf("the picture of %s has %d bytes", d.File, len(small))
		}
		if keep != "" {
			if err := os.WriteFile(filepath.Join(keep, "dashboard-"+d.File+".png"), small, 0o644); err != nil {
				t.Error(err)
			}
		}
	}
}

// compact is a picture with the 256 colours that it has most of: those of a
// dashboard are few, and the rest is the edges of letters.
func compact(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	whole, err := png.Decode(f)
	if err != nil {
		return nil, err
	}
	size := whole.Bounds()
	counts := map[color.RGBA]int{}
	at := func(x, y int) color.RGBA { return color.RGBAModel.Convert(whole.At(x, y)).(color.RGBA) }
	for y := size.Min.Y; y < size.Max.Y; y++ {
		for x := size.Min.X; x < size.Max.X; x++ {
			counts[at(x, y)]++
		}
	}
	var palette color.Palette
	all := make([]color.RGBA, 0, len(counts))
	for c := range counts {
		all = append(all, c)
	}
	slices.SortFunc(all, func(a, b color.RGBA) int { return counts[b] - counts[a] })
	for _, c := range all[:min(len(all), 256)] {
		palette = append(palette, c)
	}
	small := image.NewPaletted(size, palette)
	index := map[color.RGBA]uint8{}
	for y := size.Min.Y; y < size.Max.Y; y++ {
		for x := size.Min.X; x < size.Max.X; x++ {
			c := at(x, y)
			i, ok := index[c]
			if !ok {
				i = uint8(palette.Index(c))
				index[c] = i
			}
			small.SetColorIndex(x, y, i)
		}
	}
	var out bytes.Buffer
	e := png.Encoder{CompressionLevel: png.BestCompression}
	err = e.Encode(&out, small)
	return out.Bytes(), err
}
