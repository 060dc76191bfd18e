package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/internal/redirect"
)

// roleEnv makes this program one of the processes of the benchmark. They speak
// JSON, a line for a line, and end with their standard input.
const roleEnv = "POSTERN_BENCH_ROLE"

const (
	roleAgent    = "agent"
	roleEcho     = "echo"
	roleProxy    = "proxy"    // the agent dials it
	roleRedirect = "redirect" // iptables leads the agent to it
	roleGateway  = "gateway"  // the kernel programs do
)

// role is what one process is to be.
type role struct {
	Name     string
	Upstream string // the echo server, for those in between

	SSH *sshWork // of the client of SSH

	// Of the gateway.
	Options  redirect.Options
	Policies []uint32
}

// ready is the first line of a process that serves.
type ready struct{ Address string }

// work is what an agent is told to do: connections to To, Parallel at a time.
type work struct {
	To              string
	Count, Parallel int
}

type worked struct {
	Took  time.Duration
	Error string
}

// served is what a process in between did so far.
type served struct{ Accepted, Claimed int64 }

// play is the whole life of a process with a role.
func play(text string) int {
	var r role
	err := json.Unmarshal([]byte(text), &r)
	if err == nil {
		switch r.Name {
		case roleAgent:
			err = answerEach(func(w work) any { return w.do() })
		case roleSSH:
			err = r.SSH.do()
		case roleGateway:
			err = r.gateway()
		default:
			err = r.serve()
		}
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench: %s: %v\n", r.Name, err)
		return 1
	}
	return 0
}

// answerEach answers the lines of the standard input until it ends.
func answerEach[T any](answer func(T) any) error {
	lines, out := bufio.NewScanner(os.Stdin), json.NewEncoder(os.Stdout)
	for lines.Scan() {
		var asked T
		if err := json.Unmarshal(lines.Bytes(), &asked); err != nil {
			return err
		}
		if err := out.Encode(answer(asked)); err != nil {
			return err
		}
	}
	return lines.Err()
}

func (w work) do() worked {
	to, err := netip.ParseAddrPort(w.To)
	if err != nil {
		return worked{Error: err.Error()}
	}
	sockaddr := &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())}
	var left atomic.Int64
	left.Store(int64(w.Count))
	failed := make([]error, w.Parallel)
	var all sync.WaitGroup
	start := time.Now()
	for i := range w.Parallel {
		all.Go(func() {
			for left.Add(-1) >= 0 && failed[i] == nil {
				failed[i] = roundTrip(sockaddr)
			}
		})
	}
	all.Wait()
	done := worked{Took: time.Since(start)}
	if err := errors.Join(failed...); err != nil {
		done.Error = err.Error()
	}
	return done
}

// patience is how long an agent waits for one step, in seconds: a benchmark
// that hangs says so.
const patience = 10

// roundTrip connects, sends a byte and has it back. It makes the system calls
// itself and blocks, as most clients do. It ends with a reset, for otherwise
// the ports of ended connections would run out.
func roundTrip(to unix.Sockaddr) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	defer unix.Close(fd)
	wait := unix.Timeval{Sec: patience}
	if err := errors.Join(unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &wait)); err != nil {
		return fmt.Errorf("set a socket's options: %w", err)
	}
	if err := unix.Connect(fd, to); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	b := []byte{'x'}
	if _, err := unix.Write(fd, b); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	if n, err := unix.Read(fd, b); err != nil || n != 1 {
		return fmt.Errorf("the byte did not come back: %w", errors.Join(err, io.ErrUnexpectedEOF))
	}
	return nil
}

// between serves connections as a process in between: all three kinds of it run
// this code, and differ in how they learn where the agent wanted to go.
type between struct {
	upstream          string
	accepted, claimed atomic.Int64
}

func (b *between) acceptAll(l net.Listener, learn func(net.Conn) error) {
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "bench: accept:", err)
			time.Sleep(time.Millisecond) // of the moment: too many files
			continue
		}
		b.accepted.Add(1)
		go b.relay(conn, learn)
	}
}

