package arena

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Kind says how an arena's memory is protected.
type Kind int

const (
	// Hidden memory is of memfd_secret(2): it is not in the kernel's own map, not
	// swapped, not dumped, and read by its process only.
	Hidden Kind = iota + 1
	// Locked memory is not swapped and not dumped; root and debuggers read it.
	Locked
	// Undumped memory is in no core dump; it may be swapped out.
	Undumped
)

func (k Kind) String() string {
	switch k {
	case Hidden:
		return "memfd_secret"
	case Locked:
		return "mlock"
	case Undumped:
		return "not locked"
	}
	return "unknown"
}

// way is one way to make the memory of an arena.
type way struct {
	kind Kind
	open func(size int) ([]byte, error)
}

// ways are the ways that there are, the best one first.
func ways() []way {
	return []way{{Hidden, hidden}, {Locked, locked}, {Undumped, undumped}}
}

// hidden works since Linux 5.14, where it is enabled: until 6.5 the kernel needs
// secretmem.enable=1 on its command line.
func hidden(size int) ([]byte, error) {
	fd, err := unix.MemfdSecret(unix.O_CLOEXEC)
	if errors.Is(err, unix.ENOSYS) {
		return nil, fmt.Errorf("%w: Linux before 5.14, or secretmem.enable=1 is missing from its command line", err)
	}
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd) // the mapping stays
	if err := unix.Ftruncate(fd, int64(size)); err != nil {
		return nil, fmt.Errorf("set its size: %w", err)
	}
	// Populated at once: that there is no memory is said here and not by a signal
	// at the first Put.
	memory, err := unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return nil, limited(err)
	}
	// It is shared, hence a child that does not exec would have it too.
	return advised(memory, unix.MADV_DONTFORK)
}

func locked(size int) ([]byte, error) {
	memory, err := undumped(size)
	if err != nil {
		return nil, err
	}
	if err := unix.Mlock(memory); err != nil {
		unix.Munmap(memory) //nolint:errcheck // the error that counts is the one before
		return nil, limited(err)
	}
	return memory, nil
}

func undumped(size int) ([]byte, error) {
	memory, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, err
	}
	return advised(memory, unix.MADV_DONTDUMP, unix.MADV_WIPEONFORK)
}

func advised(memory []byte, advice ...int) ([]byte, error) {
	for _, a := range advice {
		if err := unix.Madvise(memory, a); err != nil {
			unix.Munmap(memory) //nolint:errcheck // the error that counts is the one before
			return nil, fmt.Errorf("advice %d: %w", a, err)
		}
	}
	return memory, nil
}

// limited adds the limit to an error that it may be the reason of.
func limited(err error) error {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_MEMLOCK, &limit) != nil || limit.Cur == unix.RLIM_INFINITY {
		return err
	}
	return fmt.Errorf("%w: RLIMIT_MEMLOCK is %d bytes", err, limit.Cur)
}
