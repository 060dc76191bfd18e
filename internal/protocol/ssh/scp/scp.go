// Package scp is the old protocol of scp, which scp -O speaks and so do clients
// from before OpenSSH 9.0: `scp -t` and `scp -f` on the server, between them
// lines that name files and directories, each answered by one byte, and the
// files themselves.
//
// Each file is decided when it is named. One that is denied is refused in the
// protocol's own words, whereupon its sender goes on with the next; the other
// end never hears of it. Paths are as they are written: the protocol has no way
// to ask for what a link leads to.
//
// Start with Handler, then transfer.run.
package scp

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/relay/channels"
)

const (
	// maxLine is the longest line: a path's limit and room for the numbers.
	maxLine = 4096 + 64
	// maxFolders is how deep directories may lie in each other.
	maxFolders = 256
	// goodbye is how long the client's side may take to end after the upstream's.
	goodbye = 2 * time.Second
	pieces  = 32 << 10
)

// Verbs of what is done to files; they are those of SFTP.
const (
	verbList  = "file-list"
	verbRead  = "file-read"
	verbWrite = "file-write"
	verbMkdir = "file-mkdir"
)

// Command is what the server was started for.
type Command struct {
	Sends     bool   // the server sends: files are read
	Directory bool   // what is sent goes into Path, which is a directory
	Path      string // as it was written; of several, or of a pattern, what all of them lie in; empty when that is not known
	Exact     bool   // Path is the one file or directory that is sent
}

var errMalformed = errors.New("scp: malformed")

// Handler returns the life of a channel on which the server runs scp. session is
// told to agents with a denial.
func Handler(c Command, session string) channels.Handler {
	return func(ctx context.Context, s *channels.Streams) error {
		t := &transfer{Streams: s, command: c, session: session, scrub: s.Gate.Beside(), ended: make(chan struct{})}
		return t.live(ctx)
	}
}

// transfer is one channel.
type transfer struct {
	*channels.Streams
	command Command
	session string
	scrub   engine.Gate

	source, sink peer
	folders      []string // that we are in, by name
	times        string   // a T line that goes on with the file it is for
	ended        chan struct{}
}

// peer is one end of the transfer, whichever side it is on.
type peer struct {
	*bufio.Reader
	io.Writer
}

// live runs the transfer beside a copy of what the upstream says, so that its end
// is seen at any time: nothing ends a Read of the agent's but the channel's end,
// which comes when the handler has returned.
func (t *transfer) live(ctx context.Context) error {
	stop := context.AfterFunc(ctx, t.Hangup)
	defer stop()
	in, out := io.Pipe()
	agent, upstream := peer{bufio.NewReaderSize(t.Agent, pieces), t.Agent}, peer{bufio.NewReaderSize(in, pieces), t.Upstream}
	t.source, t.sink = agent, upstream
	if t.command.Sends {
		t.source, t.sink = upstream, agent
	}
	done := make(chan error, 1)
	t.Go(func() {
		err := t.run(ctx)
		in.CloseWithError(io.ErrClosedPipe)
		if err == nil {
			t.Upstream.CloseWrite() //nolint:errcheck // the channel is gone then
		} else {
			t.Hangup()
		}
		done <- err
	})
	_, err := io.Copy(out, t.Upstream)
	out.CloseWithError(err)
	if err == nil || errors.Is(err, io.ErrClosedPipe) {
		io.Copy(io.Discard, t.Upstream) //nolint:errcheck // what is left of it
	}
	timer := time.NewTimer(goodbye)
	defer timer.Stop()
	select {
	case err = <-done:
	case <-timer.C:
		return nil // the upstream has ended; the agent says no more
	}
	if errors.Is(err, errMalformed) {
		return &engine.Denial{Code: engine.Malformed, Reason: "what is said on the channel is not scp's protocol"}
	}
	return err
}

// run takes lines from the source until it says no more.
func (t *transfer) run(ctx context.Context) error {
	if _, err := t.answer(); err != nil { // the sink is ready
		return ended(err)
	}
	for {
		kind, err := t.source.ReadByte()
		if err != nil {
			return ended(err)
		}
		line, err := t.line(kind)
		if err != nil {
			return ended(err)
		}
		switch kind {
		case 1, 2: // something went wrong there, in words
			err = t.complaint(kind, line)
		case 'T':
			t.times = line
			_, err = t.source.Write([]byte{0})
		case 'C':
			err = t.file(ctx, line)
		case 'D':
			err = t.enter(ctx, line)
		case 'E':
			if len(t.folders) == 0 {
				return fmt.Errorf("%w: the end of a directory that has not begun", errMalformed)
			}
			t.folders = t.folders[:len(t.folders)-1]
			_, err = t.forward("E\n")
		default:
			err = fmt.Errorf("%w: a line that begins with %q", errMalformed, kind)
		}
		if err != nil {
			return ended(err)
		}
	}
}

