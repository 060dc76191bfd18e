// Package dial reaches upstreams by name: it asks the host's resolver at the
// moment of dialling, checks every address before a packet goes there, and
// races the two families as RFC 8305 says. The address that was checked is the
// one that is dialled; nothing looks a name up twice.
//
// Which host a target is, and which addresses it may have although they are
// forbidden otherwise, is the caller's. Start with Dialer.Dial; what is
// forbidden, and why, is in forbidden.go.
package dial

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"
)

const (
	// resolutionDelay is how long IPv4 waits for an answer on IPv6, and
	// attemptDelay how long an attempt may be silent before the next one is made
	// beside it (RFC 8305, sections 3 and 5). Together they are what a dead
	// family costs.
	resolutionDelay = 50 * time.Millisecond
	attemptDelay    = 250 * time.Millisecond
	// maxAddresses bounds what one family of a name is tried at.
	maxAddresses = 16
	// lookupTimeout bounds one question to the host's resolver, which asks each
	// of its servers twice.
	lookupTimeout = 10 * time.Second
)

// Dialer dials. The zero value uses the host's resolver and network; the
// fields stand in for them in tests.
type Dialer struct {
	// Lookup is net.Resolver.LookupNetIP; network is "ip4" or "ip6".
	Lookup func(ctx context.Context, network, host string) ([]netip.Addr, error)
	// Connect dials an address over TCP.
	Connect func(ctx context.Context, at netip.AddrPort) (net.Conn, error)
}

// Allowed says why an address may not be dialled; empty when it may.
// Forbidden is one.
type Allowed func(netip.Addr) string

// Families of addresses, as Lookup names them.
const (
	v4 = "ip4"
	v6 = "ip6"
)

// host is Go's own resolver: it needs no C library, asks the servers of
// /etc/resolv.conf, the stub of systemd-resolved among them, and reads the file
// again when it has changed, every five seconds at most.
var host = &net.Resolver{PreferGo: true}

// lookup resolves one family of a name.
func (d *Dialer) lookup(ctx context.Context, network, name string) ([]netip.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	ask := d.Lookup
	if ask == nil {
		ask = host.LookupNetIP
	}
	found, err := ask(ctx, network, absolute(name))
	if err != nil {
		return nil, err
	}
	for i, a := range found {
		found[i] = a.Unmap()
	}
	return found[:min(len(found), maxAddresses)], nil
}

// absolute keeps the host's search list away from a name with dots: what is
// configured as db.internal must not become db.internal.corp.example. A name of
// one label is left as it is, since the search list is what makes it one.
func absolute(name string) string {
	if strings.Contains(name, ".") && !strings.HasSuffix(name, ".") {
		return name + "."
	}
	return name
}

// Resolve returns the addresses of one family that a name may have. Those that
// are not allowed are left out; that there are only such is an error.
func (d *Dialer) Resolve(ctx context.Context, name string, ipv6 bool, forbidden Allowed) ([]netip.Addr, error) {
	network := v4
	if ipv6 {
		network = v6
	}
	found, err := d.lookup(ctx, network, name)
	if err != nil {
		return nil, err
	}
	good, errs := checked(name, found, forbidden)
	if len(good) == 0 {
		return nil, fmt.Errorf("%w: %w", ErrForbidden, errors.Join(errs...))
	}
	return good, nil
}

// ErrForbidden is wrapped by Resolve's error when a name has addresses, and none
// that may be dialled.
var ErrForbidden = errors.New("no address that may be dialled")

// checked sorts out what may not be dialled.
func checked(name string, found []netip.Addr, forbidden Allowed) (good []netip.Addr, errs []error) {
	for _, a := range found {
		if why := forbidden(a); why != "" {
			errs = append(errs, fmt.Errorf("%s resolves to %s, which is %s: name it under dial if that is meant", name, a, why))
			continue
		}
		good = append(good, a)
	}
	return good, errs
}

