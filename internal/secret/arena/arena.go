// Package arena keeps long-lived secrets in memory that is theirs alone: one
// mapping outside of Go's heap, which the garbage collector does not copy, which
// is in no core dump and not swapped out, and which, where the kernel has
// memfd_secret(2), nobody reads through /proc or ptrace, root neither.
//
// Which secrets are long-lived is left to the caller, as is what to do when the
// arena is full. What is copied out of it, such as into a connection's buffer,
// is protected no more than before. Start with New and Arena.Put.
package arena

import (
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/internal/secret"
)

const (
	// DefaultSize has room for several hundred passwords and keys, and fits into
	// the 64 KiB that old systems let a user lock.
	DefaultSize = 64 << 10
	// MaxSize is far above what a configuration needs. Locked memory is taken from
	// everything else on the host.
	MaxSize = 16 << 20
	// grain is what sizes are rounded up to, so that freed gaps are of use again.
	grain = 16
)

var (
	// ErrFull says that there is no gap of that length; the value was left alone.
	ErrFull = errors.New("the arena for secrets is full")
	// ErrSize says that a size for an arena is out of bounds.
	ErrSize = errors.New("size out of bounds")
)

// Arena is one mapping with secrets in it. Its methods are called from any
// goroutine.
type Arena struct {
	kind Kind
	why  error

	mu     sync.Mutex
	memory []byte // nil once closed
	gaps   []span // by offset; no two touch
}

// span is a part of the memory, in bytes; both are multiples of grain.
type span struct{ offset, length int }

// slot is where a value is.
type slot struct {
	arena *Arena
	span  span
	size  int // of the value; 0 once it was wiped
}

// New maps an arena of size bytes, rounded up to whole pages, in the best way
// that the kernel and the limits of the process allow; Kind says which.
func New(size int) (*Arena, error) { return open(size, ways()) }

func open(size int, ways []way) (*Arena, error) {
	if size <= 0 || size > MaxSize {
		return nil, fmt.Errorf("arena of %d bytes: %w", size, ErrSize)
	}
	page := unix.Getpagesize()
	size = (size + page - 1) / page * page
	var why error
	for _, w := range ways {
		memory, err := w.open(size)
		if err == nil {
			return &Arena{kind: w.kind, why: why, memory: memory, gaps: []span{{0, size}}}, nil
		}
		why = errors.Join(why, fmt.Errorf("%s: %w", w.kind, err))
	}
	return nil, fmt.Errorf("arena of %d bytes: %w", size, why)
}

// Kind says how the memory is protected, and why not better: nil when it is
// protected in the best way that there is.
func (a *Arena) Kind() (kind Kind, why error) { return a.kind, a.why }

// Put moves a value into the arena: b is wiped, unless there is an error. What
// the Secret reveals is valid until it is wiped and no longer: the same bytes
// may be another secret's then. After that it is empty.
func (a *Arena) Put(b []byte) (secret.Secret, error) {
	if len(b) == 0 {
		return secret.Secret{}, nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	at, ok := a.take(len(b))
	if !ok {
		return secret.Secret{}, ErrFull
	}
	copy(a.memory[at.offset:], b)
	clear(b)
	s := &slot{a, at, len(b)}
	return secret.Lent(s.value, s.wipe), nil
}

// Free is how many bytes are left, in gaps of any length.
func (a *Arena) Free() (n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, g := range a.gaps {
		n += g.length
	}
	return n
}

// Close wipes everything and gives the memory back. It is called when nobody
// uses what a Secret of the arena revealed; the Secrets are empty after it.
func (a *Arena) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.memory == nil {
		return nil
	}
	clear(a.memory)
	err := unix.Munmap(a.memory)
	a.memory, a.gaps = nil, nil
	if err != nil {
		return fmt.Errorf("unmap the arena: %w", err)
	}
	return nil
}

// take finds the first gap that n bytes fit into. The caller holds mu.
func (a *Arena) take(n int) (span, bool) {
	length := (n + grain - 1) / grain * grain
	for i, g := range a.gaps {
		switch {
		case g.length > length:
			a.gaps[i] = span{g.offset + length, g.length - length}
		case g.length == length:
			a.gaps = append(a.gaps[:i], a.gaps[i+1:]...)
		default:
			continue
		}
		return span{g.offset, length}, true
	}
	return span{}, false
}

// give makes s a gap again, one with the gaps that it touches. The caller holds
// mu.
func (a *Arena) give(s span) {
	i := 0
	for i < len(a.gaps) && a.gaps[i].offset < s.offset {
		i++
	}
	if i < len(a.gaps) && s.offset+s.length == a.gaps[i].offset {
		s.length += a.gaps[i].length
		a.gaps = append(a.gaps[:i], a.gaps[i+1:]...)
	}
	if i > 0 && a.gaps[i-1].offset+a.gaps[i-1].length == s.offset {
		a.gaps[i-1].length += s.length
		return
	}
	a.gaps = append(a.gaps[:i], append([]span{s}, a.gaps[i:]...)...)
}

func (s *slot) value() []byte {
	s.arena.mu.Lock()
	defer s.arena.mu.Unlock()
	if s.size == 0 || s.arena.memory == nil {
		return nil
	}
	// The capacity ends with the value, so that nobody appends into the next.
	end := s.span.offset + s.size
	return s.arena.memory[s.span.offset:end:end]
}

func (s *slot) wipe() {
	s.arena.mu.Lock()
	defer s.arena.mu.Unlock()
	if s.size == 0 || s.arena.memory == nil {
		return
	}
	clear(s.arena.memory[s.span.offset : s.span.offset+s.span.length])
	s.size = 0
	s.arena.give(s.span)
}
