package sandbox

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Addresses of lo besides its own (RFC 5737, RFC 3849: documentation). Without
// an address that is not loopback, getaddrinfo with AI_ADDRCONFIG finds nothing;
// without a route, a UDP connect fails before the kernel programs see it.
var (
	own4 = netip.MustParsePrefix("192.0.2.1/32")
	own6 = netip.MustParsePrefix("2001:db8::1/128")
)

// Loopback sets lo up in the calling thread's network namespace, as the way to
// everywhere, which leads nowhere.
func Loopback() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("lo: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	for _, p := range []netip.Prefix{own4, own6} {
		at := &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
		if err := netlink.AddrAdd(lo, &netlink.Addr{IPNet: at, Flags: unix.IFA_F_NODAD}); err != nil {
			if p.Addr().Is6() {
				return nil //nolint:nilerr // a host without IPv6
			}
			return fmt.Errorf("address %s of lo: %w", p, err)
		}
		everywhere := &net.IPNet{IP: make(net.IP, len(at.IP)), Mask: net.CIDRMask(0, p.Addr().BitLen())}
		if err := netlink.RouteAdd(&netlink.Route{LinkIndex: lo.Attrs().Index, Dst: everywhere}); err != nil {
			return fmt.Errorf("route to everywhere by lo: %w", err)
		}
	}
	return nil
}
