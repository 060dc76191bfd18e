package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

const (
	// lastWords is how long what the run has written may take to be shown after it
	// has ended.
	lastWords = time.Second
	// backgroundPause is how often a program in the background looks whether it may
	// read the terminal.
	backgroundPause = 200 * time.Millisecond
)

// stdio is what a run has for standard input, output and error. The person's
// terminal is never among them: who has it hears what is typed there later, and
// changes its settings. As with ssh, a run that is to read from a terminal and
// to write to one has a terminal of its own; else pipes stand for terminals.
type stdio struct {
	files  [3]*os.File
	ours   []*os.File // those of files that are to be closed here
	copied sync.WaitGroup
	person *person // nil: there is no terminal of the run's own
}

// openStdio makes what a run gets, and says whether it is a terminal of its own.
// Close gives the person's back.
func openStdio() (s *stdio, terminal bool, err error) {
	s = &stdio{files: [3]*os.File{os.Stdin, os.Stdout, os.Stderr}}
	var is [3]bool
	for n, f := range s.files {
		is[n] = term.IsTerminal(int(f.Fd()))
	}
	if is[0] && is[1] {
		if err := s.openTerminal(is[2]); err != nil {
			return nil, false, fmt.Errorf("a terminal for the run: %w", err)
		}
		return s, true, nil
	}
	if is[0] {
		if err := s.readByPipe(); err != nil {
			return nil, false, err
		}
	}
	switch {
	case is[1]:
		s.files[1], err = s.writeByPipe(os.Stdout)
		if is[2] {
			s.files[2] = s.files[1] // one pipe, so that what is written stays in order
		}
	case is[2]:
		s.files[2], err = s.writeByPipe(os.Stderr)
	}
	if err != nil {
		s.close()
		return nil, false, err
	}
	return s, false, nil
}

// readByPipe hands on what is typed, a line at a time. In the background there is
// nothing to hand on yet.
func (s *stdio) readByPipe() error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	s.files[0], s.ours = r, append(s.ours, r)
	signal.Ignore(syscall.SIGTTIN)
	go func() { // it ends with the program: a terminal cannot be waited for
		defer w.Close()
		for {
			_, err := io.Copy(w, os.Stdin)
			if !errors.Is(err, unix.EIO) || inForeground() {
				return
			}
			time.Sleep(backgroundPause)
		}
	}()
	return nil
}

func inForeground() bool {
	group, err := unix.IoctlGetInt(0, unix.TIOCGPGRP)
	return err != nil || group == unix.Getpgrp()
}

// writeByPipe shows what comes.
func (s *stdio) writeByPipe(screen *os.File) (*os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	s.ours = append(s.ours, w)
	s.copied.Go(func() {
		io.Copy(screen, r) //nolint:errcheck // the terminal has gone
		r.Close()
	})
	return w, nil
}

// close shows the rest and gives the person's terminal back as it was.
func (s *stdio) close() {
	for _, f := range s.ours {
		f.Close()
	}
	done := make(chan struct{})
	go func() { s.copied.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(lastWords):
	}
	if s.person != nil {
		s.person.close()
	}
}

// openTerminal makes a terminal of the run's own, and copies what is typed and
// shown.
func (s *stdio) openTerminal(errorsToo bool) error {
	outer, inner, err := pty.Open()
	if err != nil {
		return err
	}
	s.person = &person{terminal: os.Stdin, outer: outer, signals: make(chan os.Signal, 8)}
	if err := s.person.open(); err != nil {
		inner.Close()
		outer.Close()
		return err
	}
	s.files[0], s.files[1], s.ours = inner, inner, append(s.ours, inner)
	if errorsToo {
		s.files[2] = inner
	}
	go s.person.guarded(func() { io.Copy(outer, os.Stdin) }) //nolint:errcheck // it ends with the program: a terminal cannot be waited for
	s.copied.Go(func() {
		s.person.guarded(func() { io.Copy(os.Stdout, outer) }) //nolint:errcheck // EIO is how a terminal ends
	})
	return nil
}

// person is the terminal at which somebody sits. While the run goes on it is
// raw: every key is the run's.
type person struct {
	terminal *os.File
	outer    *os.File // of the run's terminal
	signals  chan os.Signal

	mu     sync.Mutex
	before *term.State // nil: it is as it was
}

func (p *person) open() error {
	if err := p.raw(); err != nil {
		return err
	}
	signal.Notify(p.signals, syscall.SIGWINCH, syscall.SIGTSTP, syscall.SIGCONT)
	go p.guarded(p.follow)
	return nil
}

func (p *person) raw() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	before, err := term.MakeRaw(int(p.terminal.Fd()))
	if err != nil {
		return err
	}
	if p.before == nil {
		p.before = before
	}
	pty.InheritSize(p.terminal, p.outer) //nolint:errcheck // it has a size of its own then
	return nil
}

// follow keeps the size, and gives the terminal back for as long as the program
// is stopped.
func (p *person) follow() {
	for s := range p.signals {
		switch s {
		case syscall.SIGWINCH:
			pty.InheritSize(p.terminal, p.outer) //nolint:errcheck // the next one may work
		case syscall.SIGTSTP:
			p.restore()
			syscall.Kill(os.Getpid(), syscall.SIGSTOP) //nolint:errcheck // it cannot fail
		case syscall.SIGCONT:
			if inForeground() {
				p.raw() //nolint:errcheck // it stays as it is
			}
		}
	}
}

func (p *person) restore() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.before != nil {
		term.Restore(int(p.terminal.Fd()), p.before) //nolint:errcheck // nothing is left to do
		p.before = nil
	}
}

// guarded gives the terminal back before a panic is told on it.
func (p *person) guarded(f func()) {
	defer func() {
		if r := recover(); r != nil {
			p.restore()
			panic(r)
		}
	}()
	f()
}

func (p *person) close() {
	signal.Stop(p.signals)
	p.restore()
	p.outer.Close()
}
