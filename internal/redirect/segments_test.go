package redirect

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Segments get long when writes of this length follow each other closely.
const (
	writeLen   = 32 << 10
	writes     = 640 // 20 MiB
	bigTCP     = 130_000
	longPeriod = 60 // in seconds, for a socket that waits
)

// written is what one write carries.
func written() []byte { return bytes.Repeat([]byte("segments"), writeLen/8) }

// hopByHop are headers as an agent may set them. The kernel writes the first
// byte, which says what follows.
var hopByHop = map[string][]byte{
	"padding":      {0, 0, 1, 4, 0, 0, 0, 0},
	"router alert": {0, 0, 5, 2, 0, 0, 1, 0},
	"jumbo":        {0, 0, 0xc2, 4, 0, 2, 0, 0},
	"jumbo, twice": {0, 1, 0xc2, 4, 0, 2, 0, 0, 0xc2, 4, 0, 2, 0, 0, 1, 0},
}

// TestLongSegments: TCP makes segments of over 65,535 bytes on loopback, which
// no length field of IP can tell. IPv6 gets a hop-by-hop header then (RFC 2675)
// that the kernel writes and takes away itself, IPv4 the length 0. Such segments
// come with BIG TCP, and since Linux 6.10 from bbr alone.
func TestLongSegments(t *testing.T) {
	w := newWorld(t)
	cgroup, _ := w.cgroup("agent", lowPolicy)
	w.useBBR()
	l := w.listen(lowPolicy)
	for _, big := range []bool{false, true} {
		if big {
			w.allowSegments(bigTCP)
		}
		for addr, domain := range map[string]int{there6: unix.AF_INET6, there4: unix.AF_INET} {
			a := w.agent(cgroup)
			before, err := w.kernel.Stats()
			w.must(err)
			served := make(chan error, 1)
			var got [sha256.Size]byte
			go func() { served <- exchange(l, socketOf(l, domain), &got) }()
			fd := a.socket(domain, unix.SOCK_STREAM)
			plain(a)(t, fd, addr)
			if sent := a.call(call{Op: "write_often", FD: fd, A: writes, Data: written()}); sent.Errno != 0 {
				t.Errorf("%s: the agent wrote %d bytes, %v", addr, sent.N, sent.Errno)
			}
			received := a.call(call{Op: "read_much", FD: fd, A: writes * writeLen})
			a.close(fd)
			if err := <-served; err != nil {
				t.Errorf("%s: the gateway: %v", addr, err)
			}
			want := sha256.Sum256(bytes.Repeat(written(), writes))
			if got != want || !bytes.Equal(received.Data, want[:]) {
				t.Errorf("%s, BIG TCP %t: other bytes arrived than were written (%d at the agent, %v)", addr, big, received.N, received.Errno)
			}
			after, err := w.kernel.Stats()
			w.must(err)
			for _, k := range []Kind{Egress, Ingress} {
				if after[k] != before[k] {
					t.Errorf("%s, BIG TCP %t: %d packets denied as %s", addr, big, after[k]-before[k], k)
				}
			}
		}
	}
}

// TestHopByHopOptions: an agent that may set such options gets no packet out
// with them, were they those of the kernel's own header: in front of a packet
// that has a length, or behind the kernel's, where it has none.
func TestHopByHopOptions(t *testing.T) {
	w := newWorld(t)
	cgroup, _ := w.cgroup("agent", lowPolicy)
	w.useBBR()
	w.allowSegments(bigTCP)
	l := w.listen(lowPolicy)
	a := w.agentAs(cgroup, "root") // it takes CAP_NET_RAW to set them
	for name, header := range hopByHop {
		for what, length := range map[string]int{"a short write": 1, "a long write": 4 * bigTCP} {
			fd := a.socket(unix.AF_INET6, unix.SOCK_STREAM)
			plain(a)(t, fd, there6)
			conn, err := socketOf(l, unix.AF_INET6).Accept()
			w.must(err)
			if got := a.call(call{Op: "setsockopt_string", FD: fd, A: unix.IPPROTO_IPV6, B: unix.IPV6_HOPOPTS, Data: header}); got.Errno != 0 {
				t.Fatalf("%s: set the options: %v", name, got.Errno)
			}
			before, err := w.kernel.Stats()
			w.must(err)
			a.sendto(fd, string(make([]byte, length)), "", unix.MSG_DONTWAIT)
			after, err := w.kernel.Stats()
			w.must(err)
			if after[Egress] == before[Egress] {
				t.Errorf("%s, %s: no packet was denied", name, what)
			}
			w.must(conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond)))
			if n, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%s, %s: %d bytes arrived, %v", name, what, n, err)
			}
			conn.Close()
			a.close(fd)
		}
	}
	w.quiet()
}

