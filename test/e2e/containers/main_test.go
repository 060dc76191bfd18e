// Package containers runs real containers as agents: docker, podman and runc as
// Debian has them, assigned to an agent by the parent of their cgroup, in a
// network and with mounts of the test's own. Images are made here; nothing is
// pulled. It needs root, the programs in build/ (make build) and the packages of
// test/tools/packages.txt. Start with world; engine is what the three have in
// common.
package containers

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/internal/bypass/outside"
	"github.com/postern/postern/test/servers"
)

const (
	realPassword = "canary-of-containers-1b9"
	placeholder  = "placeholder-containers-7x2k"
	// banner is what servers say that no agent must hear.
	banner = "the outside was reached"
	// patience is how long anything may take that another program does.
	patience = 20 * time.Second
)

var theWorld *world

func TestMain(m *testing.M) {
	if os.Getuid() != 0 {
		fmt.Fprintln(os.Stderr, "the tests of containers need root: sudo make test-containers")
		os.Exit(1)
	}
	os.Exit(servers.In(newWorld, func(w *world) int {
		theWorld = w
		return m.Run()
	}))
}

// world is a database, an installation, the outside, and two engines that have
// daemons or storage; runc has neither.
type world struct {
	dir     string
	outside *outside.Outside
	far     *outside.Server
	near    *outside.Server // on the host, on all of its addresses
	port    uint16          // of near
	pg      *servers.Postgres
	postern *servers.Postern
	image   string // a directory
	docker  *docker
	engines []engine
}

const configuration = `
agents:
  - {name: dock, cgroup: %[1]s/dock, policy: reads}
  - {name: pod, cgroup: %[1]s/pod, policy: reads}
  - {name: rc, cgroup: %[1]s/rc, policy: reads}
targets:
  - name: orders
    protocol: postgres
    hosts: [orders-db.internal:5432, 203.0.113.2:5432]
    dial: 127.0.0.1:%[2]d
    tls: {verify: full, ca: %[3]s, server_name: orders-db.internal}
    placeholder: {user: app, database: orders, password: ` + placeholder + `}
    credential: {user: orders_rw, database: shop, password: {source: file, path: secrets.age, key: password}}
policies:
  - name: reads
    rules:
      - {name: session, target: "*", verbs: [session], allow: true}
      - {name: reads, target: "*", verbs: [select], allow: true}
`

func newWorld() (w *world, err error) {
	dir, err := os.MkdirTemp("", "postern-containers-")
	if err != nil {
		return &world{}, err
	}
	w = &world{dir: dir, image: filepath.Join(dir, "image")}
	if err := os.Chmod(dir, 0o755); err != nil {
		return w, err
	}
	if err := ownMounts(); err != nil {
		return w, err
	}
	if w.outside, err = outside.Connect(outside.Options{Everything: true}); err != nil {
		return w, err
	}
	if w.far, err = w.outside.Serve(banner); err != nil {
		return w, err
	}
	if w.near, w.port, err = w.outside.ServeNear(banner); err != nil {
		return w, err
	}
	if w.pg, err = servers.StartPostgres(servers.PostgresOptions{
		Dir: filepath.Join(dir, "pg"), Host: "orders-db.internal", Password: "superuser-of-containers",
		Init: "CREATE ROLE orders_rw LOGIN PASSWORD '" + realPassword + "';\nCREATE DATABASE shop OWNER orders_rw;\n",
	}); err != nil {
		return w, err
	}
	if err := w.install(); err != nil {
		return w, err
	}
	if err := w.makeImage(); err != nil {
		return w, err
	}
	w.docker = &docker{dir: filepath.Join(dir, "docker")}
	w.engines = []engine{w.docker, &podman{}, &runc{dir: filepath.Join(dir, "runc"), image: w.image}}
	for _, e := range w.engines {
		if err := e.start(filepath.Join(dir, "image.tar")); err != nil {
			return w, fmt.Errorf("start %s: %w", e.name(), err)
		}
	}
	return w, nil
}

// ownMounts gives the engines a host that is empty: pure cgroup v2, and none of
// the host's containers. What is made there is in memory.
func ownMounts() error {
	const cgroups = "/sys/fs/cgroup"
	for {
		// The host's may be several, one upon the other.
		err := unix.Unmount(cgroups, unix.MNT_DETACH)
		if errors.Is(err, unix.EINVAL) {
			break
		}
		if err != nil {
			return fmt.Errorf("unmount %s: %w", cgroups, err)
		}
	}
	if err := unix.Mount("none", cgroups, "cgroup2", 0, ""); err != nil {
		return fmt.Errorf("mount cgroup2: %w", err)
	}
	for _, at := range []string{"/run", "/var/lib/docker", "/var/lib/containers", "/var/lib/cni"} {
		if err := os.MkdirAll(at, 0o755); err != nil {
			return err
		}
		if err := unix.Mount("none", at, "tmpfs", 0, "mode=0755"); err != nil {
			return fmt.Errorf("mount a tmpfs on %s: %w", at, err)
		}
	}
	return os.MkdirAll("/run/lock", 0o755)
}

