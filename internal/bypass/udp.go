package bypass

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/internal/bypass/uring"
)

// What homes find each other by: RFC 6762, RFC 4795, UPnP.
const (
	portMDNS  = 5353
	portLLMNR = 5355
	portSSDP  = 1900
)

// udpSegment is UDP_SEGMENT: one send, several datagrams.
const udpSegment = 103

var udpAttempts = []Attempt{
	{Name: "udp-connect", Tries: "connects a datagram socket and sends", Families: both, Must: everywhere(ByUDP), do: sending(443, connect, sendPayload)},
	{Name: "udp-sendto", Tries: "sends without connecting", Families: both, Must: everywhere(ByUDP), do: sending(443, sendto(0))},
	{Name: "udp-sendmmsg", Tries: "sends several datagrams by one call", Families: both, Must: everywhere(ByUDP), do: sending(443, sendmmsg)},
	{
		Name: "udp-corked", Tries: "collects a datagram piece by piece (MSG_MORE, UDP_CORK) and lets it go", Families: both,
		Must: everywhere(ByUDP), do: sending(443, set("UDP_CORK", unix.IPPROTO_UDP, unix.UDP_CORK, 1), sendto(unix.MSG_MORE),
			set("UDP_CORK", unix.IPPROTO_UDP, unix.UDP_CORK, 0)),
	},
	{
		Name: "udp-gso", Tries: "has the kernel cut one send into many datagrams (UDP_SEGMENT)", Families: both,
		Must: everywhere(ByUDP), do: sending(443, set("UDP_SEGMENT", unix.IPPROTO_UDP, udpSegment, 8), sendto(0)),
	},
	{
		Name: "udp-io-uring", Tries: "sends by io_uring, past filters of system calls", Families: both,
		Must: boxed(by(ByUDP, ByKernel), BySeccomp), do: sending(443, func(_ *try, fd int, to netip.AddrPort) error {
			return named("io_uring sendmsg", uring.Sendto(fd, payload, raw(to)))
		}),
	},
	{
		Name: "udp-pktinfo", Tries: "names source and device beside the datagram (IP_PKTINFO)", Families: both,
		Must: boxed(by(ByUDP), ByNamespace), do: sending(443, sendPktinfo),
	},
	{
		Name: "udp-freebind", Tries: "asks a resolver from an address that is not this host's, to have it answered there", Families: both,
		Must: boxed(by(ByDevice, ByResolver), ByNamespace), do: sending(portDNS, freebind, sendQuestion),
	},
	{
		Name: "udp-foreign-source", Tries: "the same, with the address beside the datagram (IP_PKTINFO)", Families: both,
		Must: boxed(by(ByEgress, ByResolver), ByNamespace), do: sending(portDNS, sendFromForeign),
	},
	{
		Name: "udp-quic", Tries: "sends what begins a QUIC connection to port 443", Families: both,
		Must: everywhere(ByUDP), do: sending(443, sendQUIC),
	},
	{
		Name: "udp-v4-mapped", Tries: "sends to ::ffff:a.b.c.d", Families: only6, Must: everywhere(ByUDP),
		do: func(t *try) error { return t.udp(at(mapped(t.Far4), 443), sendto(0)) },
	},
	{
		Name: "udp-v4-on-v6", Tries: "sends to an address of family IPv4 by an IPv6 socket", Families: only6, Must: everywhere(ByUDP),
		do: func(t *try) error {
			return t.udp(at(t.Far6, 443), func(t *try, fd int, _ netip.AddrPort) error {
				return sendto(0)(t, fd, at(t.Far4, 443))
			})
		},
	},
	{
		Name: "udp-by-resolver-socket", Tries: "connects to a resolver, then sends elsewhere by the same socket", Families: both,
		Must: everywhere(ByUDP), do: func(t *try) error {
			return t.udp(at(t.far(), portDNS), connect, func(t *try, fd int, _ netip.AddrPort) error {
				return sendto(0)(t, fd, at(t.far(), 443))
			})
		},
	},
	{
		Name: "udp-bindtodevice", Tries: "binds to the device that leads outside, and asks a resolver there", Families: both,
		Must: boxed(by(ByDevice, ByResolver), ByNamespace), do: sending(portDNS, bindToDevice, sendto(0)),
	},
	{
		Name: "udp-host-service", Tries: "sends to a server on this host's loopback", Families: both,
		Must: boxed(by(ByUDP), ByNamespace), do: func(t *try) error { return t.udp(at(t.loopback(), t.HostPort), sendto(0)) },
	},
	{
		Name: "udplite", Tries: "sends by UDP-Lite", Families: both, Needs: "UDP-Lite in the kernel",
		Must: everywhere(BySocket), do: makes(unix.SOCK_DGRAM, protocolUDPLITE),
	},
	{Name: "udp-mdns", Tries: "asks the neighbours by multicast DNS", Families: both, Must: boxed(by(ByUDP), ByNamespace), do: multicast("224.0.0.251", "ff02::fb", portMDNS)},
	{Name: "udp-llmnr", Tries: "asks the neighbours by LLMNR", Families: both, Must: boxed(by(ByUDP), ByNamespace), do: multicast("224.0.0.252", "ff02::1:3", portLLMNR)},
	{Name: "udp-ssdp", Tries: "asks the neighbours for devices by SSDP", Families: both, Must: boxed(by(ByUDP), ByNamespace), do: multicast("239.255.255.250", "ff02::c", portSSDP)},
	{
		Name: "udp-broadcast", Tries: "sends to everybody on the link", Families: only4, Must: boxed(by(ByUDP), ByNamespace),
		do: func(t *try) error {
			// The link's own broadcast address: its network has two bits of hosts.
			all := t.Near4.As4()
			all[3] |= 3
			return t.udp(at(netip.AddrFrom4(all), 443), set("SO_BROADCAST", unix.SOL_SOCKET, unix.SO_BROADCAST, 1), sendto(0))
		},
	},
}