// ended makes nothing of an end where one may be.
func ended(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrClosedPipe) {
		return nil
	}
	return err
}

// line reads what follows the first byte, without the newline.
func (t *transfer) line(kind byte) (string, error) {
	if kind == 0 {
		return "", fmt.Errorf("%w: an answer to nothing", errMalformed)
	}
	return readLine(t.source.Reader)
}

func readLine(r *bufio.Reader) (string, error) {
	var b []byte
	for {
		c, err := r.ReadByte()
		switch {
		case err != nil:
			return "", err
		case c == '\n':
			return string(b), nil
		case c == 0 || len(b) >= maxLine:
			return "", fmt.Errorf("%w: a line", errMalformed)
		}
		b = append(b, c)
	}
}

// answer takes the sink's answer to the source. Words in it are cleaned.
func (t *transfer) answer() (ok bool, err error) {
	kind, err := t.sink.ReadByte()
	if err != nil {
		return false, err
	}
	switch kind {
	case 0:
		_, err = t.source.Write([]byte{0})
		return true, err
	case 1, 2:
		words, err := readLine(t.sink.Reader)
		if err != nil {
			return false, err
		}
		_, err = t.source.Write([]byte(string(kind) + t.clean(words) + "\n"))
		return false, err
	}
	return false, fmt.Errorf("%w: an answer that begins with %q", errMalformed, kind)
}

func (t *transfer) clean(words string) string {
	return strings.ReplaceAll(string(t.scrub.Scrub([]byte(words))), "\n", " ")
}

func (t *transfer) complaint(kind byte, words string) error {
	_, err := t.sink.Write([]byte(string(kind) + t.clean(words) + "\n"))
	return err
}

// forward sends a line to the sink and its answer back.
func (t *transfer) forward(line string) (ok bool, err error) {
	if _, err := t.sink.Write([]byte(line)); err != nil {
		return false, err
	}
	return t.answer()
}

// entry is a C or D line: mode, size, name.
type entry struct {
	mode uint64
	size int64
	name string
}

func parseEntry(line string) (e entry, err error) {
	mode, rest, ok := strings.Cut(line, " ")
	size, name, ok2 := strings.Cut(rest, " ")
	if e.mode, err = strconv.ParseUint(mode, 8, 32); err == nil {
		e.size, err = strconv.ParseInt(size, 10, 64)
	}
	if e.name = name; err != nil || !ok || !ok2 || e.size < 0 || name == "" || name == "." || name == ".." || strings.ContainsRune(name, '/') {
		return e, fmt.Errorf("%w: the line of a file", errMalformed)
	}
	return e, nil
}

// paths are what a name that was sent may be: below a directory that is known to
// be one there is one answer, else the target may be the file itself or a
// directory that it goes into.
func (t *transfer) paths(name string) []string {
	c, base := t.command, t.command.Path
	if base == "" || !strings.HasPrefix(base, "/") {
		return []string{""}
	}
	inside := path.Join(append(append([]string{base}, t.folders...), name)...)
	switch {
	case c.Sends && c.Exact && len(t.folders) == 0:
		return []string{path.Clean(base)}
	case c.Sends && c.Exact: // the first directory is the path itself
		return []string{path.Join(append(append([]string{base}, t.folders[1:]...), name)...)}
	case c.Sends || c.Directory:
		return []string{inside}
	}
	below := path.Join(append([]string{base}, append(append([]string(nil), t.folders...), name)[1:]...)...)
	return []string{below, inside}
}

// decide asks the gate about a file or directory.
func (t *transfer) decide(ctx context.Context, verb string, e entry) (engine.Exchange, engine.File, *engine.Denial) {
	r := &engine.Request{Kind: "scp", Facts: map[string]any{}}
	var known []string
	for _, p := range t.paths(e.name) {
		r.Effects = append(r.Effects, engine.Effect{Verb: verb, Object: p})
		if verb == verbWrite && e.mode&0o7000 != 0 {
			r.Effects = append(r.Effects, engine.Effect{Verb: "file-attributes", Object: p})
		}
		if p != "" {
			known = append(known, p)
		}
	}
	shown := strings.Join(append(append([]string{t.command.Path}, t.folders...), e.name), "/")
	if len(known) > 0 {
		r.Facts["ssh.path"], r.Facts["ssh.paths"] = known[len(known)-1], known
		shown = known[len(known)-1]
	}
	r.Text = fmt.Sprintf("%s %q", map[string]string{verbRead: "send", verbWrite: "receive", verbList: "send the directory", verbMkdir: "receive the directory"}[verb], shown)
	if verb == verbWrite || verb == verbMkdir {
		r.Writes = 1
		r.Text += fmt.Sprintf(" mode %04o", e.mode&0o7777)
	}
	r.Pending = func(p engine.Pending) { t.Say(channels.Pending(p)) }
	x, err := t.Gate.Submit(ctx, r)
	var d *engine.Denial
	if err != nil && !errors.As(err, &d) {
		d = &engine.Denial{Code: engine.Unavailable, Reason: "the request could not be decided"}
	}
	return x, engine.File{Verb: verb, Path: shown}, d
}

