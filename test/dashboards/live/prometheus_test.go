package live

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/postern/postern/test/servers"
)

const packaging = "../../../packaging"

// read has the daemon's Unix socket on a port of loopback, as the units of
// packaging/prometheus do it, and a Prometheus that reads it by the example.
func (w *world) read() error {
	const at = "127.0.0.1:9187"
	proxy := exec.Command("systemd-socket-activate", "-l", at, "/usr/lib/systemd/systemd-socket-proxyd", w.postern.Metrics)
	if err := w.start("proxy", proxy); err != nil {
		return err
	}
	example, err := os.ReadFile(filepath.Join(packaging, "prometheus", "prometheus.yaml"))
	if err != nil {
		return err
	}
	rules, err := filepath.Abs(filepath.Join(packaging, "prometheus"))
	if err != nil {
		return err
	}
	// The example as it is, but for the pace and for where packages put rules.
	text := string(example)
	for from, to := range map[string]string{"interval: 15s": "interval: 1s", "/usr/share/postern/prometheus": rules} {
		if !strings.Contains(text, from) {
			return fmt.Errorf("prometheus.yaml has no %q", from)
		}
		text = strings.ReplaceAll(text, from, to)
	}
	config := filepath.Join(w.dir, "prometheus.yaml")
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return err
	}
	port, err := servers.FreePort()
	if err != nil {
		return err
	}
	w.prometheus = api(fmt.Sprintf("http://127.0.0.1:%d", port))
	server := exec.Command("prometheus", "--config.file="+config, "--storage.tsdb.path="+filepath.Join(w.dir, "tsdb"),
		fmt.Sprintf("--web.listen-address=127.0.0.1:%d", port))
	if err := w.start("prometheus", server); err != nil {
		return fmt.Errorf("%w: apt-get install prometheus", err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		found, err := w.prometheus.query("up == 1", time.Now())
		if err == nil && len(found) == 1 {
			return nil
		}
		if time.Now().After(deadline) {
			said, _ := os.ReadFile(filepath.Join(w.dir, "prometheus.log"))
			return fmt.Errorf("Prometheus does not read the daemon: %w\n%s", errors.Join(err, errors.New("up is not 1")), said)
		}
	}
}

// api is Prometheus's, by its address.
type api string

// series is one of a result: its labels, and its points in seconds and values.
type series struct {
	Labels map[string]string `json:"labels"`
	Points [][2]float64      `json:"points"`
}

func (a api) get(path string, in url.Values, out any) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, string(a)+path+"?"+in.Encode(), nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var answer struct {
		Status, Error string
		Data          json.RawMessage
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return err
	}
	if answer.Status != "success" {
		return fmt.Errorf("prometheus: %s", answer.Error)
	}
	return json.Unmarshal(answer.Data, out)
}

// seconds is a moment as the API takes it.
func seconds(t time.Time) string { return strconv.FormatFloat(float64(t.UnixMilli())/1000, 'f', 3, 64) }

func (a api) query(expr string, at time.Time) ([]series, error) {
	return a.result("/api/v1/query", url.Values{"query": {expr}, "time": {seconds(at)}})
}

func (a api) span(expr string, from, to time.Time, step time.Duration) ([]series, error) {
	return a.result("/api/v1/query_range", url.Values{
		"query": {expr}, "start": {seconds(from)}, "end": {seconds(to)}, "step": {fmt.Sprint(step.Seconds())},
	})
}

func (a api) result(path string, in url.Values) ([]series, error) {
	var data struct {
		Result []struct {
			Metric map[string]string
			Value  []any
			Values [][]any
		}
	}
	if err := a.get(path, in, &data); err != nil {
		return nil, fmt.Errorf("%s: %w", in.Get("query"), err)
	}
	var all []series
	for _, r := range data.Result {
		s := series{Labels: r.Metric}
		if r.Value != nil {
			r.Values = append(r.Values, r.Value)
		}
		for _, v := range r.Values {
			at, ok := v[0].(float64)
			text, isText := v[1].(string)
			value, err := strconv.ParseFloat(text, 64)
			if !ok || !isText || err != nil {
				return nil, fmt.Errorf("%s: a point is %v", in.Get("query"), v)
			}
			if value == value { // NaN is no data
				s.Points = append(s.Points, [2]float64{at, value})
			}
		}
		if len(s.Points) > 0 {
			all = append(all, s)
		}
	}
	return all, nil
}
