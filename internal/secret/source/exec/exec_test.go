package exec

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/internal/secret/source"
	"github.com/postern/postern/internal/secret/source/sourcetest"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newSource(t *testing.T, o Options) *Source {
	t.Helper()
	s, err := New(o)
	must(t, err)
	return s
}

// shell is a Source whose command is a script; $1 is the path.
func shell(t *testing.T, script string, timeout time.Duration) *Source {
	return newSource(t, Options{Command: []string{"/bin/sh", "-c", script, "sh", "{path}"}, Timeout: timeout})
}

func holds(t *testing.T, s *Source, ref source.Ref, want string) {
	t.Helper()
	got, _, err := s.Fetch(t.Context(), ref)
	if err != nil || string(got.Reveal()) != want {
		t.Errorf("%v is %q, %v, want %q", ref, got.Reveal(), err, want)
	}
}

func TestSuite(t *testing.T) {
	sourcetest.Run(t, func(t *testing.T) sourcetest.Place {
		dir := t.TempDir()
		in := func(name string) string { return filepath.Join(dir, name) }
		put := func(t *testing.T, path, value string) {
			must(t, os.WriteFile(in(path+".new"), []byte(value), 0o600))
			must(t, os.Rename(in(path+".new"), in(path)))
		}
		script := func(s string) func(*testing.T, string) {
			return func(t *testing.T, path string) { put(t, path+".sh", s) }
		}
		// What is there as name.sh is run, so that a path can be spoiled in any way.
		s := shell(t, `cd `+dir+`; [ -e DOWN ] && exit 75; while [ -e STALL ]; do sleep 0.01; done; [ -e "$1.sh" ] && . "./$1.sh"; [ -e "$1" ] || exit 66; exec cat "$1"`, 0)
		canary := sourcetest.Canary
		during := func(name string) func(*testing.T) func() {
			return func(t *testing.T) func() {
				put(t, name, "")
				return func() { must(t, os.Remove(in(name))) }
			}
		}
		return sourcetest.Place{
			Source: s, Put: put, Stall: during("STALL"), Outages: map[string]func(*testing.T) func(){"temporary": during("DOWN")},
			PutFields: func(t *testing.T, path string, fields map[string]string) {
				all := ""
				for k, v := range fields {
					all += fmt.Sprintf("%s: %q\n", k, v)
				}
				put(t, path, all)
			},
			Remove: func(t *testing.T, path string) { must(t, os.Remove(in(path))) },
			Spoiled: []sourcetest.Spoiled{
				{Name: "status", Make: script("echo " + canary + "; echo " + canary + " >&2; exit 3"), Want: source.ErrUnavailable},
				{Name: "no permission", Make: script("echo " + canary + " >&2; exit 77"), Want: source.ErrPermission},
				{Name: "signal", Make: script("echo " + canary + "; kill -9 $$"), Want: source.ErrUnavailable},
				{Name: "one newline", Make: script("echo; exit 0"), Want: source.ErrEmpty},
				{Name: "endless", Make: script("exec yes " + canary), Want: source.ErrMalformed},
				{Name: "no map", Make: script("echo " + canary + "; exit 0"), Key: "password", Want: source.ErrMalformed},
			},
		}
	})
}

