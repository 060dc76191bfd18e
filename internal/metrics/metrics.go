// Package metrics exports what the parts of the daemon count to Prometheus.
// Each part defines its own metrics beside its code; here are those that belong
// to the daemon as a whole or are read from elsewhere at scrape time, and the
// endpoint. Start with Daemon and Serve.
package metrics

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/postern/postern/internal/identity"
	"github.com/postern/postern/internal/version"
)

const (
	readTimeout = 10 * time.Second
	// socketMode keeps the socket to the daemon's own user and group.
	socketMode = 0o660
)

// Sources are read when Prometheus asks.
type Sources struct {
	// Pending is the number of waiting approvals and the age of the oldest.
	Pending func() (n int, oldest time.Duration)
	// RecordBytes is the room that recordings take and may take.
	RecordBytes func() (used, quota int64)
	// Denied counts what the kernel programs denied, by kind.
	Denied func() (map[string]uint64, error)
	// Passed counts what the programs let through or lost, by kind.
	Passed func() (map[string]uint64, error)
	// Parsed counts what became of statements that had to be classified.
	Parsed func() map[string]uint64
	// Glass says for whom the glass is broken, and until when.
	Glass func() map[string]time.Time
	// Budgets says how much of its budgets each agent has used.
	Budgets func() []BudgetUse
	// Leases are the credentials that are out, by source: how many, how many of them
	// nobody needs any more, and when the first ends; zero: none does.
	Leases func() map[string]LeaseUse
	// Runs counts the runs that are for somebody, by agent.
	Runs func() map[string]int
	// Attached says per hook whether its program is attached to the policy root.
	Attached func() map[string]bool
}

// BudgetUse is how much of one amount of a budget is used, from 0 to 1 or, where
// answers came that could not be cut, above.
type BudgetUse struct {
	Agent, Budget, Kind string
	Ratio               float64
}

// LeaseUse is what is out of a source.
type LeaseUse struct {
	Out, Ending int
	Ends        time.Time
}

// Daemon are the metrics of the daemon as a whole.
type Daemon struct {
	ReloadOK   prometheus.Gauge
	ReloadTime prometheus.Gauge
	Secrets
	DNSRefused   *prometheus.CounterVec // kind
	NamesEvicted prometheus.Counter
}

// New registers the daemon's metrics, those of sources, and Go's own.
func New(r *prometheus.Registry, s Sources) *Daemon {
	d := &Daemon{
		ReloadOK: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "postern_config_last_reload_successful", Help: "1 when the newest configuration is in force.",
		}),
		ReloadTime: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "postern_config_last_reload_success_timestamp_seconds", Help: "When the configuration in force was loaded.",
		}),
		Secrets: newSecrets(r),
		DNSRefused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postern_dns_refused_total", Help: "Lookups of agents that got no answer.",
		}, []string{"kind"}),
		NamesEvicted: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "postern_dns_names_evicted_total", Help: "Names below wildcards, or with real addresses, that were forgotten because their agent asked for too many.",
		}),
	}
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "postern_build_info", Help: "1, labelled with what was built.",
		ConstLabels: prometheus.Labels{"version": version.Number, "commit": version.Commit(), "go": runtime.Version()},
	})
	info.Set(1)
	r.MustRegister(info, d.ReloadOK, d.ReloadTime, d.DNSRefused, d.NamesEvicted, &reader{s},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return d
}

// Loaded notes that a configuration is in force since at.
func (d *Daemon) Loaded(at time.Time) {
	d.ReloadOK.Set(1)
	d.ReloadTime.Set(float64(at.Unix()))
}

// reader is a collector of Sources.
type reader struct{ Sources }

