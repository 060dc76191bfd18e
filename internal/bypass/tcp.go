package bypass

import (
	"errors"
	"fmt"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/internal/bypass/uring"
)

// Protocols that package unix has no name for.
const (
	protocolMPTCP   = 262
	protocolUDPLITE = 136
)

var foreign4, foreign6 = netip.MustParseAddr("203.0.113.77"), netip.MustParseAddr("2001:db8:706f:7374::77")

var tcpAttempts = []Attempt{
	{Name: "tcp-connect", Tries: "connects to an address outside", Families: both, Must: everywhere(ByRedirect), do: dialing(443, connect)},
	{Name: "tcp-nonblocking", Tries: "connects without waiting, and polls", Families: both, Must: everywhere(ByRedirect), do: dialing(443, connectNonBlocking)},
	{
		Name: "tcp-v6only", Tries: "connects a socket that is for IPv6 only", Families: only6, Must: everywhere(ByRedirect),
		do: dialing(443, set("IPV6_V6ONLY", unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1), connect),
	},
	{
		Name: "tcp-v4-mapped", Tries: "connects an IPv6 socket to ::ffff:a.b.c.d", Families: only6, Must: everywhere(ByRedirect),
		do: func(t *try) error { return t.tcp(at(mapped(t.Far4), 443), connect) },
	},
	{
		Name: "tcp-v4-on-v6", Tries: "connects an IPv6 socket to an address of family IPv4", Families: only6,
		Must: everywhere(ByRedirect, ByKernel), do: func(t *try) error {
			return t.stream(unix.AF_INET6, 0, at(t.Far4, 443), connect)
		},
	},
	{
		Name: "tcp-fastopen-connect", Tries: "connects with TCP_FASTOPEN_CONNECT, which sends with the first data", Families: both, Must: everywhere(ByRedirect),
		do: dialing(443, set("TCP_FASTOPEN_CONNECT", unix.IPPROTO_TCP, unix.TCP_FASTOPEN_CONNECT, 1), connect, sendPayload),
	},
	{Name: "tcp-msg-fastopen", Tries: "connects by sendto with MSG_FASTOPEN", Families: both, Must: everywhere(ByRedirect), do: dialing(443, sendFastOpen)},
	{
		Name: "tcp-io-uring", Tries: "connects by io_uring, past filters of system calls", Families: both,
		Must: boxed(by(ByRedirect, ByKernel), BySeccomp), do: dialing(443, func(_ *try, fd int, to netip.AddrPort) error {
			return named("io_uring connect", uring.Connect(fd, raw(to)))
		}),
	},
	{
		Name: "tcp-source-bound", Tries: "binds to the address of the interface that leads outside, and connects", Families: both,
		Must: boxed(by(ByRedirect, ByDevice), ByNamespace), do: dialing(443, bindTo(func(t *try) netip.AddrPort { return at(t.near(), 0) }), connect),
	},
	{
		Name: "tcp-source-port-reuse", Tries: "takes the source port of an own connection again, to be taken for another", Families: both,
		Must: boxed(by(ByBind), ByRedirect), do: reusePort,
	},
	{
		Name: "tcp-so-mark", Tries: "sets SO_MARK, by which rules of routing choose", Families: both,
		Must: everywhere(ByKernel, ByRedirect), do: dialing(443, set("SO_MARK", unix.SOL_SOCKET, unix.SO_MARK, 7), connect),
	},
	{
		Name: "tcp-bindtodevice", Tries: "binds to the device that leads outside", Families: both,
		Must: boxed(by(ByDevice, ByRedirect), ByNamespace), do: dialing(443, bindToDevice, connect),
	},
	{
		Name: "tcp-source-route", Tries: "asks for a route by way of another host (IP_OPTIONS, IPV6_RTHDR)", Families: both,
		Must: everywhere(ByKernel, ByEgress), do: dialing(443, sourceRoute, connect),
	},
	{
		Name: "tcp-transparent", Tries: "sets IP_TRANSPARENT", Families: both,
		Must: everywhere(ByKernel, ByRedirect), do: dialing(443, transparent, connect),
	},
	{
		Name: "tcp-freebind", Tries: "connects from an address that is not this host's (IP_FREEBIND), to have it answered there", Families: both,
		Must: boxed(by(ByDevice, ByRedirect), ByNamespace), do: dialing(443, freebind, connect),
	},
	{
		Name: "tcp-simultaneous-open", Tries: "connects while it is called from outside at the same port", Families: both,
		Must: boxed(by(ByRedirect, ByIngress, ByDevice), ByNamespace), do: simultaneousOpen,
	},
	{
		Name: "tcp-repair", Tries: "makes an established socket without a handshake (TCP_REPAIR)", Families: both,
		Must: everywhere(ByKernel, ByRedirect), do: dialing(443, set("TCP_REPAIR", unix.IPPROTO_TCP, unix.TCP_REPAIR, 1), connect),
	},
	{
		Name: "tcp-reconnect", Tries: "disconnects by AF_UNSPEC what was redirected, and connects again", Families: both,
		Must: everywhere(ByRedirect), do: dialing(443, connect, disconnect, connect),
	},
	{
		Name: "tcp-host-service", Tries: "connects to a server on this host's loopback", Families: both,
		Must: boxed(by(ByRedirect), ByNamespace), do: func(t *try) error { return t.tcp(at(t.loopback(), t.HostPort), connect) },
	},
	{
		Name: "tcp-unspecified", Tries: "connects to 0.0.0.0 or ::, which is this host", Families: both,
		Must: boxed(by(ByRedirect), ByNamespace), do: func(t *try) error {
			if t.family == V6 {
				return t.tcp(at(netip.IPv6Unspecified(), t.HostPort), connect)
			}
			return t.tcp(at(netip.IPv4Unspecified(), t.HostPort), connect)
		},
	},
	{
		Name: "tcp-host-address", Tries: "connects to a server on this host by its own address", Families: both,
		Must: everywhere(ByRedirect), do: func(t *try) error { return t.tcp(at(t.near(), t.HostPort), connect) },
	},
	{
		Name: "mptcp", Tries: "connects by multipath TCP", Families: both, Needs: "MPTCP in the kernel",
		Must: everywhere(BySocket), do: func(t *try) error {
			return t.stream(domainOf(t.far()), protocolMPTCP, at(t.far(), 443), connect)
		},
	},
	{
		Name: "sctp", Tries: "connects by SCTP", Families: both, Needs: "SCTP in the kernel",
		Must: everywhere(BySocket), do: func(t *try) error {
			return t.stream(domainOf(t.far()), unix.IPPROTO_SCTP, at(t.far(), 443), connect)
		},
	},
	{
		Name: "smc", Tries: "connects by SMC, which makes TCP sockets of the kernel's own", Families: both, Needs: "SMC in the kernel",
		Must: boxed(by(ByForeignSocket, ByEgress), BySeccomp), do: smc,
	},
}

