// Package control serves the daemon's control socket. It decides who may ask:
// root, and never a process inside a policy cgroup, whatever its uid. What is answered comes from
// the functions in Options; the protocol is documented in pkg/control.
//
// Start with Server.handler.
package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/postern/postern/internal/identity"
	"github.com/postern/postern/pkg/control"
)

const (
	readTimeout = 10 * time.Second
	maxBody     = 64 << 10
	socketMode  = 0o666 // every user may connect; the peer's credentials decide
)

// Peer is who is at the other end of a connection.
type Peer struct {
	PID   int
	UID   uint32
	Name  string // for records: who it is, as far as sudo tells
	Agent bool   // it is inside a policy cgroup, or that cannot be told
}

// Options are what the server asks.
type Options struct {
	Log  *slog.Logger
	Peer func(*net.UnixConn) (Peer, error)

	Status    func() control.Status
	Sessions  func() []control.Session
	Activity  func() (control.Activity, error)
	Approvals func(by Peer) ([]control.Approval, error)
	Budgets   func() []control.Budget
	Watch     func(ctx context.Context, by Peer, f func(control.Approval) error) error
	Decide    func(id string, by Peer, approve bool, reason string) (control.Approval, error)
	Reload    func() (control.Reloaded, error)
	Refresh   func(ctx context.Context, target string) error
	Secrets   func() control.Secrets
	Catalog   func(target string) (control.Catalog, error)
	TryLogin  func(ctx context.Context, target string) error

	People
}

// Server is the control socket.
type Server struct {
	Options
	http http.Server
}

// New returns a server; Serve starts it.
func New(o Options) *Server {
	s := &Server{Options: o}
	s.http = http.Server{
		Handler:           s.handler(),
		ReadHeaderTimeout: readTimeout,
		ReadTimeout:       readTimeout,
		ConnContext:       s.withPeer,
		ErrorLog:          slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug),
	}
	return s
}

// Listen makes the socket.
func Listen(path string) (net.Listener, error) { return identity.Listen(path, socketMode) }

// Serve answers until ctx ends.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	stop := context.AfterFunc(ctx, func() { s.http.Close() })
	defer stop()
	if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("control socket: %w", err)
	}
	return nil
}

type peerKey struct{}

type identified struct {
	peer Peer
	err  error
}

// withPeer asks the kernel once per connection.
func (s *Server) withPeer(ctx context.Context, c net.Conn) context.Context {
	p, err := s.Peer(c.(*net.UnixConn))
	return context.WithValue(ctx, peerKey{}, identified{p, err})
}

// handler is the list of everything that can be asked, and by whom.
func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	root := func(pattern string, f func(http.ResponseWriter, *http.Request, Peer)) {
		mux.HandleFunc(pattern, s.checked(f, rootOnly))
	}
	person := func(pattern string, f func(http.ResponseWriter, *http.Request, Peer)) {
		mux.HandleFunc(pattern, s.checked(f, anybody))
	}
	s.people(mux)
	root("GET /v1/status", func(w http.ResponseWriter, _ *http.Request, _ Peer) { answer(w, s.Status()) })
	root("GET /v1/sessions", func(w http.ResponseWriter, _ *http.Request, _ Peer) { answer(w, s.Sessions()) })
	root("GET /v1/activity", s.activity)
	root("GET /v1/budgets", func(w http.ResponseWriter, _ *http.Request, _ Peer) { answer(w, s.Budgets()) })
	// Whoever is no root decides as who they have logged in as.
	person("GET /v1/approvals", s.approvals)
	person("POST /v1/approvals/{id}/approve", func(w http.ResponseWriter, r *http.Request, p Peer) { s.decide(w, r, p, true) })
	person("POST /v1/approvals/{id}/deny", func(w http.ResponseWriter, r *http.Request, p Peer) { s.decide(w, r, p, false) })
	root("POST /v1/reload", s.reload)
	root("GET /v1/secrets", func(w http.ResponseWriter, _ *http.Request, _ Peer) { answer(w, s.Secrets()) })
	root("POST /v1/secrets/refresh", s.refresh)
	root("GET /v1/targets/{target}/catalog", s.catalog)
	root("POST /v1/targets/{target}/login", s.tryLogin)
	return mux
}

// who may ask.
type who bool

const (
	rootOnly who = false
	anybody  who = true // who is no agent
)

