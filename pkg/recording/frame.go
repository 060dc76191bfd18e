package recording

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"time"
)

const (
	// HeaderSize is the length of a file's header and the offset of its first frame.
	HeaderSize = 64
	// Version is the format's version that this package writes.
	Version = 1
	// MaxFrame bounds one frame up to its padding, so that a reader can refuse a
	// length before it makes room for it.
	MaxFrame = 64 << 20

	magic     = "\x89PSTRN\r\n"
	hashSize  = sha256.Size
	frameHead = 16 // length, kind, zero, time
)

// FileType tells session files from journals.
type FileType uint8

const (
	SessionFile FileType = 1 // of one session
	JournalFile FileType = 2 // of the host, which binds the sessions together
)

// Hash is a link of the chain.
type Hash [hashSize]byte

// AppendHeader appends the header of a new file. Its last 32 bytes are the
// genesis hash.
func AppendHeader(dst []byte, t FileType, random [16]byte) []byte {
	start := len(dst)
	dst = append(dst, magic...)
	dst = binary.BigEndian.AppendUint16(dst, Version)
	dst = append(dst, byte(t), 0, 0, 0, 0, 0)
	dst = append(dst, random[:]...)
	sum := sha256.Sum256(dst[start:])
	return append(dst, sum[:]...)
}

// Header is what a file says about itself.
type Header struct {
	Version uint16
	Type    FileType
	Random  [16]byte
	Genesis Hash
}

var (
	errNotRecording = errors.New("not a recording")
	errVersion      = errors.New("a version of the format, or a flag, that this program does not know")
	errHeaderHash   = errors.New("the header does not match its hash")
)

func parseHeader(b []byte) (Header, error) {
	var h Header
	if len(b) < HeaderSize || string(b[:8]) != magic {
		return h, errNotRecording
	}
	h.Version = binary.BigEndian.Uint16(b[8:])
	h.Type = FileType(b[10])
	copy(h.Random[:], b[16:32])
	copy(h.Genesis[:], b[32:64])
	if h.Version != Version || b[11] != 0 || binary.BigEndian.Uint32(b[12:]) != 0 ||
		(h.Type != SessionFile && h.Type != JournalFile) {
		return h, errVersion
	}
	if sha256.Sum256(b[:32]) != [32]byte(h.Genesis) {
		return h, errHeaderHash
	}
	return h, nil
}

// BeginFrame starts a frame behind the hash before it: the caller appends the
// payload to what it returns and then calls EndFrame with it. dst must be
// empty.
func BeginFrame(dst []byte, prev Hash, k Kind, at time.Time) []byte {
	dst = append(dst, prev[:]...)
	dst = append(dst, 0, 0, 0, 0, byte(k), 0, 0, 0)
	return binary.BigEndian.AppendUint64(dst, uint64(at.UnixNano()))
}

// EndFrame completes what BeginFrame started. The frame to be written is
// b[32:], the link to give to the next BeginFrame is head. A frame whose length
// is over MaxFrame must not be written; EndFrame leaves that check to the
// caller.
func EndFrame(dst []byte) (b []byte, head Hash) {
	n := len(dst) - hashSize
	binary.BigEndian.PutUint32(dst[hashSize:], uint32(n))
	for range padding(n) {
		dst = append(dst, 0)
	}
	head = sha256.Sum256(dst)
	return append(dst, head[:]...), head
}

func padding(n int) int { return -n & 7 }

// frameSize is how much room a frame with a length field of n takes.
func frameSize(n int) int { return n + padding(n) + hashSize }