func sending(port uint16, steps ...step) func(*try) error {
	return func(t *try) error { return t.udp(at(t.far(), port), steps...) }
}

func sendto(flags int) step {
	return func(_ *try, fd int, to netip.AddrPort) error {
		return named("sendto", unix.Sendto(fd, payload, flags, raw(to)))
	}
}

// sendQUIC sends a long header of version 1 in a datagram of the least length
// (RFC 9000, section 14.1).
func sendQUIC(_ *try, fd int, to netip.AddrPort) error {
	initial := make([]byte, 1200)
	copy(initial, []byte{0xc3, 0, 0, 0, 1, 8})
	return named("sendto", unix.Sendto(fd, initial, 0, raw(to)))
}

// sendmmsg makes the call bare: package unix has none.
func sendmmsg(_ *try, fd int, to netip.AddrPort) error {
	address, length := rawBytes(to)
	vector := unix.Iovec{Base: &payload[0]}
	vector.SetLen(len(payload))
	type message struct {
		header unix.Msghdr
		sent   uint32
		_      [4]byte
	}
	messages := make([]message, 2)
	for i := range messages {
		messages[i].header = unix.Msghdr{Name: &address[0], Namelen: length, Iov: &vector}
		messages[i].header.SetIovlen(1)
	}
	_, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&messages[0])), uintptr(len(messages)), 0, 0, 0)
	if errno != 0 {
		return named("sendmmsg", errno)
	}
	return nil
}

// rawBytes is a sockaddr as the kernel has it.
func rawBytes(to netip.AddrPort) ([]byte, uint32) {
	if to.Addr().Is4() {
		b := make([]byte, unix.SizeofSockaddrInet4)
		binary.NativeEndian.PutUint16(b, unix.AF_INET)
		binary.BigEndian.PutUint16(b[2:], to.Port())
		copy(b[4:], to.Addr().AsSlice())
		return b, uint32(len(b))
	}
	b := make([]byte, unix.SizeofSockaddrInet6)
	binary.NativeEndian.PutUint16(b, unix.AF_INET6)
	binary.BigEndian.PutUint16(b[2:], to.Port())
	copy(b[8:], to.Addr().AsSlice())
	return b, uint32(len(b))
}

// sendQuestion asks for a name that carries data.
func sendQuestion(_ *try, fd int, to netip.AddrPort) error {
	return named("sendto", unix.Sendto(fd, query(tunnelName, typeTXT), 0, raw(to)))
}

func sendFromForeign(t *try, fd int, to netip.AddrPort) error {
	if err := nonlocal(t, fd); err != nil {
		return err
	}
	beside := unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: foreign4.As4()})
	if t.family == V6 {
		beside = unix.PktInfo6(&unix.Inet6Pktinfo{Addr: foreign6.As16()})
	}
	return named("sendmsg", unix.Sendmsg(fd, query(tunnelName, typeTXT), beside, raw(to), 0))
}

func sendPktinfo(t *try, fd int, to netip.AddrPort) error {
	var beside []byte
	if t.family == V6 {
		beside = unix.PktInfo6(&unix.Inet6Pktinfo{Addr: t.Near6.As16()})
	} else {
		beside = unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: t.Near4.As4()})
	}
	return named("sendmsg", unix.Sendmsg(fd, payload, beside, raw(to), 0))
}

// multicast sends by the device that leads outside, and by no other.
func multicast(group4, group6 string, port uint16) func(*try) error {
	return func(t *try) error {
		if t.family == V6 {
			return t.udp(at(netip.MustParseAddr(group6).WithZone(t.Device), port), sendto(0))
		}
		return t.udp(at(netip.MustParseAddr(group4), port), func(t *try, fd int, _ netip.AddrPort) error {
			return named("IP_MULTICAST_IF", unix.SetsockoptInet4Addr(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_IF, t.Near4.As4()))
		}, sendto(0))
	}
}

// makes is an attempt that has got what it wanted when it has the socket.
func makes(kind, protocol int) func(*try) error {
	return func(t *try) error {
		fd, err := open(domainOf(t.far()), kind, protocol, udpPatience)
		if err != nil {
			return fmt.Errorf("protocol %d: %w", protocol, err)
		}
		defer unix.Close(fd)
		unix.Sendto(fd, payload, 0, raw(at(t.far(), 443))) //nolint:errcheck // the sniffer hears
		return nil
	}
}
