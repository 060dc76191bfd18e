package bypass

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// How long an attempt waits for an answer. What is not answered is stopped, or
// heard by the sniffer.
const (
	tcpPatience = 2 * time.Second
	udpPatience = 300 * time.Millisecond
)

// payload is what attempts send.
var payload = []byte("what an agent must not tell")

// far is the address outside, near the host's own.
func (t *try) far() netip.Addr {
	if t.family == V6 {
		return t.Far6
	}
	return t.Far4
}

func (t *try) near() netip.Addr {
	if t.family == V6 {
		return t.Near6
	}
	return t.Near4
}

func (t *try) loopback() netip.Addr {
	if t.family == V6 {
		return netip.IPv6Loopback()
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1})
}

func domainOf(to netip.Addr) int {
	if to.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// raw is an address for the kernel. One that has a zone gets its device's
// number, if there is one.
func raw(to netip.AddrPort) unix.Sockaddr {
	if to.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())}
	}
	sa := &unix.SockaddrInet6{Addr: to.Addr().As16(), Port: int(to.Port())}
	if zone := to.Addr().Zone(); zone != "" {
		if device, err := net.InterfaceByName(zone); err == nil {
			sa.ZoneId = uint32(device.Index)
		}
	}
	return sa
}

// mapped is an IPv4 address in IPv6's clothes.
func mapped(a netip.Addr) netip.Addr { return netip.AddrFrom16(a.As16()) }

// open makes a socket that waits only so long. A protocol that the kernel lacks
// is nothing to try.
func open(domain, kind, protocol int, patience time.Duration) (int, error) {
	fd, err := unix.Socket(domain, kind|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.ESOCKTNOSUPPORT) {
			return -1, fmt.Errorf("socket: %w: %w", errAbsent, err)
		}
		return -1, fmt.Errorf("socket: %w", err)
	}
	wait := unix.NsecToTimeval(patience.Nanoseconds())
	for _, option := range []int{unix.SO_RCVTIMEO, unix.SO_SNDTIMEO} {
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, option, &wait) //nolint:errcheck // not every family has it
	}
	return fd, nil
}

// step is one thing to do to a socket on the way to an address.
type step func(t *try, fd int, to netip.AddrPort) error

func connect(_ *try, fd int, to netip.AddrPort) error {
	if err := unix.Connect(fd, raw(to)); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	return nil
}

// tcp connects in some way and listens for the server outside.
func (t *try) tcp(to netip.AddrPort, steps ...step) error {
	return t.stream(domainOf(to.Addr()), 0, to, steps...)
}

func (t *try) stream(domain, protocol int, to netip.AddrPort, steps ...step) error {
	fd, err := open(domain, unix.SOCK_STREAM, protocol, tcpPatience)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for _, s := range steps {
		if err := s(t, fd, to); err != nil {
			return err
		}
	}
	return t.hear(fd)
}

// udp sends in some way and listens for the server outside.
func (t *try) udp(to netip.AddrPort, steps ...step) error {
	fd, err := open(domainOf(to.Addr()), unix.SOCK_DGRAM, 0, udpPatience)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for _, s := range steps {
		if err := s(t, fd, to); err != nil {
			return err
		}
	}
	return t.hear(fd)
}

// hear is nil when a server that agents must not reach is at the other end.
func (t *try) hear(fd int) error {
	var got []byte
	buf := make([]byte, 512)
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return errors.New("nothing came back")
		case err != nil:
			return fmt.Errorf("receive: %w", err)
		case n == 0:
			return errors.New("the other end hung up without a word")
		}
		got = append(got, buf[:n]...)
		if t.banner(got) {
			return nil
		}
		if !strings.HasPrefix(t.Banner, string(got)) && !strings.HasPrefix(t.HostBanner, string(got)) {
			return fmt.Errorf("somebody else answered: %.40q", got)
		}
	}
}

func (t *try) banner(got []byte) bool {
	return bytes.Contains(got, []byte(t.Banner)) || bytes.Contains(got, []byte(t.HostBanner))
}

// set is a step that sets an option.
func set(name string, level, option, value int) step {
	return func(_ *try, fd int, _ netip.AddrPort) error {
		if err := unix.SetsockoptInt(fd, level, option, value); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return nil
	}
}

// bindTo is a step that binds to an address of the host.
func bindTo(source func(t *try) netip.AddrPort) step {
	return func(t *try, fd int, _ netip.AddrPort) error {
		if err := unix.Bind(fd, raw(source(t))); err != nil {
			return fmt.Errorf("bind to %s: %w", source(t), err)
		}
		return nil
	}
}

// at is an address with a port.
func at(a netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(a, port) }

// portOf is the port that a socket is bound to.
func portOf(fd int) (uint16, error) {
	name, err := unix.Getsockname(fd)
	if err != nil {
		return 0, fmt.Errorf("getsockname: %w", err)
	}
	switch a := name.(type) {
	case *unix.SockaddrInet4:
		return uint16(a.Port), nil
	case *unix.SockaddrInet6:
		return uint16(a.Port), nil
	}
	return 0, errors.New("getsockname: no port")
}
