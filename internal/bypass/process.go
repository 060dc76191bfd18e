package bypass

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// daemonName is in the command line of the daemon.
const daemonName = "posternd"

const helpUID = "give the agent a uid of its own, or run it in the tier workspace or strict"

// Processes outside: the daemon, which is another user's, and one of the
// agent's own user, as a person's are who runs an agent.
var processAttempts = []Attempt{
	{Name: "daemon-ptrace", Tries: "traces the daemon", Families: neither, Must: boxed(by(ByKernel), ByNamespace), do: daemon(ptrace)},
	{Name: "daemon-memory", Tries: "opens the memory of the daemon", Families: neither, Must: boxed(by(ByKernel), ByNamespace), do: daemon(memory)},
	{Name: "daemon-environ", Tries: "reads the environment of the daemon", Families: neither, Must: boxed(by(ByKernel), ByNamespace), do: daemon(environ)},
	{
		Name: "daemon-descriptors", Tries: "takes a socket of the daemon (pidfd_getfd)", Families: neither, Must: boxed(by(ByKernel), ByNamespace),
		do: daemon(func(pid int) error { return descriptors(pid, 3, 64) }),
	},
	{
		Name: "daemon-signal", Tries: "sends the daemon a signal", Families: neither, Must: boxed(by(ByKernel), ByNamespace),
		do: daemon(func(pid int) error { return named("kill", unix.Kill(pid, 0)) }),
	},
	{
		Name: "same-uid-ptrace", Tries: "traces a process outside, of its own user", Families: neither,
		Must: openUnlessBoxed(helpUID, ByNamespace), do: neighbour(ptrace),
	},
	{
		Name: "same-uid-memory", Tries: "opens the memory of a process outside, of its own user", Families: neither,
		Must: openUnlessBoxed(helpUID, ByNamespace), do: neighbour(memory),
	},
	{
		Name: "same-uid-environ", Tries: "reads the environment of a process outside, of its own user", Families: neither,
		Must: openUnlessBoxed(helpUID, ByNamespace), do: neighbour(environ),
	},
	{
		Name: "same-uid-descriptors", Tries: "takes a connection of a process outside, of its own user (pidfd_getfd)", Families: neither,
		Must: openUnlessBoxed(helpUID, ByNamespace), do: func(t *try) error {
			return neighbour(func(pid int) error { return descriptors(pid, t.Victim.FD, t.Victim.FD) })(t)
		},
	},
	{
		Name: "same-uid-keyring", Tries: "reads a key of its own user's keyring", Families: neither, Needs: "keyrings in the kernel",
		Must: openUnlessBoxed(helpUID, BySeccomp), do: keyring,
	},
	{
		Name: "terminal-input", Tries: "types into the launcher's terminal (TIOCSTI)", Families: neither,
		Must: boxed(by(ByKernel), BySeccomp), do: typeIn,
	},
}

// process makes sure that a number means the process it should: in a namespace
// of processes it may be another's.
func (t *try) process(pid int, name string) error {
	if pid == 0 {
		return fmt.Errorf("%w: its process is not known", errAbsent)
	}
	ok, err := fileHolds(fmt.Sprintf("/proc/%d/cmdline", pid), name)
	if err == nil && !ok {
		err = errors.New("that is another process here")
	}
	return named("look for it", err)
}

func daemon(do func(pid int) error) func(*try) error {
	return func(t *try) error {
		if err := t.process(t.Daemon, daemonName); err != nil {
			return err
		}
		return do(t.Daemon)
	}
}

func neighbour(do func(pid int) error) func(*try) error {
	return func(t *try) error {
		if err := t.process(t.Victim.PID, victimArg); err != nil {
			return err
		}
		return do(t.Victim.PID)
	}
}

// ptrace seizes, which does not stop the other, and lets go with its own end.
func ptrace(pid int) error {
	runtime.LockOSThread()
	return named("ptrace", unix.PtraceSeize(pid))
}

func memory(pid int) error {
	f, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return f.Close()
}

func environ(pid int) error {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err == nil && len(b) == 0 {
		err = errors.New("it is empty")
	}
	return err
}

func descriptors(pid, first, last int) error {
	handle, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return named("pidfd_open", err)
	}
	defer unix.Close(handle)
	for fd := first; fd <= last; fd++ {
		var taken int
		if taken, err = unix.PidfdGetfd(handle, fd, 0); err == nil {
			return unix.Close(taken)
		}
		if !errors.Is(err, unix.EBADF) {
			break
		}
	}
	return named("pidfd_getfd", err)
}

func keyring(t *try) error {
	if t.Victim.Key == "" {
		return fmt.Errorf("%w: no keyrings", errAbsent)
	}
	key, err := unix.KeyctlSearch(unix.KEY_SPEC_USER_KEYRING, "user", t.Victim.Key, 0)
	if err != nil {
		return named("keyctl", err)
	}
	_, err = unix.KeyctlBuffer(unix.KEYCTL_READ, key, make([]byte, 64), 0)
	return named("keyctl", err)
}

// typeIn pushes a character into the terminal's input, as if a person had typed
// it. Standard error is the terminal; so may /dev/tty be.
func typeIn(*try) error {
	fds := []int{2}
	if tty, err := unix.Open("/dev/tty", unix.O_RDWR|unix.O_CLOEXEC, 0); err == nil {
		fds = append(fds, tty)
	}
	var last error
	for _, fd := range fds {
		if last = unix.IoctlSetPointerInt(fd, unix.TIOCSTI, ' '); last == nil {
			return nil
		}
	}
	return named("TIOCSTI", last)
}