var (
	pendingDesc  = prometheus.NewDesc("postern_approvals_pending", "Requests that wait for a person.", nil, nil)
	oldestDesc   = prometheus.NewDesc("postern_approvals_oldest_age_seconds", "How long the oldest of them has waited.", nil, nil)
	spoolDesc    = prometheus.NewDesc("postern_audit_spool_bytes", "Room that recordings take on disk.", nil, nil)
	quotaDesc    = prometheus.NewDesc("postern_audit_quota_bytes", "Room that recordings may take on disk.", nil, nil)
	bypassDesc   = prometheus.NewDesc("postern_bypass_attempts_total", "What the kernel denied to agents, by kind.", []string{"kind"}, nil)
	passedDesc   = prometheus.NewDesc("postern_ebpf_passed_total", "What the kernel programs counted besides denials, by kind: let through, lost, or of no account.", []string{"kind"}, nil)
	parsedDesc   = prometheus.NewDesc("postern_sqlparse_statements_total", "Statements by how they were classified: from the cache, by a worker, or at the cost of one.", []string{"result"}, nil)
	glassDesc    = prometheus.NewDesc("postern_break_glass_until_seconds", "Until when agents go past the gateway, in Unix time, while the glass is broken.", []string{"agent"}, nil)
	budgetDesc   = prometheus.NewDesc("postern_budget_used_ratio", "How much of a budget an agent has used within its window, by what is counted.", []string{"agent", "budget", "kind"}, nil)
	leasesDesc   = prometheus.NewDesc("postern_secret_leases", "Credentials that are out, by source and by whether anybody still needs them.", []string{"source", "state"}, nil)
	leaseEndDesc = prometheus.NewDesc("postern_secret_lease_expiry_timestamp_seconds", "When the first of a source's credentials that are needed ends unless it is renewed, in Unix time.", []string{"source"}, nil)
	runsDesc     = prometheus.NewDesc("postern_runs", "Runs that go on.", []string{"agent"}, nil)
	attachedDesc = prometheus.NewDesc("postern_ebpf_attached", "1 when the hook's program is attached to the policy root.", []string{"hook"}, nil)
)

func (r *reader) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{pendingDesc, oldestDesc, spoolDesc, quotaDesc, bypassDesc, passedDesc, parsedDesc, attachedDesc, glassDesc, budgetDesc, leasesDesc, leaseEndDesc, runsDesc} {
		ch <- d
	}
}

func (r *reader) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, l ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, l...)
	}
	n, oldest := r.Pending()
	gauge(pendingDesc, float64(n))
	gauge(oldestDesc, oldest.Seconds())
	used, quota := r.RecordBytes()
	gauge(spoolDesc, float64(used))
	gauge(quotaDesc, float64(quota))
	for hook, on := range r.Attached() {
		v := 0.0
		if on {
			v = 1
		}
		gauge(attachedDesc, v, hook)
	}
	for agent, until := range r.Glass() {
		gauge(glassDesc, float64(until.Unix()), agent)
	}
	for source, l := range r.Leases() {
		gauge(leasesDesc, float64(l.Out-l.Ending), source, "needed")
		gauge(leasesDesc, float64(l.Ending), source, "ending")
		if !l.Ends.IsZero() {
			gauge(leaseEndDesc, float64(l.Ends.Unix()), source)
		}
	}
	for agent, n := range r.Runs() {
		gauge(runsDesc, float64(n), agent)
	}
	for _, b := range r.Budgets() {
		gauge(budgetDesc, b.Ratio, b.Agent, b.Budget, b.Kind)
	}
	counters := func(d *prometheus.Desc, read func() (map[string]uint64, error)) {
		counts, err := read()
		if err != nil {
			ch <- prometheus.NewInvalidMetric(d, err)
			return
		}
		for kind, n := range counts {
			ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), kind)
		}
	}
	counters(bypassDesc, r.Denied)
	counters(passedDesc, r.Passed)
	counters(parsedDesc, func() (map[string]uint64, error) { return r.Parsed(), nil })
}

// Listen opens the endpoint: host:port, or the path of a Unix socket, or "off",
// which is nil.
func Listen(at string) (net.Listener, error) {
	switch {
	case at == "off":
		return nil, nil
	case strings.HasPrefix(at, "/"):
		l, err := identity.Listen(at, socketMode)
		if err != nil {
			return nil, fmt.Errorf("metrics: %w", err)
		}
		return l, nil
	}
	l, err := net.Listen("tcp", at)
	if err != nil {
		return nil, fmt.Errorf("metrics: %w (change metrics.listen, or set it to off)", err)
	}
	return l, nil
}

// Serve answers GET /metrics until ctx ends.
func Serve(ctx context.Context, l net.Listener, g prometheus.Gatherer, log *slog.Logger) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(g, promhttp.HandlerOpts{
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelError), ErrorHandling: promhttp.ContinueOnError,
		MaxRequestsInFlight: 4,
	}))
	s := http.Server{Handler: mux, ReadHeaderTimeout: readTimeout, ReadTimeout: readTimeout}
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("metrics: %w", err)
	}
	return nil
}
