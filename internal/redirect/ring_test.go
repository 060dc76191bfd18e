package redirect

import (
	"fmt"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// unspecPointer is a sockaddr of family AF_UNSPEC, which disconnects.
func unspecPointer() unsafe.Pointer { return unsafe.Pointer(&[16]byte{}) }

// What of io_uring (include/uapi/linux/io_uring.h) one connect needs.
const (
	ringOpConnect     = 16
	ringEnterGetEvent = 1
	ringOffSQ         = 0
	ringOffCQ         = 0x8000000
	ringOffSQEs       = 0x10000000
)

type ringOffsets struct {
	Head, Tail, Mask, Entries, Flags, Dropped, Array, Reserved uint32
	User                                                       uint64
}

type ringParams struct {
	SQEntries, CQEntries, Flags, ThreadCPU, ThreadIdle, Features, WQ uint32
	Reserved                                                         [3]uint32
	SQ, CQ                                                           ringOffsets
}

type ringEntry struct {
	Opcode, Flags uint8
	Priority      uint16
	FD            int32
	Offset, Addr  uint64
	Len, OpFlags  uint32
	User          uint64
	Rest          [3]uint64
}

// ringConnect connects by io_uring, in a ring of one entry.
func ringConnect(fd int, to unix.Sockaddr) (int, error) {
	var p ringParams
	r, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(&p)), 0)
	if errno != 0 {
		return -1, errno
	}
	ring := int(r)
	defer unix.Close(ring)
	sq, err := unix.Mmap(ring, ringOffSQ, int(p.SQ.Array)+4*int(p.SQEntries), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return -1, err
	}
	defer unix.Munmap(sq)
	// io_cqring_offsets differs from io_sqring_offsets: overflow where that has
	// flags, and the offset of the completions where that has dropped.
	cqes := p.CQ.Dropped
	cq, err := unix.Mmap(ring, ringOffCQ, int(cqes)+16*int(p.CQEntries), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return -1, err
	}
	defer unix.Munmap(cq)
	sqes, err := unix.Mmap(ring, ringOffSQEs, 64*int(p.SQEntries), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return -1, err
	}
	defer unix.Munmap(sqes)

	address, length := rawAddress(to)
	entry := (*ringEntry)(unsafe.Pointer(&sqes[0]))
	*entry = ringEntry{Opcode: ringOpConnect, FD: int32(fd), Addr: uint64(uintptr(unsafe.Pointer(address))), Offset: length}
	*(*uint32)(unsafe.Pointer(&sq[p.SQ.Array])) = 0
	atomic.AddUint32((*uint32)(unsafe.Pointer(&sq[p.SQ.Tail])), 1)
	if _, _, errno := unix.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(ring), 1, 1, ringEnterGetEvent, 0, 0); errno != 0 {
		return -1, errno
	}
	if atomic.LoadUint32((*uint32)(unsafe.Pointer(&cq[p.CQ.Tail]))) == 0 {
		return -1, fmt.Errorf("io_uring completed nothing")
	}
	result := *(*int32)(unsafe.Pointer(&cq[cqes+8]))
	if result < 0 {
		return -1, unix.Errno(-result)
	}
	return int(result), nil
}

func rawAddress(to unix.Sockaddr) (*unix.RawSockaddrInet6, uint64) {
	raw := new(unix.RawSockaddrInet6)
	switch a := to.(type) {
	case *unix.SockaddrInet4:
		v4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(raw))
		*v4 = unix.RawSockaddrInet4{Family: unix.AF_INET, Port: htons(uint16(a.Port)), Addr: a.Addr}
		return raw, unix.SizeofSockaddrInet4
	case *unix.SockaddrInet6:
		*raw = unix.RawSockaddrInet6{Family: unix.AF_INET6, Port: htons(uint16(a.Port)), Addr: a.Addr}
	}
	return raw, unix.SizeofSockaddrInet6
}
