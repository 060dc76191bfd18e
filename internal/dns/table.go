package dns

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
)

var (
	// virtual4 is the benchmarking range of RFC 2544, which nobody routes. One
	// half is for names that are configured, the other for those below wildcards,
	// so that what a new configuration names never takes an address that an agent
	// was told for something else.
	virtual4 = netip.MustParsePrefix("198.18.0.0/15")
	fixed4   = netip.MustParsePrefix("198.18.0.0/16")
	wild4    = netip.MustParsePrefix("198.19.0.0/16")
	// virtual6 is a unique local prefix (RFC 4193) of our own. The last four
	// bytes of an address are the virtual IPv4 address of the same name.
	virtual6 = netip.MustParsePrefix("fd50:6f73:7465::/48")
)

// maxNames bounds a table to a quarter of its range, so that a free address is
// always found soon.
const maxNames = 1 << 14

// ErrTooManyNames is returned when a configuration has more names than a table
// can hold.
var ErrTooManyNames = errors.New("more host names than virtual addresses")

// Table gives the configured names their virtual addresses. An address depends
// on the name alone (and, rarely, on an older name with the same hash), so that
// it is the same after a restart: runtimes keep what they resolved for as long
// as they live. A Table is not changed after NewTable.
type Table struct {
	byName map[string]netip.Addr
	byAddr map[netip.Addr]string
}

// NewTable returns a table for names, in lower case and without a final dot.
// Names that before has too keep their addresses; before may be nil.
func NewTable(names []string, before *Table) (*Table, error) {
	t := &Table{byName: map[string]netip.Addr{}, byAddr: map[netip.Addr]string{}}
	if len(names) > maxNames {
		return nil, ErrTooManyNames
	}
	names = slices.Sorted(slices.Values(names))
	if before != nil {
		for _, n := range names {
			if a, ok := before.byName[n]; ok {
				t.set(n, a)
			}
		}
	}
	for _, n := range names {
		if _, ok := t.byName[n]; ok {
			continue
		}
		a := home(n, fixed4)
		for t.byAddr[a] != "" {
			a = following(a, fixed4)
		}
		t.set(n, a)
	}
	return t, nil
}

func (t *Table) set(name string, a netip.Addr) {
	t.byName[name], t.byAddr[a] = a, name
}

// home is where a name's hash puts it; the first and last address are left out.
func home(name string, in netip.Prefix) netip.Addr {
	h := sha256.Sum256([]byte(name))
	size := uint32(1) << (32 - in.Bits())
	return host4(in, 1+binary.BigEndian.Uint32(h[:])%(size-2))
}

func host4(in netip.Prefix, n uint32) netip.Addr {
	base := in.Addr().As4()
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(base[:])+n)
	return netip.AddrFrom4(b)
}

func following(a netip.Addr, in netip.Prefix) netip.Addr {
	if a = a.Next(); in.Contains(a.Next()) {
		return a
	}
	return host4(in, 1)
}

// Addresses returns the virtual addresses of a name.
func (t *Table) Addresses(name string) (v4, v6 netip.Addr, ok bool) {
	v4, ok = t.byName[name]
	if !ok {
		return v4, v6, false
	}
	return v4, within6(v4), true
}

// Name returns the name that has a virtual address.
func (t *Table) Name(a netip.Addr) (string, bool) {
	name, ok := t.byAddr[within4(a)]
	return name, ok
}

// within6 is the IPv6 address of the name that has the IPv4 address.
func within6(v4 netip.Addr) netip.Addr {
	b := virtual6.Addr().As16()
	low := v4.As4()
	copy(b[12:], low[:])
	return netip.AddrFrom16(b)
}

// within4 is the reverse of within6; other addresses stay what they are.
func within4(a netip.Addr) netip.Addr {
	a = a.Unmap()
	if a.Is4() {
		return a
	}
	b, prefix := a.As16(), virtual6.Addr().As16()
	if !slices.Equal(b[:12], prefix[:12]) {
		return a
	}
	return netip.AddrFrom4([4]byte(b[12:]))
}

// Virtual reports whether an address is of a virtual range, known or not.
func Virtual(a netip.Addr) bool {
	a = a.Unmap()
	return virtual4.Contains(a) || virtual6.Contains(a)
}
