package vault

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/postern/postern/internal/secret"
	"github.com/postern/postern/internal/secret/source"
)

// session is what the Source is logged in with. turn is a lock that is waited
// for with a context, because the server is asked under it: many fetches that
// find the token at its end log in once between them.
type session struct {
	turn    chan struct{}
	current *token
	failed  error     // of the last login
	when    time.Time // that it failed
}

// token is one, and how long it is good for.
type token struct {
	value     secret.Secret
	from      time.Time
	ttl       time.Duration // 0: for ever
	full      time.Duration // the ttl at the login
	renewable bool
	// unseen says that the server would not tell us about it.
	unseen bool
}

// due reports whether it is time to prolong it, or to get another.
func (t *token) due(now time.Time) bool { return t.ttl > 0 && !now.Before(t.from.Add(t.ttl*2/3)) }

func (t *token) ended(now time.Time) bool { return t.ttl > 0 && !now.Before(t.from.Add(t.ttl)) }

// capped is a token that renewals prolong by little: it nears the end that the
// server has set it, and another login is cheaper than renewing ever faster.
func (t *token) capped() bool { return t.ttl < t.full/3 }

// errAuth is wrapped where it is the login that was refused, and not a request.
var errAuth = errors.New("not logged in")

// do makes a request with a token of ours. A refusal may mean that the token
// has ended before its time, by a restart or by somebody's hand: then it logs
// in again, once.
func (s *Source) do(ctx context.Context, r request) (*answer, error) {
	t, err := s.token(ctx, nil)
	if err != nil {
		return nil, err
	}
	a, err := s.call(ctx, t.value, r)
	if status(err) != http.StatusForbidden || t.value.Empty() {
		return a, s.forbidden(err, t, r)
	}
	if _, look := s.call(ctx, t.value, get("auth/token/lookup-self")); look == nil {
		return nil, s.forbidden(err, t, r)
	} else if status(look) != http.StatusForbidden {
		return nil, fmt.Errorf("look at the token: %w", look)
	}
	fresh, err := s.token(ctx, t)
	if err != nil {
		return nil, err
	}
	a, err = s.call(ctx, fresh.value, r)
	return a, s.forbidden(err, fresh, r)
}

// forbidden names what is not allowed: the path as the policy would have it.
func (s *Source) forbidden(err error, t *token, r request) error {
	switch {
	case status(err) != http.StatusForbidden:
		return err
	case t.unseen:
		return fmt.Errorf("%w: %w or not allowed: the server refuses the token, or its policy allows neither %s nor a look at the token itself", err, errAuth, r.path)
	case t.value.Empty():
		return fmt.Errorf("%w: the policy of the agent's token does not allow %s", err, r.path)
	}
	return fmt.Errorf("%w: the policy of the token does not allow %s", err, r.path)
}

// token returns the one to use, which is not bad, a token that the server did
// not know. It belongs to the Source.
func (s *Source) token(ctx context.Context, bad *token) (*token, error) {
	if s.opts.Auth.none() {
		return &token{}, nil
	}
	began := s.opts.Now()
	select {
	case s.login.turn <- struct{}{}:
		defer func() { <-s.login.turn }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	l := &s.login
	if l.failed != nil && !l.when.Before(began) && l.when != began {
		return nil, l.failed // somebody tried while this one waited
	}
	now := s.opts.Now()
	if t := l.current; t != nil && t != bad && !t.due(now) && !s.opts.Auth.changed() {
		return t, nil
	}
	if t := l.current; t != nil && t != bad && !t.ended(now) && !s.opts.Auth.changed() {
		if fresh, err := s.prolong(ctx, t); err == nil {
			l.current = fresh
			return fresh, nil
		} else if errors.Is(err, source.ErrUnavailable) {
			return t, nil // it is good for a third of its time yet
		}
	}
	t, err := s.logIn(ctx)
	if err != nil {
		if ctx.Err() == nil {
			l.failed, l.when = err, s.opts.Now()
		}
		return nil, err
	}
	l.current, l.failed = t, nil
	return t, nil
}

var errCapped = errors.New("the token cannot be prolonged further")

// prolong renews a token.
func (s *Source) prolong(ctx context.Context, t *token) (*token, error) {
	if !t.renewable || t.capped() {
		return nil, errCapped
	}
	from := s.opts.Now()
	a, err := s.call(ctx, t.value, post("auth/token/renew-self", struct{}{}))
	if err != nil {
		return nil, err
	}
	if a.Auth == nil || a.Auth.LeaseDuration <= 0 {
		return nil, errCapped
	}
	return &token{value: t.value, from: from, ttl: seconds(a.Auth.LeaseDuration), full: t.full, renewable: a.Auth.Renewable}, nil
}

func (s *Source) logIn(ctx context.Context) (*token, error) {
	from := s.opts.Now()
	t, err := s.opts.Auth.login(ctx, s)
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		switch status(err) {
		case http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound:
			// A wrong role is an answer of 400, which is about us and not about a secret.
			return nil, fmt.Errorf("%w: %w: the auth method %s refused", source.ErrPermission, errAuth, s.opts.Auth)
		}
		return nil, fmt.Errorf("%w by %s: %w", errAuth, s.opts.Auth, err)
	}
	t.from, t.full = from, t.ttl
	s.opts.Log.Info("logged in to the vault", "method", s.opts.Auth.String(), "ttl", t.ttl, "renewable", t.renewable)
	return t, nil
}

// post to the login path of a method.
func (s *Source) enter(ctx context.Context, path string, body any) (*token, error) {
	a, err := s.call(ctx, secret.Secret{}, post(path, body))
	if err != nil {
		return nil, err
	}
	if a.Auth == nil || a.Auth.Token.Empty() {
		return nil, fmt.Errorf("%w: the answer to the login has no token", source.ErrMalformed)
	}
	return &token{value: a.Auth.Token.Secret, ttl: seconds(a.Auth.LeaseDuration), renewable: a.Auth.Renewable}, nil
}

// seconds of the server's, which are bounded so that they do not overflow.
func seconds(n int64) time.Duration {
	const most = 10 * 365 * 24 * 3600
	return time.Duration(min(max(n, 0), most)) * time.Second
}
