package gateway

import (
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern/postern/internal/engine"
)

// Metrics are the gateway's own. Labels are closed sets: names of the
// configuration and words of this file, never ids, users or statements.
type Metrics struct {
	sessions       *prometheus.CounterVec   // protocol, target, agent
	active         *prometheus.GaugeVec     // protocol, target, agent
	requests       *prometheus.CounterVec   // protocol, target, verdict
	duration       *prometheus.HistogramVec // protocol, target
	bytes          *prometheus.CounterVec   // protocol, direction
	maskedValues   *prometheus.CounterVec   // kind
	placeholders   *prometheus.CounterVec   // target
	swapped        *prometheus.CounterVec   // target
	approvalWait   *prometheus.HistogramVec // target
	unclaimed      prometheus.Counter
	refused        prometheus.Counter
	auditErrors    prometheus.Counter
	dialFailures   *prometheus.CounterVec
	deniedSessions *prometheus.CounterVec // reason
	budgets        *prometheus.CounterVec // agent, budget, action
	refusals       *prometheus.CounterVec // target, credential

	mu      sync.Mutex
	hot     map[string]*targetMetrics // by target
	traffic map[trafficKey]*traffic
	kinds   map[string]func()
}

// targetMetrics are the children that every request touches.
type targetMetrics struct {
	allowed, denied prometheus.Counter
	duration        prometheus.Observer
}

// Seconds from a tenth of a millisecond, where a local database answers, to ten
// seconds.
var durationBuckets = []float64{.0001, .0003, .001, .003, .01, .03, .1, .3, 1, 3, 10}

// NewMetrics registers the gateway's metrics.
func NewMetrics(r prometheus.Registerer) *Metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "postern_" + name, Help: help}, labels)
	}
	m := &Metrics{
		sessions: counter("sessions_total", "Sessions begun.", "protocol", "target", "agent"),
		active: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "postern_sessions_active", Help: "Sessions that are running.",
		}, []string{"protocol", "target", "agent"}),
		requests: counter("requests_total", "Requests decided, by verdict.", "protocol", "target", "verdict"),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "postern_request_duration_seconds", Help: "From a request's decision to the end of its answer.", Buckets: durationBuckets,
		}, []string{"protocol", "target"}),
		bytes:        counter("bytes_total", "Bytes to and from agents, inside TLS.", "protocol", "direction"),
		maskedValues: counter("masked_values_total", "Values that were masked, by what found them.", "kind"),
		placeholders: counter("placeholder_misuse_total", "Logins without the right placeholder.", "target"),
		swapped:      counter("credentials_swapped_total", "Times a real credential met the wire in place of a placeholder.", "target"),
		approvalWait: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "postern_approval_wait_seconds", Help: "How long requests waited for a person.",
			Buckets: []float64{1, 5, 15, 30, 60, 120, 300, 600, 1800},
		}, []string{"target"}),
		dialFailures:   counter("upstream_dial_failures_total", "Dials of a target that failed.", "target"),
		deniedSessions: counter("sessions_denied_total", "Sessions refused as a whole, by the kind of denial.", "reason"),
		budgets:        counter("budget_decisions_total", "Requests that a budget decided, by what it did to them.", "agent", "budget", "action"),
		refusals:       counter("upstream_refused_logins_total", "Logins that an upstream refused, by what its source then had: a changed credential, with which it was tried again, or the same.", "target", "credential"),
		hot:            map[string]*targetMetrics{},
		traffic:        map[trafficKey]*traffic{},
		kinds:          map[string]func(){},
	}
	single := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "postern_" + name, Help: help})
	}
	m.unclaimed = single("connections_unclaimed_total", "Connections to the gateway without a record in the kernel.")
	m.refused = single("connections_refused_total", "Connections that no session could be begun for.")
	m.auditErrors = single("audit_write_errors_total", "Events that could not be put on record; what they were about was denied.")
	r.MustRegister(m.sessions, m.active, m.requests, m.duration, m.bytes, m.maskedValues, m.placeholders, m.swapped,
		m.approvalWait, m.dialFailures, m.deniedSessions, m.budgets, m.refusals, m.unclaimed, m.refused, m.auditErrors)
	for _, kind := range []string{"column", "derived", "detected", "secret"} {
		m.kinds[kind] = m.maskedValues.WithLabelValues(kind).Inc
	}
	return m
}

