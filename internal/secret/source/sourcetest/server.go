package sourcetest

import (
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
)

// Server stands in for a place on the network, by HTTPS on loopback. It can be
// made to keep silent, to answer with errors and to break off.
type Server struct {
	URL   string
	Roots *x509.CertPool

	next http.Handler

	mu      sync.Mutex
	mode    mode
	release chan struct{} // closed when the silence ends
}

type mode int

const (
	answering mode = iota
	silent
	failing
	breaking
)

// NewServer starts a server, which is stopped at the end of the test.
func NewServer(t *testing.T, next http.Handler) *Server {
	t.Helper()
	s := &Server{Roots: x509.NewCertPool(), next: next}
	server := httptest.NewTLSServer(s)
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	s.URL = server.URL
	s.Roots.AddCert(server.Certificate())
	return s
}

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	m, release := s.mode, s.release
	s.mu.Unlock()
	switch m {
	case silent:
		select {
		case <-release:
		case <-r.Context().Done():
			return
		}
	case failing:
		http.Error(w, Canary, http.StatusServiceUnavailable)
		return
	case breaking:
		panic(http.ErrAbortHandler)
	}
	s.next.ServeHTTP(w, r)
}

// Stall is Place.Stall.
func (s *Server) Stall(*testing.T) (release func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mode, s.release = silent, make(chan struct{})
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.mode = answering
		close(s.release)
	}
}

// Outages is Place.Outages.
func (s *Server) Outages() map[string]func(*testing.T) (over func()) {
	out := func(m mode) func(*testing.T) func() {
		return func(*testing.T) func() {
			s.set(m)
			return func() { s.set(answering) }
		}
	}
	return map[string]func(*testing.T) func(){"it answers 503": out(failing), "it breaks off": out(breaking)}
}

func (s *Server) set(m mode) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mode = m
}
