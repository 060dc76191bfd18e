package recording

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// readAhead is how much of a file is read at once: large enough to verify a
// gigabyte per second, small enough to list a thousand sessions.
const readAhead = 64 << 10

// BrokenError says that a file does not follow its own chain from Offset on:
// it was altered, or a power failure took a part of it. The death of a daemon
// does not cause it.
type BrokenError struct {
	Path   string
	Offset int64
	Err    error
}

func (e *BrokenError) Error() string {
	return fmt.Sprintf("%s: broken at offset %d: %v", e.Path, e.Offset, e.Err)
}

func (e *BrokenError) Unwrap() error { return e.Err }

var (
	errFrameHash = errors.New("the frame does not match its hash")
	errFrameHead = errors.New("the frame's head does not follow the format")
	errFrameCut  = errors.New("the file ends inside a frame")
)

// Reader reads one file, front to back, and checks every hash on the way.
type Reader struct {
	path   string
	src    io.ReaderAt
	size   func() (int64, error)
	close  func() error
	header Header

	buf    []byte // what was read and not yet used
	at     int64  // file offset of buf
	seq    uint64
	head   Hash
	frame  []byte // previous hash and frame, as they are hashed
	closed bool   // the last event was End
	broken error
}

// Open opens a session file or a journal. The file may still be written to.
func Open(path string) (*Reader, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	r := &Reader{path: path, src: f, close: f.Close, size: func() (int64, error) {
		st, err := f.Stat()
		if err != nil {
			return 0, err
		}
		return st.Size(), nil
	}}
	if err := r.readHeader(); err != nil {
		f.Close()
		return nil, err
	}
	return r, nil
}

// NewReader reads from src, which holds size bytes. The name is for errors.
func NewReader(name string, src io.ReaderAt, size int64) (*Reader, error) {
	r := &Reader{
		path: name, src: src, close: func() error { return nil },
		size: func() (int64, error) { return size, nil },
	}
	return r, r.readHeader()
}

func (r *Reader) readHeader() error {
	b := make([]byte, HeaderSize)
	n, err := r.src.ReadAt(b, 0)
	if err != nil && (!errors.Is(err, io.EOF) || n < 8) {
		if errors.Is(err, io.EOF) {
			err = errNotRecording
		}
		return &BrokenError{r.path, 0, err}
	}
	if r.header, err = parseHeader(b[:n]); err != nil {
		return &BrokenError{r.path, 0, err}
	}
	r.at, r.head = HeaderSize, r.header.Genesis
	return nil
}

// Header returns the header of the file.
func (r *Reader) Header() Header { return r.header }

// Head returns the hash of the last event that was read, or the genesis hash.
func (r *Reader) Head() Hash { return r.head }

// Offset returns the length of the header and the events that were read.
func (r *Reader) Offset() int64 { return r.at }

// Events returns how many events were read.
func (r *Reader) Events() uint64 { return r.seq }

// Closed reports whether the last event that was read is the one with which a
// session, or a journal, ends in order.
func (r *Reader) Closed() bool { return r.closed }

// Close closes the file.
func (r *Reader) Close() error { return r.close() }

// Next returns the next event. At the end of what is written it returns io.EOF;
// a later call returns what was added since. A *BrokenError is for good.
func (r *Reader) Next() (Event, error) {
	if r.broken != nil {
		return Event{}, r.broken
	}
	ev, err := r.next()
	if err != nil && errors.As(err, new(*BrokenError)) {
		// The file may have been read while the writer was at it, on a file
		// system that promises less than a local one does. So look once more.
		r.buf = nil
		ev, err = r.next()
	}
	if err != nil && err != io.EOF {
		r.broken = err
	}
	return ev, err
}

func (r *Reader) next() (Event, error) {
	if err := r.fill(frameHead); err != nil {
		return Event{}, err
	}
	if len(r.buf) < 4 {
		return Event{}, r.end()
	}
	n := int(binary.BigEndian.Uint32(r.buf))
	if n == 0 {
		r.buf = nil // may be written to by the time of the next call
		return Event{}, io.EOF
	}
	if n < frameHead || n > MaxFrame {
		return Event{}, r.fail(errFrameHead)
	}
	size := frameSize(n)
	if err := r.fill(size); err != nil {
		return Event{}, err
	}
	if len(r.buf) < size {
		return Event{}, r.fail(errFrameCut)
	}
	return r.parse(n, size)
}

func (r *Reader) parse(n, size int) (Event, error) {
	raw := r.buf[:size]
	r.frame = append(append(r.frame[:0], r.head[:]...), raw[:size-hashSize]...)
	sum := Hash(sha256.Sum256(r.frame))
	if string(sum[:]) != string(raw[size-hashSize:]) {
		return Event{}, r.fail(errFrameHash)
	}
	if raw[5]|raw[6]|raw[7] != 0 {
		return Event{}, r.fail(errFrameHead)
	}
	for _, b := range raw[n : size-hashSize] {
		if b != 0 {
			return Event{}, r.fail(errFrameHead)
		}
	}
	payload := append([]byte(nil), raw[frameHead:n]...)
	body, err := parseBody(Kind(raw[4]), payload)
	if err != nil {
		return Event{}, r.fail(err)
	}
	if cap(r.frame) > readAhead {
		r.frame = nil
	}
	ev := Event{
		Seq: r.seq + 1, Offset: r.at, Body: body, Hash: sum,
		Time: time.Unix(0, int64(binary.BigEndian.Uint64(raw[8:]))).UTC(),
	}
	r.buf = r.buf[size:]
	r.at += int64(size)
	r.seq, r.head = ev.Seq, sum
	r.closed = body.Kind() == KindEnd || body.Kind() == KindStopped
	return ev, nil
}

// fill makes r.buf hold at least n bytes, or all there are.
func (r *Reader) fill(n int) error {
	if len(r.buf) >= n {
		return nil
	}
	size, err := r.size()
	if err != nil {
		return fmt.Errorf("%s: %w", r.path, err)
	}
	left := size - r.at
	if left <= int64(len(r.buf)) {
		return nil
	}
	buf := make([]byte, min(int64(max(n, readAhead)), left))
	got, err := r.src.ReadAt(buf, r.at)
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("%s: %w", r.path, err)
	}
	r.buf = buf[:got]
	return nil
}

// end is for when fewer than four bytes are left: none is the normal end of a
// closed file, and some may be the zero end of an open one.
func (r *Reader) end() error {
	for _, b := range r.buf {
		if b != 0 {
			return r.fail(errFrameCut)
		}
	}
	r.buf = nil
	return io.EOF
}

func (r *Reader) fail(err error) error { return &BrokenError{r.path, r.at, err} }

// Tail says what follows the last event.
type Tail struct {
	Bytes int64 // up to the end of the file, room made ahead included
	Used  int64 // up to the last byte that is not zero: an event that was never finished
}

// Tail looks at what follows the events. It is meaningful after Next has
// returned io.EOF.
func (r *Reader) Tail() (Tail, error) {
	size, err := r.size()
	if err != nil {
		return Tail{}, fmt.Errorf("%s: %w", r.path, err)
	}
	t := Tail{Bytes: max(size-r.at, 0)}
	buf := make([]byte, readAhead)
	for off := r.at; off < size; {
		n, err := r.src.ReadAt(buf[:min(int64(len(buf)), size-off)], off)
		for i := range n {
			if buf[i] != 0 {
				t.Used = off + int64(i) + 1 - r.at
			}
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return Tail{}, fmt.Errorf("%s: %w", r.path, err)
		}
		if n == 0 {
			break
		}
		off += int64(n)
	}
	return t, nil
}
