package mask

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"encoding/binary"
	"encoding/hex"
	"hash"
	"slices"
	"strconv"
)

// Pseudonyms can be read back by who has the key, so that an agent may name a
// person that it knows by pseudonym only. Texts are encrypted with their own
// authentication tag as the nonce (as in RFC 5297): equal values give equal
// pseudonyms, and what nobody made is no pseudonym. Digits, numbers and UUIDs
// have no room for a tag: there every value is the pseudonym of some other.

const (
	// maxReversible is the longest text, in bytes, that its pseudonym holds.
	// Longer ones have a pseudonym that cannot be read back.
	maxReversible = 256
	tagBytes      = 10
	// padBytes hides the length of a text up to the next multiple.
	padBytes = 8
	// The digits of a text that stay digits: fewer would be guessed, more do not
	// fit the halves of FF1.
	minDigits, maxDigits = 8, 36
	mailDomain           = "@example.com"
	pseudonymPrefix      = "p_"
)

// pseudoEncoding has lower case letters and digits only.
var pseudoEncoding = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

// pseudonyms makes and reads the pseudonyms of one key.
type pseudonyms struct {
	mac   hash.Hash
	block cipher.Block
	sum   [sha256.Size]byte
}

func newPseudonyms(key []byte) *pseudonyms {
	sub := func(purpose string) []byte {
		m := hmac.New(sha256.New, key)
		m.Write([]byte(purpose))
		return m.Sum(nil)
	}
	block, err := aes.NewCipher(sub("pseudonym cipher"))
	if err != nil {
		panic(err) // the length of a hash is a length of keys
	}
	return &pseudonyms{mac: hmac.New(sha256.New, sub("pseudonym tag")), block: block}
}

// tag authenticates a value. It is valid until the next call.
func (p *pseudonyms) tag(value []byte) []byte {
	p.mac.Reset()
	p.mac.Write(value)
	return p.mac.Sum(p.sum[:0])[:tagBytes]
}

// seal appends the tag, and the encrypted value unless it is too long.
func (p *pseudonyms) seal(dst, value []byte) []byte {
	dst = append(dst, p.tag(value)...)
	if len(value) > maxReversible {
		return dst
	}
	at := len(dst)
	dst = append(append(dst, value...), 0x80)
	for (len(dst)-at)%padBytes != 0 {
		dst = append(dst, 0)
	}
	p.crypt(dst[at-tagBytes:at], dst[at:])
	return dst
}

func (p *pseudonyms) crypt(tag, b []byte) {
	var nonce [aes.BlockSize]byte
	copy(nonce[:], tag)
	cipher.NewCTR(p.block, nonce[:]).XORKeyStream(b, b)
}

// open returns the value of what seal made.
func (p *pseudonyms) open(sealed []byte) (value []byte, ok bool) {
	if len(sealed) <= tagBytes || len(sealed) > tagBytes+maxReversible+padBytes {
		return nil, false
	}
	value = bytes.Clone(sealed[tagBytes:])
	p.crypt(sealed[:tagBytes], value)
	value = bytes.TrimRight(value, "\x00")
	if !bytes.HasSuffix(value, []byte{0x80}) {
		return nil, false
	}
	value = value[:len(value)-1]
	return value, subtle.ConstantTimeCompare(p.tag(value), sealed[:tagBytes]) == 1
}

// appendText keeps what kind of text it is: an e-mail address, a long row of
// digits, or any.
func (p *pseudonyms) appendText(dst, value []byte) []byte {
	if len(value) >= minDigits && len(value) <= maxDigits && allDigits(value) {
		return p.appendDigits(dst, value, true)
	}
	dst = append(dst, pseudonymPrefix...)
	dst = pseudoEncoding.AppendEncode(dst, p.seal(nil, value))
	if at := bytes.LastIndexByte(value, '@'); at > 0 && bytes.IndexByte(value[at:], '.') > 1 {
		dst = append(dst, mailDomain...)
	}
	return dst
}

