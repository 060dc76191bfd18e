package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"

	"github.com/postern/postern/pkg/control"
)

// TestMain lets a test run the command itself, in a process of its own.
func TestMain(m *testing.M) {
	if os.Getenv("POSTERN_TEST_MAIN") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// postern is the command with these arguments.
func postern(args ...string) *exec.Cmd {
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	cmd := exec.Command(self, args...)
	cmd.Env = append(os.Environ(), "POSTERN_TEST_MAIN=1", "TERM=xterm")
	return cmd
}

// madeUp answers the control socket as a daemon would, and returns the
// configuration that names it.
func madeUp(t *testing.T, answers map[string]func() any) string {
	t.Helper()
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, "control.sock"))
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	for path, answer := range answers {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) { json.NewEncoder(w).Encode(answer()) })
	}
	s := http.Server{Handler: mux}
	done := make(chan struct{})
	go func() { s.Serve(l); close(done) }()
	t.Cleanup(func() { s.Close(); <-done })
	file := filepath.Join(dir, "postern.yaml")
	if err := os.WriteFile(file, fmt.Appendf(nil, "control: {socket: %s/control.sock}\n", dir), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// busy is a daemon with so many agents, each of whose counters go up by ten with
// each reading.
func busy(t *testing.T, agents int) string {
	started := time.Now().Add(-90 * time.Minute)
	var n uint64
	return madeUp(t, map[string]func() any{
		"/v1/status": func() any { return control.Status{Version: "1.2.3", Started: started, Sessions: 7} },
		"/v1/activity": func() any {
			n += 10
			a := control.Activity{At: started.Add(time.Duration(n/10) * time.Second), Started: started, Bypass: map[string]uint64{"udp": n}}
			for i := range agents {
				a.Traffic = append(a.Traffic, control.Traffic{
					Agent: fmt.Sprintf("agent-%02d", i), Target: "orders", Sessions: 1, Allowed: n, Denied: n, ToAgent: int64(n) * 1_000_000, Bypass: n,
				})
			}
			return a
		},
		"/v1/approvals": func() any {
			return []control.Approval{
				{ID: "bmh0mvn5", State: "pending", Agent: "agent-00", Target: "orders", Text: "DELETE\x1b[2J", DecideBy: time.Now().Add(time.Minute)},
				{ID: "decided1", State: "denied"},
			}
		},
	})
}

func TestTopOnce(t *testing.T) {
	file := busy(t, 2)
	out, err := postern("--config", file, "top", "--once").CombinedOutput()
	if err != nil {
		t.Fatal(err, string(out))
	}
	for _, want := range []string{
		"up 1h", "posternd 1.2.3", "7 sessions  40 requests/s  20 denied/s  1 waiting  20 bypass attempts (10/s)",
		"\nagent-01       orders            1      20      10      20    0   10.0M     20\n", "bmh0mvn5", `DELETE\u001b[2J`,
	} {
		if !strings.Contains(string(out), want) {
			t.Errorf("lacks %q:\n%s", want, out)
		}
	}
	if bytes.ContainsRune(out, 0x1b) || strings.Contains(string(out), "decided1") {
		t.Errorf("%q", out)
	}
	for line := range strings.Lines(string(out)) {
		if n := len([]rune(line)) - 1; n > 80 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	var v topView
	out, err = postern("--config", file, "top", "--json").Output()
	if err == nil {
		err = json.Unmarshal(out, &v)
	}
	if err != nil || v.Requests != 40 || len(v.Traffic) != 2 || v.Traffic[1].Denials != 10 || v.Waiting[0].ID != "bmh0mvn5" {
		t.Errorf("%v\n%s", err, out)
	}
}

// A daemon that was started anew has counted from nothing, and a rate is never
// below it.
func TestTopRates(t *testing.T) {
	began := time.Date(2026, 3, 14, 9, 0, 0, 0, time.UTC)
	reading := func(started time.Time, seconds int, n uint64) topReading {
		return topReading{activity: control.Activity{
			Started: started, At: began.Add(time.Duration(seconds) * time.Second), Traffic: []control.Traffic{{Agent: "a", Allowed: n}},
		}}
	}
	for name, c := range map[string]struct {
		before, now topReading
		want        float64
	}{
		"two seconds":   {reading(began, 10, 100), reading(began, 12, 120), 10},
		"the same":      {reading(began, 10, 100), reading(began, 10, 100), 0},
		"a dip":         {reading(began, 10, 100), reading(began, 12, 90), 0},
		"started anew":  {reading(began, 10, 100), reading(began.Add(10*time.Second), 12, 8), 4},
		"a new session": {topReading{activity: control.Activity{Started: began, At: began}}, reading(began, 2, 8), 4},
	} {
		if got := viewOf(c.before, c.now).Requests; got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// On a terminal it fits, whatever the size, is drawn without clearing, and gives
// the terminal back.
func TestTopOnATerminal(t *testing.T) {
	cmd := postern("--config", busy(t, 40), "top")
	f, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 24, Cols: 80})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var all bytes.Buffer
	until := func(what string) string {
		t.Helper()
		from := all.Len()
		b := make([]byte, 4096)
		for !strings.Contains(all.String()[from:], what) {
			n, err := f.Read(b)
			all.Write(b[:n])
			if err != nil {
				t.Fatalf("no %q before %v: %q", what, err, all.String())
			}
		}
		return all.String()[from:]
	}
	frame := until(frameEnd)
	if lines := strings.Count(frame, "\r\n") + 1; !strings.HasPrefix(frame, screenOpen+frameBegin) || lines != 24 || !strings.Contains(frame, "lines more") {
		t.Errorf("%d lines: %q", lines, frame)
	}
	if err := pty.Setsize(f, &pty.Winsize{Rows: 10, Cols: 40}); err != nil {
		t.Fatal(err)
	}
	frame = until(frameEnd)
	if lines := strings.Count(frame, "\r\n") + 1; lines != 10 || strings.Contains(frame, "\x1b[2J") {
		t.Errorf("%d lines: %q", lines, frame)
	}
	io.WriteString(f, "q")
	until(screenClose)
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}
