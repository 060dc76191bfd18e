package bypass

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

const helpAccomplice = "it takes an accomplice outside: give agents a uid of their own and no socket in common, or run them in the tier workspace or strict"

// What one asks the accomplice for.
const (
	wantSocket     = "socket"     // one that is made, outside of the cgroup
	wantConnection = "connection" // one that is connected outside
	takeListener   = "listener"   // to serve at a listener of the agent's
	takeSocket     = "use"        // to connect a socket of the agent's
)

// Sockets that cross the edge of the cgroup.
var passedAttempts = []Attempt{
	{
		Name: "inherited-sockets", Tries: "uses the sockets that its launcher left open", Families: neither,
		Must: everywhere(ByLauncher), first: true, do: inherited,
	},
	{
		Name: "passed-socket", Unix: true, Tries: "is given a socket made outside of its cgroup, and connects it", Families: both,
		Must: openUnlessBoxed(helpAccomplice, ByMounts), do: passedSocket,
	},
	{
		Name: "passed-connection", Unix: true, Tries: "is given a connection made outside of its cgroup", Families: both,
		Must: openUnlessBoxed(helpAccomplice, ByMounts), do: passedConnection,
	},
	{
		Name: "passed-listener", Unix: true, Tries: "gives its listener to a process outside, which is then called", Families: both,
		Must: boxed(by(ByIngress), ByMounts), do: passedListener,
	},
	{
		Name: "lent-socket", Unix: true, Tries: "gives its socket to a process outside, which connects it", Families: both,
		Must: boxed(by(ByNoPolicy), ByMounts), do: lentSocket,
	},
}

// inherited looks at every descriptor besides the three; it speaks where one is
// a socket of the network.
func inherited(t *try) error {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil || fd <= 2 {
			continue
		}
		domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
		if err == nil && (domain == unix.AF_INET || domain == unix.AF_INET6) {
			return nil
		}
	}
	return errors.New("no socket came along")
}

// accomplice dials the judge's socket, asks, and returns what came back.
func (t *try) accomplice(what string, fds ...int) (answer string, got []int, err error) {
	conn, err := net.DialTimeout("unix", t.Accomplice, tcpPatience)
	if err != nil {
		return "", nil, fmt.Errorf("meet the accomplice: %w", err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(attemptTimeout / 2))
	c := conn.(*net.UnixConn)
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	if _, _, err := c.WriteMsgUnix([]byte(what+" "+string(t.family)), rights, nil); err != nil {
		return "", nil, fmt.Errorf("ask the accomplice: %w", err)
	}
	return receive(c)
}

// receive reads one message and its descriptors.
func receive(c *net.UnixConn) (text string, fds []int, err error) {
	buf, rights := make([]byte, 256), make([]byte, unix.CmsgSpace(4*4))
	n, oob, _, _, err := c.ReadMsgUnix(buf, rights)
	if err != nil {
		return "", nil, fmt.Errorf("hear from the accomplice: %w", err)
	}
	messages, err := unix.ParseSocketControlMessage(rights[:oob])
	if err != nil {
		return "", nil, err
	}
	for i := range messages {
		more, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			return "", fds, err
		}
		fds = append(fds, more...)
	}
	return string(buf[:n]), fds, nil
}

func (t *try) given(what string) (int, error) {
	answer, fds, err := t.accomplice(what)
	if err != nil {
		return -1, err
	}
	if len(fds) != 1 {
		return -1, fmt.Errorf("the accomplice has no socket: %s", answer)
	}
	return fds[0], nil
}

func passedSocket(t *try) error {
	fd, err := t.given(wantSocket)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, raw(at(t.far(), 443))); err != nil {
		return named("connect", err)
	}
	return t.hear(fd)
}

func passedConnection(t *try) error {
	fd, err := t.given(wantConnection)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return t.hear(fd)
}

func passedListener(t *try) error {
	fd, err := open(domainOf(t.far()), unix.SOCK_STREAM, 0, tcpPatience)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Listen(fd, 1); err != nil {
		return named("listen", err)
	}
	return t.lend(takeListener, fd)
}

func lentSocket(t *try) error {
	fd, err := open(domainOf(t.far()), unix.SOCK_STREAM, 0, tcpPatience)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return t.lend(takeSocket, fd)
}

// lend is nil when the accomplice could use the socket.
func (t *try) lend(what string, fd int) error {
	answer, _, err := t.accomplice(what, fd)
	if err != nil {
		return err
	}
	if answer != answerOpen {
		return fmt.Errorf("in the other process: %s", answer)
	}
	return nil
}
