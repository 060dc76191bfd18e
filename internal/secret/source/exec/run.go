package exec

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/internal/secret/source"
)

// drain is how long output is waited for once the command has ended and its
// group is killed: what remains is in the pipe already, unless a process that
// left the group holds it open.
const drain = time.Second

// errTooLong ends a command that prints without an end.
var errTooLong = errors.New("too much output")

// run runs the command and returns how much of output it filled.
func (s *Source) run(ctx context.Context, ref source.Ref, output []byte) (int, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	timed, stop := context.WithTimeout(ctx, s.opts.Timeout)
	defer stop()
	name := s.opts.Command[0]
	out, stderr, command, err := s.start(ref)
	if err != nil {
		return 0, fmt.Errorf("%w: command %s: %w", source.ErrUnavailable, name, err)
	}
	defer out.Close()
	defer stderr.Close()
	ended := make(chan struct{})
	var all sync.WaitGroup
	var filled int
	var said int64
	all.Go(func() {
		// Nothing is learned from the error: the status says whether it went well.
		filled, _ = io.ReadFull(out, output)
		if filled == len(output) {
			cancel(errTooLong)
		}
	})
	all.Go(func() { said, _ = io.Copy(io.Discard, stderr) })
	all.Go(func() {
		defer close(ended)
		exited(command.Process.Pid)
	})
	interrupted := false
	select {
	case <-ended:
	case <-timed.Done():
		interrupted = true
	}
	// Its first process is not waited for yet, so that its number is no other's.
	unix.Kill(-command.Process.Pid, unix.SIGKILL) //nolint:errcheck // there may be nobody left
	out.SetReadDeadline(time.Now().Add(drain))
	stderr.SetReadDeadline(time.Now().Add(drain))
	all.Wait()
	err = command.Wait()
	switch {
	case filled == len(output):
		return filled, nil // which is too long, and Fetch says so
	case interrupted && ctx.Err() != nil:
		return 0, context.Cause(ctx)
	case interrupted:
		return 0, fmt.Errorf("%w: command %s did not end within %s", source.ErrUnavailable, name, s.opts.Timeout)
	case err != nil:
		return 0, fmt.Errorf("%w: command %s: %w, with %d bytes on its standard error", meaning(err), name, err, said)
	}
	return filled, nil
}

// start starts the command in a process group of its own.
func (s *Source) start(ref source.Ref) (out, stderr *os.File, command *exec.Cmd, err error) {
	out, outside, err := os.Pipe()
	if err != nil {
		return nil, nil, nil, err
	}
	defer outside.Close()
	stderr, errside, err := os.Pipe()
	if err != nil {
		out.Close()
		return nil, nil, nil, err
	}
	defer errside.Close()
	command = exec.Command(s.opts.Command[0], s.arguments(ref)...)
	command.Env, command.Dir = s.environment(), "/"
	command.Stdout, command.Stderr = outside, errside // standard input is /dev/null
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := command.Start(); err != nil {
		out.Close()
		stderr.Close()
		return nil, nil, nil, err
	}
	return out, stderr, command, nil
}

// exited returns when the process has, and leaves it to be waited for.
func exited(pid int) {
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// meaning is what an exit status says.
func meaning(err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		switch exit.ExitCode() {
		case notFound:
			return source.ErrNotFound
		case permission:
			return source.ErrPermission
		}
	}
	return source.ErrUnavailable
}
