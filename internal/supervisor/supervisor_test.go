package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// systemd is the socket that a supervisor listens on.
func systemd(t *testing.T) func() string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	return func() string {
		b := make([]byte, 1000)
		l.SetReadDeadline(time.Now().Add(10 * time.Second)) //nolint:errcheck // a socket that is open
		n, err := l.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		return string(b[:n])
	}
}

func TestTellsSystemd(t *testing.T) {
	hear := systemd(t)
	if err := errors.Join(Ready("3 agents"), Stopping()); err != nil {
		t.Fatal(err)
	}
	if ready, stopping := hear(), hear(); ready != "READY=1\nSTATUS=3 agents" || stopping != "STOPPING=1" {
		t.Errorf("%q, %q", ready, stopping)
	}
}

// A process that is not well is silent, until it is well again.
func TestWatchdog(t *testing.T) {
	hear := systemd(t)
	t.Setenv("WATCHDOG_USEC", strconv.Itoa(int((20 * time.Millisecond).Microseconds())))
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	ctx, cancel := context.WithCancel(t.Context())
	asked, failures := 0, 0
	done := make(chan struct{})
	go func() {
		defer close(done)
		Watch(ctx, func(context.Context) error {
			if asked++; asked <= 3 {
				return errors.New("the loop does not turn")
			}
			return nil
		}, func(err error) {
			if !strings.Contains(err.Error(), "does not turn") {
				t.Error(err)
			}
			failures++
		})
	}()
	if told := hear(); told != "WATCHDOG=1" {
		t.Errorf("%q", told)
	}
	cancel()
	<-done
	if failures != 3 || asked < 4 {
		t.Errorf("asked %d times, failed %d times", asked, failures)
	}
}

func TestWithoutSystemd(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	t.Setenv("WATCHDOG_USEC", "")
	if err := errors.Join(Ready("x"), Stopping()); err != nil {
		t.Error(err)
	}
	Watch(t.Context(), func(context.Context) error { t.Error("asked"); return nil }, func(err error) { t.Error(err) })
}

// TestStore: what is stored arrives with its name, and is there for the next process.
func TestStore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	hear := func() (string, []int) {
		t.Helper()
		text, rights := make([]byte, 1000), make([]byte, unix.CmsgSpace(4*maxStored))
		l.SetReadDeadline(time.Now().Add(10 * time.Second)) //nolint:errcheck // a socket that is open
		n, oobn, _, _, err := l.ReadMsgUnix(text, rights)
		if err != nil {
			t.Fatal(err)
		}
		var fds []int
		messages, err := unix.ParseSocketControlMessage(rights[:oobn])
		if err == nil && len(messages) > 0 {
			fds, err = unix.ParseUnixRights(&messages[0])
		}
		if err != nil {
			t.Fatal(err)
		}
		return string(text[:n]), fds
	}
	in, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if err := (Store{}).Store("door-1", in, out); err != nil {
		t.Fatal(err)
	}
	out.Close()
	told, fds := hear()
	if told != "FDSTORE=1\nFDPOLL=0\nFDNAME=door-1" || len(fds) != 2 {
		t.Fatalf("%q with %d files", told, len(fds))
	}
	copied := os.NewFile(uintptr(fds[1]), "copy")
	fmt.Fprint(copied, "kept")
	copied.Close()
	unix.Close(fds[0])
	if b, err := io.ReadAll(in); string(b) != "kept" {
		t.Errorf("%q, %v", b, err)
	}
	if err := (Store{}).Unstore("door-1"); err != nil {
		t.Fatal(err)
	}
	if told, fds := hear(); told != "FDSTOREREMOVE=1\nFDNAME=door-1" || len(fds) != 0 {
		t.Errorf("%q with %d files", told, len(fds))
	}
	if err := (Store{}).Store("door-1", make([]*os.File, maxStored+1)...); err == nil {
		t.Error("more than the kernel carries were stored")
	}
	l.Close()
	if err := (Store{}).Unstore("door-1"); err == nil || !strings.Contains(err.Error(), "FDSTOREREMOVE") {
		t.Errorf("systemd is gone: %v", err)
	}
	t.Setenv("NOTIFY_SOCKET", "")
	if err := errors.Join(Store{}.Store("x", in), Store{}.Unstore("x")); err != nil {
		t.Errorf("without systemd: %v", err)
	}
	if stored := Stored(); len(stored) != 0 {
		t.Errorf("nothing was stored, and there is %v", stored)
	}
}
