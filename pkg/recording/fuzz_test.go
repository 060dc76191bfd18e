package recording

import (
	"bytes"
	"crypto/sha256"
	"io"
	"testing"
)

func sum(b []byte) Hash { return sha256.Sum256(b) }

// Whatever a file holds: what the reader accepts is, event by event, what a
// writer of the same events would have written.
func FuzzReader(f *testing.F) {
	f.Add(newChain(SessionFile, 1).add(sessionKinds()...).b)
	f.Add(newChain(JournalFile, 1).add(journalKinds()...).b)
	f.Add(append(newChain(SessionFile, 1).add(&Unknown{Of: 0}, &Unknown{Of: 99, Payload: []byte("x")}).b, make([]byte, 99)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := NewReader("fuzz", bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		same(t, r, b)
	})
}

// FuzzPayload goes where FuzzReader does not come for want of right hashes.
func FuzzPayload(f *testing.F) {
	for _, b := range everyKind() {
		f.Add(byte(b.Kind()), b.AppendTo(nil))
	}
	f.Fuzz(func(t *testing.T, kind byte, payload []byte) {
		c := newChain(SessionFile, 1)
		frame, _ := EndFrame(append(BeginFrame(nil, c.head, Kind(kind), moment), payload...))
		b := append(c.b, frame[hashSize:]...)
		same(t, reader(t, b), b)
	})
}

// same encodes what is read and compares it with what was read.
func same(t *testing.T, r *Reader, b []byte) {
	h := r.Header()
	again := AppendHeader(nil, h.Type, h.Random)
	head := h.Genesis
	for {
		ev, err := r.Next()
		if err != nil {
			if err == io.EOF {
				if _, err := r.Tail(); err != nil {
					t.Errorf("behind the end: %v", err)
				}
			}
			if n := r.Offset(); !bytes.Equal(again, b[:n]) {
				t.Errorf("read\n%x, which encodes to\n%x", b[:n], again)
			}
			return
		}
		frame, next := EndFrame(ev.Body.AppendTo(BeginFrame(nil, head, ev.Body.Kind(), ev.Time)))
		again, head = append(again, frame[hashSize:]...), next
		if rows, ok := ev.Body.(*Rows); ok {
			for range rows.All() {
			}
		}
		if _, err := ev.MarshalJSON(); err != nil {
			t.Errorf("%s has no JSON: %v", ev.Body.Kind(), err)
		}
	}
}
