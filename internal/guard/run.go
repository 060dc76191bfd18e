package guard

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/internal/identity"
	"github.com/postern/postern/internal/redirect"
)

// who is whom a run runs as.
type who struct {
	UID, GID uint32
	Groups   []uint32
	Name     string // set when root named the user
	Home     string
}

// run launches an agent and stays with it until it ends. The connection is the
// run's life line: when the client goes, the run goes.
func (s *Server) run(ctx context.Context, conn *net.UnixConn, peer *identity.Peer, r *Run, stdio []*os.File) error {
	cfg, err := s.config()
	if err != nil {
		return err
	}
	agent, err := agentOf(cfg, r.Agent)
	if err != nil {
		return err
	}
	if !mayRun(peer, agent, userID, groupID) {
		return fmt.Errorf("uid %d may not run agent %q: its run_by names who may", peer.UID, agent.Name)
	}
	tier, err := tierOf(agent, r)
	if err != nil {
		return err
	}
	as, err := asOf(peer, agent, r, tier)
	if err != nil {
		return err
	}
	box, err := boxOf(agent, r, as, tier)
	if err != nil {
		return err
	}
	if err := checkStdio(stdio); err != nil {
		return err
	}
	if len(r.Args) == 0 {
		return errors.New("there is no command to run")
	}
	// A run in a cgroup that holds nothing would be free.
	if problems := redirect.Check(s.Redirect); len(problems) > 0 {
		return fmt.Errorf("the policy root is not closed: %s", problems[0])
	}
	files, err := trustFiles(cfg)
	if err != nil {
		return err
	}
	name := newRunName()
	dir := filepath.Join(s.mount, agent.Cgroup, name)
	if _, err := s.cgroup(filepath.Join(agent.Cgroup, name)); err != nil {
		return err
	}
	defer func() {
		if err := removeCgroup(dir); err != nil {
			s.Log.Error("end a run", "run", name, "error", err)
		}
	}()
	plan := launchPlan{Args: r.Args, Env: environment(r.Env, as), Dir: r.Dir, As: as, Files: files, Box: box}
	enter := func(pid int) error { return s.doors.open(where{agent: agent.Name, cgroup: agent.Cgroup, pid: pid}) }
	cmd, err := start(dir, plan, stdio, enter)
	if err != nil {
		return err
	}
	unpublish, err := s.publish(ctx, agent, r, cmd.Process.Pid)
	if err != nil {
		cmd.Process.Kill()
		cmd.Wait() //nolint:errcheck // it is known why
		return err
	}
	defer unpublish()
	s.Log.Info("run started", "run", name, "agent", agent.Name, "tier", string(tier), "uid", as.UID, "by", peer.UID, "pid", cmd.Process.Pid)
	if err := writeReply(conn, reply{Started: name}); err != nil {
		cmd.Process.Kill()
	}
	exit := s.attend(ctx, conn, cmd, dir, box != nil)
	s.Log.Info("run ended", "run", name, "agent", agent.Name, "code", exit.Code)
	return writeReply(conn, reply{Exit: &exit})
}

// attend passes signals on and waits for the end.
func (s *Server) attend(ctx context.Context, conn *net.UnixConn, cmd *exec.Cmd, dir string, boxed bool) Exit {
	stop := context.AfterFunc(ctx, func() { killEach(dir) })
	defer stop()
	go func() { // ends with the connection, which ends with the run
		for {
			var sig signal
			files, err := readFrame(conn, &sig)
			closeAll(files)
			if err != nil {
				killEach(dir)
				return
			}
			switch {
			case sig.Number <= 0:
			case boxed:
				signalInside(cmd.Process.Pid, syscall.Signal(sig.Number))
			default:
				cmd.Process.Signal(syscall.Signal(sig.Number)) //nolint:errcheck // it has ended
			}
		}
	}()
	return exitOf(cmd.Wait())
}

// signalInside signals the command in a sandbox, which is the child of the child
// of bubblewrap: the one between reaps what is left behind, and neither passes
// signals on.
func signalInside(bubblewrap int, sig syscall.Signal) {
	for _, reaper := range childrenOf(bubblewrap) {
		for _, command := range childrenOf(reaper) {
			unix.Kill(command, sig) //nolint:errcheck // it has ended
		}
	}
}

func childrenOf(pid int) (children []int) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", pid))
	if err != nil {
		return nil
	}
	for field := range strings.FieldsSeq(string(text)) {
		if n, err := strconv.Atoi(field); err == nil {
			children = append(children, n)
		}
	}
	return children
}

func exitOf(err error) Exit {
	var failed *exec.ExitError
	switch {
	case err == nil:
		return Exit{}
	case !errors.As(err, &failed):
		return Exit{Code: exitNotRun}
	}
	if w, ok := failed.Sys().(syscall.WaitStatus); ok && w.Signaled() {
		return Exit{Code: 128 + int(w.Signal()), Signal: int(w.Signal())}
	}
	return Exit{Code: failed.ExitCode()}
}

// exitNotRun is what shells say of a command that could not be run.
const exitNotRun = 126

