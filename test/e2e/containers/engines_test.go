package containers

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// box is a container to be.
type box struct {
	name    string
	network string // none, host or bridge
	options []string
}

// engine is docker, podman or runc.
type engine interface {
	name() string
	agent() string // whose cgroup is the parent
	start(image string) error
	stop() error
	// run is a container that does one thing, in the foreground, and goes.
	run(b box, args ...string) *exec.Cmd
	// up starts one that stays, and returns its id.
	up(b box) (string, error)
	// in is something done in one that is there.
	in(name string, args ...string) *exec.Cmd
	remove(name string) error
}

// parent is what --cgroup-parent says.
func parent(agent string) string { return "/" + theWorld.postern.Root + "/" + agent }

// output runs a command, for what it prints.
func output(cmd *exec.Cmd) (string, error) {
	out, err := cmd.Output()
	var failed *exec.ExitError
	if errors.As(err, &failed) {
		err = fmt.Errorf("%s: %w: %s%s", strings.Join(cmd.Args, " "), err, out, failed.Stderr)
	}
	return strings.TrimSpace(string(out)), err
}

// docker is Debian's, with a daemon of its own.
type docker struct {
	dir    string
	daemon *exec.Cmd
}

func (*docker) name() string  { return "docker" }
func (*docker) agent() string { return "dock" }

