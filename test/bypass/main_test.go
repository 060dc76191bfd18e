// Package bypass makes every attempt of internal/bypass against a real
// installation: guard, daemon and worker as they are shipped, a PostgreSQL that
// the agent may reach, and an outside that it may not. It needs root and the
// programs in build/ (make build).
package bypass

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	attempts "github.com/postern/postern/internal/bypass"
	"github.com/postern/postern/internal/bypass/installed"
	"github.com/postern/postern/internal/bypass/outside"
	"github.com/postern/postern/internal/config"
	"github.com/postern/postern/internal/guard"
	"github.com/postern/postern/internal/identity"
	"github.com/postern/postern/internal/redirect"
	"github.com/postern/postern/test/servers"
)

const (
	realPassword = "canary-bypass-correct-horse"
	placeholder  = "placeholder-orders-4q8z1w"
)

var theWorld *world

func TestMain(m *testing.M) {
	attempts.Main()
	if os.Getuid() != 0 {
		os.Exit(m.Run()) // the tests say what is missing
	}
	os.Exit(servers.In(newWorld, func(w *world) int {
		theWorld = w
		return m.Run()
	}))
}

// world is an installation on a host of its own, as far as network, mounts and
// services go.
type world struct {
	dir     string
	outside *outside.Outside
	pg      *servers.Postgres
	postern *servers.Postern
	judged  *installed.Installation
	config  *config.Config
	program string // that makes the attempts
	project string // of an agent, with nothing in it

	sockets []net.Listener // of a host's services
	made    []string       // folders for them
}

// configuration has other agents, so that one may try what is theirs, and one
// that may reach no Unix socket.
const configuration = `
agents:
  - {name: planner, cgroup: %[1]s/planner, policy: planner, mounts: [{path: %[4]s, mode: ro}, {path: %[5]s/postern, mode: ro}]}
  - {name: reader, cgroup: %[1]s/reader, policy: planner}
  - {name: sealed, cgroup: %[1]s/sealed, policy: planner%[6]s}
targets:
  - name: orders
    protocol: postgres
    hosts: [orders-db.internal:5432]
    dial: 127.0.0.1:%[2]d
    tls: {verify: full, ca: %[3]s}
    placeholder: {user: app, database: orders, password: ` + placeholder + `}
    credential: {user: orders_rw, database: shop, password: {source: file, path: secrets.age, key: password}}
policies:
  - name: planner
    rules:
      - {name: session, target: orders, verbs: [session], allow: true}
      - {name: reads, target: orders, verbs: [select], allow: true}
`

const schema = `
CREATE ROLE orders_rw LOGIN PASSWORD '` + realPassword + `';
CREATE DATABASE shop OWNER orders_rw;
\c shop
SET ROLE orders_rw;
CREATE TABLE orders (id int PRIMARY KEY);
INSERT INTO orders SELECT generate_series(1, 20);
`

// unixKey is agents.unix, where the kernel can hold anybody to it: elsewhere the
// daemon does not let such an agent in.
func unixKey() string {
	for _, n := range redirect.ProbeNewer() {
		if n.Name == "hooks for Unix sockets" && n.Answer == redirect.Yes {
			return ", unix: []"
		}
	}
	return ""
}

func newWorld() (*world, error) {
	w := &world{}
	var err error
	if w.dir, err = os.MkdirTemp("", "postern-bypass-"); err != nil {
		return w, err
	}
	w.program, w.project = filepath.Join(w.dir, "attempts"), filepath.Join(w.dir, "project")
	if err := errors.Join(os.Chmod(w.dir, 0o755), os.Mkdir(w.project, 0o755)); err != nil {
		return w, err
	}
	if err := w.services(); err != nil {
		return w, err
	}
	if w.outside, err = outside.Connect(outside.Options{Everything: true}); err != nil {
		return w, err
	}
	w.pg, err = servers.StartPostgres(servers.PostgresOptions{
		Dir: filepath.Join(w.dir, "pg"), Host: "orders-db.internal", Password: "canary-superuser", Init: schema,
	})
	if err != nil {
		return w, err
	}
	copies := map[string]string{"/proc/self/exe": w.program}
	for from, to := range copies {
		if err := servers.CopyFile(from, to, 0o755); err != nil {
			return w, err
		}
	}
	if err := servers.CopyPrograms("../../build", filepath.Join(w.dir, "bin")); err != nil {
		return w, err
	}
	w.postern, err = servers.NewPostern(servers.PosternOptions{Dir: filepath.Join(w.dir, "postern"), Build: filepath.Join(w.dir, "bin")})
	if err != nil {
		return w, err
	}
	w.postern.Config = fmt.Sprintf(configuration, w.postern.Root, w.pg.Port, w.pg.CA, w.program, filepath.Join(w.dir, "bin"), unixKey())
	if err := errors.Join(w.postern.Seal("secrets.age", "password: "+realPassword+"\n"), w.postern.Start()); err != nil {
		return w, err
	}
	return w, w.judge()
}

