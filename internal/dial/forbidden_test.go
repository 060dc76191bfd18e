package dial

import (
	"net/netip"
	"strings"
	"testing"
)

// Whoever controls a name must not lead the gateway to the host itself, to its
// cloud's metadata or to nowhere, in whatever form.
func TestForbidden(t *testing.T) {
	for address, why := range map[string]string{
		"127.0.0.1": loopback, "127.255.255.254": loopback, "::1": loopback, "::ffff:127.0.0.1": loopback,
		"0.0.0.0": noHost, "0.1.2.3": noHost, "::": noHost, "::ffff:0.0.0.0": noHost,
		"224.0.0.1": noHost, "239.255.255.255": noHost, "ff02::1": noHost, "ff0e::1": noHost, "255.255.255.255": noHost,
		"169.254.169.254": metadata, "169.254.0.1": metadata, "::ffff:169.254.169.254": metadata, "fe80::1": metadata, "febf::1": metadata,
		"fec0::1": metadata, "fe80::1%eth0": metadata, "2001:db8::1%eth0": metadata,
		"fd00:ec2::254": metadata, "fd00:ec2::23": metadata, "fd20:ce::254": metadata,
		"100.100.100.200": metadata, "192.0.0.192": metadata, "168.63.129.16": metadata,
		"198.18.0.1": virtual, "198.19.255.255": virtual, "fd50:6f73:7465::1": virtual,
		"64:ff9b::127.0.0.1": loopback, "64:ff9b::169.254.169.254": metadata, "64:ff9b::0.0.0.0": noHost, "64:ff9b:1::169.254.169.254": metadata,
		"2002:7f00:1::1": loopback, "2002:a9fe:a9fe::": metadata, "2002:0:0::": noHost, "2002:e000:1::": noHost,
		"2001:0:7f00:1::": loopback, "2001:0:c000:201:0:0:8000:fffe": loopback, // Teredo: 127.0.0.1 as server, then as client
		"::127.0.0.1": loopback, "::169.254.169.254": metadata, "::ffff:0:127.0.0.1": loopback,
		"2001:db8::5efe:7f00:1": loopback, "2001:db8::200:5efe:a9fe:a9fe": metadata, // ISATAP
	} {
		if got := Forbidden(netip.MustParseAddr(address)); !strings.Contains(got, why) {
			t.Errorf("%s: %q, want %q", address, got, why)
		}
	}
	for _, address := range []string{
		"10.0.0.1", "172.16.0.1", "192.168.1.1", "192.0.2.1", "8.8.8.8", "100.64.0.1", "::ffff:10.0.0.1", "2001:db8::1", "fd00::1", "fd50:6f73:7466::1",
		"64:ff9b::10.0.0.1", "64:ff9b:1::8.8.8.8", "2002:808:808::1", "2001:0:c000:201:0:0:f7f7:f7f7", "2001:db8::5efe:a00:1", "198.17.255.255", "198.20.0.0",
		"2600:1f14::127.0.0.1", // the low bits of an ordinary address mean nothing
	} {
		if why := Forbidden(netip.MustParseAddr(address)); why != "" {
			t.Errorf("%s is forbidden: %s", address, why)
		}
	}
}

// An address that embeds another one is never better than that one, and the
// check does not depend on how an address is written.
func FuzzForbidden(f *testing.F) {
	for _, s := range []string{"127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::1", "::ffff:169.254.169.254", "2001:db8::1"} {
		a := netip.MustParseAddr(s).As16()
		f.Add(a[:])
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if len(raw) != 16 {
			return
		}
		b := [16]byte(raw)
		a := netip.AddrFrom16(b)
		why := Forbidden(a)
		if why != Forbidden(a.Unmap()) {
			t.Errorf("%s depends on its form", a)
		}
		inner := netip.AddrFrom4([4]byte(b[12:]))
		for _, prefix := range []string{"64:ff9b::", "::ffff:0:0", "64:ff9b:1::"} {
			p := netip.MustParseAddr(prefix).As16()
			copy(p[12:], b[12:])
			if outer := netip.AddrFrom16(p); Forbidden(inner) != "" && Forbidden(outer) == "" {
				t.Errorf("%s is forbidden, %s is not", inner, outer)
			}
		}
		p := [16]byte{0x20, 0x02}
		copy(p[2:], b[12:])
		if outer := netip.AddrFrom16(p); Forbidden(inner) != "" && Forbidden(outer) == "" {
			t.Errorf("%s is forbidden, %s is not", inner, outer)
		}
	})
}
