package redirect

import (
	"context"
	"errors"
	"net"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// private makes a network namespace with nothing in it but lo.
func (w *world) private() *os.File {
	w.t.Helper()
	ns := w.namespace()
	w.in(ns, func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	})
	return ns
}

// agentIn starts an agent in a network namespace.
func (w *world) agentIn(ns *os.File, cgroup string) *agent {
	w.t.Helper()
	host := w.host
	defer func() { w.host = host }()
	w.host = ns
	return w.agent(cgroup)
}

// ask waits for the kernel to ask for something.
func (w *world) ask(is func(Ask) bool) Ask {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	var found *Ask
	err := w.kernel.Asks(ctx, func(a Ask) {
		if found == nil && is(a) {
			found = &a
			cancel()
		}
	})
	if found == nil || !errors.Is(err, context.Canceled) {
		w.t.Fatalf("nothing of the kind was asked: %v", err)
	}
	return *found
}

// A connection in a network namespace without a listener waits a little for
// one, and no packet of it leaves.
func TestOtherNetworkNamespaceIsClosed(t *testing.T) {
	w := newWorld(t)
	cgroup, id := w.cgroup("agent", lowPolicy)
	w.listen(lowPolicy)
	ns := w.private()
	a := w.agentIn(ns, cgroup)
	fd := a.socket(unix.AF_INET, unix.SOCK_STREAM)
	a.call(call{Op: "setsockopt_timeout", FD: fd, A: 20})
	if errno := a.connect(fd, there4); errno != unix.ETIMEDOUT {
		t.Errorf("connect: %v, want ETIMEDOUT", errno)
	}
	asked := w.ask(func(a Ask) bool { return a.Listener })
	if r := asked.Record; r.PolicyCgroupID != id || r.PolicyID != lowPolicy || r.Netns == 0 || r.TGID == 0 || r.Token != 0 {
		t.Errorf("asked %+v", asked)
	}
	w.quiet()
}

// The listener is opened while the connection waits for it.
func TestListenerOnDemand(t *testing.T) {
	w := newWorld(t)
	cgroup, _ := w.cgroup("agent", lowPolicy)
	home := w.listen(lowPolicy)
	ns := w.private()
	opened := make(chan *Listener, 1)
	go func() {
		asked := w.ask(func(a Ask) bool { return a.Listener })
		w.in(ns, func() error {
			l, err := w.kernel.ListenIn(lowPolicy, asked.Record.Netns)
			opened <- l
			return err
		})
	}()
	a := w.agentIn(ns, cgroup)
	fd := a.socket(unix.AF_INET, unix.SOCK_STREAM)
	if errno := a.connect(fd, there4); errno != 0 {
		t.Fatalf("connect: %v", errno)
	}
	l := <-opened
	if l == nil {
		t.FailNow()
	}
	records := echo(t, l, l.TCP...)
	a.talk(fd)
	r := next(t, records)
	if r.Original.String() != there4 || r.Netns == 0 || r.PolicyID != lowPolicy || a.peer(fd) != there4 {
		t.Errorf("record %+v, peer %s", r, a.peer(fd))
	}
	defer func() {
		w.must(w.kernel.Forget(lowPolicy, r.Netns))
		if errno := a.connect(a.socket(unix.AF_INET, unix.SOCK_STREAM), there4); errno == 0 {
			t.Error("a connection was made to a listener that was forgotten")
		}
	}()
	if l.Door().TCP != home.Door().TCP {
		t.Errorf("the listener's port %d is not the one that agents are sent to, %d", l.Door().TCP, home.Door().TCP)
	}
	if stats, err := w.kernel.Stats(); err != nil || stats[Held] == 0 || stats[Asked] == 0 {
		t.Errorf("stats %v, %v", stats, err)
	}
	// From now on nothing waits, and queries reach the resolver too.
	udp := a.socket(unix.AF_INET, unix.SOCK_DGRAM)
	if errno := a.sendto(udp, "query", "203.0.113.53:53", 0); errno != 0 {
		t.Fatalf("send a query: %v", errno)
	}
	buf := make([]byte, 16)
	l.DNS.UDP[0].SetDeadline(time.Now().Add(5 * time.Second))
	n, from, err := l.DNS.UDP[0].ReadFrom(buf)
	w.must(err)
	if who, err := l.Sender(from.(*net.UDPAddr).AddrPort()); err != nil || who.TGID != r.TGID || string(buf[:n]) != "query" {
		t.Errorf("sender %+v, %v", who, err)
	}
}

