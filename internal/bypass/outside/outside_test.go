package outside

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// host is a network namespace that stands for a host's.
func host(t *testing.T) *os.File {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root, to make network namespaces")
	}
	var ns *os.File
	err := onOwnThread(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		ns, err = os.Open("/proc/thread-self/ns/net")
		return errors.Join(err, configure("lo"))
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	return ns
}

func connect(t *testing.T, o Options) *Outside {
	t.Helper()
	out, err := Connect(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { out.Close() })
	return out
}

func frames(t *testing.T, o *Outside) []string {
	t.Helper()
	found, err := o.Frames()
	if err != nil {
		t.Fatal(err)
	}
	var text []string
	for _, f := range found {
		text = append(text, f.What)
	}
	return text
}

// TestServerAndSniffer: what reaches the outside is answered and heard, by
// every protocol, and nothing is heard when nobody speaks.
func TestServerAndSniffer(t *testing.T) {
	out := connect(t, Options{Near: host(t)})
	server, err := out.Serve("banner")
	if err != nil {
		t.Fatal(err)
	}
	if found := frames(t, out); len(found) > 0 {
		t.Fatalf("heard %q while nobody spoke", found)
	}
	other4, other6 := Address(addresses - 1)
	for _, to := range []netip.Addr{Far4, Far6, other4, other6} {
		for _, network := range []string{"tcp", "udp"} {
			var got []byte
			err := out.InNear(func() error {
				conn, err := net.DialTimeout(network, netip.AddrPortFrom(to, 443).String(), time.Second)
				if err != nil {
					return err
				}
				defer conn.Close()
				conn.SetDeadline(time.Now().Add(time.Second))
				if network == "udp" {
					conn.Write([]byte("x"))
				}
				got = make([]byte, 6)
				_, err = io.ReadFull(conn, got)
				return err
			})
			if err != nil || string(got) != "banner" {
				t.Errorf("%s to %s: %q, %v", network, to, got, err)
			}
			found := strings.Join(frames(t, out), "\n")
			if !strings.Contains(found, strings.ToUpper(network)) || !strings.Contains(found, netip.AddrPortFrom(to, 443).String()) {
				t.Errorf("%s to %s was not heard: %q", network, to, found)
			}
			if visits := server.Visits(); len(visits) != 1 || !strings.HasPrefix(visits[0], network) {
				t.Errorf("%s to %s: visits %q", network, to, visits)
			}
		}
	}
}

// TestDial: from outside, a server on the host answers, a closed port does not,
// and the host's refusal is no frame that an agent sent.
func TestDial(t *testing.T) {
	out := connect(t, Options{Near: host(t)})
	_, port, err := out.ServeNear("here")
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []netip.Addr{Near4, Near6} {
		for _, network := range []string{"tcp", "udp"} {
			if !out.Dial(network, netip.AddrPortFrom(at, port)) {
				t.Errorf("%s: no answer from a server at %s", network, at)
			}
			if found := frames(t, out); len(found) == 0 {
				t.Errorf("%s: the answer from %s was not heard", network, at)
			}
			if out.Dial(network, netip.AddrPortFrom(at, 7)) {
				t.Errorf("%s: an answer from nobody at %s", network, at)
			}
			if found := frames(t, out); len(found) > 0 {
				t.Errorf("%s: a refusal was taken for traffic: %q", network, found)
			}
		}
	}
}

// TestAddressesInUse: a host that has the addresses keeps them.
func TestAddressesInUse(t *testing.T) {
	for name, use := range map[string]func(lo netlink.Link) error{
		"address": func(lo netlink.Link) error {
			return netlink.AddrAdd(lo, &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix("203.0.113.77/32"))})
		},
		"route": func(lo netlink.Link) error {
			return netlink.RouteAdd(&netlink.Route{LinkIndex: lo.Attrs().Index, Dst: ipNet(netip.MustParsePrefix("2001:db8:706f:7374::/80"))})
		},
	} {
		ns := host(t)
		err := in(ns, func() error {
			lo, err := netlink.LinkByName("lo")
			if err != nil {
				return err
			}
			return use(lo)
		})
		if err != nil {
			t.Fatal(err)
		}
		out, err := Connect(Options{Near: ns})
		if err == nil {
			out.Close()
			t.Errorf("%s: connected although it is in use", name)
		}
	}
	// A wider route, as VPNs have, is not in the way.
	ns := host(t)
	err := in(ns, func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{LinkIndex: lo.Attrs().Index, Dst: ipNet(netip.MustParsePrefix("128.0.0.0/1"))})
	})
	if err != nil {
		t.Fatal(err)
	}
	connect(t, Options{Near: ns})
}

// TestNothingIsLeft: Close takes away the cable and the routes.
func TestNothingIsLeft(t *testing.T) {
	ns := host(t)
	out := connect(t, Options{Near: ns})
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	err := in(ns, func() error {
		links, err := netlink.LinkList()
		if err != nil {
			return err
		}
		for _, l := range links {
			if l.Attrs().Name != "lo" {
				t.Errorf("%s is left", l.Attrs().Name)
			}
		}
		return inUse()
	})
	if err != nil {
		t.Error(err)
	}
}
