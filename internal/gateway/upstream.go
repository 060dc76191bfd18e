package gateway

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/wire"
	"github.com/postern/postern/pkg/recording"
)

// Conn implements engine.Upstream: it dials the target by its configured name,
// resolved at this moment, and fetches the credential.
func (s *session) Conn(ctx context.Context) (*wire.Conn, engine.Login, error) {
	ctx, cancel := context.WithTimeout(ctx, s.setup.Limits.Handshake)
	defer cancel()
	host := s.target.hostOf(s.flow)
	began := s.gateway.Now()
	address, raw, err := s.dial(ctx, host)
	if err != nil {
		return nil, engine.Login{}, &unreachable{"the upstream cannot be reached", err}
	}
	credential, err := s.target.Credential(ctx)
	if err != nil {
		raw.Close()
		return nil, engine.Login{}, &unreachable{"the credential cannot be fetched", err}
	}
	login := engine.Login{
		Credential: credential,
		TLS:        s.target.clientTLS(host),
		Verified:   s.target.Verified,
		Hidden:     []string{address.Addr().String()},
	}
	if s.target.Dial != nil {
		login.Hidden = append(login.Hidden, s.target.Dial.Host)
	}
	if login.TLS != nil && credential.Certificate != nil {
		login.TLS.Certificates = append(login.TLS.Certificates, *credential.Certificate)
	}
	s.gate.know(credential)
	s.gateway.Metrics.credential(s)
	conn := wire.New(raw)
	s.mu.Lock()
	s.upstream = conn
	s.mu.Unlock()
	if err := s.log.Upstream(recording.Upstream{Address: address.String(), Verified: s.target.Verified, Took: s.gateway.Now().Sub(began)}); err != nil {
		raw.Close()
		return nil, engine.Login{}, fmt.Errorf("record: %w", err)
	}
	return conn, login, nil
}

// unreachable is why there is no upstream. Its text may get as far as the agent,
// so the cause, which names addresses and sources, is kept for the record.
type unreachable struct {
	text  string
	cause error
}

func (u *unreachable) Error() string { return u.text }
func (u *unreachable) Unwrap() error { return u.cause }

// dial connects to the first address that may be and can be reached.
func (s *session) dial(ctx context.Context, host HostPort) (netip.AddrPort, net.Conn, error) {
	named := host
	if s.target.Dial != nil {
		host = *s.target.Dial
	}
	addresses, err := resolve(ctx, host.Host)
	if err != nil {
		return netip.AddrPort{}, nil, err
	}
	var errs []error
	for _, a := range addresses {
		if why := s.target.forbidden(a); why != "" {
			errs = append(errs, fmt.Errorf("%s resolves to %s, which is %s: name it under dial if that is meant", named.Host, a, why))
			continue
		}
		at := netip.AddrPortFrom(a, host.Port)
		var d net.Dialer
		d.SetMultipathTCP(false)
		conn, err := d.DialContext(ctx, "tcp", at.String())
		if err == nil {
			return at, conn, nil
		}
		errs = append(errs, err)
	}
	return netip.AddrPort{}, nil, errors.Join(errs...)
}

// resolve asks the host's resolver; the gateway is not in the policy cgroup.
func resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a.Unmap()}, nil
	}
	found, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	for i := range found {
		found[i] = found[i].Unmap()
	}
	return found, nil
}

// HostPort is an address as a target lists it.
type HostPort struct {
	Host string
	Port uint16
}

func (h HostPort) String() string { return net.JoinHostPort(h.Host, strconv.Itoa(int(h.Port))) }

// forbidden says why an address that a name resolved to may not be dialled, so
// that whoever controls a name cannot point the gateway at the host itself or
// at its cloud's metadata.
func (t *Target) forbidden(a netip.Addr) string {
	switch {
	case t.Dial != nil || t.listsAddress(a):
		return ""
	case a.IsLoopback():
		return "loopback"
	case a.IsLinkLocalUnicast(), a.IsLinkLocalMulticast(), a == metadataV6:
		return "link-local or cloud metadata"
	case a.IsUnspecified(), a.IsMulticast():
		return "no host's address"
	}
	return ""
}

// metadataV6 is the metadata service of AWS over IPv6.
var metadataV6 = netip.MustParseAddr("fd00:ec2::254")
