// Package outside makes a place where a hole would lead: a network namespace at
// the other end of a cable, with servers and a sniffer in it. Nothing of it
// touches a real network: the addresses are those of documentation (RFC 5737,
// RFC 3849), and the cable ends in the namespace.
//
// What it leaves to others: what may arrive there. Start reading at Connect.
package outside

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The two ends of the cable: near is the host, where agents and gateway are.
var (
	Near4 = netip.MustParseAddr("203.0.113.1")
	Far4  = netip.MustParseAddr("203.0.113.2")
	Near6 = netip.MustParseAddr("2001:db8:706f:7374::1")
	Far6  = netip.MustParseAddr("2001:db8:706f:7374::2")
)

// Device is the near end's name, farDevice that of the other.
const (
	Device    = "postern-out"
	farDevice = "postern-far"
)

// deviceIndex is a number that the far end does not have in its namespace: a
// cable whose ends have one number gets its carrier a second later (kernel,
// net/core/link_watch.c, linkwatch_urgent_event).
const deviceIndex = 7374

// prefixes lead to the far end: the documentation addresses, and what they are
// behind NAT64 (RFC 6052) and 6to4 (RFC 3056).
var prefixes = []netip.Prefix{
	netip.MustParsePrefix("203.0.113.0/24"),
	netip.MustParsePrefix("2001:db8:706f:7374::/64"),
	netip.MustParsePrefix("64:ff9b::203.0.113.0/120"),
	netip.MustParsePrefix("2002:cb00:7100::/40"),
}

// own are the far end's addresses besides those of the cable.
var own = []netip.Prefix{
	netip.MustParsePrefix("203.0.113.128/25"),
	netip.MustParsePrefix("2001:db8:706f:7374:1::/80"),
	prefixes[2], prefixes[3],
}

// linkBits are the lengths of the cable's own two networks.
const linkBits4, linkBits6 = 30, 126

// Options of Connect.
type Options struct {
	// Near is the network namespace of the near end; nil is the caller's.
	Near *os.File
	// Everything routes all addresses to the outside. For a network of one's own
	// only: a host would lose its own routes.
	Everything bool
}

// Outside is the far end. Safe for use by several goroutines, but Frames is
// asked by one.
type Outside struct {
	options Options
	far     *os.File
	sniffer int

	closing sync.Once
	servers []*Server

	mu     sync.Mutex
	dialed map[netip.AddrPort]bool // near addresses that Dial called since the last Frames
}

// Connect lays the cable. It refuses where the addresses are in use. The caller
// closes it.
func Connect(o Options) (*Outside, error) {
	out := &Outside{options: o, sniffer: -1, dialed: map[netip.AddrPort]bool{}}
	err := onOwnThread(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		out.far, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("make a network namespace: %w", err)
	}
	if err := out.connect(); err != nil {
		out.Close() //nolint:errcheck // the first error is the one to tell
		return nil, err
	}
	return out, nil
}

func (o *Outside) connect() error {
	if err := o.InNear(o.near); err != nil {
		return err
	}
	err := o.InFar(func() (err error) {
		if err := errors.Join(configure("lo"), configure(farDevice, Far4, Far6), manyAddresses()); err != nil {
			return err
		}
		o.sniffer, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, int(htons(unix.ETH_P_ALL)))
		return err
	})
	if err != nil {
		return fmt.Errorf("outside: %w", err)
	}
	return o.settle()
}

// manyAddresses gives the far end all of own.
func manyAddresses() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	for _, p := range own {
		r := &netlink.Route{
			Dst: ipNet(p), LinkIndex: lo.Attrs().Index, Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST, Table: unix.RT_TABLE_LOCAL,
		}
		if err := netlink.RouteAdd(r); err != nil {
			return fmt.Errorf("take %s: %w", p, err)
		}
	}
	return nil
}

// addresses is how many Address has of each family.
const addresses = 100

// Address is the far end's n-th besides Far4 and Far6: the gateway remembers
// what became of a destination, so who asks twice asks for another.
func Address(n int) (v4, v6 netip.Addr) {
	a, b := own[0].Addr().As4(), own[1].Addr().As16()
	a[3] += byte(n % addresses)
	b[15] += byte(n % addresses)
	return netip.AddrFrom4(a), netip.AddrFrom16(b)
}

// settle waits until the cable carries both families: the kernel notices a
// carrier in its own time, and IPv6 waits for it.
func (o *Outside) settle() error {
	deadline := time.Now().Add(snifferTimeout)
	for _, to := range []netip.Addr{Far4, Far6} {
		for heard := false; !heard; {
			marker := newMarker()
			err := o.InNear(func() error { return mark(to, marker) })
			if err == nil {
				_, heard, err = o.until(marker, settlePause)
			}
			if !heard && time.Now().After(deadline) {
				return fmt.Errorf("nothing that is sent to %s arrives outside (%w): does a firewall of this host hold it?", to, err)
			}
		}
	}
	return nil
}

