package guard

import (
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"
)

// TestLargeRequests: of those that announce a lot, which anybody may, a few are waited
// for at a time, of each user and of all; small ones do not wait, nor do root's.
func TestLargeRequests(t *testing.T) {
	var l largeRequests
	for uid := range uint32(maxLarge / maxLargeOfOne) {
		for range maxLargeOfOne {
			if !l.enter(uid) {
				t.Fatal("there is room")
			}
		}
		if l.enter(uid) {
			t.Errorf("more than %d of one user", maxLargeOfOne)
		}
	}
	if l.enter(4711) {
		t.Errorf("more than %d", maxLarge)
	}
	ours, theirs := pair(t)
	theirs.SetDeadline(time.Now().Add(time.Minute))
	var q request
	go writeFrame(ours, request{Op: "small"})
	if err := l.read(theirs, 4711, &q); err != nil || q.Op != "small" {
		t.Errorf("a small one: %+v, %v", q, err)
	}
	time.AfterFunc(50*time.Millisecond, func() { l.leave(0) })
	go writeFrame(ours, request{Op: "large", Cgroup: strings.Repeat("x", smallRequest)})
	if err := l.read(theirs, 4711, &q); err != nil || q.Op != "large" {
		t.Errorf("a large one, when there was room: %.20v, %v", q, err)
	}
	go writeFrame(ours, request{Op: "larger", Cgroup: strings.Repeat("x", maxRequest)})
	if err := l.read(theirs, 4711, &q); err == nil || !strings.Contains(err.Error(), "longer than the limit") {
		t.Error(err)
	}
	if !l.enter(4711) {
		t.Error("the room was not given back")
	}
}

// TestStrangersDescriptors: what is not asked of who may not ask is not taken. To watch
// a file, or to close it, may wait for ever for who serves its file system.
func TestStrangersDescriptors(t *testing.T) {
	ours, theirs := pair(t)
	theirs.SetDeadline(time.Now().Add(time.Minute))
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := writeFrame(ours, request{Op: opStatus}, w); err != nil {
		t.Fatal(err)
	}
	w.Close()
	var q request
	if err := readPlain(theirs, &q, maxRequest); err != nil || q.Op != opStatus {
		t.Errorf("%+v, %v", q, err)
	}
	r.SetReadDeadline(time.Now().Add(10 * time.Second))
	if n, err := r.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("somebody has the other end of the pipe: %d, %v", n, err)
	}
}
