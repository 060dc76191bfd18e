package main

import (
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/creack/pty"
	"golang.org/x/term"
)

// terminal is one of the run's own. The person's is never inside: what is typed
// and shown is copied.
type terminal struct {
	inner  *os.File // the run's end
	outer  *os.File
	person *os.File
	before *term.State
	resize chan os.Signal
	copied chan struct{}
	once   sync.Once
}

// lastWords is how long what the run has written may take to be shown after it
// has ended.
const lastWords = time.Second

func openTerminal(person, screen *os.File) (*terminal, error) {
	outer, inner, err := pty.Open()
	if err != nil {
		return nil, fmt.Errorf("no pseudo-terminal: %w", err)
	}
	t := &terminal{inner: inner, outer: outer, person: person, resize: make(chan os.Signal, 1), copied: make(chan struct{})}
	pty.InheritSize(person, outer) //nolint:errcheck // it has a size of its own then
	if t.before, err = term.MakeRaw(int(person.Fd())); err != nil {
		outer.Close()
		inner.Close()
		return nil, err
	}
	signal.Notify(t.resize, syscall.SIGWINCH)
	go func() {
		for range t.resize {
			pty.InheritSize(person, outer) //nolint:errcheck // the next one may work
		}
	}()
	go io.Copy(outer, person) //nolint:errcheck // it ends with the program: a terminal cannot be waited for
	go func() {
		io.Copy(screen, outer) //nolint:errcheck // EIO is how a terminal ends
		close(t.copied)
	}()
	return t, nil
}

// close gives the person's terminal back as it was.
func (t *terminal) close() {
	t.once.Do(func() {
		t.inner.Close()
		select {
		case <-t.copied:
		case <-time.After(lastWords):
		}
		signal.Stop(t.resize)
		close(t.resize)
		term.Restore(int(t.person.Fd()), t.before) //nolint:errcheck // nothing is left to do
		t.outer.Close()
	})
}