// openText returns the value of a text's pseudonym. It is sure unless the text is
// of digits, which may be a pseudonym or not.
func (p *pseudonyms) openText(text []byte) (value []byte, sure, ok bool) {
	if len(text) >= minDigits && len(text) <= maxDigits && allDigits(text) {
		return p.appendDigits(nil, text, false), false, true
	}
	coded, found := bytes.CutPrefix(text, []byte(pseudonymPrefix))
	if !found {
		return nil, false, false
	}
	sealed, err := pseudoEncoding.AppendDecode(nil, bytes.TrimSuffix(coded, []byte(mailDomain)))
	if err != nil {
		return nil, false, false
	}
	value, ok = p.open(sealed)
	if ok && !bytes.Equal(p.appendText(nil, value), text) { // another spelling of it
		return nil, false, false
	}
	return value, ok, ok
}

func (p *pseudonyms) appendDigits(dst, digits []byte, encrypt bool) []byte {
	n := len(digits)
	a, _ := strconv.ParseUint(string(digits[:n/2]), 10, 64)
	b, _ := strconv.ParseUint(string(digits[n/2:]), 10, 64)
	a, b = p.permute(10, a, b, n, encrypt)
	appendPadded := func(v uint64, width int) {
		s := strconv.FormatUint(v, 10)
		for range width - len(s) {
			dst = append(dst, '0')
		}
		dst = append(dst, s...)
	}
	appendPadded(a, n/2)
	appendPadded(b, n-n/2)
	return dst
}

func (p *pseudonyms) permute(radix, a, b uint64, n int, encrypt bool) (uint64, uint64) {
	f := &ff1{block: p.block, radix: radix}
	if encrypt {
		return f.encrypt(a, b, n)
	}
	return f.decrypt(a, b, n)
}

// number permutes the integers of a width in bytes, keeping their signs.
func (p *pseudonyms) number(v int64, width int, encrypt bool) int64 {
	if v < 0 {
		return ^p.number(^v, width, encrypt)
	}
	n := 8*width - 1
	low := n - n/2
	a, b := p.permute(2, uint64(v)>>low, uint64(v)&(1<<low-1), n, encrypt)
	return int64(a<<low | b)
}

func (p *pseudonyms) uuid(id []byte, encrypt bool) []byte {
	out := make([]byte, aes.BlockSize)
	if encrypt {
		p.block.Encrypt(out, id)
	} else {
		p.block.Decrypt(out, id)
	}
	return out
}

// Restore returns the value whose pseudonym, made with key for a column of type
// typ, value is. It is sure when nothing else can have that form: of digits,
// numbers and UUIDs every value is the pseudonym of another. The slice is new.
func Restore(typ string, binaryFormat bool, key, value []byte) (real []byte, sure, ok bool) {
	if len(key) == 0 || value == nil {
		return nil, false, false
	}
	p := newPseudonyms(key)
	switch t := types[typ]; t.family {
	case text:
		return p.openText(value)
	case bytea:
		raw := value
		if !binaryFormat {
			raw = byteaBytes(value)
		}
		if real, ok = p.open(raw); ok && !binaryFormat {
			real = hex.AppendEncode([]byte(`\x`), real)
		}
		return real, ok, ok
	case number:
		return restoreNumber(p, t.width, binaryFormat, value)
	case uuid:
		id := value
		if !binaryFormat {
			if id, ok = uuidBytes(value); !ok {
				return nil, false, false
			}
		}
		if len(id) != aes.BlockSize {
			return nil, false, false
		}
		real = p.uuid(id, false)
		if !binaryFormat {
			real = appendUUID(nil, real)
		}
		return real, false, true
	}
	return nil, false, false
}

// restoreNumber keeps the width of a bound value, which may differ from the
// column's.
func restoreNumber(p *pseudonyms, width int, binaryFormat bool, value []byte) (real []byte, sure, ok bool) {
	v, err := strconv.ParseInt(string(value), 10, 64)
	ok = err == nil
	if binaryFormat {
		v, ok = binaryInt(value)
	}
	if top := int64(1)<<(8*width-1) - 1; !ok || v > top || v < -top-1 {
		return nil, false, false
	}
	v = p.number(v, width, false)
	if !binaryFormat {
		return strconv.AppendInt(nil, v, 10), false, true
	}
	real = binary.BigEndian.AppendUint64(nil, uint64(v))[8-len(value):]
	return slices.Clone(real), false, binaryFits(v, len(value))
}

func binaryFits(v int64, width int) bool {
	top := int64(1)<<(8*width-1) - 1
	return v <= top && v >= -top-1
}