// refuse answers the source in place of the sink: it goes on with the next.
func (t *transfer) refuse(d *engine.Denial) error {
	t.times = ""
	line := channels.Line(d, t.session)
	if t.command.Sends {
		t.Say(line + "\n") // the server's scp would tell it to nobody
	}
	_, err := t.source.Write([]byte("\x01" + line + "\n"))
	return err
}

// enter is the beginning of a directory.
func (t *transfer) enter(ctx context.Context, line string) error {
	e, err := parseEntry(line)
	if err != nil {
		return err
	}
	if len(t.folders) >= maxFolders {
		return fmt.Errorf("%w: directories in each other", errMalformed)
	}
	verb := verbMkdir
	if t.command.Sends {
		verb = verbList
	}
	x, done, d := t.decide(ctx, verb, e)
	if d != nil {
		return t.refuse(d)
	}
	ok, err := t.named("D", line)
	if ok && err == nil {
		t.folders = append(t.folders, e.name)
	}
	end(x, done, ok && err == nil)
	return err
}

// named sends on the line of a file or directory, with the times for it.
func (t *transfer) named(kind, line string) (ok bool, err error) {
	if t.times != "" {
		times := t.times
		t.times = ""
		if _, err := t.sink.Write([]byte("T" + times + "\n")); err != nil {
			return false, err
		}
		if answer, err := t.sink.ReadByte(); err != nil || answer != 0 {
			return false, errors.Join(err, fmt.Errorf("%w: times were refused", errMalformed))
		}
	}
	return t.forward(kind + line + "\n")
}

func end(x engine.Exchange, f engine.File, ok bool) {
	s := engine.OK
	if !ok {
		s = engine.Failed
		if f.Error == "" {
			f.Error = "it was not sent"
		}
	}
	x.File(f)
	x.End(engine.Outcome{Status: s, Bytes: f.Bytes, Tag: f.Verb})
}

// file is a file: its line, its bytes, and how it went on either side.
func (t *transfer) file(ctx context.Context, line string) error {
	e, err := parseEntry(line)
	if err != nil {
		return err
	}
	verb := verbWrite
	if t.command.Sends {
		verb = verbRead
	}
	x, done, d := t.decide(ctx, verb, e)
	if d != nil {
		return t.refuse(d)
	}
	ok, err := t.named("C", line)
	if err != nil || !ok {
		end(x, done, false)
		return err
	}
	sum := sha256.New()
	denied, err := t.bytes(x, e.size, sum, &done)
	if err != nil {
		done.Error = "the connection ended"
		end(x, done, false)
		return err
	}
	done.SHA256 = [32]byte(sum.Sum(nil))
	if denied != nil {
		done.Error = "cut"
		end(x, done, false)
		return denied
	}
	well, err := t.after()
	end(x, done, well && err == nil)
	return err
}

// after is what both ends say when the bytes are through.
func (t *transfer) after() (ok bool, err error) {
	kind, err := t.source.ReadByte()
	if err != nil {
		return false, err
	}
	switch kind {
	case 0:
		_, err = t.sink.Write([]byte{0})
	case 1, 2:
		var words string
		if words, err = readLine(t.source.Reader); err == nil {
			err = t.complaint(kind, words)
		}
	default:
		return false, fmt.Errorf("%w: after a file", errMalformed)
	}
	if err != nil {
		return false, err
	}
	fine, err := t.answer()
	return fine && kind == 0, err
}

// bytes moves a file. What is sent to the agent is masked in place.
func (t *transfer) bytes(x engine.Exchange, size int64, sum hash.Hash, done *engine.File) (*engine.Denial, error) {
	masks := t.command.Sends && t.Gate.Scrubs()
	var m channels.Preserver
	move := func(b []byte) (*engine.Denial, error) {
		if len(b) == 0 {
			return nil, nil
		}
		if t.command.Sends {
			if d := x.Charge(len(b)); d != nil {
				return d, nil
			}
		}
		sum.Write(b)
		done.Bytes += int64(len(b))
		_, err := t.sink.Write(b)
		return nil, err
	}
	buf := make([]byte, pieces)
	for size > 0 {
		n, err := t.source.Read(buf[:min(size, pieces)])
		if err != nil {
			return nil, err
		}
		size -= int64(n)
		b := buf[:n]
		if masks {
			b = m.Write(b, t.scrub.Scrub)
		}
		if d, err := move(b); d != nil || err != nil {
			return d, err
		}
	}
	if masks {
		return move(m.Flush(t.scrub.Scrub))
	}
	return nil, nil
}
