package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Secrets are the metrics of secrets and of who agents run for.
type Secrets struct {
	fetch     *prometheus.HistogramVec // source
	failures  *prometheus.CounterVec   // source
	stale     *prometheus.CounterVec   // source
	rotations *prometheus.CounterVec   // source
	leases    *prometheus.CounterVec   // source, event
	tokens    *prometheus.CounterVec   // result
}

// The words of the labels.
var (
	leaseEvents  = []string{"issued", "renewed", "revoked", "expired", "failed"}
	tokenResults = []string{"accepted", "refused"}
)

func newSecrets(r *prometheus.Registry) Secrets {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "postern_" + name, Help: help}, labels)
		r.MustRegister(c)
		return c
	}
	s := Secrets{
		fetch: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "postern_secret_fetch_duration_seconds", Help: "Time that a source took for a secret, failures included.",
			Buckets: []float64{.001, .01, .1, 1, 10},
		}, []string{"source"}),
		failures:  counter("secret_fetch_failures_total", "Times that a source was asked for a secret and gave none.", "source"),
		stale:     counter("secret_stale_used_total", "Times that the last known value was used because its source did not answer.", "source"),
		rotations: counter("secret_rotations_total", "Times that a source had another value than before.", "source"),
		leases:    counter("secret_lease_events_total", "What happened to credentials that are made for a run or a session; failed: it could not be made, renewed or revoked.", "source", "event"),
		tokens:    counter("identity_tokens_total", "Tokens that said for whom a run is, by whether they counted.", "result"),
	}
	r.MustRegister(s.fetch)
	for _, word := range tokenResults {
		s.tokens.WithLabelValues(word)
	}
	return s
}

// Source begins the counters of a source at nothing, so that their first event
// is an increase.
func (s *Secrets) Source(name string) {
	for _, c := range []*prometheus.CounterVec{s.failures, s.stale, s.rotations} {
		c.WithLabelValues(name)
	}
	for _, event := range leaseEvents {
		s.leases.WithLabelValues(name, event)
	}
}

// Fetched counts one question to a source.
func (s *Secrets) Fetched(source string, took time.Duration, err error) {
	s.fetch.WithLabelValues(source).Observe(took.Seconds())
	if err != nil {
		s.failures.WithLabelValues(source).Inc()
	}
}

// StaleUsed counts a value that was used past its time.
func (s *Secrets) StaleUsed(source string) { s.stale.WithLabelValues(source).Inc() }

// Rotated counts a value that has changed.
func (s *Secrets) Rotated(source string) { s.rotations.WithLabelValues(source).Inc() }

// Lease counts what happened to a lease.
func (s *Secrets) Lease(source, event string) { s.leases.WithLabelValues(source, event).Inc() }

// Token counts a token that was verified, or was not.
func (s *Secrets) Token(counts bool) {
	word := tokenResults[1]
	if counts {
		word = tokenResults[0]
	}
	s.tokens.WithLabelValues(word).Inc()
}
