package mask

import "net/netip"

// Addresses of networks are found where they may be somebody's: global unicast.
// Private, loopback and link-local ones are everybody's, those of
// documentation nobody's.
var nobodys = func() (list []netip.Prefix) {
	for _, s := range []string{
		"100.64.0.0/10", "192.0.0.0/24", "192.0.2.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4", "0.0.0.0/8",
		"2001:db8::/32", "3fff::/20",
	} {
		list = append(list, netip.MustParsePrefix(s))
	}
	return list
}()

func somebodys(a netip.Addr) bool {
	if !a.IsGlobalUnicast() || a.IsPrivate() {
		return false
	}
	for _, p := range nobodys {
		if p.Contains(a) {
			return false
		}
	}
	return true
}

// ipv4 looks at digits with a dot behind them. What stands in one-digit
// numbers, 1.2.3.4, is rather a version.
func (c *cursor) ipv4(i int) int {
	if i > 0 && (c.v[i-1] == '.' || c.v[i-1] == '-') {
		return 0
	}
	var a [4]byte
	j := i
	for k := range a {
		end := c.run(j, isDigit, 4)
		n := end - j
		if n == 0 || n > 3 || n > 1 && c.v[j] == '0' {
			return 0
		}
		v := num(c.v[j:end])
		if v > 255 || k < 3 && (end >= len(c.v) || c.v[end] != '.') {
			return 0
		}
		a[k] = byte(v)
		j = end + 1
	}
	end := j - 1
	if end-i == 7 || c.is(end, isTokenish) || end+1 < len(c.v) && c.v[end] == '.' && c.is(end+1, isDigit) || !somebodys(netip.AddrFrom4(a)) {
		return 0
	}
	return c.hit(i, end, "ip-address")
}

// ipv6 looks at the first colon of an address. Those in use begin with 2 or 3
// and have four digits before it (RFC 4291, IANA's registry).
func (c *cursor) ipv6(i int) int {
	const longest = 39
	start := i - 4
	if start < 0 || c.v[start] != '2' && c.v[start] != '3' || c.is(start-1, isTokenish) || start > 0 && (c.v[start-1] == ':' || c.v[start-1] == '.') {
		return 0
	}
	end, groups := start, 0
	for end < len(c.v) && end-start <= longest && (c.v[end] == ':' || isHexDigit(c.v[end])) {
		if c.v[end] == ':' {
			groups++
		}
		end++
	}
	for end > start && c.v[end-1] == ':' && c.v[max(end-2, 0)] != ':' {
		end-- // punctuation
		groups--
	}
	if groups < 2 || end-start > longest || c.is(end, isTokenish) {
		return 0
	}
	var text [longest]byte
	n := copy(text[:], c.v[start:end])
	a, err := netip.ParseAddr(string(text[:n]))
	if err != nil || !somebodys(a) {
		return 0
	}
	return c.hit(start, end, "ip-address")
}

func isHexDigit(b byte) bool {
	return class[b]&isHexLower != 0 || b >= 'A' && b <= 'F'
}