// checked refuses agents, and everybody but root where it is for root.
func (s *Server) checked(f func(http.ResponseWriter, *http.Request, Peer), by who) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		id, _ := r.Context().Value(peerKey{}).(identified)
		switch {
		case id.err != nil:
			refuse(w, http.StatusForbidden, "who asks cannot be told", id.err)
		case id.peer.Agent:
			s.Log.Warn("an agent asked the control socket", "pid", id.peer.PID, "uid", id.peer.UID, "path", r.URL.Path)
			refuse(w, http.StatusForbidden, "processes inside a policy cgroup may not use the control socket", nil)
		case by == rootOnly && id.peer.UID != 0:
			refuse(w, http.StatusForbidden, "this takes root", errors.New("use sudo"))
		default:
			r.Body = http.MaxBytesReader(w, r.Body, maxBody)
			f(w, r, id.peer)
		}
	}
}

func (s *Server) activity(w http.ResponseWriter, _ *http.Request, _ Peer) {
	a, err := s.Activity()
	if err != nil {
		refuse(w, http.StatusInternalServerError, "the kernel's counters cannot be read", err)
		return
	}
	answer(w, a)
}

func (s *Server) approvals(w http.ResponseWriter, r *http.Request, p Peer) {
	if r.URL.Query().Get("watch") == "" {
		list, err := s.Approvals(p)
		told(w, list, err)
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.WriteHeader(http.StatusOK)
	flush := http.NewResponseController(w).Flush
	flush() //nolint:errcheck // a client that is gone ends the loop below
	enc := json.NewEncoder(w)
	s.Watch(r.Context(), p, func(a control.Approval) error { //nolint:errcheck // the client is gone
		if err := enc.Encode(a); err != nil {
			return err
		}
		return flush()
	})
}

func (s *Server) decide(w http.ResponseWriter, r *http.Request, p Peer, approve bool) {
	var d control.Decision
	dec := json.NewDecoder(r.Body)
	dec.DisallowUnknownFields()
	if err := dec.Decode(&d); err != nil {
		refuse(w, http.StatusBadRequest, "the body is not a decision", err)
		return
	}
	a, err := s.Decide(r.PathValue("id"), p, approve, d.Reason)
	if err != nil {
		refuse(w, http.StatusConflict, "not decided", err)
		return
	}
	s.Log.Info("approval decided", "approval", a.ID, "approve", approve, "by", p.Name, "agent", a.Agent, "target", a.Target)
	answer(w, a)
}

func (s *Server) reload(w http.ResponseWriter, _ *http.Request, p Peer) {
	done, err := s.Reload()
	if err != nil {
		refuse(w, http.StatusUnprocessableEntity, "the old configuration stays in force", err)
		return
	}
	s.Log.Info("configuration reloaded", "generation", done.Generation, "by", p.Name)
	answer(w, done)
}

func (s *Server) refresh(w http.ResponseWriter, r *http.Request, _ Peer) {
	if err := s.Refresh(r.Context(), r.URL.Query().Get("target")); err != nil {
		refuse(w, http.StatusBadGateway, "not every source answered", err)
		return
	}
	answer(w, struct{}{})
}

func (s *Server) catalog(w http.ResponseWriter, r *http.Request, _ Peer) {
	c, err := s.Catalog(r.PathValue("target"))
	if err != nil {
		refuse(w, http.StatusNotFound, "no catalog", err)
		return
	}
	answer(w, c)
}

func (s *Server) tryLogin(w http.ResponseWriter, r *http.Request, _ Peer) {
	if err := s.TryLogin(r.Context(), r.PathValue("target")); err != nil {
		refuse(w, http.StatusBadGateway, "no login to "+r.PathValue("target"), err)
		return
	}
	answer(w, struct{}{})
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v) //nolint:errcheck // the client is gone
}

// Problems is an error that is made of several, such as those of a
// configuration.
type Problems []string

func (p Problems) Error() string {
	if len(p) == 1 {
		return p[0]
	}
	return fmt.Sprintf("%d problems", len(p))
}

func refuse(w http.ResponseWriter, status int, title string, err error) {
	e := control.Error{Status: status, Title: title}
	if err != nil {
		e.Detail = err.Error()
	}
	var problems Problems
	if errors.As(err, &problems) {
		e.Problems = problems
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(e) //nolint:errcheck // the client is gone
}