// dialing connects to the outside, step by step.
func dialing(port uint16, steps ...step) func(*try) error {
	return func(t *try) error { return t.tcp(at(t.far(), port), steps...) }
}

func named(call string, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", call, err)
	}
	return nil
}

func connectNonBlocking(_ *try, fd int, to netip.AddrPort) error {
	if err := unix.SetNonblock(fd, true); err != nil {
		return err
	}
	err := unix.Connect(fd, raw(to))
	if !errors.Is(err, unix.EINPROGRESS) {
		return named("connect", err)
	}
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, int(tcpPatience.Milliseconds()))
	if err != nil || n == 0 {
		return fmt.Errorf("poll: %d events, %w", n, errors.Join(err, unix.ETIMEDOUT))
	}
	code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return err
	}
	if code != 0 {
		return named("connect", unix.Errno(code))
	}
	return unix.SetNonblock(fd, false)
}

func sendPayload(_ *try, fd int, _ netip.AddrPort) error {
	return named("send", unix.Send(fd, payload, unix.MSG_NOSIGNAL))
}

func sendFastOpen(_ *try, fd int, to netip.AddrPort) error {
	return named("sendto with MSG_FASTOPEN", unix.Sendto(fd, payload, unix.MSG_FASTOPEN|unix.MSG_NOSIGNAL, raw(to)))
}

