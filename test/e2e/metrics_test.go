package e2e

import (
	"context"
	"io"
	"net"
	"net/http"
	"testing"
)

// metrics is what Prometheus would scrape.
func (w *world) metrics(t *testing.T) string {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", w.postern.Metrics)
	}}}
	resp, err := client.Get("http://postern/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
