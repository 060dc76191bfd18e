package redirect

import (
	"errors"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// query is one datagram at the resolver and who sent it.
type query struct {
	record Record
	err    error
	text   string
}

// resolve serves the resolver's sockets: it answers what it is asked, if it
// knows who asks.
func resolve(t *testing.T, l *Listener) <-chan query {
	t.Helper()
	queries := make(chan query, 64)
	done := make(chan struct{})
	for _, conn := range l.DNS.UDP {
		go func() {
			defer func() { done <- struct{}{} }()
			buf := make([]byte, 512)
			for {
				n, from, err := conn.ReadFrom(buf)
				if err != nil {
					return
				}
				record, err := l.Sender(from.(*net.UDPAddr).AddrPort())
				queries <- query{record, err, string(buf[:n])}
				if err == nil {
					conn.WriteTo(append([]byte("re: "), buf[:n]...), from)
				}
			}
		}()
	}
	t.Cleanup(func() {
		l.Close()
		for range l.DNS.UDP {
			<-done
		}
	})
	return queries
}

// The name servers of an agent's resolv.conf, none of which exists.
var nameServers = map[string]int{
	"203.0.113.53:53":          unix.AF_INET,
	"127.0.0.53:53":            unix.AF_INET,
	"[2001:db8:7::53]:53":      unix.AF_INET6,
	"[::1]:53":                 unix.AF_INET6,
	"[::ffff:203.0.113.53]:53": unix.AF_INET6,
}

func TestUDPToPort53Connected(t *testing.T) {
	w := newWorld(t)
	cgroup, id := w.cgroup("agent", lowPolicy)
	l := w.listen(lowPolicy)
	queries := resolve(t, l)
	a := w.agent(cgroup)
	for server, domain := range nameServers {
		fd := a.socket(domain, unix.SOCK_DGRAM)
		plain(a)(t, fd, server)
		if peer := a.peer(fd); peer != server {
			t.Errorf("%s: getpeername: %s", server, peer)
		}
		if errno := a.sendto(fd, server, "", 0); errno != 0 {
			t.Fatalf("%s: send: %v", server, errno)
		}
		if data, from, errno := a.recv(fd); errno != 0 || data != "re: "+server || from != server {
			t.Errorf("%s: answer %q from %s, %v", server, data, from, errno)
		}
		checkQuery(t, <-queries, server, id)
		a.close(fd)
	}
	w.quiet()
}

func TestUDPToPort53Unconnected(t *testing.T) {
	w := newWorld(t)
	cgroup, id := w.cgroup("agent", lowPolicy)
	l := w.listen(lowPolicy)
	queries := resolve(t, l)
	a := w.agent(cgroup)
	v4, v6 := a.socket(unix.AF_INET, unix.SOCK_DGRAM), a.socket(unix.AF_INET6, unix.SOCK_DGRAM)
	for server, domain := range nameServers {
		fd := v4
		if domain == unix.AF_INET6 {
			fd = v6
		}
		if errno := a.sendto(fd, server, server, 0); errno != 0 {
			t.Fatalf("%s: sendto: %v", server, errno)
		}
		if data, from, errno := a.recv(fd); errno != 0 || data != "re: "+server || from != server {
			t.Errorf("%s: answer %q from %s, %v", server, data, from, errno)
		}
		checkQuery(t, <-queries, server, id)
	}
	// An AF_INET address on an IPv6 socket goes through the IPv4 hook.
	if errno := a.sendto(v6, "x", "203.0.113.53:53", 0); errno != 0 {
		t.Fatal(errno)
	}
	if _, from, errno := a.recv(v6); errno != 0 || from != "[::ffff:203.0.113.53]:53" {
		t.Errorf("answer from %s, %v", from, errno)
	}
	<-queries
	w.quiet()
}

func checkQuery(t *testing.T, q query, server string, cgroupID uint64) {
	t.Helper()
	at := netip.MustParseAddrPort(server)
	want := netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
	if q.err != nil || q.text != server || q.record.Original != want || q.record.PolicyCgroupID != cgroupID ||
		q.record.UID != 65534 || q.record.Protocol != unix.IPPROTO_UDP {
		t.Errorf("query %q, %v, record %+v; want one to %s of cgroup %d", q.text, q.err, q.record, want, cgroupID)
	}
}

// Who is no agent gets no answer from the resolver, whichever port he sends from.
func TestResolverKnowsItsAgents(t *testing.T) {
	w := newWorld(t)
	cgroup, _ := w.cgroup("agent", lowPolicy)
	l, other := w.listen(lowPolicy), w.listen(highPolicy)
	queries, otherQueries := resolve(t, l), resolve(t, other)
	a := w.agent(cgroup)
	fd := a.socket(unix.AF_INET, unix.SOCK_DGRAM)
	a.sendto(fd, "agent", "203.0.113.53:53", 0)
	if q := <-queries; q.err != nil {
		t.Fatal(q.err)
	}
	// The same source port, but towards the other policy's resolver.
	port := a.name(fd).Port()
	a.close(fd)
	_, udp, _ := other.Ports()
	w.in(w.host, func() error {
		conn, err := net.DialUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(port)},
			&net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(udp)})
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = conn.Write([]byte("stranger"))
		return err
	})
	if q := <-otherQueries; !errors.Is(q.err, ErrNoRecord) {
		t.Errorf("a stranger's query was taken for %+v, %v", q.record, q.err)
	}
}
