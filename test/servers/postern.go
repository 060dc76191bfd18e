package servers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"filippo.io/age"
	"golang.org/x/sys/unix"

	"github.com/postern/postern/internal/identity"
	"github.com/postern/postern/pkg/control"
)

const (
	// DaemonUID is whom the daemon runs as: nobody's account, but not nobody.
	DaemonUID = 61712
	// AgentUser is whom agents run as.
	AgentUser = "nobody"

	capBPF = 39
	// patience is how long anything may take to start.
	patience = 20 * time.Second
)

// PosternOptions shape an installation.
type PosternOptions struct {
	Dir   string // its own; every component is traversable by everybody
	Build string // the folder of the four programs
	// Config is the configuration without state_dir, root, sockets, secrets,
	// sqlparse and metrics, which are the installation's own.
	Config string
	Env    []string // of the daemon, for the source env
	// Sources are secrets.sources, in one line of YAML; empty: none.
	Sources string
}

// Postern is a running installation: guard, daemon and a policy root of its own.
type Postern struct {
	PosternOptions
	ConfigFile string
	Root       string // policy root, relative to the cgroup2 root
	Control    *control.Client
	Metrics    string // Unix socket
	DaemonLog  string
	State      string

	mount     string
	recipient age.Recipient
	guard     *exec.Cmd
	daemon    *exec.Cmd
	ended     chan error // of the daemon
}

// installations counts those of this process, for the names of their cgroups.
var installations atomic.Uint32

// NewPostern prepares an installation and starts nothing. Configurations name
// agents' cgroups below Root, which is known from here on.
func NewPostern(o PosternOptions) (*Postern, error) {
	mount, err := identity.CgroupMount()
	if err != nil {
		return nil, err
	}
	p := &Postern{PosternOptions: o, mount: mount, Root: fmt.Sprintf("postern-%d-%d", os.Getpid(), installations.Add(1))}
	p.ConfigFile = filepath.Join(o.Dir, "postern.yaml")
	p.DaemonLog = filepath.Join(o.Dir, "posternd.log")
	p.State = filepath.Join(o.Dir, "state")
	p.Metrics = filepath.Join(o.Dir, "run", "metrics.sock")
	p.Control = control.New(filepath.Join(o.Dir, "run", "control.sock"))
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		return nil, err
	}
	for dir, mode := range map[string]os.FileMode{p.State: 0o700, filepath.Join(o.Dir, "run"): 0o755, filepath.Join(o.Dir, "bpf"): 0o700} {
		if err := os.MkdirAll(dir, mode); err != nil {
			return nil, err
		}
	}
	for _, dir := range []string{p.State, filepath.Join(o.Dir, "run")} {
		if err := os.Chown(dir, DaemonUID, DaemonUID); err != nil {
			return nil, err
		}
	}
	return p, p.identity()
}

// identity makes the key that opens the files of secrets.
func (p *Postern) identity() error {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		return err
	}
	p.recipient = id.Recipient()
	at := filepath.Join(p.Dir, "identity.txt")
	if err := os.WriteFile(at, []byte(id.String()+"\n"), 0o600); err != nil {
		return err
	}
	return os.Chown(at, DaemonUID, DaemonUID)
}

// Seal writes an encrypted file of secrets next to the configuration.
func (p *Postern) Seal(name, plain string) error {
	var sealed bytes.Buffer
	w, err := age.Encrypt(&sealed, p.recipient)
	if err != nil {
		return err
	}
	if _, err := w.Write([]byte(plain)); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	at := filepath.Join(p.Dir, name)
	if err := os.WriteFile(at+".new", sealed.Bytes(), 0o640); err != nil {
		return err
	}
	if err := os.Chown(at+".new", 0, DaemonUID); err != nil {
		return err
	}
	return os.Rename(at+".new", at)
}

