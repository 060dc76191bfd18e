package vault

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/postern/postern/internal/secret"
	"github.com/postern/postern/internal/secret/source"
)

// ErrUnwrapped says that a wrapped secret-id had been taken out of its wrapping
// before us: somebody has it who should not.
var ErrUnwrapped = errors.New("the wrapped secret-id cannot be unwrapped: somebody else has unwrapped it, or it has expired; find out who before another one is made")

// ErrWrapping says that a wrapping token wraps something else than a secret-id
// of the method, as one does that was slipped in.
var ErrWrapping = errors.New("the wrapping token was not made by the secret-id path of the auth method: somebody may have put it there")

// AppRole logs in with a role's id and a secret-id.
type AppRole struct {
	always
	Mount    string // empty: approle
	RoleID   string
	SecretID string // file; empty: the role asks for none
	// Wrapped says that the file holds a wrapping token, which is unwrapped once.
	Wrapped bool

	// What the last wrapping token gave; login is called by one at a time.
	wrapping, unwrapped secret.Secret
}

func (a *AppRole) String() string { return "AppRole at auth/" + a.mount() }
func (a *AppRole) mount() string  { return cmp.Or(a.Mount, "approle") }

func (a *AppRole) login(ctx context.Context, s *Source) (*token, error) {
	body := map[string]any{"role_id": a.RoleID}
	if a.SecretID != "" {
		id, err := readSecret(a.SecretID)
		if err != nil {
			return nil, err
		}
		if a.Wrapped {
			if id, err = a.unwrap(ctx, s, id); err != nil {
				return nil, err
			}
		}
		body["secret_id"] = text{id}
	}
	return s.enter(ctx, "auth/"+a.mount()+"/login", body)
}

// unwrap returns what a wrapping token holds. That can be had once, so it is
// kept for the logins to come. Where the token was made is looked at first:
// whoever put another one there would have us log in as somebody of theirs.
func (a *AppRole) unwrap(ctx context.Context, s *Source, wrapping secret.Secret) (secret.Secret, error) {
	if !a.unwrapped.Empty() && a.wrapping.Equal(wrapping.Reveal()) {
		return a.unwrapped, nil
	}
	look, err := s.call(ctx, secret.Secret{}, post("sys/wrapping/lookup", map[string]any{"token": text{wrapping}}))
	if err != nil {
		return secret.Secret{}, a.lost(s, err)
	}
	var made string
	if json.Unmarshal(look.Data["creation_path"], &made) != nil {
		return secret.Secret{}, fmt.Errorf("%w: what the server says about the wrapping token", source.ErrMalformed)
	}
	role, ok := strings.CutPrefix(made, "auth/"+a.mount()+"/role/")
	role, ok2 := strings.CutSuffix(role, "/secret-id")
	if !ok || !ok2 || strings.Contains(role, "/") {
		s.opts.Log.Error("a wrapping token of a vault was not made where secret-ids are", "file", a.SecretID)
		return secret.Secret{}, fmt.Errorf("%w: %w", source.ErrPermission, ErrWrapping)
	}
	got, err := s.call(ctx, wrapping, post("sys/wrapping/unwrap", struct{}{}))
	if err != nil {
		return secret.Secret{}, a.lost(s, err)
	}
	defer got.wipe()
	var id text
	if json.Unmarshal(got.Data["secret_id"], &id) != nil || id.Empty() {
		return secret.Secret{}, fmt.Errorf("%w: there is no secret-id in the wrapping", source.ErrMalformed)
	}
	a.wrapping, a.unwrapped = wrapping, id.Secret
	return id.Secret, nil
}

// lost tells a wrapping token that is used up from a server that is down.
func (a *AppRole) lost(s *Source, err error) error {
	switch status(err) {
	case http.StatusBadRequest, http.StatusForbidden, http.StatusNotFound:
		s.opts.Log.Error("the wrapped secret-id of a vault was unwrapped by somebody else, or has expired", "file", a.SecretID)
		return fmt.Errorf("%w: %w", source.ErrPermission, ErrUnwrapped)
	}
	return fmt.Errorf("unwrap the secret-id: %w", err)
}
