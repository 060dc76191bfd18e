package dial

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

// network is a made-up one: how long things take there, and how they end.
type network struct {
	lookups  map[string]answer // by network
	connects map[string]answer // by address

	mu    sync.Mutex
	began time.Time
	log   []string // what was asked and dialled, and when
	open  int      // connections that nobody closed
}

type answer struct {
	after     time.Duration
	addresses []string
	err       error
}

// silent is an answer that never comes.
var silent = answer{after: time.Hour}

func (n *network) note(what string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.log = append(n.log, fmt.Sprintf("%s %dms", what, time.Since(n.began).Milliseconds()))
}

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (n *network) lookup(ctx context.Context, network, host string) ([]netip.Addr, error) {
	a := n.lookups[network]
	if err := wait(ctx, a.after); err != nil {
		return nil, err
	}
	var out []netip.Addr
	for _, s := range a.addresses {
		out = append(out, netip.MustParseAddr(s))
	}
	if a.err == nil && len(out) == 0 {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	return out, a.err
}

// conn is an open connection of the network.
type conn struct {
	net.Conn
	network *network
}

func (c conn) Close() error {
	c.network.mu.Lock()
	defer c.network.mu.Unlock()
	c.network.open--
	return nil
}

func (n *network) connect(ctx context.Context, at netip.AddrPort) (net.Conn, error) {
	n.note(at.Addr().String())
	a := n.connects[at.Addr().String()]
	if err := wait(ctx, a.after); err != nil && a.after != stubborn {
		return nil, err
	}
	if a.err != nil {
		return nil, a.err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.open++
	return conn{nil, n}, nil
}

// stubborn connects are through when they are told to stop.
const stubborn = 2 * time.Hour

const (
	six, six2, four, four2 = "2001:db8::1", "2001:db8::2", "192.0.2.1", "192.0.2.2"
)

// A dead family costs the attempt delay and no more, an absent one nothing, and
// families take turns (RFC 8305).
func TestFamiliesRace(t *testing.T) {
	down := answer{err: syscall.ENETUNREACH}
	soonDown := answer{after: time.Millisecond, err: syscall.ECONNREFUSED} // when both lookups are done
	soon := func(d time.Duration, a ...string) answer { return answer{after: d, addresses: a} }
	for _, c := range []struct {
		name     string
		lookups  map[string]answer
		connects map[string]answer
		won      string
		took     time.Duration
		log      string
	}{
		{"both work", map[string]answer{v4: soon(0, four), v6: soon(0, six)}, nil, six, 0, six + " 0ms"},
		{"IPv6 is slower to be found", map[string]answer{v4: soon(0, four), v6: soon(30*time.Millisecond, six)}, nil, six, 30 * time.Millisecond, six + " 30ms"},
		{"IPv6 is not answered", map[string]answer{v4: soon(0, four), v6: silent}, nil, four, resolutionDelay, four + " 50ms"},
		{"IPv4 is not answered", map[string]answer{v4: silent, v6: soon(0, six)}, nil, six, 0, six + " 0ms"},
		{"there is no IPv6", map[string]answer{v4: soon(0, four)}, nil, four, 0, four + " 0ms"},
		{"no route for IPv6", map[string]answer{v4: soon(0, four), v6: soon(0, six)}, map[string]answer{six: down}, four, 0, six + " 0ms, " + four + " 0ms"},
		{
			"IPv6 is a black hole",
			map[string]answer{v4: soon(0, four), v6: soon(0, six, six2)},
			map[string]answer{six: silent, six2: silent},
			four, attemptDelay, six + " 0ms, " + four + " 250ms",
		},
		{
			"IPv6 is a black hole, and IPv4 is found late",
			map[string]answer{v4: soon(400*time.Millisecond, four), v6: soon(0, six)},
			map[string]answer{six: silent},
			four, 400 * time.Millisecond, six + " 0ms, " + four + " 400ms",
		},
		{
			"families take turns",
			map[string]answer{v4: soon(0, four, four2), v6: soon(0, six, six2)},
			map[string]answer{six: soonDown, four: soonDown, six2: soonDown},
			four2, 3 * time.Millisecond, six + " 0ms, " + four + " 1ms, " + six2 + " 2ms, " + four2 + " 3ms",
		},
		{
			"the loser connects too",
			map[string]answer{v4: soon(0, four), v6: soon(0, six)},
			map[string]answer{six: {after: stubborn}},
			four, attemptDelay, six + " 0ms, " + four + " 250ms",
		},
		{"nothing works", map[string]answer{v4: soon(0, four), v6: soon(0, six)}, map[string]answer{six: down, four: down}, "", 0, six + " 0ms, " + four + " 0ms"},
		{"nothing is found", nil, nil, "", 0, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := &network{lookups: c.lookups, connects: c.connects, began: time.Now()}
				d := &Dialer{Lookup: n.lookup, Connect: n.connect}
				at, conn, err := d.Dial(t.Context(), "db.example", 5432, Forbidden)
				took := time.Since(n.began)
				if c.won == "" {
					if err == nil || conn != nil {
						t.Error("connected to", at)
					}
				} else if err != nil || at != netip.AddrPortFrom(netip.MustParseAddr(c.won), 5432) {
					t.Fatal("connected to", at, err)
				}
				if got := strings.Join(n.log, ", "); got != c.log || took != c.took {
					t.Errorf("after %s: %s; want after %s: %s", took, got, c.took, c.log)
				}
				if conn != nil && n.open != 1 || conn == nil && n.open != 0 {
					t.Errorf("%d connections are open", n.open)
				}
			})
		})
	}
}