// A port that is taken where the agent is: nothing reaches who has it.
func TestListenerOnDemandAtATakenPort(t *testing.T) {
	w := newWorld(t)
	cgroup, _ := w.cgroup("agent", lowPolicy)
	home := w.listen(lowPolicy)
	ns := w.private()
	a := w.agentIn(ns, cgroup)
	var squatter net.Listener
	w.in(ns, func() (err error) {
		squatter, err = net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(home.Door().TCP)})
		return err
	})
	defer squatter.Close()
	fd := a.socket(unix.AF_INET, unix.SOCK_STREAM)
	if errno := a.connect(fd, there4); errno != unix.EPERM {
		t.Errorf("connect while somebody has the gateway's port: %v, want EPERM", errno)
	}
	var l *Listener
	w.in(ns, func() error {
		cookie, err := NetnsCookie()
		if err == nil {
			l, err = w.kernel.ListenIn(lowPolicy, cookie)
		}
		return err
	})
	records := echo(t, l, l.TCP...)
	fd = a.socket(unix.AF_INET, unix.SOCK_STREAM)
	if errno := a.connect(fd, there4); errno != 0 {
		t.Fatalf("connect: %v", errno)
	}
	a.talk(fd)
	next(t, records)
}

// In a network namespace that is not the gateway's, loopback is the agent's.
func TestLoopbackOfOnesOwn(t *testing.T) {
	w := newWorld(t)
	cgroup, _ := w.cgroup("agent", lowPolicy)
	w.listen(lowPolicy)
	ns := w.private()
	a := w.agentIn(ns, cgroup)
	var l *Listener
	w.in(ns, func() error {
		cookie, err := NetnsCookie()
		if err == nil {
			l, err = w.kernel.ListenIn(lowPolicy, cookie)
		}
		return err
	})
	records := echo(t, l, l.TCP...)
	w.must(w.kernel.UseLoopback(LoopbackPort{lowPolicy, 5432}, Target))
	for _, c := range []struct {
		family       int
		any, at, end string
	}{
		{unix.AF_INET, "0.0.0.0:3000", "127.0.0.1:3000", "127.0.0.1:3001"},
		{unix.AF_INET6, "[::1]:3000", "[::1]:3000", "[::1]:3001"},
	} {
		server := a.socket(c.family, unix.SOCK_STREAM)
		if errno := a.bind(server, c.any); errno != 0 {
			t.Fatalf("bind %s: %v", c.any, errno)
		}
		a.call(call{Op: "listen", FD: server})
		client := a.socket(c.family, unix.SOCK_STREAM)
		if errno := a.connect(client, c.at); errno != 0 {
			t.Fatalf("connect to %s: %v", c.at, errno)
		}
		conn := a.call(call{Op: "accept", FD: server})
		a.sendto(client, "to a dev server", "", 0)
		if data, _, errno := a.recv(conn.N); data != "to a dev server" {
			t.Errorf("the server received %q, %v", data, errno)
		}
		if errno := a.connect(a.socket(c.family, unix.SOCK_STREAM), c.end); errno != unix.ECONNREFUSED {
			t.Errorf("connect where nobody listens: %v, want ECONNREFUSED", errno)
		}
		udp, to := a.socket(c.family, unix.SOCK_DGRAM), a.socket(c.family, unix.SOCK_DGRAM)
		if errno := a.bind(to, c.at); errno != 0 {
			t.Fatalf("bind %s for UDP: %v", c.at, errno)
		}
		a.sendto(udp, "datagram", c.at, 0)
		if data, _, errno := a.recv(to); data != "datagram" {
			t.Errorf("received %q, %v", data, errno)
		}
		a.close(server)
		a.close(to)
	}
	none(t, records)
	// What is a target on loopback is the gateway's here as well.
	fd := a.socket(unix.AF_INET, unix.SOCK_STREAM)
	if errno := a.connect(fd, "127.0.0.1:5432"); errno != 0 {
		t.Fatalf("connect to the target: %v", errno)
	}
	a.talk(fd)
	if r := next(t, records); r.Original.String() != "127.0.0.1:5432" {
		t.Errorf("record %+v", r)
	}
	port := l.Door().TCP
	direct := a.socket(unix.AF_INET, unix.SOCK_STREAM)
	if errno := a.connect(direct, net.JoinHostPort("127.0.0.1", itoa(port))); errno != unix.EPERM {
		t.Errorf("the gateway's port, dialled directly: %v, want EPERM", errno)
	}
}

