package recording

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"time"
)

// errPayload is deliberately one error: what is wrong with a payload whose hash
// is right matters only to who writes another writer.
var errPayload = errors.New("the payload does not follow the format")

func appendString(dst []byte, s string) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(s)))
	return append(dst, s...)
}

func appendBytes(dst, b []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(b)))
	return append(dst, b...)
}

func appendBool(dst []byte, v bool) []byte {
	if v {
		return append(dst, 1)
	}
	return append(dst, 0)
}

func appendTime(dst []byte, t time.Time) []byte {
	if t.IsZero() {
		return append(dst, 0, 0, 0, 0, 0, 0, 0, 0)
	}
	return binary.BigEndian.AppendUint64(dst, uint64(t.UnixNano()))
}

func appendAddr(dst []byte, a netip.AddrPort) []byte {
	b, err := a.MarshalBinary()
	if err != nil {
		panic(err) // MarshalBinary has no way to fail
	}
	return appendBytes(dst, b)
}

// decoder takes a payload apart. After the first mistake every method returns
// zero, and bad is set.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) fail() {
	d.bad = true
	d.b = nil
}

func (d *decoder) uint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 || (n > 1 && d.b[n-1] == 0) {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) uint32() uint32 {
	v := d.uint()
	if v > 1<<32-1 {
		d.fail()
		return 0
	}
	return uint32(v)
}

func (d *decoder) take(n uint64) []byte {
	if n > uint64(len(d.b)) {
		d.fail()
		return nil
	}
	out := d.b[:n:n]
	d.b = d.b[n:]
	return out
}

func (d *decoder) bytes() []byte  { return d.take(d.uint()) }
func (d *decoder) string() string { return string(d.bytes()) }

func (d *decoder) bool() bool {
	b := d.take(1)
	if len(b) == 1 && b[0] > 1 {
		d.fail()
	}
	return len(b) == 1 && b[0] == 1
}

func (d *decoder) hash() (h Hash) {
	copy(h[:], d.take(hashSize))
	return h
}

func (d *decoder) time() time.Time {
	b := d.take(8)
	if len(b) < 8 {
		return time.Time{}
	}
	ns := int64(binary.BigEndian.Uint64(b))
	if ns == 0 {
		return time.Time{}
	}
	return time.Unix(0, ns).UTC()
}

func (d *decoder) addr() netip.AddrPort {
	var a netip.AddrPort
	b := d.bytes()
	if d.bad || a.UnmarshalBinary(b) != nil {
		d.fail()
		return netip.AddrPort{}
	}
	if again, err := a.MarshalBinary(); err != nil || string(again) != string(b) {
		d.fail()
	}
	return a
}

// list returns how many elements follow, having checked that there is room for
// that many at one byte each.
func (d *decoder) list() int {
	n := d.uint()
	if n > uint64(len(d.b)) {
		d.fail()
		return 0
	}
	return int(n)
}