// The dial ends with its context, whatever is still out.
func TestDialEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{lookups: map[string]answer{v6: {addresses: []string{six}}, v4: silent}, connects: map[string]answer{six: silent}, began: time.Now()}
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		d := &Dialer{Lookup: n.lookup, Connect: n.connect}
		if _, _, err := d.Dial(ctx, "db.example", 5432, Forbidden); !errors.Is(err, context.DeadlineExceeded) || time.Since(n.began) != 3*time.Second {
			t.Errorf("after %s: %v", time.Since(n.began), err)
		}
	})
}

// What is dialled is an address that was checked, of one lookup: a name that
// has another answer the next time (rebinding) is not asked a next time.
func TestTheAddressCheckedIsTheOneDialled(t *testing.T) {
	asked := map[string]int{}
	var mu sync.Mutex
	var dialled []string
	d := &Dialer{
		Lookup: func(_ context.Context, network, _ string) ([]netip.Addr, error) {
			mu.Lock()
			defer mu.Unlock()
			asked[network]++
			if network == v6 {
				return []netip.Addr{netip.MustParseAddr("::ffff:169.254.169.254"), netip.MustParseAddr("64:ff9b::7f00:1")}, nil
			}
			if asked[network] > 1 {
				return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
			}
			return []netip.Addr{netip.MustParseAddr("127.0.0.2"), netip.MustParseAddr(four)}, nil
		},
		Connect: func(_ context.Context, at netip.AddrPort) (net.Conn, error) {
			mu.Lock()
			defer mu.Unlock()
			dialled = append(dialled, at.String())
			return nil, syscall.ECONNREFUSED
		},
	}
	_, _, err := d.Dial(t.Context(), "db.example", 5432, Forbidden)
	if len(dialled) != 1 || dialled[0] != four+":5432" || asked[v4] != 1 || asked[v6] != 1 {
		t.Errorf("dialled %v after asking %v", dialled, asked)
	}
	for _, want := range []string{"db.example resolves to 127.0.0.2, which is loopback", "169.254.169.254, which is link-local or cloud metadata", "another form of 127.0.0.1", "connection refused"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %v", want, err)
		}
	}
	dialled = nil
	if _, _, err := d.Dial(t.Context(), "127.0.0.1", 5432, Forbidden); err == nil || len(dialled) != 0 {
		t.Error("a forbidden address is dialled:", dialled)
	}
}

