package gateway

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/wire"
)

// TryLogin dials a target as a session would, logs in with its credential and
// hangs up: what `postern setup` proves that a configuration works by. Its error
// is for operators and names addresses.
func (g *Gateway) TryLogin(ctx context.Context, name string) error {
	setup := g.setup.Load()
	at := slices.IndexFunc(setup.Targets, func(t *Target) bool { return t.Name == name })
	if at < 0 {
		return fmt.Errorf("there is no target %q", name)
	}
	t := setup.Targets[at]
	named := slices.IndexFunc(t.Hosts, func(h HostPort) bool { return !strings.HasPrefix(h.Host, "*") })
	if named < 0 || t.Protocol.TryLogin == nil {
		return errors.New("the target lists no host to try")
	}
	ctx, cancel := context.WithTimeout(ctx, setup.Limits.Handshake)
	defer cancel()
	flow := engine.Flow{Session: newSession(), Agent: "operator"}
	if g.Ended != nil {
		defer g.Ended(&flow)
	}
	credential, err := t.Credential(ctx, &flow)
	if err != nil {
		return fmt.Errorf("fetch the credential: %w", err)
	}
	defer credential.Wipe()
	_, raw, err := g.dial(ctx, t, t.Hosts[named])
	if err != nil {
		return fmt.Errorf("reach the target: %w", err)
	}
	defer raw.Close()
	login := engine.Login{Credential: credential, TLS: t.clientTLS(t.Hosts[named]), Verified: t.Verified, Known: engine.KnownHosts{Host: t.Hosts[named].Host, Port: t.Hosts[named].Port, Lines: t.KnownHosts}}
	if login.TLS != nil && credential.Certificate != nil {
		login.TLS.Certificates = append(login.TLS.Certificates, *credential.Certificate)
	}
	if err := t.Protocol.TryLogin(ctx, wire.New(raw), login, setup.Limits.Limits); err != nil {
		return fmt.Errorf("log in: %w", err)
	}
	return nil
}
