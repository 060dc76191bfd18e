package record

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/postern/postern/pkg/recording"
	"golang.org/x/sys/unix"
)

const (
	// sessionExtent is the room that a session begins with: a thousand idle
	// sessions take 16 MiB of disk, and of memory only the pages touched.
	sessionExtent = 16 << 10
	// journalExtent is the journal's: some hundred sessions at a time.
	journalExtent = 64 << 10
	// maxExtent bounds the doubling. Making room costs some microseconds of
	// system calls, which four megabytes of events hide well.
	maxExtent = 4 << 20
	// warmStep is how much of the room is written with zeros ahead of the
	// events, once a session is busy (its room is warmFrom or more). A fault on a
	// mapped page costs near a microsecond on ext4; after a write of this size
	// the kernel has the pages as one folio and maps it whole: 50 ns per event
	// instead of 230, at 15 microseconds every couple of hundred events. Idle
	// sessions are left with the pages they touch.
	warmStep = 64 << 10
	warmFrom = 128 << 10
	// keptFrame is the largest scratch buffer that goes back to the pool.
	keptFrame = 64 << 10
	// chainSize is the previous hash at the head of a frame's scratch buffer,
	// which is hashed with it and not written.
	chainSize = len(recording.Hash{})
)

// frame is scratch room for one event on its way to the log.
type frame struct{ b []byte }

var frames = sync.Pool{New: func() any { return &frame{make([]byte, 0, 512)} }}

func takeFrame() *frame {
	f := frames.Get().(*frame)
	f.b = f.b[:0]
	return f
}

func (f *frame) release() {
	if cap(f.b) <= keptFrame {
		frames.Put(f)
	}
}

// log is one file of a chain. Events are copied into a shared mapping of the
// file: once there they belong to the kernel, which keeps them whatever happens
// to the process. Room is allocated before it is mapped, because a write to a
// mapped hole on a full disk is a SIGBUS, while fallocate says ENOSPC.
//
// A log has no lock; its owner has.
type log struct {
	f      *os.File
	win    []byte // the mapping
	winAt  int64  // its offset in the file
	pos    int64  // end of the last event
	room   int64  // length of the file, all of it allocated
	extent int64  // how much room to make next
	head   recording.Hash
	events uint64
	budget func(int64) error
	warm   int64        // end of what was written with zeros
	synced atomic.Int64 // how much of the file survives a power failure
}

// createLog makes a new file and writes its header.
func createLog(path string, t recording.FileType, budget func(int64) error, extent int64) (*log, recording.Hash, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, recording.Hash{}, err
	}
	l := &log{f: f, budget: budget, extent: extent}
	if err := l.makeRoom(recording.HeaderSize); err != nil {
		return nil, recording.Hash{}, errors.Join(err, l.discard())
	}
	header := recording.AppendHeader(nil, t, random())
	copy(l.win, header)
	copy(l.head[:], header[recording.HeaderSize-chainSize:])
	l.pos = recording.HeaderSize
	return l, l.head, nil
}

// reopenLog continues a file behind its last whole event.
func reopenLog(path string, r *recording.Reader, budget func(int64) error, extent int64) (*log, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	l := &log{f: f, budget: budget, extent: extent, pos: r.Offset(), room: r.Offset(), head: r.Head(), events: r.Events()}
	// What a killed writer left behind the last event goes: room must be zero.
	if err := f.Truncate(l.pos); err != nil {
		f.Close()
		return nil, err
	}
	return l, nil
}