// A name has many addresses: only so many are tried.
func TestNumberOfAddresses(t *testing.T) {
	var many []netip.Addr
	for i := range 100 {
		many = append(many, netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}))
	}
	dialled := 0
	d := &Dialer{
		Lookup: func(_ context.Context, network, _ string) ([]netip.Addr, error) {
			if network == v6 {
				return nil, errors.New("none")
			}
			return many, nil
		},
		Connect: func(context.Context, netip.AddrPort) (net.Conn, error) {
			dialled++ // one after the other: each fails at once
			return nil, syscall.ECONNREFUSED
		},
	}
	if _, _, err := d.Dial(t.Context(), "db.example", 1, Forbidden); err == nil || dialled != maxAddresses {
		t.Errorf("%d attempts, %v", dialled, err)
	}
}

// upstream is a name server on loopback that notes what it is asked.
func upstream(t *testing.T, answer func(q dns.Question) []string) (resolver *net.Resolver, asked func() []string) {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var names []string
	s := &dns.Server{PacketConn: c, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		mu.Lock()
		names = append(names, q.Question[0].Name+" "+dns.TypeToString[q.Question[0].Qtype])
		mu.Unlock()
		a := new(dns.Msg)
		a.SetReply(q)
		found := answer(q.Question[0])
		if found == nil {
			a.Rcode = dns.RcodeNameError
		}
		for _, text := range found {
			if rr, err := dns.NewRR(q.Question[0].Name + " 60 IN " + text); err == nil {
				a.Answer = append(a.Answer, rr)
			}
		}
		w.WriteMsg(a)
	})}
	done := make(chan struct{})
	go func() { defer close(done); s.ActivateAndServe() }()
	t.Cleanup(func() { s.Shutdown(); <-done })
	r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "udp", c.LocalAddr().String())
	}}
	return r, func() []string { mu.Lock(); defer mu.Unlock(); return slices.Sorted(slices.Values(names)) }
}

// A name with a dot is asked for as it is, in both families, and nothing is
// hung onto it although it does not exist; CNAMEs are followed.
func TestNamesAreAbsolute(t *testing.T) {
	r, asked := upstream(t, func(q dns.Question) []string {
		switch {
		case q.Name == "db.example." && q.Qtype == dns.TypeA:
			return []string{"CNAME real.example."}
		case q.Name == "db.example.":
			return []string{"AAAA 2001:db8::7"}
		case q.Name == "real.example." && q.Qtype == dns.TypeA:
			return []string{"A 192.0.2.7"}
		}
		return nil
	})
	d := &Dialer{Lookup: r.LookupNetIP}
	six, err := d.Resolve(t.Context(), "db.example", true, Forbidden)
	if err != nil || len(six) != 1 || six[0].String() != "2001:db8::7" {
		t.Error(six, err)
	}
	if _, err := d.Resolve(t.Context(), "not.there", false, Forbidden); !notFound(err) {
		t.Error(err)
	}
	if got := fmt.Sprint(asked()); got != "[db.example. AAAA not.there. A]" {
		t.Error("asked for", got)
	}
}

func notFound(err error) bool {
	var d *net.DNSError
	return errors.As(err, &d) && d.IsNotFound
}

// Addresses that are not allowed are left out; when no other is there, it is
// said why.
func TestResolve(t *testing.T) {
	n := &network{lookups: map[string]answer{
		v4: {addresses: []string{"10.0.0.1", "127.0.0.1", "::ffff:10.0.0.2"}}, v6: {addresses: []string{"fe80::1"}},
	}}
	d := &Dialer{Lookup: n.lookup}
	found, err := d.Resolve(t.Context(), "db.example", false, Forbidden)
	if err != nil || fmt.Sprint(found) != "[10.0.0.1 10.0.0.2]" {
		t.Error(found, err)
	}
	found, err = d.Resolve(t.Context(), "db.example", true, Forbidden)
	if !errors.Is(err, ErrForbidden) || !strings.Contains(err.Error(), "which is link-local") || len(found) > 0 {
		t.Error(found, err)
	}
}
