package main

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	sealing "filippo.io/age"
	"github.com/creack/pty"

	"github.com/postern/postern/internal/config"
)

const canary = "canary-Zq8vR2mN7"

// withDaemon puts a posternd beside the test's own program, for what asks it to
// check a configuration.
func withDaemon(t *testing.T) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("go", "build", "-o", filepath.Join(filepath.Dir(self), "posternd"), "../posternd").CombinedOutput(); err != nil {
		t.Fatal(string(out))
	}
}

func me(t *testing.T) string {
	t.Helper()
	u, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	if u.Uid != "0" {
		t.Skip("this takes root")
	}
	return u.Username
}

func set(t *testing.T, dir string, more ...string) (string, error) {
	t.Helper()
	args := append([]string{
		"--config", dir + "/postern.yaml", "setup", "--host", "orders-db.internal:5432", "--upstream-user", "orders_rw", "--upstream-database", "shop",
		"--user", "app", "--placeholder", "placeholder-orders", "--tls", "off", "--daemon-user", me(t), "--no-start",
	}, more...)
	cmd := postern(args...)
	cmd.Stdin = strings.NewReader(canary + "\n")
	out, err := cmd.CombinedOutput()
	if strings.Contains(string(out), canary) {
		t.Errorf("the secret is printed: %s", out)
	}
	return string(out), err
}

// What setup writes is what the daemon takes, the secret is found by it, and
// nobody else can read it.
func TestSetupWrites(t *testing.T) {
	withDaemon(t)
	dir := t.TempDir()
	out, err := set(t, dir, "--secret-stdin", "--observe", "24h", "--run-by", "alice")
	if err != nil {
		t.Fatal(out, err)
	}
	for _, want := range []string{"wrote " + dir + "/postern.yaml", "postern-guard attach --config " + dir, "PGPASSWORD=placeholder-orders postern run --agent planner -- psql 'host=orders-db.internal port=5432 user=app dbname=shop'", "postern enforce planner"} {
		if !strings.Contains(out, want) {
			t.Errorf("lacks %q:\n%s", want, out)
		}
	}
	cfg, problems := config.Load(dir + "/postern.yaml")
	if cfg == nil {
		t.Fatal(problems)
	}
	a, target := cfg.Agents[0], cfg.Targets[0]
	if a.Mode != "observe" || time.Until(a.Until) < 23*time.Hour || a.RunBy.Users[0] != "alice" || a.Cgroup != "agents.slice/agents-planner.slice" || target.Name != "orders-db" {
		t.Errorf("%+v\n%+v", a, target)
	}
	for name, want := range map[string]os.FileMode{"postern.yaml": 0o644, "identity.txt": 0o600, "orders-db.age": 0o600} {
		st, err := os.Stat(filepath.Join(dir, name))
		if err != nil || st.Mode() != want {
			t.Errorf("%s: %v %v", name, st.Mode(), err)
		}
		if text, _ := os.ReadFile(filepath.Join(dir, name)); bytes.Contains(text, []byte(canary)) {
			t.Errorf("%s holds the secret", name)
		}
	}
	ref := target.Credential.Password
	keys, err := os.Open(cfg.Secrets.File.Identity)
	if err != nil {
		t.Fatal(err)
	}
	defer keys.Close()
	ids, err := sealing.ParseIdentities(keys)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := os.ReadFile(filepath.Join(dir, ref.Path))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := sealing.Decrypt(bytes.NewReader(sealed), ids...)
	if err != nil {
		t.Fatal(err)
	}
	if found, err := io.ReadAll(plain); err != nil || string(found) != canary || ref.Key != "" {
		t.Error("the secret is not what was read:", err)
	}
}

// What is in use is not replaced, an example is, and --force keeps a backup and
// the identity that other files are encrypted to.
func TestSetupKeeps(t *testing.T) {
	withDaemon(t)
	dir := t.TempDir()
	example := "agents:\n  - {name: a, cgroup: agents.slice/a, policy: none}\npolicies:\n  - {name: none, rules: []}\n"
	if err := os.WriteFile(dir+"/postern.yaml", []byte(example), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := set(t, dir, "--secret-stdin"); err != nil {
		t.Fatal(out, err)
	}
	identity, _ := os.ReadFile(dir + "/identity.txt")
	if out, err := set(t, dir, "--secret-stdin"); err == nil || !strings.Contains(out, "--force") {
		t.Error(out, err)
	}
	if out, err := set(t, dir, "--secret-stdin", "--force"); err != nil {
		t.Error(out, err)
	}
	if after, _ := os.ReadFile(dir + "/identity.txt"); !bytes.Equal(identity, after) {
		t.Error("the identity is another one")
	}
	backups, _ := filepath.Glob(dir + "/postern.yaml.*.backup")
	if len(backups) != 2 {
		t.Error(backups)
	}
	if text, _ := os.ReadFile(backups[0]); string(text) != example {
		t.Errorf("%s", text)
	}
}

func TestSetupRefuses(t *testing.T) {
	withDaemon(t)
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"no secret":     {nil, "--secret-stdin"},
		"no such CA":    {[]string{"--secret-stdin", "--tls", "full", "--ca", "/nowhere.pem"}, "nowhere.pem"},
		"a target name": {[]string{"--secret-stdin", "--target", "../x"}, "names a file"},
		"no user":       {[]string{"--secret-stdin", "--daemon-user", "nobody-at-all"}, "useradd"},
		"a cgroup":      {[]string{"--secret-stdin", "--slice", "user.slice/x"}, "policy root"},
		"the secret":    {[]string{"--secret-stdin", "--placeholder", canary}, "placeholder is the secret"},
	} {
		dir := t.TempDir()
		out, err := set(t, dir, c.args...)
		left, _ := os.ReadDir(dir)
		if err == nil || !strings.Contains(out, c.want) || len(left) > 0 {
			t.Errorf("%s: %v %v\n%s", name, err, left, out)
		}
	}
	out, err := set(t, t.TempDir(), "--dry-run")
	if err != nil || !strings.Contains(out, "cgroup: agents.slice/agents-planner.slice") {
		t.Error(out, err)
	}
	cmd := postern("setup", "--host", "x", "--upstream-user", "y")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "sudo") && !strings.Contains(err.Error(), "permission") {
		t.Error(string(out), err)
	}
}

