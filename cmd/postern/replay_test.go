package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/record"
	"github.com/postern/postern/pkg/recording"
)

// secretsOfTerminals are sequences that must reach no person's terminal.
const secretsOfTerminals = "\x1b]52;c;ZXZpbA==\x07\x1b]0;title\x07\x1b[6n\x1b[?1000h\u009b5n"

// shellSession is a recording of a command, files and a shell, whose events are
// so far apart.
func shellSession(t *testing.T, apart time.Duration) (configuration string) {
	t.Helper()
	dir := t.TempDir()
	now := time.Date(2026, 11, 26, 9, 0, 0, 0, time.UTC)
	store, err := record.Open(filepath.Join(dir, "recordings"), record.Options{Now: func() time.Time { now = now.Add(apart); return now }})
	must(t, err)
	s, err := store.Session(record.Meta{Flow: engine.Flow{Session: "shellsession", Agent: "planner", Comm: "ssh"}, Target: "web", Protocol: "ssh"})
	must(t, err)
	begin := func(kind, text string) uint64 {
		n, err := s.Request(&engine.Request{Kind: kind, Text: text})
		must(t, err)
		must(t, s.Verdict(recording.Verdict{Request: n, Action: "allow", Rule: "all"}))
		return n
	}
	n := begin("exec", "seq 40; false")
	for i := range 40 {
		must(t, s.Stream(n, recording.Stdout, fmt.Appendf(nil, "number %d\n", i+1)))
	}
	must(t, s.Stream(n, recording.Stderr, []byte("oh \x1b[31mno"+secretsOfTerminals)))
	must(t, s.Stream(n, recording.Stdin, []byte("typed\n")))
	must(t, s.Exit(recording.Exit{Request: n, Status: 3}))
	must(t, s.Outcome(n, engine.Outcome{Status: engine.Failed}))
	n = begin("subsystem", "sftp")
	must(t, s.File(recording.File{Request: n, Verb: "file-write", Path: "/srv/a\x1b[2J", Bytes: 2048, SHA256: recording.Hash{0xab}}))
	must(t, s.File(recording.File{Request: n, Verb: "file-rename", Path: "/srv/a", To: "/srv/b", Error: "no such file"}))
	n = begin("shell", "shell")
	must(t, s.Terminal(recording.Terminal{Request: n, Type: "xterm", Columns: 100, Rows: 30}))
	must(t, s.Stream(n, recording.Stdin, []byte("ls\r")))
	must(t, s.Stream(n, recording.Stdout, []byte("\x1b[1m$\x1b[m ls\r\n"+secretsOfTerminals)))
	must(t, s.Stream(n, recording.Stdout, []byte("\x1b[?1049h\x1b[?25lthe last words")))
	must(t, s.Exit(recording.Exit{Request: n, Signal: "HUP"}))
	must(t, s.Close(record.End{}))
	must(t, store.Close())
	file := filepath.Join(dir, "postern.yaml")
	must(t, os.WriteFile(file, fmt.Appendf(nil, "state_dir: %s\n", dir), 0o600))
	return file
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Commands, files and shells are listed as requests of a database are: beginnings
// of what was written, unless one request is asked for.
func TestReplayList(t *testing.T) {
	file := shellSession(t, time.Millisecond)
	replay := func(args ...string) string {
		t.Helper()
		out, err := postern(append([]string{"--config", file, "replay", "shells", "--speed", "0"}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatal(err, string(out))
		}
		if bytes.ContainsAny(out, "\x1b\x07\u009b") {
			t.Errorf("control characters: %q", out)
		}
		return string(out)
	}
	all := replay()
	for _, want := range []string{
		"#1 seq 40; false", "#1 │ number 10\n", "#1 │ … more lines; --request 1 has all of them\n", "#1 │ oh no5n\n", "→  #1 │ typed\n", "#1 exit 3\n",
		`#2 file-write /srv/a\u001b[2J, 2.0 KiB, sha256 ab00000000000000…`, "#2 file-rename /srv/a → /srv/b: no such file",
		"#3 on a terminal xterm of 100×30", "#3 │ $ ls\n", "#3 │ 5nthe last words\n", "#3 ended by signal HUP\n",
	} {
		if !strings.Contains(all, want) {
			t.Errorf("lacks %q:\n%s", want, all)
		}
	}
	if strings.Contains(all, "number 11") || strings.Count(all, "more lines") != 1 {
		t.Errorf("shows too much:\n%s", all)
	}
	one := replay("--request", "1")
	if !strings.Contains(one, "number 40\n") || strings.Contains(one, "#2") || strings.Contains(one, "#3") {
		t.Errorf("request 1 is\n%s", one)
	}
	entries := 0
	for line := range strings.Lines(replay("--request", "2", "--json")) {
		var e struct{ Event string }
		must(t, json.Unmarshal([]byte(line), &e))
		entries++
	}
	if entries != 4 {
		t.Errorf("request 2 has %d entries", entries)
	}
	out, err := postern("--config", file, "sessions").Output()
	if err != nil || !strings.Contains(string(out), "web     ssh ") {
		t.Errorf("%v\n%s", err, out)
	}
}

// An export is a file of its own, never half of one, and none that was there.
func TestReplayExport(t *testing.T) {
	file := shellSession(t, time.Second)
	export := func(args ...string) (string, error) {
		out, err := postern(append([]string{"--config", file, "replay", "shellsession", "--export"}, args...)...).CombinedOutput()
		return string(out), err
	}
	out, err := export("asciicast", "--request", "3")
	lines := strings.Split(out, "\n")
	if err != nil || !strings.HasPrefix(lines[0], `{"version":3,"term":{"cols":100,"rows":30,"type":"xterm"}`) || !strings.Contains(out, `[1.000000,"x","129"]`) {
		t.Errorf("%v\n%s", err, out)
	}
	path := filepath.Join(t.TempDir(), "a.cast")
	if text, err := export("asciicast", "-o", path); err != nil || text != "" {
		t.Error(err, text)
	}
	b, err := os.ReadFile(path)
	if err != nil || !bytes.Contains(b, []byte(`"command":"seq 40; false"`)) {
		t.Errorf("%v\n%s", err, b)
	}
	if text, err := export("asciicast", "-o", path); err == nil || !strings.Contains(text, "exists") {
		t.Error("a file that was there:", err, text)
	}
	none := filepath.Join(t.TempDir(), "b.cast")
	if text, err := export("asciicast", "-o", none, "--request", "2"); err == nil || !strings.Contains(text, "no terminal") {
		t.Error("a request without a terminal:", err, text)
	}
	if _, err := os.Stat(none); err == nil {
		t.Error("half an export is left")
	}
	if text, err := export("gif"); err == nil || !strings.Contains(text, "asciicast") {
		t.Error("another format:", err, text)
	}
	pt, err := pty.Start(postern("--config", file, "replay", "shellsession", "--export", "asciicast"))
	must(t, err)
	defer pt.Close()
	if text, _ := io.ReadAll(pt); !strings.Contains(string(text), "--output") { // the error is that of the terminal's end
		t.Errorf("on a terminal: %q", text)
	}
}

// heard collects what a terminal shows until it has all of want.
func heard(t *testing.T, pt *os.File, want ...string) string {
	t.Helper()
	var all []byte
	b := make([]byte, 4096)
	must(t, pt.SetReadDeadline(time.Now().Add(20*time.Second)))
	for {
		n, err := pt.Read(b)
		all = append(all, b[:n]...)
		missing := false
		for _, w := range want {
			missing = missing || !bytes.Contains(all, []byte(w))
		}
		if !missing {
			return string(all)
		}
		if err != nil {
			t.Fatalf("%v, after %q; want %q", err, all, want)
		}
	}
}

// On a terminal what was shown on one is played, at its pace, without what would
// do more than draw, and the terminal is as it was afterwards.
func TestReplayOnATerminal(t *testing.T) {
	file := shellSession(t, 50*time.Millisecond)
	pt, err := pty.StartWithSize(postern("--config", file, "replay", "shellsession"), &pty.Winsize{Rows: 24, Cols: 80})
	must(t, err)
	defer pt.Close()
	out := heard(t, pt, "ended by signal HUP")
	for _, want := range []string{"request #3, on 100×30", "80×24, which is less", "\x1b[1m$\x1b[m ls\r\n5n\x1b[?1049h\x1b[?25lthe last words\x1b[?1049l\x1b[m\x1b[?25h", "ended by signal HUP"} {
		if !strings.Contains(out, want) {
			t.Errorf("lacks %q: %q", want, out)
		}
	}
	for _, never := range []string{"\x1b]", "\x1b[6n", "\x1b[?1000h", "\u009b", "number"} {
		if strings.Contains(out, never) {
			t.Errorf("%q is shown: %q", never, out)
		}
	}
}

// Keys pause, go on and quit.
func TestReplayKeys(t *testing.T) {
	file := shellSession(t, time.Minute) // nothing comes by itself
	cmd := postern("--config", file, "replay", "shellsession", "--idle-limit", "1h")
	pt, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 40, Cols: 120})
	must(t, err)
	defer pt.Close()
	out := heard(t, pt, "q quits")
	if strings.Contains(out, "which is less") {
		t.Errorf("%q", out)
	}
	press := func(keys string) {
		t.Helper()
		_, err := pt.WriteString(keys)
		must(t, err)
	}
	press(" \x1b[C\x1b[C\x1b[C\x1bOC") // paused: it goes on step by step, to the verdict, the terminal, what was typed
	heard(t, pt, "ls\r\n5n")
	press(strings.Repeat("+", 20) + " ") // 64 times as fast
	heard(t, pt, "the last words")       // after a second instead of a minute
	press("q")
	heard(t, pt, "\x1b[?1049l\x1b[m\x1b[?25h", "quit")
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}
