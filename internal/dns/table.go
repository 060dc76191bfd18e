package dns

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
)

var (
	// virtual4 is the benchmarking range of RFC 2544, which nobody routes.
	virtual4 = netip.MustParsePrefix("198.18.0.0/15")
	// virtual6 is a unique local prefix (RFC 4193) of our own.
	virtual6 = netip.MustParsePrefix("fd50:6f73:7465::/48")
)

// maxNames bounds a table to a quarter of the range, so that a free address is
// always found soon.
const maxNames = 1 << 15

// ErrTooManyNames is returned when a configuration has more names than a table
// can hold.
var ErrTooManyNames = errors.New("more host names than virtual addresses")

// Table gives names their virtual addresses. An address depends on the name
// alone (and, rarely, on an older name with the same hash), so that it is the
// same after a restart: runtimes keep what they resolved for as long as they
// live. A Table is not changed after NewTable.
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
		a := home(n)
		for t.byAddr[a] != "" {
			a = following(a)
		}
		t.set(n, a)
	}
	return t, nil
}

func (t *Table) set(name string, a netip.Addr) {
	t.byName[name], t.byAddr[a] = a, name
}

// home is where a name's hash puts it; the first and last address are left out.
func home(name string) netip.Addr {
	h := sha256.Sum256([]byte(name))
	return host4(1 + binary.BigEndian.Uint32(h[:])%(1<<17-2))
}

func host4(n uint32) netip.Addr {
	base := virtual4.Addr().As4()
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(base[:])+n)
	return netip.AddrFrom4(b)
}

func following(a netip.Addr) netip.Addr {
	if a = a.Next(); virtual4.Contains(a.Next()) {
		return a
	}
	return host4(1)
}

// Addresses returns the virtual addresses of a name.
func (t *Table) Addresses(name string) (v4, v6 netip.Addr, ok bool) {
	v4, ok = t.byName[name]
	if !ok {
		return v4, v6, false
	}
	b := virtual6.Addr().As16()
	low := v4.As4()
	copy(b[12:], low[:])
	return v4, netip.AddrFrom16(b), true
}

// Name returns the name that has a virtual address.
func (t *Table) Name(a netip.Addr) (string, bool) {
	a = a.Unmap()
	if virtual6.Contains(a) {
		b := a.As16()
		rest := virtual6.Addr().As16()
		if !slices.Equal(b[:12], rest[:12]) {
			return "", false
		}
		a = netip.AddrFrom4([4]byte(b[12:]))
	}
	name, ok := t.byAddr[a]
	return name, ok
}

// Virtual reports whether an address is of a virtual range, known or not.
func Virtual(a netip.Addr) bool {
	a = a.Unmap()
	return virtual4.Contains(a) || virtual6.Contains(a)
}