func (d *docker) command(args ...string) *exec.Cmd {
	cmd := exec.Command("/usr/bin/docker", args...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin", "HOME=" + d.dir, "DOCKER_HOST=unix://" + d.dir + "/docker.sock"}
	return cmd
}

func (d *docker) start(image string) error {
	if err := os.MkdirAll(d.dir, 0o755); err != nil {
		return err
	}
	if err := d.startDaemon(); err != nil {
		return err
	}
	_, err := output(d.command("import", image, "agent"))
	return err
}

func (d *docker) startDaemon() error {
	log, err := os.OpenFile(filepath.Join(d.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	// The vfs driver works on every file system. The bridge has documentation
	// addresses (RFC 5737).
	d.daemon = exec.Command("/usr/sbin/dockerd", "-H", "unix://"+d.dir+"/docker.sock", "--exec-opt", "native.cgroupdriver=cgroupfs",
		"--storage-driver", "vfs", "--bip", "192.0.2.1/24")
	d.daemon.Stdout, d.daemon.Stderr = log, log
	d.daemon.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: unix.SIGKILL}
	if err := d.daemon.Start(); err != nil {
		return fmt.Errorf("%w: apt-get install docker.io", err)
	}
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		_, err := output(d.command("version"))
		if err == nil {
			return nil
		}
		if time.Now().After(end) {
			text, _ := os.ReadFile(log.Name())
			return fmt.Errorf("the daemon does not start: %w\n%s", err, text)
		}
	}
}

// stopDaemon ends the daemon as an update of its package does; containers with
// a restart policy come back with the next.
func (d *docker) stopDaemon() error {
	if err := d.daemon.Process.Signal(unix.SIGTERM); err != nil {
		return err
	}
	err := d.daemon.Wait()
	d.daemon = nil
	return err
}

func (d *docker) stop() error {
	if d.daemon == nil {
		return nil
	}
	if ids, err := output(d.command("ps", "-aq")); err == nil && ids != "" {
		output(d.command(append([]string{"rm", "-f"}, strings.Fields(ids)...)...))
	}
	return d.stopDaemon()
}

func (d *docker) args(b box) []string {
	return append([]string{"--name", b.name, "--network", b.network, "--dns", "203.0.113.53", "--cgroup-parent", parent("dock")}, b.options...)
}

func (d *docker) run(b box, args ...string) *exec.Cmd {
	return d.command(append(append(append([]string{"run", "--rm"}, d.args(b)...), "agent"), args...)...)
}

func (d *docker) up(b box) (string, error) {
	return output(d.command(append(append([]string{"run", "-d"}, d.args(b)...), "agent", "/bin/sleep", "600")...))
}

func (d *docker) in(name string, args ...string) *exec.Cmd {
	return d.command(append([]string{"exec", name}, args...)...)
}

func (d *docker) remove(name string) error {
	_, err := output(d.command("rm", "-f", name))
	return err
}

// podman has no daemon; its storage is where Debian has it.
type podman struct{}

func (*podman) name() string  { return "podman" }
func (*podman) agent() string { return "pod" }

func (*podman) command(args ...string) *exec.Cmd {
	cmd := exec.Command("/usr/bin/podman", append([]string{
		"--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--runtime", "/usr/sbin/runc", "--events-backend", "none",
	}, args...)...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin", "HOME=/root"}
	return cmd
}

func (p *podman) start(image string) error {
	_, err := output(p.command("import", image, "agent"))
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w: apt-get install podman", err)
	}
	return err
}

func (p *podman) stop() error {
	_, err := output(p.command("rm", "-fa", "-t", "0"))
	return err
}

func (p *podman) args(b box) []string {
	// Low limits: to raise them as podman would takes CAP_SYS_RESOURCE.
	args := []string{
		"--name", b.name, "--network", b.network, "--cgroup-parent", parent("pod"),
		"--pids-limit", "-1", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024",
	}
	if b.network != "none" {
		args = append(args, "--dns", "203.0.113.53")
	}
	return append(args, b.options...)
}

func (p *podman) run(b box, args ...string) *exec.Cmd {
	return p.command(append(append(append([]string{"run", "--rm"}, p.args(b)...), "agent"), args...)...)
}

func (p *podman) up(b box) (string, error) {
	return output(p.command(append(append([]string{"run", "-d"}, p.args(b)...), "agent", "/bin/sleep", "600")...))
}

func (p *podman) in(name string, args ...string) *exec.Cmd {
	return p.command(append([]string{"exec", name}, args...)...)
}

func (p *podman) remove(name string) error {
	_, err := output(p.command("rm", "-f", "-t", "0", name))
	return err
}

// runc is the runtime alone: a bundle for each container, and networks made by
// hand. Its bridge is docker's.
type runc struct {
	dir, image string
	addresses  int
}

func (*runc) name() string             { return "runc" }
func (*runc) agent() string            { return "rc" }
func (*runc) start(string) error       { return nil }
func (r *runc) stop() error            { return nil }
func (r *runc) bundle(n string) string { return filepath.Join(r.dir, n) }

func (r *runc) command(args ...string) *exec.Cmd { return exec.Command("/usr/sbin/runc", args...) }

// prepare writes a bundle: what `runc spec` suggests, with a cgroup of the
// agent's and the network.
func (r *runc) prepare(b box, args []string) error {
	dir := r.bundle(b.name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if _, err := output(r.command("spec", "--bundle", dir)); err != nil {
		return err
	}
	at := filepath.Join(dir, "config.json")
	text, err := os.ReadFile(at)
	if err != nil {
		return err
	}
	var spec map[string]any
	if err := json.Unmarshal(text, &spec); err != nil {
		return err
	}
	process, linux := spec["process"].(map[string]any), spec["linux"].(map[string]any)
	process["args"], process["terminal"] = args, false
	delete(process, "rlimits")
	spec["root"] = map[string]any{"path": r.image, "readonly": true}
	linux["cgroupsPath"] = parent("rc") + "/" + b.name
	kept := []any{}
	for _, n := range linux["namespaces"].([]any) {
		if n.(map[string]any)["type"] != "network" {
			kept = append(kept, n)
		}
	}
	switch b.network {
	case "none":
		kept = append(kept, map[string]any{"type": "network"})
	case "bridge":
		if err := r.cable(b.name); err != nil {
			return err
		}
		kept = append(kept, map[string]any{"type": "network", "path": "/run/netns/" + b.name})
	}
	linux["namespaces"] = kept
	if text, err = json.Marshal(spec); err != nil {
		return err
	}
	return os.WriteFile(at, text, 0o644)
}

// cable makes a network namespace that hangs on docker's bridge.
func (r *runc) cable(name string) error {
	r.addresses++
	near := fmt.Sprint("rc", r.addresses)
	for _, args := range []string{
		"netns add " + name,
		"link add " + near + " type veth peer name eth0 netns " + name,
		"link set " + near + " master docker0 up",
		"-n " + name + " link set lo up",
		"-n " + name + " link set eth0 up",
		fmt.Sprintf("-n %s addr add 192.0.2.%d/24 dev eth0", name, 100+r.addresses),
		"-n " + name + " route add default via 192.0.2.1",
	} {
		if _, err := output(exec.Command("ip", strings.Fields(args)...)); err != nil {
			return err
		}
	}
	return nil
}

func (r *runc) run(b box, args ...string) *exec.Cmd {
	if err := r.prepare(b, args); err != nil {
		return exec.Command("/bin/sh", "-c", "echo \"$1\" >&2; exit 1", "sh", err.Error())
	}
	return r.command("run", "--bundle", r.bundle(b.name), b.name)
}

func (r *runc) up(b box) (string, error) {
	if err := r.prepare(b, []string{"/bin/sleep", "600"}); err != nil {
		return "", err
	}
	cmd := r.command("run", "--detach", "--bundle", r.bundle(b.name), b.name)
	return b.name, cmd.Run() // its output would be the container's, which stays
}

func (r *runc) in(name string, args ...string) *exec.Cmd {
	return r.command(append([]string{"exec", name}, args...)...)
}

func (r *runc) remove(name string) error {
	_, err := output(r.command("delete", "--force", name))
	exec.Command("ip", "netns", "delete", name).Run() // where there is one
	return err
}