func bindToDevice(t *try, fd int, _ netip.AddrPort) error {
	return named("SO_BINDTODEVICE", unix.BindToDevice(fd, t.Device))
}

// reusePort leaves a connection by a reset and binds its port again, which is
// how one agent was once taken for another.
func reusePort(t *try) error {
	first, err := open(domainOf(t.far()), unix.SOCK_STREAM, 0, tcpPatience)
	if err != nil {
		return err
	}
	source := bindTo(func(t *try) netip.AddrPort { return at(t.loopback(), 0) })
	if err := source(t, first, netip.AddrPort{}); err != nil {
		return err
	}
	unix.Connect(first, raw(at(t.far(), 443))) //nolint:errcheck // it may be refused: the port is taken
	port, err := portOf(first)
	if err != nil {
		return err
	}
	if err := unix.SetsockoptLinger(first, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
		return err
	}
	unix.Close(first)
	return t.tcp(at(t.far(), 443), set("SO_REUSEADDR", unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
		bindTo(func(t *try) netip.AddrPort { return at(t.loopback(), port) }), connect)
}

// sourceRoute asks for a loose source route (RFC 791) or a routing header of
// type 2 (RFC 6275) by way of the far end.
func sourceRoute(t *try, fd int, _ netip.AddrPort) error {
	if t.family == V6 {
		via := t.Far6.As16()
		header := append([]byte{0, 2, 2, 1, 0, 0, 0, 0}, via[:]...)
		return named("IPV6_RTHDR", unix.SetsockoptString(fd, unix.IPPROTO_IPV6, unix.IPV6_RTHDR, string(header)))
	}
	via := t.Far4.As4()
	option := append([]byte{131, 7, 4}, via[:]...)
	return named("IP_OPTIONS", unix.SetsockoptString(fd, unix.IPPROTO_IP, unix.IP_OPTIONS, string(append(option, 0))))
}

func transparent(t *try, fd int, _ netip.AddrPort) error {
	if t.family == V6 {
		return named("IPV6_TRANSPARENT", unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_TRANSPARENT, 1))
	}
	return named("IP_TRANSPARENT", unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TRANSPARENT, 1))
}

func freebind(t *try, fd int, _ netip.AddrPort) error {
	if err := nonlocal(t, fd); err != nil {
		return err
	}
	return named("bind", unix.Bind(fd, raw(at(t.foreign(), 0))))
}

// nonlocal lets a socket have addresses that are not this host's.
func nonlocal(t *try, fd int) error {
	if t.family == V6 {
		return named("IPV6_FREEBIND", unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 1))
	}
	return named("IP_FREEBIND", unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_FREEBIND, 1))
}

// foreign is an address that nobody has.
func (t *try) foreign() netip.Addr {
	if t.family == V6 {
		return foreign6
	}
	return foreign4
}

// disconnect is connect to a sockaddr of family AF_UNSPEC.
func disconnect(_ *try, fd int, _ netip.AddrPort) error {
	unspec := [16]byte{}
	_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&unspec)), unsafe.Sizeof(unspec))
	if errno != 0 {
		return named("disconnect", errno)
	}
	return nil
}

// simultaneousOpen has two SYNs cross (RFC 9293, section 3.5).
func simultaneousOpen(t *try) error {
	fd, err := open(domainOf(t.far()), unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0, tcpPatience)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, raw(at(t.near(), 0))); err != nil {
		return named("bind", err)
	}
	port, err := portOf(fd)
	if err != nil {
		return err
	}
	if err := unix.Connect(fd, raw(at(t.far(), 443))); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return named("connect", err)
	}
	if answered, err := t.dial("tcp", at(t.near(), port)); answered || err != nil {
		return err
	}
	if err := unix.SetNonblock(fd, false); err != nil {
		return err
	}
	return t.hear(fd)
}

// afSMC is AF_SMC; its protocols are IPv4 and IPv6.
const afSMC = 43

func smc(t *try) error {
	protocol := 0
	if t.family == V6 {
		protocol = 1
	}
	return t.stream(afSMC, protocol, at(t.far(), 443), connect)
}
