package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"github.com/postern/postern/internal/guard"
	"github.com/postern/postern/test/servers"
)

// desk is a person's terminal, and what is started on it.
type desk struct {
	*session
	terminal *os.File
	before   unix.Termios
}

// sit starts a command on a terminal; those of its standard descriptors that are
// set already stay what they are.
func (p *person) sit(cmd *exec.Cmd) *desk {
	p.t.Helper()
	terminal, inner, err := pty.Open()
	if err != nil {
		p.t.Fatal(err)
	}
	defer inner.Close()
	d := &desk{terminal: terminal}
	d.before = d.settings(p.t)
	if err := errors.Join(os.Chown(inner.Name(), p.uid, p.uid), pty.Setsize(terminal, &pty.Winsize{Rows: 33, Cols: 99})); err != nil {
		p.t.Fatal(err)
	}
	control := 0
	if cmd.Stdin == nil {
		cmd.Stdin = inner
	} else {
		control = 2
	}
	if cmd.Stdout == nil {
		cmd.Stdout = inner
	}
	cmd.Stderr = inner
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setsid, cmd.SysProcAttr.Setctty, cmd.SysProcAttr.Ctty = true, true, control
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	d.session = &session{t: p.t, cmd: cmd, in: terminal, end: terminal, out: bufio.NewReader(terminal)}
	p.t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait(); terminal.Close() })
	return d
}

func (d *desk) settings(t *testing.T) unix.Termios {
	t.Helper()
	raw, err := d.terminal.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var settings *unix.Termios
	raw.Control(func(fd uintptr) { settings, err = unix.IoctlGetTermios(int(fd), unix.TCGETS) })
	if err != nil {
		t.Fatal(err)
	}
	return *settings
}

// mustBe waits until the terminal is raw, or is as it was.
func (d *desk) mustBe(t *testing.T, raw bool) {
	t.Helper()
	eventually(t, func() error {
		now := d.settings(t)
		if isRaw := now.Lflag&(unix.ICANON|unix.ECHO|unix.ISIG) == 0; isRaw != raw || !raw && now != d.before {
			return fmt.Errorf("the terminal is not as it should be (raw: %t): %+v", raw, now)
		}
		return nil
	})
}

// TestTerminalIsGivenBack: whatever ends postern run, the person's terminal is
// as it was; and for as long as it is stopped.
func TestTerminalIsGivenBack(t *testing.T) {
	p := newPerson(t)
	for name, end := range map[string]func(d *desk){
		"exit":       func(d *desk) { fmt.Fprintln(d.terminal, "exit 3") },
		"SIGTERM":    func(d *desk) { d.cmd.Process.Signal(syscall.SIGTERM) },
		"end of job": func(d *desk) { fmt.Fprintln(d.terminal, "kill -9 $$") },
		"no guard":   func(*desk) { p.w.postern.StopGuard(syscall.SIGKILL) },
	} {
		t.Run(name, func(t *testing.T) {
			script := "trap 'exit 4' TERM; echo ready; while read line; do eval $line; done"
			d := p.sit(p.run([]string{"--tier", "workspace"}, "bash", "-c", script))
			d.expect("ready")
			d.mustBe(t, true)
			end(d)
			d.mustBe(t, false)
			io.Copy(io.Discard, d.out) //nolint:errcheck // EIO is how a terminal ends
			d.cmd.Wait()               //nolint:errcheck // whatever its status is
			if name == "no guard" {
				if err := p.w.postern.StartGuard(); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
	// A refusal is shown on a terminal that was not changed.
	d := p.sit(p.run([]string{"--tier", "loose"}, "true"))
	mustContain(t, d.expect("is no tier"), "refuses")
	d.mustBe(t, false)
}

// TestTerminalStopped: a program that is stopped leaves the terminal to the
// shell, and takes it again when it goes on.
func TestTerminalStopped(t *testing.T) {
	p := newPerson(t)
	d := p.sit(p.run([]string{"--tier", "workspace"}, "bash", "--norc"))
	fmt.Fprintln(d.terminal, "echo re$((1))ady")
	d.expect("re1ady")
	d.mustBe(t, true)
	d.cmd.Process.Signal(syscall.SIGTSTP)
	d.mustBe(t, false)
	if err := pty.Setsize(d.terminal, &pty.Winsize{Rows: 44, Cols: 55}); err != nil {
		t.Fatal(err)
	}
	d.cmd.Process.Signal(syscall.SIGCONT)
	d.mustBe(t, true)
	fmt.Fprintln(d.terminal, "stty size; exit 0")
	d.expect("44 55")
}

// TestNoTerminalOfThePersons: where not both, what is read and what is shown,
// are the terminal, the run has pipes in its place, and it is no controlling
// terminal either.
func TestNoTerminalOfThePersons(t *testing.T) {
	p := newPerson(t)
	const look = `for fd in 0 1 2; do test -t $fd && echo "$fd is a terminal"; readlink /proc/self/fd/$fd; done >&2; : 2>/dev/null </dev/tty && echo controlling >&2; read line; echo "read $line" >&2; echo out; python3 -c 'import fcntl; [print("does not block") for fd in range(3) if fcntl.fcntl(fd, fcntl.F_GETFL) & 2048]' >&2; echo end >&2`
	for _, tier := range []string{"workspace", "strict"} {
		file, err := os.CreateTemp(t.TempDir(), "out")
		if err != nil {
			t.Fatal(err)
		}
		cmd := p.run([]string{"--tier", tier}, "bash", "-c", look)
		cmd.Stdout = file
		d := p.sit(cmd)
		d.expect("pipe:")
		d.mustBe(t, false)
		fmt.Fprintln(d.terminal, "something")
		shown := d.expect("end")
		mustContain(t, shown, "read something")
		mustNotContain(t, shown, "is a terminal", "/dev/pts", "controlling", "does not block")
		d.cmd.Wait() //nolint:errcheck // its output is looked at
		if b, err := os.ReadFile(file.Name()); err != nil || string(b) != "out\n" {
			t.Errorf("%s: the file has %q, %v", tier, b, err)
		}
		cmd = p.run([]string{"--tier", tier}, "bash", "-c", look)
		cmd.Stdin = strings.NewReader("piped\n")
		d = p.sit(cmd)
		shown = d.expect("end")
		mustContain(t, shown, "read piped", "out")
		mustNotContain(t, shown, "is a terminal", "/dev/pts", "controlling")
	}
}

// TestForeignTerminal: a program that is not postern run asks the guard for a
// run that reads another session's terminal, and is refused.
func TestForeignTerminal(t *testing.T) {
	p := newPerson(t)
	d := p.sit(exec.Command("sleep", "1000"))
	theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/0", d.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	terminal, err := os.OpenFile(theirs, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	client := guard.Client{Socket: filepath.Join(p.w.postern.Dir, "run", "guard.sock")}
	for _, tier := range []string{"redirected", "strict"} {
		run := guard.Run{Agent: "planner", Args: []string{"true"}, Dir: "/", User: servers.AgentUser, Tier: tier}
		_, err := client.Run(t.Context(), run, [3]*os.File{terminal, terminal, terminal}, nil, nil)
		if err == nil || !strings.Contains(err.Error(), "another session's terminal") {
			t.Errorf("%s: %v", tier, err)
		}
	}
}
