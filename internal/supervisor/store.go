package supervisor

import (
	"fmt"
	"os"
	"strings"

	"github.com/coreos/go-systemd/v22/activation"
	"golang.org/x/sys/unix"
)

// maxStored is what one message of the kernel's carries (SCM_MAX_FD), and more than
// anybody here has under one name.
const maxStored = 253

// Store is systemd's store of descriptors.
type Store struct{}

// Store gives systemd copies of files, which the next process of the unit has by
// Stored should this one end (FDSTORE in sd_notify(3); FileDescriptorStoreMax= in the
// unit). A name has at most 255 printable characters and no colon, and may have several
// files; they remain the caller's to close. Without systemd nothing is stored.
func (Store) Store(name string, files ...*os.File) error {
	if os.Getenv("NOTIFY_SOCKET") == "" || len(files) == 0 {
		return nil
	}
	if len(files) > maxStored {
		return fmt.Errorf("store %s: %d files are more than %d", name, len(files), maxStored)
	}
	fds := make([]int, len(files))
	for i, f := range files {
		raw, err := f.SyscallConn()
		if err != nil {
			return fmt.Errorf("store %s: %w", name, err)
		}
		if err := raw.Control(func(fd uintptr) { fds[i] = int(fd) }); err != nil {
			return fmt.Errorf("store %s: %w", name, err)
		}
	}
	// Systemd is not to look at them: a socket of datagrams that had an error is a
	// good one (FDPOLL, from version 246 on).
	return send("FDSTORE=1\nFDPOLL=0\nFDNAME="+name, unix.UnixRights(fds...))
}

// Unstore closes systemd's copies.
func (Store) Unstore(name string) error {
	if os.Getenv("NOTIFY_SOCKET") == "" {
		return nil
	}
	return send("FDSTOREREMOVE=1\nFDNAME="+name, nil)
}

// send is for what go-systemd does not send: descriptors. (Package net sends none by a
// socket of datagrams that is connected.)
func send(state string, rights []byte) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		defer unix.Close(fd)
		err = unix.Sendmsg(fd, []byte(state), rights, &unix.SockaddrUnix{Name: os.Getenv("NOTIFY_SOCKET")}, unix.MSG_NOSIGNAL)
	}
	if err != nil {
		verb, _, _ := strings.Cut(state, "=")
		return fmt.Errorf("tell systemd %s: %w", verb, err)
	}
	return nil
}

// Stored are the files that a process of the unit before has stored, by name, the
// caller's to close. It says so once: what this process executes is not to take
// descriptors of its own for them.
func Stored() map[string][]*os.File {
	stored := map[string][]*os.File{}
	for _, f := range activation.Files(true) {
		stored[f.Name()] = append(stored[f.Name()], f)
	}
	return stored
}
