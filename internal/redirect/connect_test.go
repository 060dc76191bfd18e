package redirect

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Where agents want to go: nobody is there.
const (
	there4      = "203.0.113.7:5432"
	there6      = "[2001:db8:7::7]:5432"
	thereMapped = "[::ffff:203.0.113.7]:5432"
)

// echo serves a listener like a gateway: it claims, reports the record or the
// error, and sends back what it reads until the agent is done.
func echo(t *testing.T, l *Listener, from ...net.Listener) <-chan claimed {
	t.Helper()
	records := make(chan claimed, 1024)
	var accepting sync.WaitGroup
	for _, listener := range from {
		accepting.Go(func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				record, err := l.Claim(conn)
				records <- claimed{record, err}
				if err != nil {
					conn.Close()
					continue
				}
				go func() {
					defer conn.Close()
					conn.SetDeadline(time.Now().Add(10 * time.Second))
					io.Copy(conn, conn)
				}()
			}
		})
	}
	t.Cleanup(func() {
		l.Close()
		accepting.Wait()
	})
	return records
}

type claimed struct {
	record Record
	err    error
}

func next(t *testing.T, records <-chan claimed) Record {
	t.Helper()
	select {
	case c := <-records:
		if c.err != nil {
			t.Fatalf("claim: %v", c.err)
		}
		return c.record
	case <-time.After(5 * time.Second):
		t.Fatal("no connection arrived at the gateway")
	}
	panic("unreachable")
}

func none(t *testing.T, records <-chan claimed) {
	t.Helper()
	select {
	case c := <-records:
		t.Errorf("a connection arrived at the gateway: %+v, %v", c.record, c.err)
	default:
	}
}

// talk sends and expects the echo.
func (a *agent) talk(fd int) {
	a.t.Helper()
	if errno := a.sendto(fd, "hello", "", 0); errno != 0 {
		a.t.Fatalf("send: %v", errno)
	}
	if data, _, errno := a.recv(fd); errno != 0 || data != "hello" {
		a.t.Fatalf("recv: %q, %v", data, errno)
	}
}

func TestConnect(t *testing.T) {
	w := newWorld(t)
	cgroup, id := w.cgroup("agent", lowPolicy)
	run, runID := w.cgroup("agent/run-1", 0)
	_ = cgroup
	l := w.listen(lowPolicy)
	records := echo(t, l, l.TCP...)
	a := w.agent(run)
	pid := a.call(call{Op: "pid"}).N

	for _, tt := range []struct {
		name   string
		domain int
		addr   string
		dial   func(t *testing.T, fd int, addr string)
	}{
		{"v4", unix.AF_INET, there4, plain(a)},
		{"v6", unix.AF_INET6, there6, plain(a)},
		{"v4-mapped", unix.AF_INET6, thereMapped, plain(a)},
		{"v6 only", unix.AF_INET6, there6, func(t *testing.T, fd int, addr string) {
			a.set(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)
			plain(a)(t, fd, addr)
		}},
		{"io_uring v4", unix.AF_INET, there4, byUring(a)},
		{"io_uring v6", unix.AF_INET6, there6, byUring(a)},
		{"TCP_FASTOPEN_CONNECT v4", unix.AF_INET, there4, fastOpenConnect(a)},
		{"TCP_FASTOPEN_CONNECT v6", unix.AF_INET6, there6, fastOpenConnect(a)},
		{"source-bound v4", unix.AF_INET, there4, bound(a, netip.AddrPortFrom(host4, 0))},
		{"to the host's own address", unix.AF_INET, host4.String() + ":5432", plain(a)},
		{"to an unlisted loopback port", unix.AF_INET, "127.0.0.1:5432", plain(a)},
		{"to 0.0.0.0", unix.AF_INET, "0.0.0.0:5432", plain(a)},
		{"to ::", unix.AF_INET6, "[::]:5432", plain(a)},
		{"outside, reachable", unix.AF_INET, outside4.String() + ":80", plain(a)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			fd := a.socket(tt.domain, unix.SOCK_STREAM)
			defer a.close(fd)
			before := time.Now()
			tt.dial(t, fd, tt.addr)
			a.talk(fd)
			if peer := a.peer(fd); peer != tt.addr {
				t.Errorf("getpeername: %s, want %s", peer, tt.addr)
			}
			r := next(t, records)
			want := netip.MustParseAddrPort(tt.addr)
			want = netip.AddrPortFrom(want.Addr().Unmap(), want.Port())
			if tt.addr == "[::]:5432" {
				want = netip.MustParseAddrPort(tt.addr)
			}
			if r.Original != want || r.Family != tt.domain || r.Protocol != unix.IPPROTO_TCP {
				t.Errorf("record: to %s, family %d, protocol %d; want %s, %d", r.Original, r.Family, r.Protocol, want, tt.domain)
			}
			if r.PolicyID != lowPolicy || r.PolicyCgroupID != id || r.CgroupID != runID {
				t.Errorf("record: policy %d of cgroup %d, cgroup %d; want %d, %d, %d",
					r.PolicyID, r.PolicyCgroupID, r.CgroupID, lowPolicy, id, runID)
			}
			if int(r.TGID) != pid || r.UID != 65534 || r.GID != 65534 || r.Comm == "" || r.Netns == 0 || r.Token == 0 {
				t.Errorf("record: %+v is not of process %d, nobody", r, pid)
			}
			if r.Started.Before(before.Add(-time.Second)) || r.Started.After(time.Now().Add(time.Second)) {
				t.Errorf("record: started %s, called %s", r.Started, before)
			}
		})
	}
	w.quiet()
}

