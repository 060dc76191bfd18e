package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/term"
)

// Of xterm's control sequences (ECMA-48, and DEC's private modes).
const (
	screenOpen  = "\x1b[?1049h\x1b[?25l" // the alternate screen, without a cursor
	screenClose = "\x1b[?25h\x1b[?1049l"
	frameBegin  = "\x1b[?2026h\x1b[H" // terminals that know it show the frame at once
	lineEnd     = "\x1b[K\r\n"
	frameEnd    = "\x1b[K\x1b[J\x1b[?2026l"
)

// watchTop draws the view until q, an interrupt or the end of ctx. The terminal
// is given back as it was.
func (c *cli) watchTop(ctx context.Context) error {
	last, err := c.readTop(ctx)
	if err != nil {
		return err
	}
	before, err := term.MakeRaw(int(os.Stdin.Fd()))
	if err != nil {
		return fmt.Errorf("the terminal: %w", err)
	}
	fmt.Fprint(c.out, screenOpen)
	defer func() {
		fmt.Fprint(c.out, screenClose)
		term.Restore(int(os.Stdin.Fd()), before) //nolint:errcheck // nothing is left to do
	}()
	keys := make(chan byte)
	go func() { // it ends with the program: a terminal cannot be waited for
		var key [1]byte
		for {
			if n, err := os.Stdin.Read(key[:]); n == 0 || err != nil {
				close(keys)
				return
			}
			keys <- key[0]
		}
	}()
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, syscall.SIGWINCH)
	defer signal.Stop(resized)
	tick := time.NewTicker(topInterval)
	defer tick.Stop()
	lines := viewOf(last, last).lines(time.Now())
	for {
		c.draw(lines)
		select {
		case <-ctx.Done():
			return nil
		case key, ok := <-keys:
			if !ok || key == 'q' || key == 'Q' || key == 3 { // ^C: the terminal is raw
				return nil
			}
		case <-resized:
		case <-tick.C:
			now, err := c.readTop(ctx)
			if err != nil {
				lines = []topLine{{"postern top  " + time.Now().Format(time.TimeOnly), nil}, {err.Error(), red}}
				continue
			}
			lines = viewOf(last, now).lines(time.Now())
			last = now
		}
	}
}

// draw writes a whole frame in one go, over the last one.
func (c *cli) draw(lines []topLine) {
	width, height, err := term.GetSize(int(os.Stdout.Fd()))
	if err != nil || width <= 0 || height <= 0 {
		width, height = 80, 24
	}
	if more := len(lines) - height; more > 0 {
		lines = append(lines[:height-1:height-1], topLine{fmt.Sprintf("… %d lines more", more+1), dim})
	}
	var out bytes.Buffer
	out.WriteString(frameBegin)
	for i, l := range lines {
		if i > 0 {
			out.WriteString(lineEnd)
		}
		out.WriteString(c.painted(l, width))
	}
	out.WriteString(frameEnd)
	c.out.Write(out.Bytes()) //nolint:errcheck // the terminal has gone, and with it the keys
}
