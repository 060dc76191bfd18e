package supervisor

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
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
