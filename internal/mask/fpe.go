package mask

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"math/bits"
)

// FF1 of NIST SP 800-38G: numbers of a fixed number of numerals are encrypted to
// numbers of as many. Radix and length are such that both halves fit 60 bits.

const ff1Rounds = 10

type ff1 struct {
	block cipher.Block
	radix uint64
	tweak []byte
}

// halves splits n numerals as FF1 does, with the moduli of both.
func (f *ff1) halves(n int) (u, v int, mu, mv uint64) {
	u, v = n/2, n-n/2
	return u, v, power(f.radix, u), power(f.radix, v)
}

func power(base uint64, n int) uint64 {
	p := uint64(1)
	for range n {
		p *= base
	}
	return p
}

// encrypt takes a number below radix^n as its halves, the first of which has n/2
// numerals.
func (f *ff1) encrypt(a, b uint64, n int) (uint64, uint64) {
	_, _, mu, mv := f.halves(n)
	for i := range ff1Rounds {
		m := mu
		if i%2 == 1 {
			m = mv
		}
		a, b = b, (a+f.round(i, b, n, m))%m
	}
	return a, b
}

func (f *ff1) decrypt(a, b uint64, n int) (uint64, uint64) {
	_, _, mu, mv := f.halves(n)
	for i := ff1Rounds - 1; i >= 0; i-- {
		m := mu
		if i%2 == 1 {
			m = mv
		}
		a, b = (b+m-f.round(i, a, n, m))%m, a
	}
	return a, b
}

// round is y modulo m of one round.
func (f *ff1) round(i int, half uint64, n int, m uint64) uint64 {
	u, v, _, mv := f.halves(n)
	bytes := (bits.Len64(mv-1) + 7) / 8
	head := [aes.BlockSize]byte{1, 2, 1, 0, 0, byte(f.radix), ff1Rounds, byte(u)}
	binary.BigEndian.PutUint32(head[8:], uint32(u+v))
	binary.BigEndian.PutUint32(head[12:], uint32(len(f.tweak)))
	q := append([]byte(nil), f.tweak...)
	for len(q)%aes.BlockSize != aes.BlockSize-bytes-1 {
		q = append(q, 0)
	}
	q = append(q, byte(i))
	var num [8]byte
	binary.BigEndian.PutUint64(num[:], half)
	q = append(q, num[8-bytes:]...)

	r := head
	f.block.Encrypt(r[:], r[:])
	for ; len(q) > 0; q = q[aes.BlockSize:] {
		for j := range r {
			r[j] ^= q[j]
		}
		f.block.Encrypt(r[:], r[:])
	}
	y := uint64(0)
	for _, b := range r[:4*((bytes+3)/4)+4] {
		hi, lo := bits.Mul64(y, 256)
		lo, carry := bits.Add64(lo, uint64(b), 0)
		_, y = bits.Div64(hi+carry, lo, m)
	}
	return y
}
