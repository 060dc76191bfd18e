package bypass

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// A port that somebody outside could know.
const wellKnown = 48080

var bindAttempts = []Attempt{
	{
		Name: "listen", Tries: "listens at a port on all addresses, and is called from outside", Families: both,
		Must: boxed(by(ByBind), ByNamespace), do: serving(unix.SOCK_STREAM, wellKnown),
	},
	{
		Name: "listen-any-port", Tries: "listens at a port that the kernel chooses, and is called from outside", Families: both,
		Must: boxed(by(ByIngress), ByNamespace), do: serving(unix.SOCK_STREAM, 0),
	},
	{Name: "listen-privileged", Tries: "listens at port 80", Families: both, Must: boxed(by(ByKernel, ByBind), ByNamespace), do: serving(unix.SOCK_STREAM, 80)},
	{
		Name: "udp-listen", Tries: "receives datagrams at a port on all addresses, and is sent one from outside", Families: both,
		Must: boxed(by(ByBind), ByNamespace), do: serving(unix.SOCK_DGRAM, wellKnown),
	},
	{
		Name: "udp-listen-any-port", Tries: "receives datagrams at a port that the kernel chooses, and is sent one from outside", Families: both,
		Must: boxed(by(ByIngress), ByNamespace), do: serving(unix.SOCK_DGRAM, 0),
	},
	{Name: "squat", Tries: "takes the port of its own gateway, beside it", Families: both, Must: boxed(by(ByBind), ByKernel, ByNamespace), do: squat},
	{
		Name: "gateway-port", Tries: "dials its own gateway's ports, past the record of where to", Families: both,
		Must: boxed(by(ByGatewayPort), ByNamespace), do: gateways(func(t *try) []Ports { return t.Gateway }),
	},
	{
		Name: "gateway-port-of-another", Tries: "dials the gateway of another agent", Families: both, Needs: "a second agent",
		Must: boxed(by(ByGatewayPort), ByNamespace), do: gateways(func(t *try) []Ports { return t.OtherGateway }),
	},
	{
		Name: "resolver-port", Tries: "sends to the gateway's resolver by its own port", Families: both,
		Must: boxed(by(ByGatewayPort), ByNamespace, ByUDP), do: resolverPort,
	},
}

// serving is open when somebody outside got through.
func serving(kind int, port uint16) func(*try) error {
	return func(t *try) error {
		fd, err := open(domainOf(t.far()), kind, 0, udpPatience)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		any, network := netip.IPv4Unspecified(), "tcp"
		if t.family == V6 {
			any = netip.IPv6Unspecified()
		}
		if err := unix.Bind(fd, raw(at(any, port))); err != nil {
			return named("bind", err)
		}
		if kind == unix.SOCK_STREAM {
			if err := unix.Listen(fd, 1); err != nil {
				return named("listen", err)
			}
		} else {
			network = "udp"
		}
		bound, err := portOf(fd)
		if err != nil {
			return err
		}
		if answered, err := t.dial(network, at(t.near(), bound)); answered || err != nil {
			return err
		}
		if kind == unix.SOCK_DGRAM {
			n, _, err := unix.Recvfrom(fd, make([]byte, 64), 0)
			if err == nil && n > 0 {
				return nil
			}
		}
		return errors.New("nobody outside got through")
	}
}

func squat(t *try) error {
	if len(t.Gateway) == 0 {
		return fmt.Errorf("%w: the gateway's ports are not known", errAbsent)
	}
	var last error
	for _, p := range t.Gateway {
		for _, port := range []uint16{p.TCP, p.DNSTCP, p.DNSUDP} {
			kind := unix.SOCK_STREAM
			if port == p.DNSUDP {
				kind = unix.SOCK_DGRAM
			}
			fd, err := open(domainOf(t.far()), kind, 0, udpPatience)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			for _, option := range []int{unix.SO_REUSEADDR, unix.SO_REUSEPORT} {
				if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, option, 1); err != nil {
					return err
				}
			}
			if last = unix.Bind(fd, raw(at(t.loopback(), port))); last == nil {
				return nil
			}
		}
	}
	return named("bind", last)
}

// gateways is open when a gateway listens to who dials it without a record.
func gateways(which func(*try) []Ports) func(*try) error {
	return func(t *try) error {
		if len(which(t)) == 0 {
			return fmt.Errorf("%w: there is no such gateway", errAbsent)
		}
		var last error
		for _, p := range which(t) {
			for _, port := range []uint16{p.TCP, p.DNSTCP} {
				fd, err := open(domainOf(t.far()), unix.SOCK_STREAM, 0, tcpPatience)
				if err != nil {
					return err
				}
				defer unix.Close(fd)
				if last = unix.Connect(fd, raw(at(t.loopback(), port))); last == nil {
					// It is no way in when it hangs up at once.
					unix.Send(fd, payload, unix.MSG_NOSIGNAL) //nolint:errcheck // then it has hung up
					n, _, err := unix.Recvfrom(fd, make([]byte, 64), 0)
					if err == nil && n > 0 || errors.Is(err, unix.EAGAIN) {
						return nil
					}
					last = errors.New("the gateway hung up")
				}
			}
		}
		return named("connect", last)
	}
}

func resolverPort(t *try) error {
	if len(t.Gateway) == 0 {
		return fmt.Errorf("%w: the gateway's ports are not known", errAbsent)
	}
	var last error
	for _, p := range t.Gateway {
		fd, err := open(domainOf(t.far()), unix.SOCK_DGRAM, 0, udpPatience)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if last = unix.Sendto(fd, query("www.example.com", typeA), 0, raw(at(t.loopback(), p.DNSUDP))); last == nil {
			n, _, err := unix.Recvfrom(fd, make([]byte, 512), 0)
			if err == nil && n > 0 {
				return nil
			}
			last = fmt.Errorf("no answer: %w", err)
		}
	}
	return named("sendto", last)
}
