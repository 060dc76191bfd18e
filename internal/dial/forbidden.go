package dial

import "net/netip"

// nowhere are ranges that no upstream has an address in, and that a name which
// somebody else controls must not lead the gateway to.
var nowhere = []struct {
	prefix netip.Prefix
	what   string
}{
	{netip.MustParsePrefix("127.0.0.0/8"), loopback},
	{netip.MustParsePrefix("::1/128"), loopback},
	{netip.MustParsePrefix("0.0.0.0/8"), noHost}, // RFC 1122: this network; Linux takes 0.0.0.0 for itself
	{netip.MustParsePrefix("::/128"), noHost},
	{netip.MustParsePrefix("224.0.0.0/4"), noHost},
	{netip.MustParsePrefix("ff00::/8"), noHost},
	{netip.MustParsePrefix("255.255.255.255/32"), noHost},
	{netip.MustParsePrefix("169.254.0.0/16"), metadata}, // RFC 3927; 169.254.169.254 and its like
	{netip.MustParsePrefix("fe80::/10"), metadata},
	{netip.MustParsePrefix("fec0::/10"), metadata},          // site-local, deprecated by RFC 3879
	{netip.MustParsePrefix("fd00:ec2::/64"), metadata},      // AWS over IPv6
	{netip.MustParsePrefix("fd20:ce::254/128"), metadata},   // Google over IPv6
	{netip.MustParsePrefix("100.100.100.200/32"), metadata}, // Alibaba
	{netip.MustParsePrefix("192.0.0.192/32"), metadata},     // Oracle
	{netip.MustParsePrefix("168.63.129.16/32"), metadata},   // Azure's host agent
	{netip.MustParsePrefix("198.18.0.0/15"), virtual},       // as internal/dns gives them out
	{netip.MustParsePrefix("fd50:6f73:7465::/48"), virtual},
}

const (
	loopback = "loopback"
	noHost   = "no host's address"
	metadata = "link-local or cloud metadata"
	virtual  = "a virtual address of Postern's own"
)

// embedding are the ranges of IPv6 that carry an IPv4 address, to which a
// translator or tunnel on the way takes the packet, and where in it that is.
var embedding = []struct {
	prefix netip.Prefix
	at     int
	flip   byte
}{
	{netip.MustParsePrefix("::/96"), 12, 0},            // IPv4-compatible, deprecated by RFC 4291
	{netip.MustParsePrefix("::ffff:0:0:0/96"), 12, 0},  // IPv4-translated, RFC 2765
	{netip.MustParsePrefix("64:ff9b::/96"), 12, 0},     // NAT64, RFC 6052
	{netip.MustParsePrefix("64:ff9b:1::/48"), 12, 0},   // NAT64 of one's own, RFC 8215, as /96
	{netip.MustParsePrefix("2002::/16"), 2, 0},         // 6to4, RFC 3056
	{netip.MustParsePrefix("2001:0000::/32"), 4, 0},    // Teredo's server, RFC 4380
	{netip.MustParsePrefix("2001:0000::/32"), 12, 255}, // Teredo's client, its bits inverted
}

// Forbidden says why an address that a name resolved to may not be dialled, so
// that whoever controls a name cannot point the gateway at the host itself or
// at its cloud's metadata. It is empty when it may.
func Forbidden(a netip.Addr) string {
	if a.Zone() != "" {
		return metadata // only link-local addresses have a zone that means anything
	}
	a = a.Unmap()
	for _, n := range nowhere {
		if n.prefix.Contains(a) {
			return n.what
		}
	}
	if a.Is4() {
		return ""
	}
	b := a.As16()
	if b[8]&^2 == 0 && b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe { // ISATAP, RFC 5214, in any prefix
		if why := embedded([4]byte(b[12:])); why != "" {
			return why
		}
	}
	for _, e := range embedding {
		if !e.prefix.Contains(a) {
			continue
		}
		inner := [4]byte(b[e.at:])
		for i := range inner {
			inner[i] ^= e.flip
		}
		if why := embedded(inner); why != "" {
			return why
		}
	}
	return ""
}

func embedded(b [4]byte) string {
	inner := netip.AddrFrom4(b)
	if why := Forbidden(inner); why != "" {
		return "another form of " + inner.String() + ", " + why
	}
	return ""
}
