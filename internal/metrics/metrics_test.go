package metrics

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
)

var update = flag.Bool("update", false, "write testdata/metrics.txt anew")

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func sources() Sources {
	return Sources{
		Pending:     func() (int, time.Duration) { return 2, 3 * time.Second },
		RecordBytes: func() (int64, int64) { return 4096, 1 << 30 },
		Denied:      func() (map[string]uint64, error) { return map[string]uint64{"connect": 7}, nil },
		Passed:      func() (map[string]uint64, error) { return map[string]uint64{"lost": 1}, nil },
		Parsed:      func() map[string]uint64 { return map[string]uint64{"hit": 5} },
		Glass:       func() map[string]time.Time { return map[string]time.Time{"*": time.Unix(1800000000, 0)} },
		Budgets:     func() []BudgetUse { return []BudgetUse{{"planner", "hourly", "rows", 0.25}} },
		Leases: func() map[string]LeaseUse {
			return map[string]LeaseUse{"vault": {Out: 3, Ending: 1, Ends: time.Unix(1800000000, 0)}}
		},
		Runs:     func() map[string]int { return map[string]int{"planner": 2} },
		Attached: func() map[string]bool { return map[string]bool{"connect4": true, "connect6": false} },
	}
}

// registry has every metric of the daemon, each with a child.
func registry(s Sources) *prometheus.Registry {
	r := prometheus.NewPedanticRegistry()
	d := New(r, s)
	d.Source("vault")
	d.Fetched("vault", time.Millisecond, nil)
	d.DNSRefused.WithLabelValues("unknown").Inc()
	return r
}

// The names, kinds and labels of metrics are what dashboards and alerts rely on.
func TestNames(t *testing.T) {
	const file = "testdata/metrics.txt"
	families, err := registry(sources()).Gather()
	must(t, err)
	var got strings.Builder
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), "postern_") {
			continue // Go's and the process's own
		}
		var labels []string
		for _, l := range f.GetMetric()[0].GetLabel() {
			labels = append(labels, l.GetName())
			if slices.Contains([]string{"session", "id", "user", "uid", "pid", "query", "text", "client", "address"}, l.GetName()) {
				t.Errorf("%s has label %s, which is no closed set", f.GetName(), l.GetName())
			}
		}
		fmt.Fprintf(&got, "%s %s {%s}\n", f.GetName(), strings.ToLower(f.GetType().String()), strings.Join(labels, ","))
	}
	if *update {
		must(t, os.WriteFile(file, []byte(got.String()), 0o644))
	}
	want, err := os.ReadFile(file)
	must(t, err)
	if got.String() != string(want) {
		t.Errorf("the metrics are\n%swant\n%s", got.String(), want)
	}
}

func TestLint(t *testing.T) {
	families, err := registry(sources()).Gather()
	must(t, err)
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	must(t, err)
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "postern_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
	for _, f := range families {
		if strings.HasPrefix(f.GetName(), "postern_") && !strings.HasSuffix(f.GetHelp(), ".") {
			t.Errorf("the help of %s is no sentence: %q", f.GetName(), f.GetHelp())
		}
	}
}

// serving is the endpoint, at work until the test ends.
func serving(t *testing.T, at string, s Sources) (l net.Listener, get func(method, path string) (int, string)) {
	t.Helper()
	l, err := Listen(at)
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- Serve(ctx, l, registry(s), slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error("the endpoint ended with", err)
		}
	})
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			return net.Dial(l.Addr().Network(), l.Addr().String())
		},
	}}
	return l, func(method, path string) (int, string) {
		req, err := http.NewRequest(method, "http://metrics"+path, nil)
		must(t, err)
		resp, err := client.Do(req)
		must(t, err)
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		must(t, err)
		return resp.StatusCode, string(b)
	}
}

func TestEndpoint(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "metrics.sock")
	for _, at := range []string{"127.0.0.1:0", socket} {
		_, get := serving(t, at, sources())
		status, body := get("GET", "/metrics")
		if status != http.StatusOK {
			t.Fatal(status, body)
		}
		for _, want := range []string{
			"postern_approvals_pending 2", "postern_approvals_oldest_age_seconds 3", "postern_audit_spool_bytes 4096",
			`postern_bypass_attempts_total{kind="connect"} 7`, `postern_ebpf_attached{hook="connect4"} 1`, `postern_ebpf_attached{hook="connect6"} 0`, "go_goroutines ",
		} {
			if !strings.Contains(body, "\n"+want) {
				t.Errorf("%s is not in\n%s", want, body)
			}
		}
		for request, want := range map[string]int{"GET /": 404, "GET /debug/pprof/": 404, "POST /metrics": 405} {
			method, path, _ := strings.Cut(request, " ")
			if status, _ := get(method, path); status != want {
				t.Errorf("%s is answered with %d", request, status)
			}
		}
	}
}

// Of a source that fails the rest is still told.
func TestFailingSource(t *testing.T) {
	s := sources()
	s.Denied = func() (map[string]uint64, error) { return nil, errors.New("the map is gone") }
	_, get := serving(t, "127.0.0.1:0", s)
	status, body := get("GET", "/metrics")
	if status != http.StatusOK || !strings.Contains(body, "postern_ebpf_passed_total") || strings.Contains(body, "postern_bypass_attempts_total{") {
		t.Error(status, body)
	}
}

func TestListen(t *testing.T) {
	if l, err := Listen("off"); l != nil || err != nil {
		t.Error("off:", l, err)
	}
	l, err := Listen("127.0.0.1:0")
	must(t, err)
	defer l.Close()
	if _, err := Listen(l.Addr().String()); err == nil || !strings.Contains(err.Error(), "metrics.listen") {
		t.Error("an address in use:", err)
	}
	dir := t.TempDir()
	// A socket that is left over is replaced.
	left, err := net.Listen("unix", filepath.Join(dir, "left.sock"))
	must(t, err)
	left.(*net.UnixListener).SetUnlinkOnClose(false)
	must(t, left.Close())
	again, err := Listen(filepath.Join(dir, "left.sock"))
	must(t, err)
	defer again.Close()
	// Anything else that a path names by mistake is not.
	precious := filepath.Join(dir, "precious")
	must(t, os.WriteFile(precious, []byte("x"), 0o600))
	must(t, os.Mkdir(filepath.Join(dir, "folder"), 0o700))
	for _, path := range []string{precious, filepath.Join(dir, "folder"), filepath.Join(dir, "nowhere", "a.sock")} {
		if l, err := Listen(path); err == nil {
			t.Error("listens at", l.Addr())
		}
	}
	if b, err := os.ReadFile(precious); err != nil || string(b) != "x" {
		t.Error("a file was removed for a socket:", err)
	}
}
