package outside

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// snifferTimeout is how long the sniffer waits for a marker of our own, which
// crosses one cable of one machine, and settlePause how long until another one
// is sent.
const snifferTimeout, settlePause = 5 * time.Second, 20 * time.Millisecond

// markerPort is discard (RFC 863): nobody answers there.
const markerPort = 9

// Frame is a packet that arrived outside.
type Frame struct {
	What  string // such as "IPv4 TCP 203.0.113.1:40000 → 203.0.113.2:443 flags 0x2"
	Bytes []byte // its beginning
	Group bool   // sent to everybody, or to a group
	Flow  string // of TCP: both ends
	Bare  bool   // of TCP: it opens nothing and carries nothing
}

func (f Frame) String() string { return fmt.Sprintf("%s, % x", f.What, f.Bytes) }

// shownBytes is how much of a frame is kept: headers, and a little of what is
// in it.
const shownBytes = 80

// markers counts those of this process, so that an old one is not taken for
// the one that is waited for.
var markers atomic.Uint64

func newMarker() string { return fmt.Sprintf("the sniffer hears marker %d.", markers.Add(1)) }

// Frames returns what has arrived since the last call. A datagram of our own
// proves that the sniffer hears, and marks the end. The kernel's own
// housekeeping is left out (ARP, neighbour discovery, members of groups), and
// so are its refusals of what Dial sent.
func (o *Outside) Frames() ([]Frame, error) {
	marker := newMarker()
	if err := o.InNear(func() error { return mark(Far4, marker) }); err != nil {
		return nil, fmt.Errorf("send a marker outside: %w", err)
	}
	frames, heard, err := o.until(marker, snifferTimeout)
	if err == nil && !heard {
		err = fmt.Errorf("the sniffer does not hear a marker of our own within %s: does a firewall of this host hold it?", snifferTimeout)
	}
	return frames, err
}

// until reads what the sniffer has, up to the marker.
func (o *Outside) until(marker string, patience time.Duration) (frames []Frame, heard bool, err error) {
	o.mu.Lock()
	dialed := o.dialed
	o.dialed = map[netip.AddrPort]bool{}
	o.mu.Unlock()
	wait := unix.NsecToTimeval(patience.Nanoseconds())
	if err := unix.SetsockoptTimeval(o.sniffer, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait); err != nil {
		return nil, false, fmt.Errorf("sniffer: %w", err)
	}
	buf := make([]byte, 65536)
	for {
		n, from, err := unix.Recvfrom(o.sniffer, buf, 0)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return frames, false, nil
		case err != nil:
			return frames, false, fmt.Errorf("sniffer: %w", err)
		}
		ll, ok := from.(*unix.SockaddrLinklayer)
		if !ok || ll.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		packet := buf[:n]
		if strings.Contains(string(packet), marker) {
			return frames, true, nil
		}
		if what := traffic(htons(ll.Protocol), packet, dialed); what != "" {
			f := Frame{
				What: what, Bytes: append([]byte(nil), packet[:min(n, shownBytes)]...),
				Group: ll.Pkttype == unix.PACKET_BROADCAST || ll.Pkttype == unix.PACKET_MULTICAST,
			}
			f.Flow, f.Bare = segment(htons(ll.Protocol), packet)
			frames = append(frames, f)
		}
	}
}

func mark(to netip.Addr, marker string) error {
	conn, err := net.Dial("udp", netip.AddrPortFrom(to, markerPort).String())
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = conn.Write([]byte(marker))
	return err
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

const (
	tcpSYN         = 0x02
	tcpRST         = 0x04
	icmpUnreach    = 3
	icmpv6Echo     = 128
	protocolFolded = 0 // hop-by-hop options: multicast listener reports
)

// traffic names a packet; empty is housekeeping.
func traffic(ethernet uint16, packet []byte, dialed map[netip.AddrPort]bool) string {
	switch {
	case ethernet == unix.ETH_P_IP && len(packet) >= 20:
		from, _ := netip.AddrFromSlice(packet[12:16])
		to, _ := netip.AddrFromSlice(packet[16:20])
		rest := packet[min(len(packet), int(packet[0]&15)*4):]
		if packet[9] == unix.IPPROTO_ICMP && len(rest) > 0 && rest[0] == icmpUnreach && len(dialed) > 0 {
			return ""
		}
		if packet[9] == unix.IPPROTO_IGMP {
			return ""
		}
		return transport("IPv4", packet[9], from, to, rest, dialed)
	case ethernet == unix.ETH_P_IPV6 && len(packet) >= 41:
		from, _ := netip.AddrFromSlice(packet[8:24])
		to, _ := netip.AddrFromSlice(packet[24:40])
		next, rest := packet[6], packet[40:]
		if next == protocolFolded || next == unix.IPPROTO_ICMPV6 && rest[0] != icmpv6Echo {
			return ""
		}
		return transport("IPv6", next, from, to, rest, dialed)
	case ethernet == unix.ETH_P_ARP:
		return ""
	}
	return fmt.Sprintf("ethernet protocol %#x", ethernet)
}

// segment says which flow a TCP segment belongs to, and whether it is bare.
func segment(ethernet uint16, packet []byte) (flow string, bare bool) {
	var ends, rest []byte
	switch {
	case ethernet == unix.ETH_P_IP && len(packet) >= 20 && packet[9] == unix.IPPROTO_TCP:
		ends = packet[12:20]
		rest = packet[min(len(packet), int(packet[0]&15)*4):min(len(packet), int(binary.BigEndian.Uint16(packet[2:])))]
	case ethernet == unix.ETH_P_IPV6 && len(packet) >= 41 && packet[6] == unix.IPPROTO_TCP:
		ends = packet[8:40]
		rest = packet[40:min(len(packet), 40+int(binary.BigEndian.Uint16(packet[4:])))]
	}
	if len(rest) < 20 {
		return "", false
	}
	return string(ends) + string(rest[:4]), rest[13]&tcpSYN == 0 && len(rest) <= int(rest[12]>>4)*4
}

func transport(ip string, protocol byte, from, to netip.Addr, rest []byte, dialed map[netip.AddrPort]bool) string {
	if protocol != unix.IPPROTO_TCP && protocol != unix.IPPROTO_UDP || len(rest) < 14 && protocol == unix.IPPROTO_TCP || len(rest) < 4 {
		return fmt.Sprintf("%s protocol %d %s → %s", ip, protocol, from, to)
	}
	source := netip.AddrPortFrom(from, binary.BigEndian.Uint16(rest))
	ports := fmt.Sprintf("%s → %s", source, netip.AddrPortFrom(to, binary.BigEndian.Uint16(rest[2:])))
	if protocol == unix.IPPROTO_UDP {
		return fmt.Sprintf("%s UDP %s", ip, ports)
	}
	if flags := rest[13]; flags&tcpRST != 0 && dialed[source] {
		return ""
	}
	return fmt.Sprintf("%s TCP %s flags %#x", ip, ports, rest[13])
}
