package redirect

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	protocolMPTCP = 262
	protocolSCTP  = 132
	protocolDCCP  = 33
	protocolUDPL  = 136
)

// closed is a world with one agent and its gateway's records, for attempts that
// must come to nothing.
func closed(t *testing.T) (*world, *agent, <-chan claimed) {
	t.Helper()
	w := newWorld(t)
	cgroup, _ := w.cgroup("agent", lowPolicy)
	l := w.listen(lowPolicy)
	return w, w.agent(cgroup), echo(t, l, l.TCP...)
}

func TestUDPIsDenied(t *testing.T) {
	w, a, records := closed(t)
	for _, addr := range []string{
		"203.0.113.7:443", "[2001:db8:7::7]:443", "[::ffff:203.0.113.7]:443", "127.0.0.1:443", "[::1]:443", "0.0.0.0:443",
		outside4.String() + ":9", netip.AddrPortFrom(outside6, 9).String(), "255.255.255.255:9", "224.0.0.251:5353", "203.0.113.7:0",
	} {
		domain := unix.AF_INET
		if netip.MustParseAddrPort(addr).Addr().Is6() {
			domain = unix.AF_INET6
		}
		fd := a.socket(domain, unix.SOCK_DGRAM)
		if errno := a.connect(fd, addr); errno != unix.EPERM {
			t.Errorf("connect to %s: %v, want EPERM", addr, errno)
		}
		if errno := a.sendto(fd, "x", addr, 0); errno != unix.EPERM && errno != unix.EACCES && errno != unix.EINVAL {
			t.Errorf("sendto %s: %v, want EPERM", addr, errno)
		}
		a.close(fd)
	}
	// An IPv4 destination on an IPv6 socket.
	fd := a.socket(unix.AF_INET6, unix.SOCK_DGRAM)
	if errno := a.sendto(fd, "x", outside4.String()+":9", 0); errno != unix.EPERM {
		t.Errorf("sendto by an IPv6 socket: %v", errno)
	}
	if errno := a.connect(fd, outside4.String()+":9"); errno != unix.EPERM {
		t.Errorf("connect by an IPv6 socket: %v", errno)
	}
	// A connected resolver socket that then names another destination.
	fd = a.socket(unix.AF_INET, unix.SOCK_DGRAM)
	plain(a)(t, fd, "203.0.113.53:53")
	if errno := a.sendto(fd, "x", outside4.String()+":9", 0); errno != unix.EPERM {
		t.Errorf("sendto by a connected socket: %v", errno)
	}
	none(t, records)
	w.quiet()
}

// TestUDPProbesOfVirtualAddressesAreSilent: getaddrinfo connects a datagram
// socket to every address it found. That is refused like all UDP, and no bypass
// attempt; a datagram to the same address is one. The ranges are those of
// internal/dns.
func TestUDPProbesOfVirtualAddressesAreSilent(t *testing.T) {
	w, a, _ := closed(t)
	counts := func() (denied, probes uint64) {
		t.Helper()
		stats, err := w.kernel.Stats()
		w.must(err)
		return stats[UDP], stats[UDPProbe]
	}
	for addr, silent := range map[string]bool{
		"198.18.0.0:5432": true, "198.19.255.255:443": true, "[::ffff:198.18.7.7]:443": true, "[fd50:6f73:7465::c612:1]:5432": true,
		"198.17.255.255:443": false, "198.20.0.0:443": false, "[fd50:6f73:7466::1]:443": false, "[fd51:6f73:7465::1]:443": false,
	} {
		domain := unix.AF_INET
		if strings.HasPrefix(addr, "[") {
			domain = unix.AF_INET6
		}
		fd := a.socket(domain, unix.SOCK_DGRAM)
		denied, probes := counts()
		if errno := a.connect(fd, addr); errno != unix.EPERM {
			t.Errorf("connect to %s: %v, want EPERM", addr, errno)
		}
		if d, p := counts(); (p == probes+1) != silent || (d == denied+1) == silent {
			t.Errorf("connect to %s: %d denials and %d probes more", addr, d-denied, p-probes)
		}
		denied, _ = counts()
		if errno := a.sendto(fd, "x", addr, 0); errno != unix.EPERM {
			t.Errorf("sendto %s: %v, want EPERM", addr, errno)
		}
		if d, _ := counts(); d != denied+1 {
			t.Errorf("a datagram to %s is not told", addr)
		}
		a.close(fd)
	}
	w.quiet()
}

