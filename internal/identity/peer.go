package identity

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxPeerGroups bounds the answer of SO_PEERGROUPS (NGROUPS_MAX is 65536).
const maxPeerGroups = 65536

// Peer is who called connect on a Unix socket. Its credentials are of that
// moment; PID may be another process by now unless Alive says otherwise.
type Peer struct {
	PID    int
	UID    uint32
	GID    uint32
	Groups []uint32 // supplementary groups

	pidfd int // -1 before kernel 6.5
}

// PeerOf asks the kernel who is at the other end. Close the Peer after use.
func PeerOf(conn *net.UnixConn) (*Peer, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("peer credentials: %w", err)
	}
	var peer *Peer
	var inner error
	if err := raw.Control(func(fd uintptr) { peer, inner = peerOf(int(fd)) }); err != nil {
		return nil, fmt.Errorf("peer credentials: %w", err)
	}
	return peer, inner
}

func peerOf(fd int) (*Peer, error) {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return nil, fmt.Errorf("SO_PEERCRED: %w", err)
	}
	groups, err := peerGroups(fd)
	if err != nil {
		return nil, fmt.Errorf("SO_PEERGROUPS: %w", err)
	}
	peer := &Peer{PID: int(cred.Pid), UID: cred.Uid, GID: cred.Gid, Groups: groups, pidfd: -1}
	pidfd, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEERPIDFD)
	if err == nil {
		peer.pidfd = pidfd
	}
	// Older kernels have no such option (ENOPROTOOPT); a peer that is gone
	// already gives ESRCH or EINVAL, and Alive then says no.
	if err != nil && !errors.Is(err, unix.ENOPROTOOPT) {
		peer.PID = 0
	}
	return peer, nil
}

// peerGroups asks twice: an answer too small fails with ERANGE and the size.
func peerGroups(fd int) ([]uint32, error) {
	groups := make([]uint32, 64)
	for {
		size := uint32(len(groups) * 4)
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(&groups[0])), uintptr(unsafe.Pointer(&size)), 0)
		if errno == 0 {
			return groups[:size/4], nil
		}
		if errno != unix.ERANGE || int(size/4) <= len(groups) || size/4 > maxPeerGroups {
			return nil, errno
		}
		groups = make([]uint32, size/4)
	}
}

func (p *Peer) Close() {
	if p.pidfd >= 0 {
		unix.Close(p.pidfd)
		p.pidfd = -1
	}
}

// In says whether the peer is a member of the group.
func (p *Peer) In(gid uint32) bool { return p.GID == gid || slices.Contains(p.Groups, gid) }

// InPolicyCgroup says whether the peer is an agent. A peer that ended in the
// meantime counts as one: somebody else may have its number.
func (p *Peer) InPolicyCgroup(root string) bool {
	if p.PID <= 0 || InPolicyCgroup(root, p.PID) {
		return true
	}
	return p.pidfd >= 0 && !alive(p.pidfd)
}
