package guard

import (
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// stdioTime bounds how long a client may take to send what it was asked for.
const stdioTime = 10 * time.Second

// sendStdio is the client's answer to who asks for a run's standard descriptors.
func sendStdio(conn *net.UnixConn, stdio [3]*os.File) error {
	var fds []int
	for _, f := range stdio {
		fd, err := number(f)
		if err != nil {
			return err
		}
		fds = append(fds, fd)
	}
	_, _, err := conn.WriteMsgUnix([]byte{0}, unix.UnixRights(fds...), nil)
	return err
}

// takeStdio makes what the client sends the launcher's own standard descriptors.
func takeStdio() error {
	fds, err := receiveStdio(clientFD)
	if err == nil {
		err = checkStdio(fds)
	}
	if err != nil {
		return err
	}
	for i, fd := range fds {
		if err := unix.Dup3(fd, i, 0); err != nil {
			return fmt.Errorf("take standard descriptors: %w", err)
		}
		unix.Close(fd)
	}
	return unix.Close(clientFD) // its end is the guard's to hear
}

func receiveStdio(conn int) ([]int, error) {
	late := time.Now().Add(stdioTime)
	rights, b := make([]byte, unix.CmsgSpace(maxFiles*4)), make([]byte, 1)
	for {
		n, oobn, _, _, err := unix.Recvmsg(conn, b, rights, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, unix.EAGAIN) && time.Now().Before(late):
			unix.Poll([]unix.PollFd{{Fd: int32(conn), Events: unix.POLLIN}}, int(time.Until(late).Milliseconds())) //nolint:errcheck // the next Recvmsg tells
			continue
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return nil, errors.New("standard descriptors: the client does not send them")
		case err != nil:
			return nil, fmt.Errorf("standard descriptors: %w", err)
		case n == 0:
			return nil, errors.New("standard descriptors: the client has gone")
		}
		messages, err := unix.ParseSocketControlMessage(rights[:oobn])
		if err != nil || len(messages) != 1 {
			return nil, fmt.Errorf("standard descriptors: none came along (%v)", err)
		}
		return unix.ParseUnixRights(&messages[0])
	}
}

// checkStdio refuses network sockets: one that was made outside of the cgroup
// would be a way out of it.
func checkStdio(fds []int) error {
	if len(fds) != 3 {
		return fmt.Errorf("%d descriptors came along instead of 3", len(fds))
	}
	for _, fd := range fds {
		domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
		if err == nil && domain != unix.AF_UNIX {
			return errors.New("standard input, output and error of a run may not be network sockets")
		}
		if err != nil && !errors.Is(err, unix.ENOTSOCK) {
			return fmt.Errorf("look at a descriptor: %w", err)
		}
	}
	return nil
}