// Dial connects to the first address of a host that may be and can be reached.
// The host is a name or an address. Every goroutine has ended when it returns.
func (d *Dialer) Dial(ctx context.Context, host string, port uint16, forbidden Allowed) (netip.AddrPort, net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	r := &race{
		dialer: d, ctx: ctx, host: host, port: port, forbidden: forbidden,
		found: make(chan family, 2), ended: make(chan attempt, 2*maxAddresses),
	}
	at, conn, err := r.run()
	cancel()
	r.running.Wait()
	close(r.ended)
	for late := range r.ended {
		if late.conn != nil {
			late.conn.Close()
		}
	}
	return at, conn, err
}

// race is one Dial. All but the goroutines' sends happens in run.
type race struct {
	dialer    *Dialer
	ctx       context.Context
	host      string
	port      uint16
	forbidden Allowed

	running sync.WaitGroup
	found   chan family
	ended   chan attempt

	looking int // lookups that are out
	trying  int // attempts that are out
	queue   map[string][]netip.Addr
	last    string // family of the last attempt
	due     bool   // the clock has run out and there was nothing to try
	errs    []error
}

// family is what a lookup found.
type family struct {
	network   string
	addresses []netip.Addr
	err       error
}

// attempt is how one ended.
type attempt struct {
	at   netip.AddrPort
	conn net.Conn
	err  error
}

func (r *race) run() (netip.AddrPort, net.Conn, error) {
	r.queue = map[string][]netip.Addr{}
	r.look()
	wait := time.NewTimer(0)
	wait.Stop()
	defer wait.Stop()
	for {
		if r.looking == 0 && r.trying == 0 && !r.waiting() {
			return netip.AddrPort{}, nil, errors.Join(r.errs...)
		}
		select {
		case f := <-r.found:
			r.looking--
			r.add(f)
			switch {
			case !r.waiting(), r.trying > 0 && !r.due:
				// Nothing to try, or the clock is running.
			case f.network == v4 && r.looking > 0 && r.trying == 0:
				wait.Reset(resolutionDelay)
			default:
				r.try(wait)
			}
		case a := <-r.ended:
			r.trying--
			if a.err == nil {
				return a.at, a.conn, nil
			}
			r.errs = append(r.errs, a.err)
			r.try(wait)
		case <-wait.C:
			r.try(wait)
		case <-r.ctx.Done():
			return netip.AddrPort{}, nil, errors.Join(append(r.errs, context.Cause(r.ctx))...)
		}
	}
}

// look starts the lookups of both families.
func (r *race) look() {
	if a, err := netip.ParseAddr(r.host); err == nil {
		r.looking = 1
		r.found <- family{network: v4, addresses: []netip.Addr{a.Unmap()}}
		return
	}
	r.looking = 2
	for _, network := range []string{v6, v4} {
		r.running.Go(func() {
			found, err := r.dialer.lookup(r.ctx, network, r.host)
			r.found <- family{network, found, err}
		})
	}
}

func (r *race) add(f family) {
	if f.err != nil {
		r.errs = append(r.errs, f.err)
		return
	}
	good, errs := checked(r.host, f.addresses, r.forbidden)
	r.errs = append(r.errs, errs...)
	r.queue[f.network] = good
}

func (r *race) waiting() bool { return len(r.queue[v4])+len(r.queue[v6]) > 0 }

// try starts the next attempt, of the family whose turn it is, and the clock
// for the one after it.
func (r *race) try(wait *time.Timer) {
	if r.due = !r.waiting(); r.due {
		return
	}
	network := v6
	if r.last == v6 || len(r.queue[v6]) == 0 {
		network = v4
	}
	if len(r.queue[network]) == 0 {
		network = v6
	}
	at := netip.AddrPortFrom(r.queue[network][0], r.port)
	r.queue[network] = r.queue[network][1:]
	r.last = network
	r.trying++
	r.running.Go(func() {
		conn, err := r.dialer.connect(r.ctx, at)
		r.ended <- attempt{at, conn, err}
	})
	wait.Reset(attemptDelay)
}

func (d *Dialer) connect(ctx context.Context, at netip.AddrPort) (net.Conn, error) {
	if d.Connect != nil {
		return d.Connect(ctx, at)
	}
	var n net.Dialer
	n.SetMultipathTCP(false)
	return n.DialContext(ctx, "tcp", at.String())
}