// start runs the launcher, which becomes the command: inside the cgroup and a
// mount namespace of its own before it executes anything. Where it has a network
// namespace of its own too, enter opens the way to the gateway there.
func start(dir string, plan launchPlan, stdio []*os.File, enter func(pid int) error) (*exec.Cmd, error) {
	cgroup, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer cgroup.Close()
	planRead, planWrite, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer planRead.Close()
	failRead, failWrite, err := os.Pipe()
	if err != nil {
		planWrite.Close()
		return nil, err
	}
	defer failRead.Close()
	cmd := exec.Command("/proc/self/exe", LaunchArg)
	cmd.Env, cmd.Dir = []string{}, "/"
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdio[0], stdio[1], stdio[2]
	cmd.ExtraFiles = []*os.File{planRead, failWrite}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid: true, Cloneflags: unix.CLONE_NEWNS, UseCgroupFD: true, CgroupFD: int(cgroup.Fd()),
	}
	if plan.Box != nil {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWNET
	}
	err = cmd.Start()
	failWrite.Close()
	if err != nil {
		planWrite.Close()
		return nil, fmt.Errorf("launch: %w", err)
	}
	err = json.NewEncoder(planWrite).Encode(plan)
	if err == nil && plan.Box != nil {
		err = goOn(planWrite, failRead, func() error { return enter(cmd.Process.Pid) })
	}
	planWrite.Close()
	// The pipe closes when the command is executed; what comes before is why not.
	why, _ := io.ReadAll(io.LimitReader(failRead, 4096))
	if err != nil || len(why) > 0 {
		cmd.Process.Kill()
		cmd.Wait() //nolint:errcheck // it is known why
		if len(why) > 0 {
			err = errors.New(string(why))
		}
		return nil, err
	}
	return cmd, nil
}

// goOn waits until the launcher is ready, and lets it go on. When it is not, it
// says why on the same pipe.
func goOn(plan io.Writer, said io.Reader, enter func() error) error {
	first := make([]byte, 1)
	if _, err := io.ReadFull(said, first); err != nil {
		return fmt.Errorf("the launcher ended: %w", err)
	}
	if first[0] != ready {
		rest, _ := io.ReadAll(io.LimitReader(said, 4096))
		return errors.New(string(first) + string(rest))
	}
	if err := enter(); err != nil {
		return err
	}
	_, err := plan.Write([]byte{ready + 1})
	return err
}

// checkStdio refuses network sockets: one that was made outside of the cgroup
// would be a way out of it.
func checkStdio(stdio []*os.File) error {
	if len(stdio) != 3 {
		return fmt.Errorf("%d descriptors came along instead of 3", len(stdio))
	}
	for _, f := range stdio {
		domain, err := unix.GetsockoptInt(int(f.Fd()), unix.SOL_SOCKET, unix.SO_DOMAIN)
		if err == nil && domain != unix.AF_UNIX {
			return errors.New("standard input, output and error of a run may not be network sockets")
		}
		if err != nil && !errors.Is(err, unix.ENOTSOCK) {
			return fmt.Errorf("look at a descriptor: %w", err)
		}
	}
	return nil
}

// runAs is whom the run runs as: the caller, or the user that root names. Never
// root: it could leave the cgroup.
func runAs(peer *identity.Peer, name string) (who, error) {
	if name == "" {
		if peer.UID == 0 {
			return who{}, errors.New("an agent does not run as root: name a user with --user")
		}
		return userWith(peer)
	}
	if peer.UID != 0 {
		return who{}, errors.New("only root may name the user of a run")
	}
	return userNamed(name)
}

// userWith is the caller. Its home is what the host says, not its environment.
func userWith(peer *identity.Peer) (who, error) {
	w := who{UID: peer.UID, GID: peer.GID, Groups: peer.Groups}
	if u, err := user.LookupId(strconv.FormatUint(uint64(peer.UID), 10)); err == nil {
		w.Home = u.HomeDir
	}
	return w, nil
}

func userNamed(name string) (who, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return who{}, err
	}
	uid, gid, err := ids(u)
	if err == nil && uid == 0 {
		err = fmt.Errorf("an agent does not run as root, and %s is root", name)
	}
	if err != nil {
		return who{}, err
	}
	w := who{UID: uid, GID: gid, Name: u.Username, Home: u.HomeDir}
	groups, err := u.GroupIds()
	if err != nil {
		return who{}, err
	}
	for _, g := range groups {
		id, err := strconv.ParseUint(g, 10, 32)
		if err != nil {
			return who{}, err
		}
		w.Groups = append(w.Groups, uint32(id))
	}
	return w, nil
}

func ids(u *user.User) (uid, gid uint32, err error) {
	a, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return 0, 0, err
	}
	b, err := strconv.ParseUint(u.Gid, 10, 32)
	return uint32(a), uint32(b), err
}

func userID(name string) (uint32, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return 0, err
	}
	uid, _, err := ids(u)
	return uid, err
}

func groupID(name string) (uint32, error) {
	g, err := user.LookupGroup(name)
	if err != nil {
		return 0, err
	}
	id, err := strconv.ParseUint(g.Gid, 10, 32)
	return uint32(id), err
}

// environment is the caller's, with the variables by which runtimes find
// authorities, and with the user's own home where root named one.
func environment(env []string, as who) []string {
	set := func(name, value string) {
		env = slices.DeleteFunc(env, func(v string) bool { return strings.HasPrefix(v, name+"=") })
		env = append(env, name+"="+value)
	}
	env = slices.Clone(env)
	if as.Name != "" {
		set("HOME", as.Home)
		set("USER", as.Name)
		set("LOGNAME", as.Name)
	}
	for _, name := range bundleVariables {
		set(name, bundlePath)
	}
	for _, name := range rootVariables {
		set(name, rootPath)
	}
	return env
}

func newRunName() string {
	var b [5]byte
	rand.Read(b[:]) // never fails: crypto/rand ends the program first
	return RunPrefix + hex.EncodeToString(b[:])
}

// RunPrefix begins the name of every run's cgroup.
const RunPrefix = "run-"