// socketOf returns the gateway's socket of an address family.
func socketOf(l *Listener, domain int) net.Listener {
	for _, s := range l.TCP {
		if is4 := s.Addr().(*net.TCPAddr).IP.To4() != nil; is4 == (domain == unix.AF_INET) {
			return s
		}
	}
	panic("the gateway listens for both families")
}

// exchange serves one agent: it reads what comes, and writes as much.
func exchange(l *Listener, from net.Listener, got *[sha256.Size]byte) error {
	conn, err := from.Accept()
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := l.Claim(conn); err != nil {
		return err
	}
	if err := conn.SetDeadline(time.Now().Add(2 * longPeriod * time.Second)); err != nil {
		return err
	}
	sum := sha256.New()
	if _, err := io.CopyN(sum, conn, writes*writeLen); err != nil {
		return err
	}
	sum.Sum(got[:0])
	for range writes {
		if _, err := conn.Write(written()); err != nil {
			return err
		}
	}
	return nil
}

// useBBR makes bbr the congestion control of the host, where there is one.
func (w *world) useBBR() {
	w.t.Helper()
	w.in(w.host, func() error {
		err := os.WriteFile("/proc/sys/net/ipv4/tcp_congestion_control", []byte("bbr"), 0)
		if errors.Is(err, unix.ENOENT) {
			w.t.Log("this kernel has no bbr: the segments of its own control are tried")
			return nil
		}
		return err
	})
}

// allowSegments sets how long segments on lo may get, where that can be set: IPv6
// since Linux 5.19, IPv4 since 6.3.
func (w *world) allowSegments(length int) {
	w.t.Helper()
	w.in(w.host, func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		for version, set := range map[string]func(netlink.Link, int) error{
			"IPv6": netlink.LinkSetGSOMaxSize, "IPv4": netlink.LinkSetGSOIPv4MaxSize,
		} {
			if err := set(lo, length); err != nil {
				w.t.Logf("this kernel has no BIG TCP for %s: %v", version, err)
			}
		}
		return nil
	})
}

// writeOften writes the bytes a number of times, like a program that copies.
func writeOften(fd int, text []byte, times int) (n int, err error) {
	wait := unix.Timeval{Sec: longPeriod}
	unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &wait)
	for range times {
		for rest := text; len(rest) > 0; {
			sent, err := unix.Write(fd, rest)
			if err == unix.EINTR { //nolint:errorlint // as the system call says it
				continue
			}
			if err != nil {
				return n, err
			}
			n += sent
			rest = rest[sent:]
		}
	}
	return n, nil
}

// readMuch reads so many bytes, and returns their SHA-256.
func readMuch(fd, want int) (n int, sum []byte, err error) {
	wait := unix.Timeval{Sec: longPeriod}
	unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait)
	hash, buf := sha256.New(), make([]byte, writeLen)
	for n < want {
		read, err := unix.Read(fd, buf)
		if err == unix.EINTR { //nolint:errorlint // as the system call says it
			continue
		}
		if err != nil || read == 0 {
			return n, nil, err
		}
		hash.Write(buf[:read])
		n += read
	}
	return n, hash.Sum(nil), nil
}
