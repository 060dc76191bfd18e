package engine

import (
	"context"
	"crypto"
	"net"
	"time"
)

// Stream is one direction of the bytes that belong to an exchange, such as what
// a command writes. Each is used by one goroutine; the streams of an exchange may
// be used at the same time.
type Stream interface {
	// Write returns what may go on now of p and of what was held back before: it
	// is masked as far as its direction is, charged, and on record. What is held
	// back, because it may be the beginning of something to mask, is bounded. The
	// slice lives until the next call, and may be p. After a denial nothing more
	// of the stream may go on.
	Write(p []byte) ([]byte, *Denial)
	// Held says that something is held back.
	Held() bool
	// Flush returns what of it is not likely to be the beginning of something to
	// mask. The relay calls it when nothing has followed for HoldBack, and again
	// after each further HoldBack for as long as something is held: in the end it
	// returns all.
	Flush() ([]byte, *Denial)
	// Close returns all that is held back. The relay calls it when the stream has
	// ended by itself.
	Close() ([]byte, *Denial)
}

// HoldBack is how long a stream may be kept waiting for what is held back of it:
// a person who types does not see it.
const HoldBack = 20 * time.Millisecond

// StreamKind says which stream of a channel it is.
type StreamKind uint8

const (
	Stdin  StreamKind = iota // from the client; it goes on as it is, and is masked on record
	Stdout                   // to the client
	Stderr                   // to the client
)

func (k StreamKind) String() string { return [...]string{"stdin", "stdout", "stderr"}[k] }

// Terminal is what a stream of bytes is shown on.
type Terminal struct {
	Type          string // such as "xterm-256color"; empty when only the size changed
	Columns, Rows uint32
}

// Reentry serves a connection that was forwarded within another as if the agent
// had made it: it returns when the connection has ended. dial reaches the
// upstream by the way of the connection that it came in.
type Reentry func(ctx context.Context, conn net.Conn, dial func(context.Context) (net.Conn, error))

// File is something that was done to a file.
type File struct {
	Verb   string
	Path   string
	To     string   // the other path, of what has two
	Bytes  int64    // that were read or written
	SHA256 [32]byte // of them, when they came in order from the beginning; else zero
	Error  string   // of the upstream's
}

// HostKey is one by which the gateway shows itself to agents.
type HostKey struct {
	Key         crypto.Signer
	Certificate []byte // by the host's authority, in SSH's wire format
}

// KnownHosts is how an upstream's host key is verified.
type KnownHosts struct {
	Host  string // as the agent named it: a name or an address
	Port  uint16
	Lines []byte // in the format of OpenSSH's known_hosts
}
