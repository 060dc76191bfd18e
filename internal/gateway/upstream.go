package gateway

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"

	"github.com/postern/postern/internal/dial"
	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/secret"
	"github.com/postern/postern/internal/wire"
	"github.com/postern/postern/pkg/recording"
)

// Conn implements engine.Upstream: it dials the target by its configured name,
// resolved at this moment, and fetches the credential.
func (s *session) Conn(ctx context.Context) (*wire.Conn, engine.Login, error) {
	ctx, cancel := context.WithTimeout(ctx, s.setup.Limits.Handshake)
	defer cancel()
	host := hostOf(s.flow)
	began := s.gateway.Now()
	address, raw, err := s.dial(ctx, host)
	if err != nil {
		return nil, engine.Login{}, &unreachable{"the upstream cannot be reached", err}
	}
	var credential secret.Credential
	if s.purpose == engine.PurposeSession { // what does not log in takes none
		credential, err = s.target.Credential(ctx, &s.flow)
	}
	if err != nil {
		raw.Close()
		return nil, engine.Login{}, &unreachable{engine.ErrCredential.Error(), err}
	}
	login := engine.Login{
		Credential: credential,
		TLS:        s.target.clientTLS(host),
		Verified:   s.target.Verified,
		Known:      engine.KnownHosts{Host: host.Host, Port: host.Port, Lines: s.target.KnownHosts},
	}
	if address.IsValid() {
		login.Hidden = append(login.Hidden, address.Addr().String())
	}
	if s.target.Dial != nil {
		login.Hidden = append(login.Hidden, s.target.Dial.Host)
	}
	if login.TLS != nil && credential.Certificate != nil {
		login.TLS.Certificates = append(login.TLS.Certificates, *credential.Certificate)
	}
	s.used.Wipe()
	s.used = credential
	s.gate.know(credential)
	s.gateway.Metrics.credential(s)
	conn := wire.New(raw)
	s.mu.Lock()
	s.upstream = conn
	s.mu.Unlock()
	where := address.String()
	if !address.IsValid() {
		where = host.String()
	}
	if err := s.log.Upstream(recording.Upstream{Address: where, Verified: s.target.Verified, Took: s.gateway.Now().Sub(began)}); err != nil {
		raw.Close()
		return nil, engine.Login{}, fmt.Errorf("record: %w", err)
	}
	return conn, login, nil
}

// Refused implements engine.Upstream.
func (s *session) Refused(ctx context.Context) bool {
	before := s.refused
	s.refused = true
	if before || s.target.Refetch == nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, s.setup.Limits.Handshake)
	defer cancel()
	err := s.target.Refetch(ctx, &s.flow)
	var now secret.Credential
	if err == nil {
		now, err = s.target.Credential(ctx, &s.flow)
	}
	// What counts is what this session has used, which others may have seen change.
	changed := err == nil && !now.Same(s.used)
	now.Wipe()
	s.gateway.Metrics.refetched(s, changed)
	s.gateway.Log.Warn("the upstream refused the credential, and its source was asked again", "session", s.flow.Session,
		"agent", s.flow.Agent, "target", s.target.Name, "changed", changed, "error", err)
	return changed
}

// unreachable is why there is no upstream. Its text may get as far as the agent,
// so the cause, which names addresses and sources, is kept for the record.
type unreachable struct {
	text  string
	cause error
}

func (u *unreachable) Error() string { return u.text }
func (u *unreachable) Unwrap() error { return u.cause }

// Is tells a credential that could not be had from an upstream that cannot be
// reached.
func (u *unreachable) Is(target error) bool {
	return target == engine.ErrCredential && u.text == engine.ErrCredential.Error()
}

// dial connects to the host that the agent meant, by the way that a connection
// within another one came.
func (s *session) dial(ctx context.Context, host HostPort) (netip.AddrPort, net.Conn, error) {
	if s.way != nil {
		conn, err := s.way(ctx)
		return netip.AddrPort{}, conn, err
	}
	return s.gateway.dial(ctx, s.target, host)
}

// dial connects to the host that the agent meant, or to where the target
// really is.
func (g *Gateway) dial(ctx context.Context, t *Target, host HostPort) (netip.AddrPort, net.Conn, error) {
	if t.Dial != nil {
		host = *t.Dial
	}
	address, conn, err := g.Dialer.Dial(ctx, host.Host, host.Port, t.forbidden)
	if err != nil {
		g.Metrics.dialFailures.WithLabelValues(t.Name).Inc()
	}
	return address, conn, err
}

// HostPort is an address as a target lists it.
type HostPort struct {
	Host string
	Port uint16
}

func (h HostPort) String() string { return net.JoinHostPort(h.Host, strconv.Itoa(int(h.Port))) }

// forbidden says why an address that a name resolved to may not be dialled. A
// target that is dialled elsewhere, or lists the address, means it.
func (t *Target) forbidden(a netip.Addr) string {
	if t.Dial != nil || t.listsAddress(a) {
		return ""
	}
	return dial.Forbidden(a)
}