func (w *world) install() (err error) {
	if err := servers.CopyPrograms("../../../build", filepath.Join(w.dir, "bin")); err != nil {
		return err
	}
	if w.postern, err = servers.NewPostern(servers.PosternOptions{
		Dir: filepath.Join(w.dir, "postern"), Build: filepath.Join(w.dir, "bin"),
	}); err != nil {
		return err
	}
	w.postern.Config = fmt.Sprintf(configuration, w.postern.Root, w.pg.Port, w.pg.CA)
	if err := w.postern.Seal("secrets.age", "password: "+realPassword+"\n"); err != nil {
		return err
	}
	return w.postern.Start()
}

// makeImage is busybox and the client, as a directory and as a tar.
func (w *world) makeImage() error {
	bin := filepath.Join(w.image, "bin")
	if err := servers.CopyFile("/bin/busybox", filepath.Join(bin, "busybox"), 0o755); err != nil {
		return err
	}
	applets, err := output(exec.Command("/bin/busybox", "--list"))
	if err != nil {
		return err
	}
	for _, name := range lines(applets) {
		if err := os.Symlink("busybox", filepath.Join(bin, name)); err != nil && name != "busybox" {
			return err
		}
	}
	for _, dir := range []string{"etc", "proc", "sys", "dev", "tmp"} {
		if err := os.Mkdir(filepath.Join(w.image, dir), 0o755); err != nil {
			return err
		}
	}
	for name, text := range map[string]string{
		"resolv.conf": "nameserver 203.0.113.53\n", "passwd": "root:x:0:0:root:/:/bin/sh\n", "group": "root:x:0:\n",
	} {
		if err := os.WriteFile(filepath.Join(w.image, "etc", name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	if err := servers.CopyFile(filepath.Join(w.postern.State, "trust/root.pem"), filepath.Join(w.image, "etc/postern.pem"), 0o644); err != nil {
		return err
	}
	build := exec.Command("go", "build", "-trimpath", "-o", filepath.Join(bin, "client"), "./client")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the client: %w: %s", err, out)
	}
	if out, err := exec.Command("tar", "-C", w.image, "-cf", filepath.Join(w.dir, "image.tar"), ".").CombinedOutput(); err != nil {
		return fmt.Errorf("make the image: %w: %s", err, out)
	}
	return nil
}

func (w *world) Close() error {
	var errs []error
	for _, e := range w.engines {
		errs = append(errs, e.stop())
	}
	if w.postern != nil {
		errs = append(errs, w.postern.Stop())
	}
	if w.pg != nil {
		w.pg.Stop()
	}
	if w.outside != nil {
		errs = append(errs, w.outside.Close())
	}
	return errors.Join(append(errs, os.RemoveAll(w.dir))...)
}

// quiet fails the test when anything was heard outside or on the host since it
// was called last.
func (w *world) quiet(t *testing.T) {
	t.Helper()
	frames, err := w.outside.Frames()
	if err != nil {
		t.Fatal(err)
	}
	if len(frames) > 0 {
		t.Errorf("packets arrived outside: %q", frames)
	}
	if v := append(w.far.Visits(), w.near.Visits()...); len(v) > 0 {
		t.Errorf("servers were reached: %q", v)
	}
}

// log is what the guard said so far.
func (w *world) log(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(w.postern.Dir, "guard.log"))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// dsn is what a container is told of the database.
func dsn(host, verify string) string {
	return "host=" + host + " user=app dbname=orders password=" + placeholder + " sslmode=" + verify + " sslrootcert=/etc/postern.pem"
}

// await tries until it works: what is waited for tells nobody.
func await(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !f(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within %s\n%s", what, patience, theWorld.log(t))
		}
	}
}

func lines(text string) []string { return strings.Split(strings.TrimSpace(text), "\n") }

// dialHost is a connection from the host, and what it hears.
func dialHost(at string) (string, error) {
	conn, err := net.DialTimeout("tcp", at, time.Second)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Second))
	buf := make([]byte, 64)
	n, err := conn.Read(buf)
	return string(buf[:n]), err
}
