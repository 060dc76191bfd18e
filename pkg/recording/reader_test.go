package recording

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

// drain reads to the end.
func drain(r *Reader) error {
	for {
		if _, err := r.Next(); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// A change of any byte is noticed: by an error, or (where a length becomes zero,
// as at the end of a file that is being written) by events that are missing.
func TestEveryByteCounts(t *testing.T) {
	c := newChain(SessionFile, 7).add(sessionKinds()...)
	for i := range c.b {
		for _, change := range []byte{0x01, 0x80, 0xff, c.b[i]} {
			if change == 0 {
				continue
			}
			b := bytes.Clone(c.b)
			b[i] ^= change
			r, err := NewReader("memory", bytes.NewReader(b), int64(len(b)))
			if err == nil {
				err = drain(r)
			}
			if err == nil && r.Head() == c.head {
				t.Fatalf("byte %d changed by %#x is not noticed", i, change)
			}
			if err != nil && !errors.As(err, new(*BrokenError)) {
				t.Fatalf("byte %d: %v", i, err)
			}
		}
	}
}

// A file cut anywhere is either broken or lacks its end.
func TestEveryCut(t *testing.T) {
	c := newChain(SessionFile, 7).add(sessionKinds()...)
	for n := range c.b {
		r, err := NewReader("memory", bytes.NewReader(c.b[:n]), int64(n))
		if err == nil {
			err = drain(r)
		}
		if err == nil && (r.Closed() || r.Head() == c.head) {
			t.Fatalf("cut at %d: nothing is missing", n)
		}
	}
}

func TestHeaders(t *testing.T) {
	good := newChain(SessionFile, 1).b
	for name, change := range map[string]func([]byte) []byte{
		"empty":           func([]byte) []byte { return nil },
		"short":           func(b []byte) []byte { return b[:63] },
		"another magic":   func(b []byte) []byte { b[0] = 'x'; return b },
		"a later version": func(b []byte) []byte { b[9] = 2; return b },
		"type 3":          func(b []byte) []byte { b[10] = 3; return b },
		"an unknown flag": func(b []byte) []byte { b[15] = 4; return b },
		"another hash":    func(b []byte) []byte { b[40] ^= 1; return b },
	} {
		b := change(bytes.Clone(good))
		if _, err := NewReader("memory", bytes.NewReader(b), int64(len(b))); !errors.As(err, new(*BrokenError)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A reader of a file that is being written reads on where the writer does.
func TestReadWhileWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.rec")
	c := newChain(SessionFile, 1).add(&Verdict{Request: 1})
	room := make([]byte, 4096)
	must(t, os.WriteFile(path, append(bytes.Clone(c.b), room...), 0o600))
	r, err := Open(path)
	must(t, err)
	defer r.Close()
	if _, err := r.Next(); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Next(); err != io.EOF {
		t.Fatal("at the end of what is written:", err)
	}
	if tail, err := r.Tail(); err != nil || tail != (Tail{Bytes: 4096}) {
		t.Errorf("the tail is %+v, %v", tail, err)
	}
	// A frame without its length is not there yet; its bytes are.
	before := len(c.b)
	c.add(&Verdict{Request: 2, Action: "allow"})
	frame := c.b[before:]
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	must(t, err)
	defer f.Close()
	_, err = f.WriteAt(frame[4:], int64(before)+4)
	must(t, err)
	if _, err := r.Next(); err != io.EOF {
		t.Fatal("before the length is there:", err)
	}
	if tail, err := r.Tail(); err != nil || tail.Used == 0 || tail.Used > int64(len(frame)) {
		t.Errorf("the tail is %+v, %v", tail, err)
	}
	_, err = f.WriteAt(frame[:4], int64(before))
	must(t, err)
	if ev, err := r.Next(); err != nil || ev.Body.(*Verdict).Request != 2 {
		t.Error("after the length is there:", ev, err)
	}
}

// A declared length makes no room that the file does not have.
func TestDeclaredLengths(t *testing.T) {
	huge := func(payload []byte, k Kind) []byte {
		c := newChain(SessionFile, 1)
		frame, _ := EndFrame(append(BeginFrame(nil, c.head, k, moment), payload...))
		return append(c.b, frame[hashSize:]...)
	}
	length := binary.AppendUvarint(nil, 1<<40)
	cut := newChain(SessionFile, 1).b
	cut = append(cut, 0x04, 0, 0, 0, byte(KindRequest), 0, 0, 0) // 64 MiB, and no more than a head
	for name, b := range map[string][]byte{
		"frame":   append(cut, make([]byte, 100)...),
		"string":  huge(append([]byte{1}, length...), KindRequest),
		"list":    huge(append([]byte{1}, length...), KindFields),
		"purpose": huge(length, KindIntent),
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		err := drain(reader(t, b))
		runtime.ReadMemStats(&after)
		if !errors.As(err, new(*BrokenError)) {
			t.Errorf("%s: %v", name, err)
		}
		if took := after.TotalAlloc - before.TotalAlloc; took > 64<<10 {
			t.Errorf("%s: %d bytes of memory for a file of %d", name, took, len(b))
		}
	}
}

// What the format forbids is broken although its hash is right.
func TestStrictFrames(t *testing.T) {
	seal := func(change func(frame []byte)) []byte {
		c := newChain(SessionFile, 1)
		b := (&Verdict{Request: 1}).AppendTo(BeginFrame(nil, c.head, KindVerdict, moment))
		b, _ = EndFrame(b)
		b = b[:len(b)-hashSize]
		change(b[hashSize:])
		sum := sum(b)
		return append(append(c.b, b[hashSize:]...), sum[:]...)
	}
	if err := drain(reader(t, seal(func([]byte) {}))); err != nil {
		t.Fatal("a good frame:", err)
	}
	for name, change := range map[string]func([]byte){
		"zero bytes of the head": func(b []byte) { b[6] = 1 },
		"padding":                func(b []byte) { b[len(b)-1] = 1 },
		"bool":                   func(b []byte) { b[frameHead+4] = 2 },
		"length below the head":  func(b []byte) { b[3] = frameHead - 1 },
	} {
		if err := drain(reader(t, seal(change))); !errors.As(err, new(*BrokenError)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
