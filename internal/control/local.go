package control

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/postern/postern/pkg/control"
)

// maxToken bounds the body of what brings a token.
const maxToken = 32 << 10

// waitForLogin bounds how long one question waits for a person at a browser;
// whoever asks asks again.
const waitForLogin = time.Minute

// People is what every user of the host may ask, of their own: who they are, and
// for whom their runs are. The functions check that it is their own.
type People struct {
	Issuers     func() []control.Issuer
	StartLogin  func(ctx context.Context, by Peer, s control.LoginStart) (control.Login, error)
	WaitLogin   func(ctx context.Context, by Peer, id string) (control.Identity, error)
	FinishLogin func(ctx context.Context, by Peer, id string, a control.LoginAnswer) (control.Identity, error)
	Logins      func(ctx context.Context, by Peer) ([]control.Identity, error)
	Logout      func(by Peer, issuer string) error
	AnnounceRun func(ctx context.Context, by Peer, r control.RunStart) (control.RunTicket, error)
	RenewRun    func(ctx context.Context, by Peer, run string, t control.RunToken) (control.Identity, error)
	Runs        func(by Peer) []control.Run
}

func (s *Server) people(mux *http.ServeMux) {
	local := func(pattern string, f func(http.ResponseWriter, *http.Request, Peer)) {
		mux.HandleFunc(pattern, s.checked(f, anybody))
	}
	local("GET /v1/issuers", func(w http.ResponseWriter, _ *http.Request, _ Peer) { answer(w, s.Issuers()) })
	local("POST /v1/logins", asking(func(r *http.Request, p Peer, in control.LoginStart) (any, error) {
		return s.StartLogin(r.Context(), p, in)
	}))
	local("GET /v1/logins/{id}", func(w http.ResponseWriter, r *http.Request, p Peer) {
		http.NewResponseController(w).SetWriteDeadline(time.Now().Add(2 * waitForLogin)) //nolint:errcheck // it has no other
		ctx, cancel := context.WithTimeout(r.Context(), waitForLogin)
		defer cancel()
		i, err := s.WaitLogin(ctx, p, r.PathValue("id"))
		if errors.Is(err, context.DeadlineExceeded) {
			refuse(w, http.StatusTooEarly, "nobody has logged in yet", nil)
			return
		}
		told(w, i, err)
	})
	local("POST /v1/logins/{id}", asking(func(r *http.Request, p Peer, in control.LoginAnswer) (any, error) {
		return s.FinishLogin(r.Context(), p, r.PathValue("id"), in)
	}))
	local("GET /v1/logins", func(w http.ResponseWriter, r *http.Request, p Peer) {
		list, err := s.Logins(r.Context(), p)
		told(w, list, err)
	})
	local("DELETE /v1/logins", func(w http.ResponseWriter, r *http.Request, p Peer) {
		told(w, struct{}{}, s.Logout(p, r.URL.Query().Get("issuer")))
	})
	local("POST /v1/runs", asking(func(r *http.Request, p Peer, in control.RunStart) (any, error) {
		return s.AnnounceRun(r.Context(), p, in)
	}))
	local("POST /v1/runs/{run}/token", asking(func(r *http.Request, p Peer, in control.RunToken) (any, error) {
		return s.RenewRun(r.Context(), p, r.PathValue("run"), in)
	}))
	local("GET /v1/runs", func(w http.ResponseWriter, _ *http.Request, p Peer) { answer(w, s.Runs(p)) })
}

// asking reads a body of one form, and answers with what comes of it.
func asking[T any](f func(*http.Request, Peer, T) (any, error)) func(http.ResponseWriter, *http.Request, Peer) {
	return func(w http.ResponseWriter, r *http.Request, p Peer) {
		var in T
		dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxToken))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&in); err != nil {
			// The error of the decoder may quote what was sent.
			refuse(w, http.StatusBadRequest, "the body is not what is expected", nil)
			return
		}
		out, err := f(r, p, in)
		told(w, out, err)
	}
}

func told(w http.ResponseWriter, v any, err error) {
	if err != nil {
		refuse(w, http.StatusForbidden, "refused", err)
		return
	}
	answer(w, v)
}
