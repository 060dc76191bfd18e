package guard

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os/user"
	"slices"
	"strconv"
	"strings"

	"github.com/postern/postern/internal/config"
	"github.com/postern/postern/internal/identity"
	"github.com/postern/postern/internal/redirect"
	"github.com/postern/postern/internal/sandbox"
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
func (s *Server) run(ctx context.Context, c caller, r *Run) error {
	if !s.live.enter() {
		return fmt.Errorf("there are %d runs on this host, and more are not launched", maxRuns)
	}
	defer s.live.leave()
	g, err := s.begin(ctx, c, r)
	c.begun()
	switch {
	case err == nil:
		s.attend(ctx, g)
	case g != nil && g.process != nil:
		writeReply(c.conn, reply{Error: err.Error()}) //nolint:errcheck // the peer is gone
		g.process.wait()                              //nolint:errcheck // it was killed; nothing is left of it then
		return errors.Join(err, removeCgroup(g.dir))
	}
	return err
}

// begin launches what may be launched. With an error there may be a process that was
// killed, and does not end while it waits for a file system: it counts as a run.
func (s *Server) begin(ctx context.Context, c caller, r *Run) (*liveRun, error) {
	cfg, err := s.config()
	if err != nil {
		return nil, err
	}
	agent, err := agentOf(cfg, r.Agent)
	if err != nil {
		return nil, err
	}
	if !mayRun(c.peer, agent, userID, groupID) {
		return nil, fmt.Errorf("uid %d may not run agent %q: its run_by names who may", c.peer.UID, agent.Name)
	}
	if err := needsIdentity(agent, r); err != nil {
		return nil, err
	}
	tier, err := tierOf(agent, r)
	if err != nil {
		return nil, err
	}
	as, err := asOf(c.peer, agent, r, tier)
	if err != nil {
		return nil, err
	}
	if tier != sandbox.Redirected {
		as.Home = sandbox.HomeOf(as.Home)
	}
	box, workDir, err := boxOf(cfg, agent, r, c.peer, as, tier)
	if err != nil {
		return nil, err
	}
	if err := unseen(r.TokenFile, box); err != nil {
		return nil, err
	}
	if len(r.Args) == 0 {
		return nil, errors.New("there is no command to run")
	}
	// A run in a cgroup that holds nothing would be free.
	if problems := redirect.Check(s.Redirect); len(problems) > 0 {
		return nil, fmt.Errorf("the policy root is not closed: %s", problems[0])
	}
	files, err := trustFiles(cfg)
	if err != nil {
		return nil, err
	}
	plan := launchPlan{Args: r.Args, Env: environment(r.Env, as, box != nil), Dir: workDir, As: as, Files: files, Box: box}
	if box != nil {
		box.Files, plan.Files = append(files, resolvConf()), nil
		if plan.Bwrap, err = s.bubblewrap(tier); err != nil {
			return nil, err
		}
	} else if r.Ticket != "" {
		plan.Alone, plan.Hide = true, r.TokenFile
	}
	name := newRunName()
	s.Log.Info("run starts", "run", name, "agent", agent.Name, "tier", string(tier), "uid", as.UID, "by", c.peer.UID)
	return s.launch(ctx, launching{name: name, agent: agent, run: r, plan: plan, caller: c})
}

// launching is a run that may be.
type launching struct {
	name  string
	agent *config.Agent
	run   *Run
	plan  launchPlan
	caller
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

// outsideVariables name what is not inside of a sandbox: sockets, and folders
// for temporary files.
var outsideVariables = []string{
	"SSH_AUTH_SOCK", "SSH_AGENT_PID", "GPG_AGENT_INFO", "DBUS_SESSION_BUS_ADDRESS", "XDG_RUNTIME_DIR", "DISPLAY", "WAYLAND_DISPLAY",
	"XAUTHORITY", "DOCKER_HOST", "TMUX", "STY", "TMPDIR", "TMP", "TEMP",
}

// environment is the caller's, with the variables by which runtimes find
// authorities, and with the user's own home where root named one. In a sandbox
// the home is another one always.
func environment(env []string, as who, boxed bool) []string {
	set := func(name, value string) {
		env = slices.DeleteFunc(env, func(v string) bool { return strings.HasPrefix(v, name+"=") })
		env = append(env, name+"="+value)
	}
	env = slices.Clone(env)
	if boxed {
		env = slices.DeleteFunc(env, func(v string) bool {
			name, _, _ := strings.Cut(v, "=")
			return slices.Contains(outsideVariables, name)
		})
	}
	if as.Name != "" || boxed {
		set("HOME", as.Home)
	}
	if as.Name != "" {
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
	var b [runNameBytes]byte
	rand.Read(b[:]) // never fails: crypto/rand ends the program first
	return RunPrefix + hex.EncodeToString(b[:])
}

const (
	// RunPrefix begins the name of every run's cgroup.
	RunPrefix = "run-"
	// runNameBytes follow, in hexadecimal digits.
	runNameBytes = 5
)

// isRunName tells a run's cgroup from others, such as those of systemd-run.
func isRunName(name string) bool {
	digits, found := strings.CutPrefix(name, RunPrefix)
	b, err := hex.DecodeString(digits)
	return found && err == nil && len(b) == runNameBytes
}