// near lays the near end and the routes, in the near namespace.
func (o *Outside) near() error {
	if err := inUse(); err != nil {
		return err
	}
	veth := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: Device, Index: deviceIndex}, PeerName: farDevice, PeerNamespace: netlink.NsFd(int(o.far.Fd())),
	}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("lay a cable to a namespace (veth): %w", err)
	}
	if o.options.Everything {
		if err := configure("lo"); err != nil {
			return err
		}
	}
	if err := configure(Device, Near4, Near6); err != nil {
		return err
	}
	routes := prefixes
	if o.options.Everything {
		routes = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
	}
	for _, p := range routes {
		to := Far4
		if p.Addr().Is6() {
			to = Far6
		}
		if err := netlink.RouteAdd(&netlink.Route{Dst: ipNet(p), Gw: to.AsSlice()}); err != nil {
			return fmt.Errorf("route %s outside: %w", p, err)
		}
	}
	return o.routed()
}

// routed makes sure that policy routing does not lead elsewhere.
func (o *Outside) routed() error {
	link, err := netlink.LinkByName(Device)
	if err != nil {
		return err
	}
	for _, to := range []netip.Addr{Far4, Far6} {
		routes, err := netlink.RouteGet(to.AsSlice())
		if err != nil {
			return fmt.Errorf("find the route to %s: %w", to, err)
		}
		for _, r := range routes {
			if r.LinkIndex != link.Attrs().Index {
				return fmt.Errorf("packets to %s take another way than %s: a rule of policy routing (`ip rule`) comes first", to, Device)
			}
		}
	}
	return nil
}

// inUse refuses when the network has an address or a route within what is to
// lead outside. A wider route is none of these: it is only the longest that
// counts.
func inUse() error {
	within := func(n *net.IPNet) bool {
		if n == nil {
			return false
		}
		ip, ok := netip.AddrFromSlice(n.IP)
		bits, _ := n.Mask.Size()
		return ok && slices.ContainsFunc(prefixes, func(p netip.Prefix) bool {
			return p.Contains(ip.Unmap()) && bits >= p.Bits()
		})
	}
	addresses, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list the addresses: %w", err)
	}
	for _, a := range addresses {
		if within(a.IPNet) {
			return fmt.Errorf("%s is an address of this host: the test needs %s and %s for itself", a.IPNet, prefixes[0], prefixes[1])
		}
	}
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return fmt.Errorf("list the routes: %w", err)
	}
	for _, r := range routes {
		if within(r.Dst) {
			return fmt.Errorf("this host has a route to %s: the test needs %s and %s for itself", r.Dst, prefixes[0], prefixes[1])
		}
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func configure(name string, addrs ...netip.Addr) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	for _, a := range addrs {
		bits := linkBits4
		if a.Is6() {
			bits = linkBits6
		}
		at := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(a, bits)), Flags: unix.IFA_F_NODAD}
		if err := netlink.AddrAdd(l, at); err != nil {
			return fmt.Errorf("%s %s: %w", name, a, err)
		}
	}
	return netlink.LinkSetUp(l)
}

// InFar runs f in the far namespace, and InNear in the near one. Sockets and
// processes that f makes stay there.
func (o *Outside) InFar(f func() error) error { return in(o.far, f) }

// InNear is InFar for the near end.
func (o *Outside) InNear(f func() error) error {
	if o.options.Near == nil {
		return f()
	}
	return in(o.options.Near, f)
}

func in(ns *os.File, f func() error) error {
	return onOwnThread(func() error {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter a network namespace: %w", err)
		}
		return f()
	})
}

// onOwnThread runs f on a thread that may change its network namespace. The
// thread goes back to where it was, if it can, and lives on: processes that it
// started with a signal for their parent's death would die with it.
func onOwnThread(f func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread()
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			runtime.UnlockOSThread()
			result <- err
			return
		}
		defer home.Close()
		err = f()
		if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		result <- err
	}()
	return <-result
}

// Close ends the servers and takes the cable away.
func (o *Outside) Close() (err error) {
	o.closing.Do(func() {
		for _, s := range o.servers {
			s.Close()
		}
		if o.sniffer >= 0 {
			unix.Close(o.sniffer)
		}
		err = o.InNear(func() error {
			l, err := netlink.LinkByName(Device)
			var missing netlink.LinkNotFoundError
			if errors.As(err, &missing) {
				return nil
			}
			if err != nil {
				return err
			}
			return netlink.LinkDel(l)
		})
		o.far.Close()
	})
	return err
}

// Everything says whether all addresses lead outside.
func (o *Outside) Everything() bool { return o.options.Everything }