func TestSocketsOfOtherProtocolsAreDenied(t *testing.T) {
	w := newWorld(t)
	cgroup, _ := w.cgroup("agent", lowPolicy)
	w.listen(lowPolicy)
	for _, who := range []string{"nobody", "root"} {
		a := w.agentAs(cgroup, who)
		for _, domain := range []int{unix.AF_INET, unix.AF_INET6} {
			icmp := unix.IPPROTO_ICMP
			if domain == unix.AF_INET6 {
				icmp = unix.IPPROTO_ICMPV6
			}
			for name, s := range map[string][2]int{
				"raw TCP":      {unix.SOCK_RAW, unix.IPPROTO_TCP},
				"raw IP":       {unix.SOCK_RAW, unix.IPPROTO_RAW},
				"raw ICMP":     {unix.SOCK_RAW, icmp},
				"ICMP":         {unix.SOCK_DGRAM, icmp},
				"UDPLITE":      {unix.SOCK_DGRAM, protocolUDPL},
				"SCTP":         {unix.SOCK_STREAM, protocolSCTP},
				"SCTP packets": {unix.SOCK_SEQPACKET, protocolSCTP},
				"MPTCP":        {unix.SOCK_STREAM, protocolMPTCP},
				"DCCP":         {unix.SOCK_DCCP, protocolDCCP},
				"L2TP":         {unix.SOCK_DGRAM, unix.IPPROTO_L2TP},
			} {
				_, errno := a.try(domain, s[0], s[1])
				// Where the kernel lacks the protocol it says so itself.
				absent := errno == unix.EPROTONOSUPPORT || errno == unix.ESOCKTNOSUPPORT
				if errno != unix.EPERM && !absent {
					t.Errorf("%s as %s, family %d: %v, want EPERM", name, who, domain, errno)
				}
				if absent && (name == "raw TCP" || name == "MPTCP" || name == "UDPLITE") && who == "root" {
					t.Logf("%s: this kernel has none: %v", name, errno)
				}
			}
		}
	}
	w.quiet()
}

func TestListeningServesNobody(t *testing.T) {
	w, a, _ := closed(t)
	for _, source := range []string{"0.0.0.0:8080", "127.0.0.1:8080", "[::]:8080", "[::1]:8080", host4.String() + ":8080"} {
		domain := unix.AF_INET
		if netip.MustParseAddrPort(source).Addr().Is6() {
			domain = unix.AF_INET6
		}
		for _, kind := range []int{unix.SOCK_STREAM, unix.SOCK_DGRAM} {
			if errno := a.bind(a.socket(domain, kind), source); errno != unix.EPERM {
				t.Errorf("bind %s, type %d: %v, want EPERM", source, kind, errno)
			}
		}
	}
	// Port 0 may be bound and even listened on, but nothing gets in.
	fd := a.socket(unix.AF_INET6, unix.SOCK_STREAM)
	if errno := a.bind(fd, "[::]:0"); errno != 0 {
		t.Fatal(errno)
	}
	if got := a.call(call{Op: "listen", FD: fd}); got.Errno != 0 {
		t.Fatal(got.Errno)
	}
	port := a.name(fd).Port()
	udp := a.socket(unix.AF_INET, unix.SOCK_DGRAM)
	if errno := a.bind(udp, "0.0.0.0:0"); errno != 0 {
		t.Fatal(errno)
	}
	udpPort := a.name(udp).Port()
	dial := func(network string, at netip.AddrPort) func() error {
		return func() error {
			d := net.Dialer{Timeout: 300 * time.Millisecond}
			conn, err := d.Dial(network, at.String())
			if err != nil {
				return nil
			}
			defer conn.Close()
			if network == "tcp" {
				t.Errorf("connected to an agent at %s", at)
			}
			conn.Write([]byte("order"))
			return nil
		}
	}
	for _, at := range []netip.Addr{host4, host6} {
		w.must(w.outside.InFar(dial("tcp", netip.AddrPortFrom(at, port))))
	}
	w.in(w.host, dial("tcp", netip.AddrPortFrom(netip.IPv6Loopback(), port)))
	w.must(w.outside.InFar(dial("udp", netip.AddrPortFrom(host4, udpPort))))
	w.in(w.host, dial("udp", netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), udpPort)))
	if data, from, errno := a.recv(udp); errno != unix.EAGAIN {
		t.Errorf("an agent received %q from %s, %v", data, from, errno)
	}
}

