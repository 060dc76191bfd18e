package guard

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/internal/sandbox"
)

// launchTime bounds how long a launcher may take, which opens what the caller
// names, from file systems that may be slow.
const launchTime = time.Minute

// process is a run that was started.
type process struct {
	above   *os.Process // the command, or what waits for it: bubblewrap, the first process
	command *os.File    // pidfd of the command; nil when it has ended that soon
}

// signal sends one to the command. Bubblewrap passes none on.
func (p *process) signal(sig syscall.Signal) {
	if p.command != nil {
		unix.PidfdSendSignal(int(p.command.Fd()), sig, nil, 0) //nolint:errcheck // it has ended
	}
}

// awaitEnd leaves the status to wait, of this guard or of the next one.
func (p *process) awaitEnd() {
	for {
		err := unix.Waitid(unix.P_PID, p.above.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

func (p *process) wait() (*os.ProcessState, error) {
	state, err := p.above.Wait()
	if p.command != nil {
		p.command.Close()
	}
	return state, err
}

// launched is what start tells while it launches.
type launched struct {
	// entered: the process is in its network namespace and waits.
	entered func(pid int) error
	// built: what the run sees is gathered, even where not all of it could be had.
	built func(sandbox.Result)
}

// start runs the launcher, which becomes the command: inside the cgroup, and in
// namespaces of its own, before it executes anything. The launcher takes the standard
// descriptors from the client: to close one of them, which a program does that is
// executed beside it, may wait for who serves its file system. With an error there may
// be a process, which was killed and is to be waited for: that may take as long.
func start(dir string, plan launchPlan, client *net.UnixConn, tell launched) (*process, error) {
	cgroup, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer cgroup.Close()
	planRead, planWrite, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer planWrite.Close()
	defer planRead.Close()
	conn, theirs, err := reportPair()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer theirs.Close()
	complaints, complain, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer complaints.Close()
	defer complain.Close()
	theirClient, err := copyOf(client)
	if err != nil {
		return nil, err
	}
	defer theirClient.Close()
	cmd := launcher(plan, cgroup, map[int]*os.File{planFD: planRead, reportFD: theirs, complaintFD: complain, clientFD: theirClient})
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("launch: %w", err)
	}
	for _, f := range []*os.File{planRead, theirs, complain, theirClient} {
		f.Close() // or the end of the launcher would not be heard
	}
	p := &process{above: cmd.Process}
	err = json.NewEncoder(planWrite).Encode(plan)
	planWrite.Close()
	if err == nil {
		err = writeReply(client, reply{Stdio: true})
	}
	if err == nil {
		err = p.follow(conn, tell)
	}
	if err == nil {
		return p, nil
	}
	killEach(dir)
	complaints.SetReadDeadline(time.Now().Add(killPause))
	if words, _ := io.ReadAll(io.LimitReader(complaints, 4096)); len(words) > 0 {
		err = fmt.Errorf("%w: %s", err, strings.TrimSpace(string(words)))
	}
	return p, err
}

// launcher is the program of a new process, with these descriptors; those between are
// kept free for what it passes on.
func launcher(plan launchPlan, cgroup *os.File, files map[int]*os.File) *exec.Cmd {
	arg := launchArg
	if plan.Alone {
		arg = firstArg
	}
	cmd := exec.Command("/proc/self/exe", arg)
	cmd.Env, cmd.Dir = []string{}, "/"
	for fd := planFD; fd <= clientFD; fd++ {
		f := files[fd]
		if f == nil {
			f = files[planFD]
		}
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid: true, Cloneflags: unix.CLONE_NEWNS, UseCgroupFD: true, CgroupFD: int(cgroup.Fd()),
	}
	if plan.Box != nil {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWNET
	}
	if plan.Alone {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWPID
	}
	return cmd
}

// reportPair is the two ends of what a launcher reports on.
func reportPair() (ours *net.UnixConn, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("launch: %w", err)
	}
	theirs = os.NewFile(uintptr(fds[1]), "report")
	f := os.NewFile(uintptr(fds[0]), "report")
	defer f.Close()
	conn, err := net.FileConn(f)
	if err != nil {
		theirs.Close()
		return nil, nil, fmt.Errorf("launch: %w", err)
	}
	return conn.(*net.UnixConn), theirs, nil
}

// follow hears what the launcher reports until it has become the command, which
// closes the connection.
func (p *process) follow(conn *net.UnixConn, tell launched) error {
	conn.SetDeadline(time.Now().Add(launchTime))
	for {
		var r report
		files, err := readFrame(conn, &r)
		switch {
		case errors.Is(err, io.EOF) && p.command != nil:
			return nil
		case errors.Is(err, io.EOF):
			err = errors.New("the launcher ended before it was the command")
		case err != nil:
			err = fmt.Errorf("the launcher: %w", err)
		case r.Error != "":
			err = errors.New(r.Error)
		case r.Step == stepNetwork:
			if err = tell.entered(p.above.Pid); err == nil {
				err = writeFrame(conn, report{Step: stepGo})
			}
		case r.Step == stepBuilt && r.Result != nil:
			tell.built(*r.Result)
		case r.Step == stepCommand && len(files) == 1:
			p.command, files = files[0], nil
		}
		closeAll(files)
		if err != nil {
			return err
		}
	}
}