// Configure writes the configuration; a running daemon is to be reloaded.
func (p *Postern) Configure(config string) error {
	own := fmt.Sprintf("root: %s\nstate_dir: %s\ncontrol: {socket: %s/run/control.sock}\nguard: {socket: %[3]s/run/guard.sock}\n"+
		"metrics: {listen: %s}\nsqlparse: {path: %s}\nsecrets: {file: {identity: %[3]s/identity.txt}, sources: [%[6]s]}\n",
		p.Root, p.State, p.Dir, p.Metrics, filepath.Join(p.Build, "postern-sqlparse"), p.Sources)
	return os.WriteFile(p.ConfigFile, []byte(own+config), 0o644)
}

// Start attaches the programs and starts guard and daemon.
func (p *Postern) Start() error {
	if err := p.Configure(p.Config); err != nil {
		return err
	}
	if out, err := p.GuardCommand("attach").CombinedOutput(); err != nil {
		return fmt.Errorf("attach: %w: %s", err, out)
	}
	if err := p.StartGuard(); err != nil {
		return err
	}
	return p.StartDaemon()
}

// Grace is how long the guard has agents wait for a daemon that is away.
const Grace = 3 * time.Second

// StartGuard starts the guard; the programs are attached already.
func (p *Postern) StartGuard() error {
	p.guard = p.GuardCommand("serve", "--grace", Grace.String())
	p.guard.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: unix.SIGKILL}
	if err := p.logged(p.guard, "guard.log"); err != nil {
		return err
	}
	socket := filepath.Join(p.Dir, "run", "guard.sock")
	err := await(func() error {
		c, err := net.Dial("unix", socket)
		if err == nil {
			c.Close()
		}
		return err
	})
	if err != nil {
		return p.failed("guard", filepath.Join(p.Dir, "guard.log"), err)
	}
	return nil
}

// GuardPID is the guard's process.
func (p *Postern) GuardPID() int { return p.guard.Process.Pid }

// StopGuard sends a signal to the guard and waits for its end.
func (p *Postern) StopGuard(sig syscall.Signal) {
	p.guard.Process.Signal(sig)
	p.guard.Wait()
	p.guard = nil
}

// GuardCommand is postern-guard for this installation.
func (p *Postern) GuardCommand(verb string, args ...string) *exec.Cmd {
	return exec.Command(filepath.Join(p.Build, "postern-guard"), append([]string{
		verb, "--config", p.ConfigFile,
		"--bpffs", filepath.Join(p.Dir, "bpf"), "--daemon-user", fmt.Sprint(DaemonUID),
	}, args...)...)
}

// StartDaemon starts the daemon, as a user of its own with CAP_BPF.
func (p *Postern) StartDaemon() error {
	p.daemon = exec.Command(filepath.Join(p.Build, "posternd"), "--config", p.ConfigFile)
	p.daemon.Env = append([]string{"PATH=/usr/bin:/bin"}, p.Env...)
	p.daemon.SysProcAttr = &syscall.SysProcAttr{
		Setsid: true, Pdeathsig: unix.SIGKILL,
		Credential: &syscall.Credential{Uid: DaemonUID, Gid: DaemonUID}, AmbientCaps: []uintptr{capBPF},
	}
	if err := p.logged(p.daemon, filepath.Base(p.DaemonLog)); err != nil {
		return err
	}
	ended, cmd := make(chan error, 1), p.daemon
	go func() { ended <- cmd.Wait() }()
	p.ended = ended
	err := await(func() error {
		if len(ended) > 0 {
			return nil // there is nothing to wait for
		}
		_, err := p.Control.Status(context.Background())
		if err == nil {
			_, err = p.LogLine("msg=serving")
		}
		return err
	})
	if err == nil && len(ended) > 0 {
		err = errors.New("it ended")
	}
	if err != nil {
		return p.failed("daemon", p.DaemonLog, err)
	}
	return nil
}