// targets begins the counters of targets at nothing, so that their first event is
// an increase.
func (m *Metrics) targets(s *Setup) {
	for _, t := range s.Targets {
		for _, c := range []*prometheus.CounterVec{m.dialFailures, m.placeholders, m.swapped} {
			c.WithLabelValues(t.Name)
		}
		m.refusals.WithLabelValues(t.Name, "same")
		m.refusals.WithLabelValues(t.Name, "changed")
	}
}

func labels(s *session) []string {
	if s.target == nil {
		return []string{"none", "none", s.flow.Agent}
	}
	return []string{s.target.Protocol.Name, s.target.Name, s.flow.Agent}
}

func (m *Metrics) began(s *session) {
	m.sessions.WithLabelValues(labels(s)...).Inc()
	m.active.WithLabelValues(labels(s)...).Inc()
	s.metrics, s.traffic = m.of(s), m.trafficOf(s)
}

func (m *Metrics) of(s *session) *targetMetrics {
	l := labels(s)
	m.mu.Lock()
	defer m.mu.Unlock()
	t, ok := m.hot[l[1]]
	if !ok {
		t = &targetMetrics{
			allowed:  m.requests.WithLabelValues(l[0], l[1], "allow"),
			denied:   m.requests.WithLabelValues(l[0], l[1], "deny"),
			duration: m.duration.WithLabelValues(l[0], l[1]),
		}
		m.hot[l[1]] = t
	}
	return t
}

func (m *Metrics) ended(s *session, in, out int64) {
	l := labels(s)
	m.active.WithLabelValues(l...).Dec()
	m.bytes.WithLabelValues(l[0], "from_agent").Add(float64(in))
	m.bytes.WithLabelValues(l[0], "to_agent").Add(float64(out))
	s.traffic.fromAgent.Add(in)
	s.traffic.toAgent.Add(out)
}

// refetched counts a login that was refused, and what came of asking again.
func (m *Metrics) refetched(s *session, changed bool) {
	word := "same"
	if changed {
		word = "changed"
	}
	m.refusals.WithLabelValues(s.target.Name, word).Inc()
}

func (m *Metrics) misuse(s *session) { m.placeholders.WithLabelValues(s.target.Name).Inc() }

func (m *Metrics) allowed(s *session) {
	s.metrics.allowed.Inc()
	s.traffic.allowed.Add(1)
}

func (m *Metrics) denied(s *session, _ *engine.Denial) {
	s.metrics.denied.Inc()
	s.traffic.denied.Add(1)
}

func (m *Metrics) answered(s *session, o engine.Outcome) {
	s.metrics.duration.Observe(o.Duration.Seconds())
}
func (m *Metrics) credential(s *session)     { m.swapped.WithLabelValues(s.target.Name).Inc() }
func (m *Metrics) masked(kind string) func() { return m.kinds[kind] }
func (m *Metrics) waited(s *session, d time.Duration) {
	m.approvalWait.WithLabelValues(s.target.Name).Observe(d.Seconds())
}

// budget counts what a budget did: ask, deny, or cut an answer short. It is named
// as a rule.
func (m *Metrics) budget(s *session, name, action string) {
	m.budgets.WithLabelValues(s.flow.Agent, strings.TrimPrefix(name, "budget "), action).Inc()
}

func (m *Metrics) sessionDenied(s *session, d *engine.Denial) {
	s.traffic.denied.Add(1)
	m.deniedSessions.WithLabelValues(d.Code.String()).Inc()
}