// A path is one argument or part of one, whatever is in it; a key too.
func TestArguments(t *testing.T) {
	s := newSource(t, Options{Command: []string{"/usr/bin/printf", "%s|", "{path}", "id={path}/{key}", "{other}"}})
	holds(t, s, source.Ref{Path: `a b'"$(id);*\`, Key: "{path}"}, `a b'"$(id);*\|id=a b'"$(id);*\/{path}|{other}|`)
	got, _, err := s.Fetch(t.Context(), source.Ref{Path: "x"})
	sourcetest.Fails(t, got, err, source.ErrNotFound)
}

// What could be taken for something else than a name runs nothing.
func TestNames(t *testing.T) {
	ran := filepath.Join(t.TempDir(), "ran")
	s := newSource(t, Options{Command: []string{"/usr/bin/touch", ran, "/dev/null/{path}{key}"}})
	for _, name := range []string{"-rf", "--help", "a\nb", "a\x00b", "\x1b[2J", "a\u0085b", "a\xffb", strings.Repeat("x", maxName+1)} {
		got, _, err := s.Fetch(t.Context(), source.Ref{Path: name, Key: "k"})
		sourcetest.Fails(t, got, err, source.ErrNotFound)
		got, _, err = s.Fetch(t.Context(), source.Ref{Path: "p", Key: name})
		sourcetest.Fails(t, got, err, source.ErrNotFound)
	}
	got, _, err := s.Fetch(t.Context(), source.Ref{Key: "k"})
	sourcetest.Fails(t, got, err, source.ErrNotFound)
	if _, err := os.Stat(ran); err == nil {
		t.Error("it ran")
	}
}

// The command has the variables that are named, no more, / and no input.
func TestSurroundings(t *testing.T) {
	t.Setenv("HOME", "/home/test")
	t.Setenv("POSTERN_TEST_WANTED", "yes")
	t.Setenv("POSTERN_TEST_SECRET", sourcetest.Canary)
	s := newSource(t, Options{
		Command: []string{"/bin/sh", "-c", `tr '\0' '\n' </proc/$$/environ | sort; pwd; cat; readlink /proc/$$/fd/0`},
		Env:     []string{"POSTERN_TEST_WANTED", "POSTERN_TEST_NOT_SET"},
	})
	holds(t, s, source.Ref{Path: "x"}, "HOME=/home/test\nPATH="+os.Getenv("PATH")+"\nPOSTERN_TEST_WANTED=yes\n/\n/dev/null")
}

func TestOptions(t *testing.T) {
	for _, o := range []Options{
		{},
		{Command: []string{"sh"}},
		{Command: []string{"./sh"}},
		{Command: []string{""}},
		{Command: []string{"/bin/{path}"}},
		{Command: []string{"/bin/sh"}, Timeout: -1},
	} {
		if _, err := New(o); !errors.Is(err, ErrOptions) {
			t.Errorf("%v: %v", o, err)
		}
	}
}

func TestMissingProgram(t *testing.T) {
	s := newSource(t, Options{Command: []string{"/nonexistent/program"}})
	got, _, err := s.Fetch(t.Context(), source.Ref{Path: "x"})
	sourcetest.Fails(t, got, err, source.ErrUnavailable)
}

// The error has the command, the status and how much was said, and not what.
func TestErrorSaysWhich(t *testing.T) {
	s := shell(t, "echo "+sourcetest.Canary+"; printf 12345 >&2; exit 4", 0)
	_, _, err := s.Fetch(t.Context(), source.Ref{Path: "x"})
	if err == nil || !strings.Contains(err.Error(), "/bin/sh: exit status 4, with 5 bytes on its standard error") || strings.Contains(err.Error(), sourcetest.Canary) {
		t.Error(err)
	}
}

func TestLongest(t *testing.T) {
	s := newSource(t, Options{Command: []string{"/usr/bin/head", "-c", "{path}", "/dev/zero"}})
	holds(t, s, source.Ref{Path: strconv.Itoa(maxOutput)}, strings.Repeat("\x00", maxOutput))
	got, _, err := s.Fetch(t.Context(), source.Ref{Path: strconv.Itoa(maxOutput + 1)})
	sourcetest.Fails(t, got, err, source.ErrMalformed)
}

// gone waits for the end of the processes whose numbers are in the file.
func gone(t *testing.T, path string) {
	t.Helper()
	for pid := range strings.FieldsSeq(string(read(t, path))) {
		n, err := strconv.Atoi(pid)
		must(t, err)
		for begin := time.Now(); !errors.Is(unix.Kill(n, 0), unix.ESRCH) && !zombie(n); runtime.Gosched() {
			if time.Since(begin) > 10*time.Second {
				t.Fatalf("process %d goes on", n)
			}
		}
	}
}

// zombie says that a process has ended and its new parent was not told yet.
func zombie(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && strings.Contains(string(b), ") Z ")
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	return b
}

// A command that takes too long, or whose client is gone, is killed with what it
// started, and a slow one does not keep the client that is gone.
func TestKilled(t *testing.T) {
	why := errors.New("the client is gone")
	for name, c := range map[string]struct {
		timeout time.Duration
		want    error
	}{"timeout": {300 * time.Millisecond, source.ErrUnavailable}, "cancel": {time.Hour, why}} {
		t.Run(name, func(t *testing.T) {
			pids := filepath.Join(t.TempDir(), "pids")
			s := shell(t, `trap "" TERM INT; sleep 1000 & echo $$ $! >"$1".new; mv "$1".new "$1"; echo `+sourcetest.Canary+`; wait`, c.timeout)
			ctx, cancel := context.WithCancelCause(t.Context())
			var all sync.WaitGroup
			defer all.Wait()
			if c.want == why {
				all.Go(func() {
					for ctx.Err() == nil {
						if _, err := os.Stat(pids); err == nil {
							cancel(why)
						}
						runtime.Gosched()
					}
				})
			}
			got, _, err := s.Fetch(ctx, source.Ref{Path: pids})
			cancel(nil)
			sourcetest.Fails(t, got, err, c.want)
			gone(t, pids)
		})
	}
}

// What a command leaves behind does not keep anybody waiting, and is killed.
func TestLeftBehind(t *testing.T) {
	pids := filepath.Join(t.TempDir(), "pids")
	s := shell(t, `sleep 1000 & echo $! >"$1"; echo value`, time.Hour)
	holds(t, s, source.Ref{Path: pids}, "value")
	gone(t, pids)
}

// A process that left the group and holds the output open is not waited for.
func TestLeftTheGroup(t *testing.T) {
	pids := filepath.Join(t.TempDir(), "pids")
	s := shell(t, `setsid sh -c 'echo $$ >"$1"; exec sleep 1000' sh "$1" & while ! [ -s "$1" ]; do :; done; echo value`, time.Hour)
	holds(t, s, source.Ref{Path: pids}, "value")
	pid, err := strconv.Atoi(strings.TrimSpace(string(read(t, pids))))
	must(t, err)
	must(t, unix.Kill(pid, unix.SIGKILL))
}

// No more than maxAtOnce run; who waits for a turn may give up.
func TestAtMost(t *testing.T) {
	dir := t.TempDir()
	release := filepath.Join(dir, "release")
	s := shell(t, `: >`+dir+`/run.$$; while ! [ -e `+release+` ]; do sleep 0.01; done; echo value`, time.Minute)
	var all sync.WaitGroup
	for range 3 * maxAtOnce {
		all.Go(func() { holds(t, s, source.Ref{Path: "x"}, "value") })
	}
	count := func() int {
		runs, err := filepath.Glob(filepath.Join(dir, "run.*"))
		must(t, err)
		return len(runs)
	}
	for begin := time.Now(); count() < maxAtOnce && time.Since(begin) < 10*time.Second; {
		runtime.Gosched()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	got, _, err := s.Fetch(ctx, source.Ref{Path: "x"})
	sourcetest.Fails(t, got, err, context.DeadlineExceeded)
	if n := count(); n != maxAtOnce {
		t.Errorf("%d run at once", n)
	}
	must(t, os.WriteFile(release, nil, 0o600))
	all.Wait()
	if n := count(); n != 3*maxAtOnce {
		t.Errorf("%d ran", n)
	}
}
