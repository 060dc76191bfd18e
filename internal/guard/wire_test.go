package guard

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
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

// TestAnswersThatNobodyReads: an error that quotes a request is cut short, and whoever
// asked and reads nothing is not waited for.
func TestAnswersThatNobodyReads(t *testing.T) {
	var s *Server
	var log lines
	guard, _ := attended(t, newRoot(t), func(server *Server) {
		s = server
		s.Log = slog.New(slog.NewTextHandler(&log, nil))
	})
	for range 16 {
		conn, err := net.Dial("unix", guard.Socket)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		text := `{"op":"launch","run":{"agent":"` + strings.Repeat("x", 500<<10) + `"}}`
		if _, err := conn.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(text))), text...)); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "all are answered", func() error {
		s.arriving.mu.Lock()
		defer s.arriving.mu.Unlock()
		if n := len(s.slots); n > 1 || s.arriving.inside > 1 { // the daemon; and who accepts
			return fmt.Errorf("%d are served, %d arrive", n, s.arriving.inside)
		}
		if n := log.longest.Load(); n < maxError || n > 2*maxError {
			return fmt.Errorf("a line of %d bytes is in the log", n)
		}
		return nil
	})
}

// lines is a log, of which the longest line counts.
type lines struct{ longest atomic.Int64 }

func (l *lines) Write(b []byte) (int, error) {
	l.longest.Store(max(l.longest.Load(), int64(len(b))))
	return len(b), nil
}

// TestCopyDoesNotBlock: a connection of which a program has a copy keeps its deadlines.
func TestCopyDoesNotBlock(t *testing.T) {
	ours, _ := pair(t)
	f, err := copyOf(ours)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cmd := exec.Command("true")
	cmd.ExtraFiles = []*os.File{f}
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	ours.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	read := make(chan error)
	go func() {
		_, err := ours.Read(make([]byte, 1))
		read <- err
	}()
	select {
	case err := <-read:
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("it blocks")
	}
}
