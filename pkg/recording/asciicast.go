package recording

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Asciicast writes what a request of a session showed as asciicast, version 3
// (https://docs.asciinema.org/manual/asciicast/v3/), from where r stands to its
// end. Request 0 is the first that has a terminal or wrote something. Input is in
// it where it was recorded; denials within the time are markers. Bytes that are
// no UTF-8 become U+FFFD, since the format is JSON. A command without a terminal
// gets one of 80 columns and 24 rows, on which lines end as on any. What was
// shown is as it was: control sequences are the player's business.
func Asciicast(w io.Writer, r *Reader, request uint64) error {
	c := &cast{w: w, request: request}
	for {
		e, err := r.Next()
		if errors.Is(err, io.EOF) {
			return c.end()
		}
		if err == nil {
			err = c.event(e)
		}
		if err != nil {
			return err
		}
	}
}

// cast is an asciicast in the making.
type cast struct {
	w        io.Writer
	request  uint64
	opened   Opened
	requests []Request // that have not shown anything yet
	last     time.Time
	terminal bool
	begun    bool
	rest     map[string][]byte // by stream: the beginning of a character
	exit     string
	ended    time.Time
}

// maxWaiting bounds the requests that are remembered for their text.
const maxWaiting = 256

func (c *cast) event(e Event) error {
	switch b := e.Body.(type) {
	case *Opened:
		c.opened = *b
	case *Request:
		if len(c.requests) < maxWaiting && !c.begun {
			c.requests = append(c.requests, Request{ID: b.ID, Form: b.Form, Text: b.Text})
		}
	case *Terminal:
		if !c.ours(b.Request) {
			return nil
		}
		if !c.begun {
			c.terminal = true
			return c.begin(e.Time, b)
		}
		return c.put(e.Time, "r", fmt.Sprintf("%dx%d", within(b.Columns, 80), within(b.Rows, 24)))
	case *Stream:
		if !c.ours(b.Request) {
			return nil
		}
		if !c.begun {
			if err := c.begin(e.Time, &Terminal{Request: b.Request}); err != nil {
				return err
			}
		}
		code := "o"
		if b.Stream == Stdin {
			code = "i"
		}
		if text := c.text(b); text != "" {
			return c.put(e.Time, code, text)
		}
	case *Denial:
		if c.begun && c.exit == "" {
			return c.put(e.Time, "m", fmt.Sprintf("#%d denied: %s", b.Request, b.Reason))
		}
	case *Exit:
		if c.begun && b.Request == c.request {
			c.exit = strconv.Itoa(b.Code())
			c.ended = e.Time
		}
	}
	return nil
}

func maxTime(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// ours says whether the request is the one that is written, and picks the first
// when none was named.
func (c *cast) ours(request uint64) bool {
	if c.request == 0 {
		c.request = request
	}
	return c.request == request
}

// within makes a size of a terminal one that players take.
func within(n uint32, otherwise uint32) uint32 {
	if n == 0 {
		return otherwise
	}
	return min(n, 1<<16-1)
}

func (c *cast) begin(at time.Time, t *Terminal) error {
	type term struct {
		Columns uint32 `json:"cols"`
		Rows    uint32 `json:"rows"`
		Type    string `json:"type,omitempty"`
	}
	head := struct {
		Version   int    `json:"version"`
		Term      term   `json:"term"`
		Timestamp int64  `json:"timestamp"`
		Command   string `json:"command,omitempty"`
		Title     string `json:"title,omitempty"`
	}{Version: 3, Term: term{within(t.Columns, 80), within(t.Rows, 24), valid(t.Type)}, Timestamp: at.Unix()}
	for _, r := range c.requests {
		if r.ID == c.request && r.Form != "shell" {
			head.Command = valid(r.Text)
		}
	}
	if c.opened.Session != "" {
		head.Title = valid(fmt.Sprintf("%s on %s, session %s", c.opened.Agent, c.opened.Target, c.opened.Session))
	}
	c.begun, c.last, c.rest, c.requests = true, at, map[string][]byte{}, nil
	return c.line(head)
}

func valid(s string) string { return strings.ToValidUTF8(s, "\ufffd") }

// put writes an event. Times are differences in the format; each is that of two
// rounded times, so that their errors do not add up.
func (c *cast) put(at time.Time, code, data string) error {
	at = maxTime(at.Truncate(time.Microsecond), c.last)
	interval := at.Sub(c.last.Truncate(time.Microsecond))
	c.last = at
	return c.line([3]any{json.Number(strconv.FormatFloat(interval.Seconds(), 'f', 6, 64)), code, valid(data)})
}

func (c *cast) line(v any) error {
	e := json.NewEncoder(c.w)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// text is the next characters of a stream that are whole.
func (c *cast) text(s *Stream) string {
	b := append(c.rest[s.Stream], s.Bytes...)
	n := len(b)
	for i := n - 1; i >= 0 && i >= n-utf8.UTFMax; i-- {
		if utf8.RuneStart(b[i]) {
			if !utf8.FullRune(b[i:]) {
				n = i
			}
			break
		}
	}
	c.rest[s.Stream] = append([]byte(nil), b[n:]...)
	if !c.terminal && s.Stream != Stdin {
		return strings.ReplaceAll(strings.ReplaceAll(string(b[:n]), "\r\n", "\n"), "\n", "\r\n")
	}
	return string(b[:n])
}

// end writes what was kept for the end.
func (c *cast) end() error {
	if !c.begun {
		if c.request == 0 {
			return errors.New("nothing in this session had a terminal or wrote anything")
		}
		return fmt.Errorf("request %d had no terminal and wrote nothing", c.request)
	}
	for _, stream := range []string{Stdout, Stderr} {
		if len(c.rest[stream]) > 0 {
			if err := c.put(c.last, "o", string(c.rest[stream])); err != nil {
				return err
			}
		}
	}
	if c.exit == "" {
		return nil
	}
	return c.put(c.ended, "x", c.exit)
}

// signals are those of RFC 4254, 6.10, by their numbers on Linux.
var signals = map[string]int{
	"HUP": 1, "INT": 2, "QUIT": 3, "ILL": 4, "ABRT": 6, "FPE": 8, "KILL": 9, "USR1": 10, "SEGV": 11, "USR2": 12, "PIPE": 13, "ALRM": 14, "TERM": 15,
}

// Code is the status as a shell has it: behind a signal 128 and its number.
func (e *Exit) Code() int {
	if e.Signal != "" {
		return 128 + signals[e.Signal]
	}
	return int(e.Status)
}