func plain(a *agent) func(*testing.T, int, string) {
	return func(t *testing.T, fd int, addr string) {
		t.Helper()
		if errno := a.connect(fd, addr); errno != 0 {
			t.Fatalf("connect: %v", errno)
		}
	}
}

func byUring(a *agent) func(*testing.T, int, string) {
	return func(t *testing.T, fd int, addr string) {
		t.Helper()
		if got := a.call(call{Op: "io_uring_connect", FD: fd, Addr: addr}); got.Errno != 0 {
			t.Fatalf("connect by io_uring: %v", got.Errno)
		}
	}
}

func fastOpenConnect(a *agent) func(*testing.T, int, string) {
	return func(t *testing.T, fd int, addr string) {
		t.Helper()
		if errno := a.set(fd, unix.IPPROTO_TCP, unix.TCP_FASTOPEN_CONNECT, 1); errno != 0 {
			t.Fatal(errno)
		}
		plain(a)(t, fd, addr)
	}
}

func bound(a *agent, source netip.AddrPort) func(*testing.T, int, string) {
	return func(t *testing.T, fd int, addr string) {
		t.Helper()
		if errno := a.bind(fd, source.String()); errno != 0 {
			t.Fatalf("bind: %v", errno)
		}
		plain(a)(t, fd, addr)
		if got := a.name(fd).Addr(); got != source.Addr() {
			t.Errorf("getsockname: %s, want %s", got, source.Addr())
		}
	}
}

func TestConnectNonBlocking(t *testing.T) {
	w := newWorld(t)
	cgroup, _ := w.cgroup("agent", lowPolicy)
	l := w.listen(lowPolicy)
	records := echo(t, l, l.TCP...)
	a := w.agent(cgroup)
	for domain, addr := range map[int]string{unix.AF_INET: there4, unix.AF_INET6: there6} {
		fd := a.socket(domain, unix.SOCK_STREAM|unix.SOCK_NONBLOCK)
		if errno := a.connect(fd, addr); errno != unix.EINPROGRESS {
			t.Fatalf("connect: %v", errno)
		}
		if n := a.call(call{Op: "poll", FD: fd, A: unix.POLLOUT}).N; n != 1 {
			t.Fatalf("poll: %d", n)
		}
		if e := a.call(call{Op: "getsockopt", FD: fd, A: unix.SOL_SOCKET, B: unix.SO_ERROR}).N; e != 0 {
			t.Fatalf("SO_ERROR: %v", unix.Errno(e))
		}
		if r := next(t, records); r.Original.String() != addr {
			t.Errorf("record: to %s, want %s", r.Original, addr)
		}
		if peer := a.peer(fd); peer != addr {
			t.Errorf("getpeername: %s, want %s", peer, addr)
		}
	}
}

