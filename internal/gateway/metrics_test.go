package gateway

import (
	"net/http/httptest"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// exported is what Prometheus would be told.
func (w *world) exported() string {
	answer := httptest.NewRecorder()
	promhttp.HandlerFor(w.registry, promhttp.HandlerOpts{}).ServeHTTP(answer, httptest.NewRequest("GET", "/metrics", nil))
	return answer.Body.String()
}
