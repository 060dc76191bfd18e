package redirect

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/postern/postern/bpf"
)

// The option in the SYN, as bpf/postern.h has it.
const (
	tokenKind  = 254
	tokenLen   = 12
	tokenMagic = 0x5053
)

// maxSYN bounds a saved SYN: the longest IPv4 header and the longest TCP
// header are 60 bytes each, IPv6 has 40 and its extensions are not used here.
const maxSYN = 256

// Record is what the kernel stored when an agent called connect.
type Record struct {
	Token          uint64
	CgroupID       uint64 // of the calling task
	PolicyCgroupID uint64 // its nearest ancestor with a policy
	PolicyID       uint32
	Netns          uint64 // cookie of the socket's network namespace
	PID            uint32 // thread
	TGID           uint32 // process
	UID, GID       uint32
	Comm           string // chosen by the agent: not to be trusted
	Started        time.Time
	Original       netip.AddrPort // where the agent wanted to go; v4-mapped is unmapped
	Family         int            // AF_INET or AF_INET6 as called; AF_INET6 for v4-mapped
	Protocol       int            // IPPROTO_TCP or IPPROTO_UDP
}

// ErrNoRecord: the connection carried no token, an unknown one, one that was
// claimed already or one of another policy. It is nobody's: close it, say
// nothing, count it.
var ErrNoRecord = errors.New("the connection has no record in the kernel")

// Claim takes the record of a connection accepted from one of l's TCP
// listeners. It reads nothing from the connection and does not block. A record
// is claimed once. Any error means that the connection must be closed.
func (l *Listener) Claim(conn net.Conn) (Record, error) {
	syn, err := savedSYN(conn)
	if err != nil {
		return Record{}, err
	}
	token, ok := tokenIn(syn)
	if !ok {
		return Record{}, ErrNoRecord
	}
	record, err := l.kernel.take(token)
	if err != nil {
		return Record{}, err
	}
	if record.PolicyID != l.policyID {
		return Record{}, ErrNoRecord
	}
	return record, nil
}

// take looks the record up and deletes it; only who deleted it has it.
func (k *Kernel) take(token uint64) (Record, error) {
	var flow bpf.PosternFlow
	flows := k.maps[bpf.PosternMapFlows]
	err := ebpf.ErrNotSupported
	if !k.twoCalls.Load() {
		err = flows.LookupAndDelete(token, &flow)
	}
	if errors.Is(err, ebpf.ErrNotSupported) { // before kernel 5.14
		k.twoCalls.Store(true)
		if err = flows.Lookup(token, &flow); err == nil {
			err = flows.Delete(token)
		}
	}
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return Record{}, ErrNoRecord
	}
	if err != nil {
		return Record{}, fmt.Errorf("claim a record: %w", err)
	}
	return recordOf(flow), nil
}

func recordOf(f bpf.PosternFlow) Record {
	return Record{
		Token:          f.Token,
		CgroupID:       f.Cgroup,
		PolicyCgroupID: f.PolicyCgroup,
		PolicyID:       f.Policy,
		Netns:          f.Netns,
		PID:            f.Pid,
		TGID:           f.Tgid,
		UID:            f.Uid,
		GID:            f.Gid,
		Comm:           text(f.Comm[:]),
		Started:        monotonic(f.Started),
		Original:       netip.AddrPortFrom(address(f.Daddr), f.Dport),
		Family:         int(f.Family),
		Protocol:       int(f.Protocol),
	}
}

// Sender says who sent the datagram that the resolver received from this
// address on l.DNS.UDP: the same facts as of a connection, Original being the
// name server the agent meant. ErrNoRecord: not an agent of this policy; do
// not answer.
func (l *Listener) Sender(from netip.AddrPort) (Record, error) {
	key := bpf.PosternSenderKey{Addr: words(from.Addr()), Port: from.Port(), DnsPort: l.ports.DnsUdpPort}
	var flow bpf.PosternFlow
	err := l.kernel.maps[bpf.PosternMapDnsSrc].Lookup(key, &flow)
	if errors.Is(err, ebpf.ErrKeyNotExist) || (err == nil && flow.Policy != l.policyID) {
		return Record{}, ErrNoRecord
	}
	if err != nil {
		return Record{}, fmt.Errorf("look up the sender of a query: %w", err)
	}
	return recordOf(flow), nil
}

// savedSYN reads the headers of the SYN that opened the connection, which the
// kernel kept because the listener has TCP_SAVE_SYN. They can be read once.
func savedSYN(conn net.Conn) ([]byte, error) {
	c, ok := conn.(syscall.Conn)
	if !ok {
		return nil, fmt.Errorf("read the SYN: %T is not a connection of the kernel", conn)
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("read the SYN: %w", err)
	}
	var syn []byte
	var inner error
	err = raw.Control(func(fd uintptr) {
		syn, inner = getsockopt(int(fd), unix.IPPROTO_TCP, unix.TCP_SAVED_SYN, maxSYN)
	})
	if err = errors.Join(err, inner); err != nil {
		return nil, fmt.Errorf("read the SYN: %w", err)
	}
	return syn, nil
}

// tokenIn finds the token in the IP and TCP headers of a SYN.
func tokenIn(syn []byte) (uint64, bool) {
	tcp, ok := tcpHeader(syn)
	if !ok || len(tcp) < 20 {
		return 0, false
	}
	end := int(tcp[12]>>4) * 4
	if end < 20 || end > len(tcp) {
		return 0, false
	}
	for options := tcp[20:end]; len(options) > 0; {
		switch options[0] {
		case 0: // end of the list
			return 0, false
		case 1: // padding
			options = options[1:]
			continue
		}
		if len(options) < 2 || options[1] < 2 || int(options[1]) > len(options) {
			return 0, false
		}
		option := options[:options[1]]
		if option[0] == tokenKind && len(option) == tokenLen && binary.BigEndian.Uint16(option[2:]) == tokenMagic {
			return binary.NativeEndian.Uint64(option[4:]), true
		}
		options = options[len(option):]
	}
	return 0, false
}

func tcpHeader(packet []byte) ([]byte, bool) {
	if len(packet) == 0 {
		return nil, false
	}
	switch packet[0] >> 4 {
	case 4:
		length := int(packet[0]&0xf) * 4
		if len(packet) < 20 || length < 20 || len(packet) < length || packet[9] != unix.IPPROTO_TCP {
			return nil, false
		}
		return packet[length:], true
	case 6:
		if len(packet) < 40 || packet[6] != unix.IPPROTO_TCP {
			return nil, false
		}
		return packet[40:], true
	}
	return nil, false
}
