package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

const nobody = 65534

// ask starts an agent in the cgroup and returns the line it prints. It runs
// as nobody, but as root where only a program of ours should say no.
func ask(cgroup, op, address string) (string, error) {
	dir, err := os.Open(cgroup)
	if err != nil {
		return "", err
	}
	defer dir.Close()
	cmd := exec.Command("/proc/self/exe", "agent", op, address)
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	if op != "raw" {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: nobody, Gid: nobody}
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("agent %s %s: %w: %s", op, address, err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

// runAgent is the agent: it makes its calls bare, so that what it prints is
// what the kernel answered.
func runAgent(args []string) int {
	if len(args) != 2 {
		fmt.Println("usage: agent tcp|udp|bind|raw ADDRESS")
		return 2
	}
	answer, err := act(args[0], netip.MustParseAddrPort(args[1]))
	var errno syscall.Errno
	if errors.As(err, &errno) {
		answer, err = unix.ErrnoName(errno), nil
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println(answer)
	return 0
}

func act(op string, address netip.AddrPort) (string, error) {
	domain, to := sockaddr(address)
	kind := map[string]int{"tcp": unix.SOCK_STREAM, "bind": unix.SOCK_STREAM, "udp": unix.SOCK_DGRAM, "raw": unix.SOCK_RAW}[op]
	protocol := 0
	if op == "raw" {
		protocol = unix.IPPROTO_TCP
	}
	fd, err := unix.Socket(domain, kind, protocol)
	if err != nil {
		return "", err
	}
	wait := unix.Timeval{Sec: int64(patience.Seconds())}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait); err != nil {
		return "", err
	}
	switch op {
	case "bind":
		return "bound", unix.Bind(fd, to)
	case "raw":
		return "opened", nil
	}
	if err := unix.Connect(fd, to); err != nil {
		return "", err
	}
	return talk(fd)
}

// talk says hello and reports who answered what.
func talk(fd int) (string, error) {
	if err := unix.Send(fd, []byte("hello"), 0); err != nil {
		return "", err
	}
	buf := make([]byte, 64)
	n, _, err := unix.Recvfrom(fd, buf, 0)
	if err != nil {
		return "", err
	}
	peer, err := unix.Getpeername(fd)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("peer %s said %s", addrPort(peer), buf[:n]), nil
}

func sockaddr(a netip.AddrPort) (domain int, to unix.Sockaddr) {
	if a.Addr().Is4() {
		return unix.AF_INET, &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return unix.AF_INET6, &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port))
	}
	return netip.AddrPort{}
}