// LogLine returns the first line of the daemon's log that holds text.
func (p *Postern) LogLine(text string) (string, error) {
	b, err := os.ReadFile(p.DaemonLog)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(b)) {
		if strings.Contains(line, text) {
			return strings.TrimSpace(line), nil
		}
	}
	return "", fmt.Errorf("the daemon's log has no %q", text)
}

func (p *Postern) failed(what, log string, err error) error {
	text, _ := os.ReadFile(log)
	p.Stop()
	return fmt.Errorf("the %s does not start: %w\n%s", what, err, text)
}

// logged starts cmd with its output in a new file.
func (p *Postern) logged(cmd *exec.Cmd, name string) error {
	f, err := os.OpenFile(filepath.Join(p.Dir, name), os.O_CREATE|os.O_TRUNC|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	cmd.Stdout, cmd.Stderr = f, f
	return cmd.Start()
}

// await tries until it works. What is waited for is another program's start,
// which tells nobody.
func await(f func() error) error {
	deadline := time.Now().Add(patience)
	for {
		err := f()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// CLI is the command line for this installation.
func (p *Postern) CLI(args ...string) *exec.Cmd {
	return exec.Command(filepath.Join(p.Build, "postern"), append([]string{"--config", p.ConfigFile}, args...)...)
}

// Run is `postern run` of an agent, as AgentUser, in the tier redirected.
func (p *Postern) Run(agent string, args ...string) *exec.Cmd {
	return p.RunIn("redirected", agent, nil, args...)
}

// RunIn is the same in another tier, with more options.
func (p *Postern) RunIn(tier, agent string, options []string, args ...string) *exec.Cmd {
	options = append([]string{"run", "--agent", agent, "--user", AgentUser, "--tier", tier}, options...)
	cmd := p.CLI(append(append(options, "--"), args...)...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/local/bin:/usr/bin:/bin", "LC_ALL=C.UTF-8"}
	return cmd
}

// DaemonPID is the daemon's process.
func (p *Postern) DaemonPID() int { return p.daemon.Process.Pid }

// StopDaemon sends a signal to the daemon and waits for its end.
func (p *Postern) StopDaemon(sig syscall.Signal) error {
	if err := p.daemon.Process.Signal(sig); err != nil {
		return err
	}
	err := <-p.ended
	p.daemon = nil
	return err
}

// Stop ends everything and opens the policy root again.
func (p *Postern) Stop() error {
	var errs []error
	if p.daemon != nil {
		p.StopDaemon(syscall.SIGTERM) //nolint:errcheck // it may have ended by itself
	}
	if p.guard != nil {
		p.StopGuard(syscall.SIGTERM)
	}
	if out, err := p.GuardCommand("detach").CombinedOutput(); err != nil {
		errs = append(errs, fmt.Errorf("detach: %w: %s", err, out))
	}
	if err := unix.Unmount(filepath.Join(p.Dir, "bpf"), unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
		errs = append(errs, err)
	}
	RemoveCgroups(filepath.Join(p.mount, p.Root))
	return errors.Join(errs...)
}

// RemoveCgroups removes a tree of cgroups, deepest first.
func RemoveCgroups(root string) {
	entries, _ := os.ReadDir(root)
	for _, e := range entries {
		if e.IsDir() {
			RemoveCgroups(filepath.Join(root, e.Name()))
		}
	}
	await(func() error { //nolint:errcheck // what stays is empty and harmless
		err := unix.Rmdir(root)
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		return err
	})
}

// CopyPrograms copies the four programs from the folder that they were built in to
// one that agents may read.
func CopyPrograms(build, dir string) error {
	for _, name := range []string{"postern", "postern-guard", "posternd", "postern-sqlparse"} {
		if err := CopyFile(filepath.Join(build, name), filepath.Join(dir, name), 0o755); err != nil {
			return err
		}
	}
	return nil
}

// CopyFile copies a file to where agents may read it, making its folder.
func CopyFile(from, to string, mode os.FileMode) error {
	in, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("%w: run `make build` first", err)
	}
	defer in.Close()
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
