package source

import (
	"bytes"
	"crypto/x509"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
)

// The client reads as much as is allowed and fails at the byte after; it goes
// where it was sent and nowhere else.
func TestClient(t *testing.T) {
	elsewhere := 0
	mux := http.NewServeMux()
	mux.HandleFunc("/most", func(w http.ResponseWriter, _ *http.Request) { w.Write(make([]byte, MaxContent)) })
	mux.HandleFunc("/more", func(w http.ResponseWriter, _ *http.Request) { w.Write(make([]byte, MaxContent+1)) })
	mux.HandleFunc("/away", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
	})
	mux.HandleFunc("/elsewhere", func(http.ResponseWriter, *http.Request) { elsewhere++ })
	server := httptest.NewTLSServer(mux)
	defer server.Close()
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	c := Client(roots)
	defer c.CloseIdleConnections()
	for path, want := range map[string]struct {
		status, length int
		err            error
	}{
		"/most": {http.StatusOK, MaxContent, nil},
		"/more": {http.StatusOK, MaxContent, ErrMalformed},
		"/away": {http.StatusTemporaryRedirect, -1, nil},
	} {
		answer, err := c.Get(server.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		if answer.StatusCode != want.status || !errors.Is(err, want.err) || want.err == nil && want.length >= 0 && !bytes.Equal(body, make([]byte, want.length)) {
			t.Errorf("%s: %d, %d bytes, %v", path, answer.StatusCode, len(body), err)
		}
	}
	if elsewhere > 0 {
		t.Error("it followed a redirection")
	}
	answer, err := Client(nil).Get(server.URL + "/most")
	if err == nil {
		answer.Body.Close()
	}
	if !errors.As(err, new(x509.UnknownAuthorityError)) {
		t.Error("a server that the host does not trust:", err)
	}
}