const observed = `# who
agents:
  - name: planner # the first
    cgroup: agents.slice/planner
    policy: p
    mode: observe # for a day
    until: 2126-03-31T18:00:00Z
    # what it may mount
  - name: coder
    cgroup: agents.slice/coder
    policy: p
    mode: observe
    until: 2126-03-31T18:00:00Z
policies:
  - {name: p, rules: []}
`

func TestEnforce(t *testing.T) {
	withDaemon(t)
	file := filepath.Join(t.TempDir(), "postern.yaml")
	if err := os.WriteFile(file, []byte(observed), 0o640); err != nil {
		t.Fatal(err)
	}
	const group = 65534 // as root:postern is, so that the daemon reads it
	if os.Geteuid() == 0 {
		if err := os.Chown(file, 0, group); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := postern("--config", file, "enforce", "nobody").CombinedOutput(); err == nil || !strings.Contains(string(out), `no agent "nobody"`) {
		t.Error(string(out), err)
	}
	out, err := postern("--config", file, "--json", "enforce", "planner").Output()
	var said map[string][]string
	if err != nil || json.Unmarshal(out, &said) != nil || !slices.Equal(said["enforced"], []string{"planner"}) {
		t.Fatal(string(out), err)
	}
	want := strings.Replace(observed, "    mode: observe # for a day\n    until: 2126-03-31T18:00:00Z\n", "", 1)
	if text, _ := os.ReadFile(file); string(text) != want {
		t.Errorf("%s", text)
	}
	if st, _ := os.Stat(file); st.Mode().Perm() != 0o640 {
		t.Error(st.Mode())
	} else if gid := st.Sys().(*syscall.Stat_t).Gid; os.Geteuid() == 0 && gid != group {
		t.Errorf("its group is %d", gid)
	}
	if out, err := postern("--config", file, "enforce").CombinedOutput(); err != nil || !strings.Contains(string(out), "coder") {
		t.Error(string(out), err)
	}
	if out, _ := postern("--config", file, "enforce").CombinedOutput(); !strings.Contains(string(out), "no agent is in mode observe") {
		t.Error(string(out))
	}
	if _, _, err := withoutObserve([]byte("agents: [{name: a, mode: observe, until: 2126-03-31T18:00:00Z}]"), ""); err == nil || !strings.Contains(err.Error(), "by hand") {
		t.Error(err)
	}
}

// On a terminal it asks, and does not show the secret that is typed.
func TestSetupAsks(t *testing.T) {
	withDaemon(t)
	dir := t.TempDir()
	cmd := postern("--config", dir+"/postern.yaml", "setup", "--host", "db.internal", "--tls", "off", "--daemon-user", me(t), "--no-start")
	f, err := pty.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var all strings.Builder
	until := func(what string) {
		t.Helper()
		b := make([]byte, 4096)
		for !strings.Contains(all.String(), what) {
			n, err := f.Read(b)
			all.Write(b[:n])
			if err != nil {
				t.Fatalf("no %q before %v:\n%s", what, err, all.String())
			}
		}
	}
	for _, step := range [][2]string{{"real user: ", "rw"}, {"as the user): ", ""}, {"(not shown): ", canary}} {
		until(step[0])
		io.WriteString(f, step[1]+"\n")
	}
	until("next:")
	io.Copy(&all, f) //nolint:errcheck // EIO is how a terminal ends
	if err := cmd.Wait(); err != nil || strings.Contains(all.String(), canary) || !strings.Contains(all.String(), "at db.internal:5432") {
		t.Errorf("%v\n%s", err, all.String())
	}
	cfg, problems := config.Load(dir + "/postern.yaml")
	if cfg == nil || cfg.Targets[0].Credential.Database != "rw" {
		t.Errorf("%v %+v", problems, cfg)
	}
}
