package sandbox

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Terminal begins a session, and makes the terminal that it finds among the
// standard descriptors, if any, that session's. As standard input a terminal
// that is another session's already is refused: who reads it hears what is typed
// there.
func Terminal() error {
	if sid, err := unix.Getsid(0); err != nil || sid != unix.Getpid() {
		if _, err := unix.Setsid(); err != nil {
			return fmt.Errorf("begin a session: %w", err)
		}
	}
	for fd := range 3 {
		if _, err := unix.IoctlGetTermios(fd, unix.TCGETS); err != nil {
			continue
		}
		err := unix.IoctlSetInt(fd, unix.TIOCSCTTY, 0)
		if err == nil {
			return nil
		}
		if fd == 0 {
			return errors.New("standard input is another session's terminal: use postern run, which makes one of its own")
		}
	}
	return nil
}
