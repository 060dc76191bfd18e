package servers

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// isolatedEnv marks the second run of Isolated.
const isolatedEnv = "POSTERN_TEST_ISOLATED"

// Isolated runs f in a new process with a network and mounts of its own, so
// that nothing of a test can reach a real network; it returns f's exit status.
// The program calls it first thing.
func Isolated(f func() int) int {
	if os.Getenv(isolatedEnv) != "" {
		os.Unsetenv(isolatedEnv)
		return f()
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), isolatedEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:   unix.CLONE_NEWNET | unix.CLONE_NEWNS,
		Unshareflags: unix.CLONE_NEWNS, // makes the mounts private
		Pdeathsig:    unix.SIGKILL,
	}
	err := cmd.Run()
	var failed *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &failed):
		return failed.ExitCode()
	}
	fmt.Fprintln(os.Stderr, "isolate:", err)
	return 1
}

// In makes a world in a network of its own, runs the tests in it and takes it
// down again, whatever became of making it; it returns the exit status. The
// package's TestMain calls it first thing.
func In[W interface{ Close() error }](prepare func() (W, error), tests func(W) int) int {
	return Isolated(func() int {
		code := 1
		w, err := prepare()
		if err != nil {
			fmt.Fprintln(os.Stderr, "prepare:", err)
		} else {
			code = tests(w)
		}
		if err := w.Close(); err != nil {
			fmt.Fprintln(os.Stderr, "clean up:", err)
			code = 1
		}
		return code
	})
}
