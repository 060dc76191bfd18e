package wire

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// descriptor is a socket that nobody but its owner polls.
type descriptor struct{ fd int }

// detachDescriptor moves the socket to a descriptor that Go's poller does not
// know, so that nobody is woken twice. The connection itself is closed.
func detachDescriptor(conn net.Conn) (Detached, error) {
	c, ok := conn.(syscall.Conn)
	if !ok {
		return nil, ErrAttached
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	d := &descriptor{}
	var failed error
	if err := raw.Control(func(fd uintptr) {
		d.fd, failed = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
	}); err != nil {
		return nil, err
	}
	if failed != nil {
		return nil, fmt.Errorf("duplicate a descriptor: %w", failed)
	}
	conn.Close()
	return d, nil
}

func (d *descriptor) Read(p []byte) (int, error) {
	n, err := now(unix.SYS_READ, d.fd, p)
	if err != nil {
		return 0, failure("read", err)
	}
	if n == 0 && len(p) > 0 {
		return 0, io.EOF
	}
	return n, nil
}

func (d *descriptor) Write(p []byte) (int, error) {
	n, err := now(unix.SYS_WRITE, d.fd, p)
	if err != nil {
		return 0, failure("write", err)
	}
	return n, nil
}

func failure(call string, err error) error {
	if errors.Is(err, unix.EAGAIN) {
		return ErrWouldBlock
	}
	return os.NewSyscallError(call, err)
}

// now is a system call that does not wait, and so need not be announced to Go's
// scheduler, which would look after the processor left behind.
func now(call uintptr, fd int, p []byte) (int, error) {
	for {
		n, _, errno := unix.RawSyscall(call, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
		if errno == 0 {
			return int(n), nil
		}
		if errno != unix.EINTR {
			return 0, errno
		}
	}
}

func (d *descriptor) Shutdown() {
	unix.Shutdown(d.fd, unix.SHUT_RDWR) //nolint:errcheck // it may be shut down already
}

func (d *descriptor) Attach() (net.Conn, error) {
	f := os.NewFile(uintptr(d.fd), "detached socket")
	defer f.Close()
	return net.FileConn(f)
}

// Poller tells which of many detached connections can be read. Wait belongs to
// one goroutine, the others to any.
type Poller interface {
	// Watch reports c, which is detached, under id from now on.
	Watch(c *Conn, id uint64) error
	// Forget ends that. It comes before c is attached.
	Forget(c *Conn)
	// Wait waits until something can be read, or Wake was called, and appends
	// the ids to ready. A connection is reported until it has been read.
	Wait(ready []uint64) ([]uint64, error)
	// Wake ends the Wait of now, or the next one.
	Wake()
	Close() error
}

// epoll is the Poller of descriptors, level-triggered.
type epoll struct {
	fd, event int
	events    []unix.EpollEvent
	yielded   time.Time
	busy      bool // the last Wait brought more than one: there is likely more
}

// wakeID is what the event descriptor is reported under.
const wakeID = ^uint64(0)

// NewEpoll returns the kernel's Poller.
func NewEpoll() (Poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	event, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("eventfd", err)
	}
	e := &epoll{fd: fd, event: event, events: make([]unix.EpollEvent, 128)}
	if err := e.watch(event, wakeID); err != nil {
		e.Close()
		return nil, err
	}
	return e, nil
}

func (e *epoll) watch(fd int, id uint64) error {
	ev := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLRDHUP, Fd: int32(uint32(id)), Pad: int32(uint32(id >> 32))}
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(e.fd, unix.EPOLL_CTL_ADD, fd, &ev))
}

func (e *epoll) Watch(c *Conn, id uint64) error {
	d, ok := c.Detached().(*descriptor)
	if !ok {
		return ErrAttached
	}
	return e.watch(d.fd, id)
}

func (e *epoll) Forget(c *Conn) {
	if d, ok := c.Detached().(*descriptor); ok {
		unix.EpollCtl(e.fd, unix.EPOLL_CTL_DEL, d.fd, nil) //nolint:errcheck // it may never have been watched
	}
}

func (e *epoll) Wait(ready []uint64) ([]uint64, error) {
	n := 0
	if e.busy { // what is there already is had without telling the scheduler
		count, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(e.fd), uintptr(unsafe.Pointer(&e.events[0])), uintptr(len(e.events)), 0, 0, 0)
		if errno == 0 {
			n = int(count)
		}
	}
	if n == 0 {
		e.yield()
		var err error
		if n, err = unix.EpollWait(e.fd, e.events, -1); err != nil && !errors.Is(err, unix.EINTR) {
			return ready, os.NewSyscallError("epoll_wait", err)
		}
	}
	e.busy = n > 1
	for _, ev := range e.events[:max(n, 0)] {
		id := uint64(uint32(ev.Fd)) | uint64(uint32(ev.Pad))<<32
		if id != wakeID {
			ready = append(ready, id)
			continue
		}
		var count [8]byte
		unix.Read(e.event, count[:]) //nolint:errcheck // it only resets the counter
	}
	return ready, nil
}

// yield begins a new time slice now and then. In one that seems to last for ten
// milliseconds sysmon takes the processor away at every system call that waits
// (runtime.retake), which costs more than what is relayed; yielding each time
// would wake another thread each time.
func (e *epoll) yield() {
	if now := time.Now(); now.Sub(e.yielded) > yieldEvery {
		runtime.Gosched()
		e.yielded = now
	}
}

const yieldEvery = 5 * time.Millisecond

func (e *epoll) Wake() {
	unix.Write(e.event, []byte{1, 0, 0, 0, 0, 0, 0, 0}) //nolint:errcheck // it fails when the counter is full: awake enough
}

func (e *epoll) Close() error {
	unix.Close(e.event)
	return os.NewSyscallError("close", unix.Close(e.fd))
}
