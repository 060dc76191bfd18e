// Package uring makes single calls by io_uring, which some filters of system
// calls do not see. It is for attempts at going around the gateway, not for
// speed: every call has a ring of its own.
package uring

import (
	"errors"
	"runtime"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What of include/uapi/linux/io_uring.h one call needs.
const (
	opSendmsg     = 9
	opConnect     = 16
	enterGetEvent = 1
	offSQ         = 0
	offCQ         = 0x8000000
	offSQEs       = 0x10000000
)

type offsets struct {
	Head, Tail, Mask, Entries, Flags, Dropped, Array, Reserved uint32
	User                                                       uint64
}

type params struct {
	SQEntries, CQEntries, Flags, ThreadCPU, ThreadIdle, Features, WQ uint32
	Reserved                                                         [3]uint32
	SQ, CQ                                                           offsets
}

type entry struct {
	Opcode, Flags uint8
	Priority      uint16
	FD            int32
	Offset, Addr  uint64
	Len, OpFlags  uint32
	User          uint64
	Rest          [3]uint64
}

// Connect is connect(2).
func Connect(fd int, to unix.Sockaddr) error {
	var pinner runtime.Pinner // the kernel reads by addresses that Go does not see
	defer pinner.Unpin()
	address, length := raw(to)
	pinner.Pin(address)
	_, err := call(entry{
		Opcode: opConnect, FD: int32(fd), Addr: uint64(uintptr(unsafe.Pointer(address))), Offset: uint64(length),
	})
	return err
}

// Sendto is sendto(2), by the operation of sendmsg.
func Sendto(fd int, data []byte, to unix.Sockaddr) error {
	var pinner runtime.Pinner
	defer pinner.Unpin()
	address, length := raw(to)
	vector := &unix.Iovec{Base: &data[0]}
	vector.SetLen(len(data))
	message := &unix.Msghdr{Name: (*byte)(unsafe.Pointer(address)), Namelen: length, Iov: vector}
	message.SetIovlen(1)
	pinner.Pin(address)
	pinner.Pin(&data[0])
	pinner.Pin(vector)
	pinner.Pin(message)
	_, err := call(entry{Opcode: opSendmsg, FD: int32(fd), Addr: uint64(uintptr(unsafe.Pointer(message))), Len: 1})
	return err
}

// call submits one entry and waits for its end.
func call(e entry) (int, error) {
	var p params
	r, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(&p)), 0)
	if errno != 0 {
		return -1, errno
	}
	ring := int(r)
	defer unix.Close(ring)
	sq, err := unix.Mmap(ring, offSQ, int(p.SQ.Array)+4*int(p.SQEntries), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return -1, err
	}
	defer unix.Munmap(sq) //nolint:errcheck // the process ends soon
	// io_cqring_offsets differs from io_sqring_offsets: overflow where that has
	// flags, and the offset of the completions where that has dropped.
	cqes := p.CQ.Dropped
	cq, err := unix.Mmap(ring, offCQ, int(cqes)+16*int(p.CQEntries), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return -1, err
	}
	defer unix.Munmap(cq) //nolint:errcheck // as above
	sqes, err := unix.Mmap(ring, offSQEs, 64*int(p.SQEntries), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return -1, err
	}
	defer unix.Munmap(sqes) //nolint:errcheck // as above

	*(*entry)(unsafe.Pointer(&sqes[0])) = e
	*(*uint32)(unsafe.Pointer(&sq[p.SQ.Array])) = 0
	atomic.AddUint32((*uint32)(unsafe.Pointer(&sq[p.SQ.Tail])), 1)
	if _, _, errno := unix.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(ring), 1, 1, enterGetEvent, 0, 0); errno != 0 {
		return -1, errno
	}
	if atomic.LoadUint32((*uint32)(unsafe.Pointer(&cq[p.CQ.Tail]))) == 0 {
		return -1, errors.New("io_uring completed nothing")
	}
	result := *(*int32)(unsafe.Pointer(&cq[cqes+8]))
	if result < 0 {
		return -1, unix.Errno(-result)
	}
	return int(result), nil
}

func raw(to unix.Sockaddr) (*unix.RawSockaddrInet6, uint32) {
	address := new(unix.RawSockaddrInet6)
	switch a := to.(type) {
	case *unix.SockaddrInet4:
		v4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(address))
		*v4 = unix.RawSockaddrInet4{Family: unix.AF_INET, Port: htons(a.Port), Addr: a.Addr}
		return address, unix.SizeofSockaddrInet4
	case *unix.SockaddrInet6:
		*address = unix.RawSockaddrInet6{Family: unix.AF_INET6, Port: htons(a.Port), Addr: a.Addr, Scope_id: a.ZoneId}
	}
	return address, unix.SizeofSockaddrInet6
}

func htons(v int) uint16 { return uint16(v)<<8 | uint16(v)>>8 }
