package redirect

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/internal/bypass/uring"
)

// agentEnv makes the test binary an agent: a process that makes the system
// calls it is told on its standard input. "nobody" or "root".
const agentEnv = "POSTERN_TEST_AGENT"

// callTimeout is how long an agent's socket waits, in seconds.
const callTimeout = 2

// call is one system call of an agent.
type call struct {
	Op      string
	FD      int
	A, B, C int
	Addr    string
	Data    []byte
}

type answer struct {
	N     int
	Errno syscall.Errno
	Addr  string
	Data  []byte
}

// agent is the test's handle on an agent process.
type agent struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// agent starts one in the cgroup, on the host, as nobody.
func (w *world) agent(cgroup string) *agent { return w.agentAs(cgroup, "nobody") }

func (w *world) agentAs(cgroup, who string) *agent {
	w.t.Helper()
	dir, err := os.Open(cgroup)
	w.must(err)
	defer dir.Close()
	a := &agent{t: w.t, cmd: exec.Command("/proc/self/exe")}
	a.cmd.Env = []string{agentEnv + "=" + who}
	a.cmd.Stderr = os.Stderr
	a.cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	a.in, err = a.cmd.StdinPipe()
	w.must(err)
	out, err := a.cmd.StdoutPipe()
	w.must(err)
	a.out = bufio.NewReader(out)
	w.in(w.host, a.cmd.Start)
	w.t.Cleanup(a.stop)
	return a
}

func (a *agent) stop() {
	a.in.Close()
	a.cmd.Process.Kill()
	a.cmd.Wait()
}

func (a *agent) call(c call) answer {
	a.t.Helper()
	line, err := json.Marshal(c)
	if err == nil {
		_, err = a.in.Write(append(line, '\n'))
	}
	var text []byte
	if err == nil {
		text, err = a.out.ReadBytes('\n')
	}
	var got answer
	if err == nil {
		err = json.Unmarshal(text, &got)
	}
	if err != nil {
		a.t.Fatalf("agent, %s: %v", c.Op, err)
	}
	return got
}

// The calls. Those that must succeed fail the test; the others answer errno.

func (a *agent) try(domain, kind, protocol int) (fd int, errno syscall.Errno) {
	a.t.Helper()
	got := a.call(call{Op: "socket", A: domain, B: kind, C: protocol})
	return got.N, got.Errno
}

func (a *agent) socket(domain, kind int) int {
	a.t.Helper()
	fd, errno := a.try(domain, kind, 0)
	if errno != 0 {
		a.t.Fatalf("socket(%d, %d): %v", domain, kind, errno)
	}
	return fd
}

func (a *agent) connect(fd int, addr string) syscall.Errno {
	a.t.Helper()
	return a.call(call{Op: "connect", FD: fd, Addr: addr}).Errno
}

func (a *agent) bind(fd int, addr string) syscall.Errno {
	a.t.Helper()
	return a.call(call{Op: "bind", FD: fd, Addr: addr}).Errno
}

func (a *agent) sendto(fd int, data, addr string, flags int) syscall.Errno {
	a.t.Helper()
	return a.call(call{Op: "sendto", FD: fd, Data: []byte(data), Addr: addr, A: flags}).Errno
}

func (a *agent) recv(fd int) (data, from string, errno syscall.Errno) {
	a.t.Helper()
	got := a.call(call{Op: "recvfrom", FD: fd})
	return string(got.Data), got.Addr, got.Errno
}

func (a *agent) peer(fd int) string {
	a.t.Helper()
	return a.call(call{Op: "getpeername", FD: fd}).Addr
}

func (a *agent) name(fd int) netip.AddrPort {
	a.t.Helper()
	return netip.MustParseAddrPort(a.call(call{Op: "getsockname", FD: fd}).Addr)
}

func (a *agent) set(fd, level, option, value int) syscall.Errno {
	a.t.Helper()
	return a.call(call{Op: "setsockopt", FD: fd, A: level, B: option, C: value}).Errno
}

func (a *agent) close(fd int) {
	a.t.Helper()
	a.call(call{Op: "close", FD: fd})
}

// runAgent is the agent process.
func runAgent() int {
	if os.Getenv(agentEnv) == "nobody" {
		const nobody = 65534
		if err := errors.Join(syscall.Setgroups(nil), syscall.Setgid(nobody), syscall.Setuid(nobody)); err != nil {
			fmt.Fprintln(os.Stderr, "agent:", err)
			return 1
		}
	}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	out := json.NewEncoder(os.Stdout)
	for lines.Scan() {
		var c call
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			fmt.Fprintln(os.Stderr, "agent:", err)
			return 1
		}
		got, err := c.do()
		if err != nil && !errors.As(err, &got.Errno) {
			fmt.Fprintln(os.Stderr, "agent:", c.Op, err)
			return 1
		}
		if err := out.Encode(got); err != nil {
			return 1
		}
	}
	return 0
}