func TestListedLoopbackPortIsLeftAlone(t *testing.T) {
	w, a, records := closed(t)
	w.must(w.kernel.UseLoopback(LoopbackPort{lowPolicy, 8080}, AsIs))
	for _, server := range []string{"127.0.0.1:8080", "[::1]:8080"} {
		domain := unix.AF_INET
		if netip.MustParseAddrPort(server).Addr().Is6() {
			domain = unix.AF_INET6
		}
		listening := a.socket(domain, unix.SOCK_STREAM)
		if errno := a.bind(listening, server); errno != 0 {
			t.Fatalf("bind %s: %v", server, errno)
		}
		a.call(call{Op: "listen", FD: listening})
		fd := a.socket(domain, unix.SOCK_STREAM)
		plain(a)(t, fd, server)
		if peer := a.peer(fd); peer != server {
			t.Errorf("getpeername: %s, want %s", peer, server)
		}
		served := a.call(call{Op: "accept", FD: listening})
		if served.Errno != 0 {
			t.Fatal(served.Errno)
		}
		a.sendto(served.N, "served", "", 0)
		if data, _, errno := a.recv(fd); data != "served" {
			t.Errorf("recv: %q, %v", data, errno)
		}
	}
	if errno := a.bind(a.socket(unix.AF_INET, unix.SOCK_STREAM), "0.0.0.0:8080"); errno != unix.EPERM {
		t.Errorf("bind of a listed port on all addresses: %v, want EPERM", errno)
	}
	server, client := a.socket(unix.AF_INET, unix.SOCK_DGRAM), a.socket(unix.AF_INET, unix.SOCK_DGRAM)
	if errno := a.bind(server, "127.0.0.1:8080"); errno != 0 {
		t.Fatal(errno)
	}
	if errno := a.sendto(client, "datagram", "127.0.0.1:8080", 0); errno != 0 {
		t.Fatal(errno)
	}
	if data, _, errno := a.recv(server); data != "datagram" {
		t.Errorf("recv: %q, %v", data, errno)
	}
	none(t, records)
	w.must(w.kernel.ForgetLoopback(LoopbackPort{lowPolicy, 8080}))
	if errno := a.sendto(client, "datagram", "127.0.0.1:8080", 0); errno != unix.EPERM {
		t.Errorf("sendto a port that is not listed any more: %v", errno)
	}
}

func TestCgroupWithoutPolicyGetsNothing(t *testing.T) {
	w := newWorld(t)
	cgroup, id := w.cgroup("nobody's", 0)
	w.listen(lowPolicy)
	for _, in := range []string{cgroup, w.options.Cgroup} {
		a := w.agent(in)
		for _, domain := range []int{unix.AF_INET, unix.AF_INET6} {
			for _, kind := range []int{unix.SOCK_STREAM, unix.SOCK_DGRAM} {
				if _, errno := a.try(domain, kind, 0); errno != unix.EPERM {
					t.Errorf("socket(%d, %d) in %s: %v, want EPERM", domain, kind, in, errno)
				}
			}
		}
	}
	event := w.event(func(e Event) bool { return e.CgroupID == id })
	if event.Kind != NoPolicy || event.PolicyID != 0 || event.UID != 65534 || event.PID == 0 || event.Comm == "" {
		t.Errorf("event %+v", event)
	}
	w.quiet()
}

// event waits for a denial.
func (w *world) event(is func(Event) bool) Event {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	var found *Event
	err := w.kernel.Events(ctx, func(e Event) {
		if found == nil && is(e) {
			found = &e
			cancel()
		}
	})
	if found == nil || !errors.Is(err, context.Canceled) {
		w.t.Fatalf("no such event: %v", err)
	}
	return *found
}

func TestEventTellsWhoAndWhereTo(t *testing.T) {
	w := newWorld(t)
	cgroup, id := w.cgroup("agent", lowPolicy)
	w.listen(lowPolicy)
	a := w.agent(cgroup)
	pid := a.call(call{Op: "pid"}).N
	for addr, domain := range map[string]int{"203.0.113.7:443": unix.AF_INET, "[2001:db8:7::7]:443": unix.AF_INET6} {
		a.connect(a.socket(domain, unix.SOCK_DGRAM), addr)
		e := w.event(func(e Event) bool { return e.Kind == UDP && e.Family == domain })
		if e.Remote.String() != addr || e.PolicyID != lowPolicy || e.PolicyCgroupID != id || e.CgroupID != id ||
			int(e.TGID) != pid || e.UID != 65534 || e.Protocol != unix.IPPROTO_UDP || e.Netns == 0 || !e.Kind.Denied() {
			t.Errorf("event %+v; want a UDP denial of process %d to %s", e, pid, addr)
		}
		if age := time.Since(e.Time); age < -time.Second || age > time.Minute {
			t.Errorf("event is %s old", age)
		}
	}
}

// A noisy agent is counted in full, but tells only so much.
func TestEventsAreLimited(t *testing.T) {
	w, a, _ := closed(t)
	fd := a.socket(unix.AF_INET, unix.SOCK_DGRAM)
	const tries = 1000
	for range tries {
		a.sendto(fd, "x", "203.0.113.7:443", 0)
	}
	stats, err := w.kernel.Stats()
	w.must(err)
	if stats[UDP] != tries {
		t.Errorf("%d denials counted, want %d", stats[UDP], tries)
	}
	if stats[EventsLimited] == 0 || stats[EventsLost] != 0 {
		t.Errorf("%d events held back, %d lost", stats[EventsLimited], stats[EventsLost])
	}
}

func TestOtherAddressFamiliesOfConnect(t *testing.T) {
	_, a, records := closed(t)
	// A v6 socket given a v4 address: the kernel refuses after the program ran.
	fd := a.socket(unix.AF_INET6, unix.SOCK_STREAM)
	if errno := a.connect(fd, there4); errno == 0 {
		t.Error("connected")
	}
	none(t, records)
	var zero syscall.Errno
	if got := a.call(call{Op: "disconnect", FD: fd}); got.Errno != zero {
		t.Error(got.Errno)
	}
}