// put writes the frame that was begun with l.head. After an error nothing was
// written.
func (l *log) put(f *frame) error {
	if len(f.b)-chainSize > recording.MaxFrame {
		return fmt.Errorf("an event of %d bytes is over the limit of %d", len(f.b), recording.MaxFrame)
	}
	b, head := recording.EndFrame(f.b)
	f.b = b
	b = b[chainSize:]
	n := int64(len(b))
	if l.pos+n > l.winAt+int64(len(l.win)) {
		if err := l.makeRoom(n); err != nil {
			return err
		}
	}
	if l.pos+n > l.warm && l.room >= warmFrom {
		if err := l.warmUp(n); err != nil {
			return err
		}
	}
	at := l.win[l.pos-l.winAt:][:n]
	copy(at[4:], b[4:])
	// The length goes last: until it is there, there is no event. Frames begin
	// at multiples of eight, so that the word can be stored at once.
	length := binary.NativeEndian.Uint32(b)
	atomic.StoreUint32((*uint32)(unsafe.Pointer(&at[0])), length)
	l.pos += n
	l.head = head
	l.events++
	return nil
}

// makeRoom allocates and maps room for at least n more bytes.
func (l *log) makeRoom(n int64) error {
	page := int64(os.Getpagesize())
	more := max(l.extent, (l.pos+n-l.room+page-1)/page*page)
	if err := l.budget(more); err != nil {
		return err
	}
	if err := allocate(l.f, l.room, more); err != nil {
		l.budget(-more) //nolint:errcheck // giving back is never refused
		return fmt.Errorf("make room for the recording: %w", err)
	}
	l.room += more
	start := l.pos &^ (page - 1)
	win, err := unix.Mmap(int(l.f.Fd()), start, int(l.room-start), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map the recording: %w", err)
	}
	if l.win != nil {
		unix.Munmap(l.win)
	}
	l.win, l.winAt = win, start
	l.extent = min(more*2, maxExtent)
	return nil
}

// warmUp writes zeros from the end of the events to beyond the next one.
func (l *log) warmUp(n int64) error {
	from := max(l.warm, l.pos)
	to := min(l.room, max(from+warmStep, l.pos+n))
	if err := writeZeros(l.f, from, to-from); err != nil {
		return fmt.Errorf("write ahead in the recording: %w", err)
	}
	l.warm = to
	return nil
}

var zeros [warmStep]byte

// allocate makes the file longer by blocks that are really there.
func allocate(f *os.File, off, n int64) error {
	for {
		err := unix.Fallocate(int(f.Fd()), 0, off, n)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EOPNOTSUPP):
			if err := writeZeros(f, off, n); err != nil {
				return errors.Join(err, f.Truncate(off))
			}
		case err != nil:
			// Part of it may have been allocated.
			return errors.Join(err, f.Truncate(off))
		}
		return nil
	}
}

func writeZeros(f *os.File, off, n int64) error {
	for n > 0 {
		m, err := f.WriteAt(zeros[:min(warmStep, n)], off)
		if err != nil {
			return err
		}
		off += int64(m)
		n -= int64(m)
	}
	return nil
}

// sync makes what is written so far survive a power failure. It may run beside
// put: pages that change meanwhile are written then or later.
func (l *log) sync() error { return l.syncTo(l.pos) }

func (l *log) syncTo(pos int64) error {
	if l.synced.Load() >= pos {
		return nil
	}
	raw, err := l.f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		for {
			// Pages dirtied through the mapping are dirty pages of the file.
			if failed = unix.Fdatasync(int(fd)); !errors.Is(failed, unix.EINTR) {
				return
			}
		}
	})
	if err = errors.Join(err, failed); err != nil {
		return fmt.Errorf("sync the recording: %w", err)
	}
	for {
		old := l.synced.Load()
		if old >= pos || l.synced.CompareAndSwap(old, pos) {
			return nil
		}
	}
}

// close gives the room that was made ahead back.
func (l *log) close() error {
	var err error
	if l.win != nil {
		err = unix.Munmap(l.win)
		l.win = nil
	}
	err = errors.Join(err, l.f.Truncate(l.pos), l.f.Close())
	l.budget(blocks(l.pos) - l.room) //nolint:errcheck // giving back is never refused
	return err
}

// discard is close for a file that must not be.
func (l *log) discard() error {
	l.pos = 0
	return errors.Join(os.Remove(l.f.Name()), l.close())
}