func TestConnectByMSG_FASTOPEN(t *testing.T) {
	w := newWorld(t)
	cgroup, _ := w.cgroup("agent", lowPolicy)
	l := w.listen(lowPolicy)
	records := echo(t, l, l.TCP...)
	a := w.agent(cgroup)
	for domain, addr := range map[int]string{unix.AF_INET: there4, unix.AF_INET6: there6} {
		fd := a.socket(domain, unix.SOCK_STREAM)
		if errno := a.sendto(fd, "early", addr, unix.MSG_FASTOPEN); errno != 0 {
			t.Fatalf("sendto: %v", errno)
		}
		if data, _, errno := a.recv(fd); data != "early" {
			t.Fatalf("recv: %q, %v", data, errno)
		}
		if r := next(t, records); r.Original.String() != addr {
			t.Errorf("record: to %s, want %s", r.Original, addr)
		}
		if peer := a.peer(fd); peer != addr {
			t.Errorf("getpeername: %s, want %s", peer, addr)
		}
	}
	w.quiet()
}

// A socket that was redirected once is redirected again after a disconnect.
func TestReconnectAfterDisconnect(t *testing.T) {
	w := newWorld(t)
	cgroup, _ := w.cgroup("agent", lowPolicy)
	l := w.listen(lowPolicy)
	records := echo(t, l, l.TCP...)
	a := w.agent(cgroup)
	fd := a.socket(unix.AF_INET, unix.SOCK_STREAM)
	plain(a)(t, fd, there4)
	first := next(t, records)
	if got := a.call(call{Op: "disconnect", FD: fd}); got.Errno != 0 {
		t.Fatal(got.Errno)
	}
	plain(a)(t, fd, "203.0.113.8:22")
	second := next(t, records)
	if second.Original.String() != "203.0.113.8:22" || second.Token == first.Token {
		t.Errorf("first %+v, second %+v", first, second)
	}
}

// The nearest ancestor with a policy decides, and each policy has its own
// listener.
func TestNestedPolicies(t *testing.T) {
	w := newWorld(t)
	outer, _ := w.cgroup("outer", lowPolicy)
	inner, _ := w.cgroup("outer/inner", highPolicy)
	deep, _ := w.cgroup("outer/inner/x/y", 0)
	low, high := w.listen(lowPolicy), w.listen(highPolicy)
	lowRecords, highRecords := echo(t, low, low.TCP...), echo(t, high, high.TCP...)
	for cgroup, records := range map[string]<-chan claimed{outer: lowRecords, inner: highRecords, deep: highRecords} {
		a := w.agent(cgroup)
		fd := a.socket(unix.AF_INET, unix.SOCK_STREAM)
		plain(a)(t, fd, there4)
		next(t, records)
	}
	none(t, lowRecords)
	none(t, highRecords)
}

// TCP to port 53 goes to the resolver, with a token like every flow.
func TestTCPToPort53(t *testing.T) {
	w := newWorld(t)
	cgroup, _ := w.cgroup("agent", lowPolicy)
	l := w.listen(lowPolicy)
	gateway := echo(t, l, l.TCP...)
	v4, v6 := echo(t, l, l.DNS.TCP[0]), echo(t, l, l.DNS.TCP[1])
	a := w.agent(cgroup)
	fd := a.socket(unix.AF_INET, unix.SOCK_STREAM)
	plain(a)(t, fd, "203.0.113.53:53")
	a.talk(fd)
	if r := next(t, v4); r.Original.String() != "203.0.113.53:53" {
		t.Errorf("record: to %s", r.Original)
	}
	fd = a.socket(unix.AF_INET6, unix.SOCK_STREAM)
	plain(a)(t, fd, "[2001:db8:7::53]:53")
	a.talk(fd)
	if r := next(t, v6); r.Original.String() != "[2001:db8:7::53]:53" {
		t.Errorf("record: to %s", r.Original)
	}
	none(t, gateway)
}

func TestDaemonGoneIsConnectionRefused(t *testing.T) {
	w := newWorld(t)
	cgroup, _ := w.cgroup("agent", lowPolicy)
	l := w.listen(lowPolicy)
	a := w.agent(cgroup)
	w.must(l.Close())
	for domain, addr := range map[int]string{unix.AF_INET: there4, unix.AF_INET6: there6} {
		fd := a.socket(domain, unix.SOCK_STREAM)
		if errno := a.connect(fd, addr); errno != unix.ECONNREFUSED {
			t.Errorf("%s: %v, want ECONNREFUSED", addr, errno)
		}
	}
	again := w.listen(lowPolicy)
	records := echo(t, again, again.TCP...)
	plain(a)(t, a.socket(unix.AF_INET, unix.SOCK_STREAM), there4)
	next(t, records)
	if _, err := again.Claim(nil); err == nil || errors.Is(err, ErrNoRecord) {
		t.Errorf("claim of no connection: %v", err)
	}
	w.quiet()
}
