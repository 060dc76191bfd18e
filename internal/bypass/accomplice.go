package bypass

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/internal/bypass/outside"
)

const (
	// answerOpen is what the accomplice says of a socket that it could use.
	answerOpen = "open"
	// datagramSuffix is that of its socket for datagrams.
	datagramSuffix = ".datagram"
)

// accomplice is a process outside of the policy cgroup that does what agents
// ask of it: the judge itself.
type accomplice struct {
	outside  *outside.Outside
	path     string
	abstract string
	closers  []interface{ Close() error }
	running  sync.WaitGroup
}

// newAccomplice listens in a folder that agents can reach.
func newAccomplice(o *outside.Outside, dir string) (*accomplice, error) {
	a := &accomplice{outside: o, path: filepath.Join(dir, "accomplice"), abstract: "postern-bypass-" + filepath.Base(dir)}
	for _, at := range []string{a.path, "@" + a.abstract} {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: at, Net: "unix"})
		if err != nil {
			a.close()
			return nil, err
		}
		a.closers = append(a.closers, l)
		a.running.Go(func() { a.serve(l) })
	}
	d, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: a.path + datagramSuffix, Net: "unixgram"})
	if err != nil {
		a.close()
		return nil, err
	}
	a.closers = append(a.closers, d)
	return a, errors.Join(os.Chmod(a.path, 0o777), os.Chmod(a.path+datagramSuffix, 0o777))
}

func (a *accomplice) close() {
	for _, c := range a.closers {
		c.Close()
	}
	a.running.Wait()
}

func (a *accomplice) serve(l *net.UnixListener) {
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
			return
		}
		a.running.Go(func() {
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(attemptTimeout))
			text, fds, err := receive(conn)
			if err != nil {
				return // it only dialled
			}
			answer, give := a.help(text, fds)
			var rights []byte
			if give >= 0 {
				rights = unix.UnixRights(give)
				defer unix.Close(give)
			}
			conn.WriteMsgUnix([]byte(answer), rights, nil) //nolint:errcheck // the agent has ended
		})
	}
}

// help does what is asked: the answer, and the descriptor to give or -1.
func (a *accomplice) help(text string, fds []int) (answer string, give int) {
	defer func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}()
	what, name, _ := strings.Cut(text, " ")
	to, from := at(outside.Far4, 443), outside.Near4
	if Family(name) == V6 {
		to, from = at(outside.Far6, 443), outside.Near6
	}
	give = -1
	var err error
	switch {
	case what == wantSocket || what == wantConnection:
		give, err = a.socket(to, what == wantConnection)
	case len(fds) != 1:
		err = errors.New("no descriptor came along")
	case what == takeListener:
		err = a.serveFor(fds[0], from)
	case what == takeSocket:
		wait := unix.NsecToTimeval(tcpPatience.Nanoseconds())
		unix.SetsockoptTimeval(fds[0], unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait) //nolint:errcheck // it would take longer
		err = named("connect", unix.Connect(fds[0], raw(to)))
	default:
		err = fmt.Errorf("%q is nothing to ask for", what)
	}
	if err != nil {
		return err.Error(), -1
	}
	return answerOpen, give
}

func (a *accomplice) socket(to netip.AddrPort, connected bool) (fd int, err error) {
	err = a.outside.InNear(func() error {
		if fd, err = open(domainOf(to.Addr()), unix.SOCK_STREAM, 0, tcpPatience); err != nil || !connected {
			return err
		}
		return named("connect", unix.Connect(fd, raw(to)))
	})
	return fd, err
}

// serveFor has the agent's listener called from outside.
func (a *accomplice) serveFor(fd int, near netip.Addr) error {
	port, err := portOf(fd)
	if err != nil {
		return err
	}
	if !a.outside.Dial("tcp", at(near, port)) {
		return errors.New("nobody outside got through")
	}
	return nil
}