func (c call) do() (got answer, err error) {
	var from unix.Sockaddr
	switch c.Op {
	case "pid":
		got.N = os.Getpid()
	case "socket":
		got.N, err = unix.Socket(c.A, c.B, c.C)
		if err == nil && c.A != unix.AF_UNIX {
			wait := unix.Timeval{Sec: callTimeout}
			unix.SetsockoptTimeval(got.N, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait)
			unix.SetsockoptTimeval(got.N, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &wait)
		}
	case "connect":
		err = connect(c.FD, sockaddr(c.Addr))
	case "connect_unix":
		err = unix.Connect(c.FD, &unix.SockaddrUnix{Name: c.Addr})
	case "disconnect":
		unspec := [16]byte{} // a sockaddr of family AF_UNSPEC
		_, _, got.Errno = unix.Syscall(unix.SYS_CONNECT, uintptr(c.FD), uintptr(unsafe.Pointer(&unspec)), unsafe.Sizeof(unspec))
	case "bind":
		err = unix.Bind(c.FD, sockaddr(c.Addr))
	case "listen":
		err = unix.Listen(c.FD, 16)
	case "accept":
		got.N, from, err = unix.Accept(c.FD)
	case "sendto":
		if c.Addr == "" {
			err = unix.Send(c.FD, c.Data, c.A)
		} else {
			err = unix.Sendto(c.FD, c.Data, c.A, sockaddr(c.Addr))
		}
	case "recvfrom":
		buf := make([]byte, 4096)
		got.N, from, err = unix.Recvfrom(c.FD, buf, 0)
		got.Data = buf[:max(got.N, 0)]
	case "write_often":
		got.N, err = writeOften(c.FD, c.Data, c.A)
	case "read_much":
		got.N, got.Data, err = readMuch(c.FD, c.A)
	case "getpeername":
		from, err = unix.Getpeername(c.FD)
	case "getsockname":
		from, err = unix.Getsockname(c.FD)
	case "setsockopt":
		err = unix.SetsockoptInt(c.FD, c.A, c.B, c.C)
	case "setsockopt_string":
		err = unix.SetsockoptString(c.FD, c.A, c.B, string(c.Data))
	case "setsockopt_timeout": // of a connect, in seconds
		err = unix.SetsockoptTimeval(c.FD, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{Sec: int64(c.A)})
	case "getsockopt":
		got.N, err = unix.GetsockoptInt(c.FD, c.A, c.B)
	case "poll":
		got.N, err = unix.Poll([]unix.PollFd{{Fd: int32(c.FD), Events: int16(c.A)}}, callTimeout*1000)
	case "pass": // c.FD over the Unix socket at c.Addr
		err = passTo(c.Addr, c.FD)
	case "take": // one descriptor at the Unix socket at c.Addr
		got.N, err = takeFrom(c.Addr)
	case "close":
		err = unix.Close(c.FD)
	case "io_uring_connect":
		err = uring.Connect(c.FD, sockaddr(c.Addr))
	default:
		return got, fmt.Errorf("no such call: %s", c.Op)
	}
	got.Addr = addrText(from)
	return got, err
}

// connect goes on waiting when a signal of Go's runtime interrupts it.
func connect(fd int, to unix.Sockaddr) error {
	err := unix.Connect(fd, to)
	for err == unix.EINTR { //nolint:errorlint // as the system call says it
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
		if n, interrupted := unix.Poll(poll, callTimeout*1000); interrupted != nil {
			continue
		} else if n == 0 {
			return unix.EINPROGRESS
		}
		value, failed := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
		if failed != nil {
			return failed
		}
		err = nil
		if value != 0 {
			err = unix.Errno(value)
		}
	}
	return err
}

func sockaddr(text string) unix.Sockaddr {
	at, err := netip.ParseAddrPort(text)
	if err != nil {
		panic(err)
	}
	if at.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: at.Addr().As4(), Port: int(at.Port())}
	}
	return &unix.SockaddrInet6{Addr: at.Addr().As16(), Port: int(at.Port())}
}

func addrText(from unix.Sockaddr) string {
	switch a := from.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port)).String()
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr), uint16(a.Port)).String()
	}
	return ""
}

func passTo(path string, fd int) error {
	s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	return unix.Sendmsg(s, []byte("x"), unix.UnixRights(fd), &unix.SockaddrUnix{Name: path}, 0)
}

func takeFrom(path string) (int, error) {
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return -1, err
	}
	defer conn.Close()
	if err := os.WriteFile(path+".ready", nil, 0o600); err != nil {
		return -1, err
	}
	oob := make([]byte, 64)
	_, n, _, _, err := conn.ReadMsgUnix(make([]byte, 1), oob)
	if err != nil {
		return -1, err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) != 1 {
		return -1, errors.Join(err, errors.New("no descriptor came"))
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return -1, err
	}
	return fds[0], nil
}