func (b *between) relay(conn net.Conn, learn func(net.Conn) error) {
	defer conn.Close()
	if err := learn(conn); err != nil {
		fmt.Fprintln(os.Stderr, "bench: a connection without its destination:", err)
		return
	}
	b.claimed.Add(1)
	up, err := net.Dial("tcp", b.upstream)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench: dial upstream:", err)
		return
	}
	defer up.Close()
	if err := up.(*net.TCPConn).SetLinger(0); err != nil {
		return
	}
	buf := make([]byte, 4096)
	for carry(up, conn, buf) && carry(conn, up, buf) {
	}
}

func carry(to, from net.Conn, buf []byte) bool {
	n, err := from.Read(buf)
	if err != nil {
		return false
	}
	_, err = to.Write(buf[:n])
	return err == nil
}

func (b *between) report(struct{}) any { return served{b.accepted.Load(), b.claimed.Load()} }

// serve is the echo server, or a proxy.
func (r role) serve() error {
	var config net.ListenConfig
	config.SetMultipathTCP(false) // which is another protocol, and slower
	l, err := config.Listen(context.Background(), "tcp4", "127.0.0.1:0")
	if err != nil {
		return err
	}
	b := &between{upstream: r.Upstream}
	switch r.Name {
	case roleEcho:
		go echoAll(l)
	case roleProxy:
		go b.acceptAll(l, func(net.Conn) error { return nil })
	case roleRedirect:
		go b.acceptAll(l, asIptablesSays)
	default:
		return errors.New("no such role")
	}
	if err := json.NewEncoder(os.Stdout).Encode(ready{l.Addr().String()}); err != nil {
		return err
	}
	return answerEach(b.report)
}

func echoAll(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			buf := make([]byte, 4096)
			for carry(conn, conn, buf) {
			}
		}()
	}
}

// asIptablesSays asks connection tracking where the agent wanted to go
// (SO_ORIGINAL_DST, linux/netfilter_ipv4.h).
func asIptablesSays(conn net.Conn) error {
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		return err
	}
	var at netip.AddrPort
	var inner error
	err = raw.Control(func(fd uintptr) {
		// A struct sockaddr_in is as long as the address in this structure.
		var m *unix.IPv6Mreq
		if m, inner = unix.GetsockoptIPv6Mreq(int(fd), unix.IPPROTO_IP, unix.SO_ORIGINAL_DST); inner == nil {
			a := m.Multiaddr
			at = netip.AddrPortFrom(netip.AddrFrom4([4]byte(a[4:8])), uint16(a[2])<<8|uint16(a[3]))
		}
	})
	if err := errors.Join(err, inner); err != nil {
		return err
	}
	return isDestination(at)
}

func isDestination(at netip.AddrPort) error {
	if at.String() != destination {
		return fmt.Errorf("it went to %s, want %s", at, destination)
	}
	return nil
}

// gateway listens for its policies and claims what the kernel recorded.
func (r role) gateway() error {
	kernel, err := redirect.OpenPinned(r.Options)
	if err != nil {
		return err
	}
	defer kernel.Close()
	if err := kernel.SetHome(); err != nil {
		return err
	}
	b := &between{upstream: r.Upstream}
	for _, policy := range r.Policies {
		// The upstream is known to answer, as it is after the first connection.
		if err := kernel.Remember(policy, netip.MustParseAddrPort(destination), 0, time.Hour); err != nil {
			return err
		}
		l, err := kernel.Listen(policy)
		if err != nil {
			return err
		}
		defer l.Close()
		claim := func(conn net.Conn) error {
			record, err := l.Claim(conn)
			if err != nil {
				return err
			}
			return isDestination(record.Original)
		}
		for _, tcp := range l.TCP {
			go b.acceptAll(tcp, claim)
		}
	}
	if err := json.NewEncoder(os.Stdout).Encode(ready{}); err != nil {
		return err
	}
	return answerEach(b.report)
}