// On that loopback only what is the agent's own is left alone. Docker's resolver
// listens inside of containers and asks the host's name servers whatever it is
// asked; a sidecar's proxy leads anywhere.
func TestLoopbackOfOthers(t *testing.T) {
	w := newWorld(t)
	cgroup, id := w.cgroup("agent", lowPolicy)
	w.listen(lowPolicy)
	ns := w.private()
	a := w.agentIn(ns, cgroup)
	var l *Listener
	var udp net.PacketConn
	var tcp net.Listener
	w.in(ns, func() error {
		cookie, err := NetnsCookie()
		if err != nil {
			return err
		}
		if l, err = w.kernel.ListenIn(lowPolicy, cookie); err != nil {
			return err
		}
		if udp, err = net.ListenPacket("udp4", "127.0.0.11:41234"); err != nil {
			return err
		}
		tcp, err = net.Listen("tcp4", "127.0.0.11:41234")
		return err
	})
	defer udp.Close()
	defer tcp.Close()
	records := echo(t, l, l.TCP...)
	query := a.socket(unix.AF_INET, unix.SOCK_DGRAM)
	if errno := a.sendto(query, "a name that carries data", "127.0.0.11:41234", 0); errno != unix.EPERM {
		t.Errorf("send to the engine's resolver: %v, want EPERM", errno)
	}
	if errno := a.connect(query, "127.0.0.11:41234"); errno != unix.EPERM {
		t.Errorf("connect to the engine's resolver by UDP: %v, want EPERM", errno)
	}
	fd := a.socket(unix.AF_INET, unix.SOCK_STREAM)
	if errno := a.connect(fd, "127.0.0.11:41234"); errno != 0 {
		t.Fatalf("connect by TCP: %v", errno)
	}
	a.talk(fd)
	if r := next(t, records); r.Original.String() != "127.0.0.11:41234" || r.PolicyCgroupID != id {
		t.Errorf("record %+v", r)
	}
	for _, s := range []interface{ SetDeadline(time.Time) error }{tcp.(*net.TCPListener), udp.(*net.UDPConn)} {
		w.must(s.SetDeadline(time.Now().Add(100 * time.Millisecond)))
	}
	if _, err := tcp.Accept(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the engine's resolver was reached by TCP: %v", err)
	}
	if n, _, err := udp.ReadFrom(make([]byte, 64)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the engine's resolver was sent %d bytes: %v", n, err)
	}
}

// The sockets are handed from one process to another: what was queued is served
// by who takes over, and the ports stay.
func TestListenerIsHandedOver(t *testing.T) {
	w := newWorld(t)
	cgroup, _ := w.cgroup("agent", lowPolicy)
	kept := w.listen(lowPolicy)
	a := w.agent(cgroup)
	fd := a.socket(unix.AF_INET, unix.SOCK_STREAM)
	if errno := a.connect(fd, there4); errno != 0 {
		t.Fatalf("connect: %v", errno)
	}
	var waiting []int
	for range 2 {
		files, err := kept.Files()
		w.must(err)
		l, err := w.kernel.Adopt(kept.Door(), files)
		for _, f := range files {
			f.Close()
		}
		w.must(err)
		records := make(chan claimed, 1)
		conn, err := l.TCP[0].Accept()
		w.must(err)
		r, err := l.Claim(conn)
		records <- claimed{r, err}
		if r := next(t, records); r.Original.String() != there4 {
			t.Errorf("record %+v", r)
		}
		conn.Close()
		l.Close()
		// Nobody accepts now, and nobody is refused.
		fd := a.socket(unix.AF_INET, unix.SOCK_STREAM)
		if errno := a.connect(fd, there4); errno != 0 {
			t.Fatalf("connect while nobody serves: %v", errno)
		}
		waiting = append(waiting, fd)
	}
	kept.Close()
	if errno := a.connect(a.socket(unix.AF_INET, unix.SOCK_STREAM), there4); errno != unix.ECONNREFUSED {
		t.Errorf("connect when nobody has the sockets: %v, want ECONNREFUSED", errno)
	}
	for _, fd := range waiting {
		a.close(fd)
	}
}

// TestListenerWhileLoComesUp: a listener that is opened while lo is set up, which
// has 127.0.0.1 before it has ::1, is there in both families: else the port would
// be anybody's in one, and nothing would get through by it.
func TestListenerWhileLoComesUp(t *testing.T) {
	w := newWorld(t)
	w.in(w.namespace(), func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		// As it is for a moment: an address of a link that is down can be listened on.
		if err := netlink.AddrAdd(lo, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(127, 0, 0, 1), Mask: net.CIDRMask(8, 32)}}); err != nil {
			return err
		}
		links, err := netlink.NewHandle() // of this namespace
		if err != nil {
			return err
		}
		defer links.Close()
		up := make(chan error, 1)
		time.AfterFunc(10*time.Millisecond, func() { up <- links.LinkSetUp(lo) })
		l, err := w.kernel.ListenIn(lowPolicy, 1<<40)
		if err != nil {
			return err
		}
		defer l.Close()
		if len(l.TCP) != 2 || len(l.DNS.TCP) != 2 || len(l.DNS.UDP) != 2 {
			t.Errorf("%d, %d and %d sockets: it is not there in both families", len(l.TCP), len(l.DNS.TCP), len(l.DNS.UDP))
		}
		return <-up
	})
}