// disconnect takes the outside away, and what judges by it.
func (w *world) disconnect() error {
	err := errors.Join(w.judged.Close(), w.outside.Close())
	w.judged, w.outside = nil, nil
	return err
}

func (w *world) reconnect() (err error) {
	if w.outside, err = outside.Connect(outside.Options{Everything: true}); err != nil {
		return err
	}
	return w.judge()
}

// awaitRuns waits until the guard has so many: runs begin and end in their own
// time.
func (w *world) awaitRuns(t *testing.T, want int) {
	t.Helper()
	mount, err := identity.CgroupMount()
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		runs, err := filepath.Glob(filepath.Join(mount, w.postern.Root, "*", guard.RunPrefix+"*"))
		if err != nil {
			t.Fatal(err)
		}
		if len(runs) == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("runs: %q, want %d", runs, want)
		}
	}
}

func (w *world) judge() (err error) {
	var problems []config.Problem
	if w.config, problems = config.Load(w.postern.ConfigFile); w.config == nil {
		return fmt.Errorf("configuration: %v", problems)
	}
	w.judged, err = installed.Open(context.Background(), installed.Options{
		Config: w.config, Program: w.program, User: servers.AgentUser, Outside: w.outside,
		// Built with -race, each attempt's process would linger for a second.
		Env: []string{"PATH=/usr/bin:/bin", "SSH_AUTH_SOCK=" + sshAgent, "GORACE=atexit_sleep_ms=0"},
	})
	return err
}

func (w *world) Close() error {
	var errs []error
	if w.judged != nil {
		errs = append(errs, w.judged.Close())
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
	for _, l := range w.sockets {
		errs = append(errs, l.Close())
	}
	for _, dir := range slices.Backward(w.made) {
		errs = append(errs, os.Remove(dir))
	}
	if w.dir != "" {
		errs = append(errs, os.RemoveAll(w.dir))
	}
	return errors.Join(errs...)
}

// sshAgent is where a person's own would be.
const sshAgent = "/run/user/ssh-agent"

// services makes what a host may have, so that it is there to be tried: sockets
// that hang up, and folders, in mounts of the test's own.
func (w *world) services() error {
	for _, dir := range []string{"/run", "/var/spool"} {
		if err := unix.Mount("bypass", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
			return fmt.Errorf("mount %s: %w", dir, err)
		}
	}
	agent, err := user.Lookup(servers.AgentUser)
	if err != nil {
		return err
	}
	uid, err := strconv.Atoi(agent.Uid)
	if err != nil {
		return err
	}
	sockets, folders := attempts.Places(uid)
	for _, path := range append(sockets, sshAgent) {
		if _, err := os.Lstat(path); err == nil {
			continue
		}
		if err := w.makeFolder(filepath.Dir(path)); err != nil {
			return err
		}
		l, err := net.Listen("unix", path)
		if err != nil {
			return err
		}
		w.sockets = append(w.sockets, l)
		go hangUp(l)
		if err := os.Chmod(path, 0o777); err != nil {
			return err
		}
	}
	for _, path := range folders {
		if strings.HasPrefix(path, "/var/spool/") {
			if err := os.MkdirAll(path, 0o755); err != nil {
				return err
			}
		}
	}
	return nil
}

// hangUp is a service that answers nobody: glibc asks nscd, and would wait.
func hangUp(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		conn.Close()
	}
}

// makeFolder makes one that is missing, and notes it for the end.
func (w *world) makeFolder(path string) error {
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	if err := w.makeFolder(filepath.Dir(path)); err != nil {
		return err
	}
	w.made = append(w.made, path)
	return os.Mkdir(path, 0o755)
}

func needRoot(t *testing.T) {
	t.Helper()
	if theWorld == nil {
		t.Skip("needs root, to install Postern and to make network namespaces")
	}
}
