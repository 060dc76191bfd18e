package guard

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// launchFirst is the first process of a run that sees no others: it starts the
// launcher, which becomes the command, and from then on does what the kernel
// expects of the first, to wait for whoever lost its parent. It listens to
// nobody, and the run cannot end it but by ending.
func launchFirst(conn *net.UnixConn) error {
	plan, err := readPlan()
	if err != nil {
		return err
	}
	if err := takeStdio(); err != nil {
		return err
	}
	if err := plan.mount(); err != nil {
		return err
	}
	inside := *plan
	inside.Alone, inside.Hide, inside.Mounted = false, "", true
	text, err := json.Marshal(inside)
	if err != nil {
		return err
	}
	if err := passOn("plan", text, planFD); err != nil {
		return err
	}
	cmd := exec.Command("/proc/self/exe", launchArg)
	cmd.Env, cmd.Dir = []string{}, "/"
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{os.NewFile(planFD, "plan"), os.NewFile(reportFD, "report")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("launch: %w", err)
	}
	// What the command closes is to be closed, and the end of the report is what
	// tells that it runs.
	conn.Close()
	unix.Close(reportFD) //nolint:errcheck // it is open
	nothing, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	for fd := range 3 {
		if err := unix.Dup3(int(nothing.Fd()), fd, 0); err != nil {
			return fmt.Errorf("leave standard descriptors: %w", err)
		}
	}
	os.Exit(reap(cmd.Process.Pid))
	return nil
}

// reap waits until the command has ended, and for all that end before it.
func reap(command int) (code int) {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return exitNotRun
		case pid != command:
		case status.Signaled():
			return 128 + int(status.Signal())
		case status.Exited():
			return status.ExitStatus()
		}
	}
}
