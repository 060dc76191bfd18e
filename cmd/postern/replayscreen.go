package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/postern/postern/internal/terminal"
	"github.com/postern/postern/pkg/recording"
)

// shownOn is what a request was shown on, of 0 what the first was that has a
// terminal; nil when there was none.
func shownOn(path string, request uint64) (*recording.Terminal, error) {
	r, err := recording.Open(path)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	var on *recording.Terminal
	found := errors.New("found")
	err = each(requests{r, request}, func(e recording.Event) error {
		if t, ok := e.Body.(*recording.Terminal); ok {
			on = t
			return found
		}
		return nil
	})
	if errors.Is(err, found) {
		err = nil
	}
	return on, err
}

// watch plays what was shown on a terminal. This one is given back as it was.
func (c *cli) watch(ctx context.Context, path string, on *recording.Terminal, pace recording.Pace) error {
	r, err := recording.Open(path)
	if err != nil {
		return err
	}
	defer r.Close()
	fmt.Fprintln(c.out, c.out.dim(fmt.Sprintf("request #%d, on %d×%d; space pauses, → goes on, ↑↓ change the speed, q quits", on.Request, on.Columns, on.Rows)))
	if width, height, err := term.GetSize(int(os.Stdout.Fd())); err == nil && (width < int(on.Columns) || height < int(on.Rows)) {
		fmt.Fprintln(c.out, c.out.yellow(fmt.Sprintf("this terminal has %d×%d, which is less: lines will break elsewhere", width, height)))
	}
	before, err := term.MakeRaw(int(os.Stdin.Fd()))
	if err != nil {
		return fmt.Errorf("the terminal: %w", err)
	}
	w := watcher{printer: c.out, keys: make(chan string), speed: 1}
	defer func() {
		c.out.Write(w.filter.Close())            //nolint:errcheck // nothing is left to do
		term.Restore(int(os.Stdin.Fd()), before) //nolint:errcheck // nothing is left to do
		fmt.Fprintf(c.out, "\n%s\n", c.out.dim(w.end))
	}()
	go w.listen() // it ends with the program: a terminal cannot be waited for
	pace.Wait = w.wait
	w.end = "the recording ends here"
	err = recording.Play(ctx, requests{r, on.Request}, pace, w.show)
	if errors.Is(err, errQuit) {
		w.end = "quit"
		return nil
	}
	return err
}

var errQuit = errors.New("quit")

// watcher plays one request.
type watcher struct {
	*printer
	filter terminal.Filter
	keys   chan string
	paused bool
	speed  float64 // besides that of the command line
	end    string
}

func (w *watcher) show(e recording.Event) error {
	switch b := e.Body.(type) {
	case *recording.Stream:
		if b.Stream != recording.Stdin { // what is typed is echoed
			_, err := w.Write(w.filter.Write(b.Bytes))
			return err
		}
	case *recording.Exit:
		w.end = exitOf(b)
	}
	return nil
}

// Keys as terminals send them, those with two forms in both modes.
var (
	pauseKeys  = map[string]bool{" ": true}
	nextKeys   = map[string]bool{"\x1b[C": true, "\x1bOC": true, ".": true}
	fasterKeys = map[string]bool{"\x1b[A": true, "\x1bOA": true, "+": true}
	slowerKeys = map[string]bool{"\x1b[B": true, "\x1bOB": true, "-": true}
	quitKeys   = map[string]bool{"q": true, "Q": true, "\x03": true} // ^C: the terminal is raw
)

func (w *watcher) listen() {
	defer close(w.keys)
	var b [64]byte
	for {
		n, err := os.Stdin.Read(b[:])
		if n == 0 || err != nil {
			return
		}
		for rest := string(b[:n]); rest != ""; {
			key := rest[:1]
			if strings.HasPrefix(rest, "\x1b[") || strings.HasPrefix(rest, "\x1bO") {
				key = rest[:min(3, len(rest))]
			}
			w.keys <- key
			rest = rest[len(key):]
		}
	}
}

// wait is a pause, which keys change.
func (w *watcher) wait(ctx context.Context, pause time.Duration) error {
	const fastest, slowest = 64, 1.0 / 64
	for {
		began, speed := time.Now(), w.speed
		var over <-chan time.Time
		if !w.paused {
			over = time.After(time.Duration(float64(pause) / speed))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-over:
			return nil
		case key, ok := <-w.keys:
			switch {
			case !ok, quitKeys[key]:
				return errQuit
			case nextKeys[key]:
				return nil
			case fasterKeys[key]:
				w.speed = min(speed*2, fastest)
			case slowerKeys[key]:
				w.speed = max(speed/2, slowest)
			}
			if over != nil {
				pause = max(0, pause-time.Duration(float64(time.Since(began))*speed))
			}
			w.paused = w.paused != pauseKeys[key]
		}
	}
}
