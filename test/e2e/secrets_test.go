package e2e

import (
	"encoding/base64"
	"encoding/hex"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestCanary: the real password reaches PostgreSQL and appears in nothing else.
func TestCanary(t *testing.T) {
	w := theWorld
	// PostgreSQL asked for it by SCRAM, MD5 and in clear text, and let us in.
	for _, target := range []string{"orders", "md5", "clear"} {
		if out, err := w.psql("planner", target, "SELECT 1"); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	cmd := w.agent("planner", "orders", filepath.Join(w.dir, "client"))
	cmd.Env = append(cmd.Env, clientEnv+"=sleeper")
	session := startAgent(t, cmd)
	session.expect("connected")
	for _, pid := range w.pids(t, "planner") {
		env, err := os.ReadFile(filepath.Join("/proc", pid, "environ"))
		if err != nil {
			t.Fatal(err)
		}
		mustContain(t, string(env), placeholder)
		mustNotContain(t, string(env), realPassword)
	}
	session.stop()

	searched := 0
	for _, root := range []string{w.postern.State, w.postern.DaemonLog, filepath.Join(w.postern.Dir, "guard.log"), filepath.Join(w.postern.Dir, "run")} {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			searched++
			for form, text := range secretForms(realPassword) {
				if strings.Contains(string(b), text) {
					t.Errorf("%s holds the real password (%s)", path, form)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if searched < 10 {
		t.Errorf("only %d files were searched", searched)
	}
	mustNotContain(t, w.metrics(t), realPassword, placeholder)
	for _, args := range [][]string{{"status", "--json"}, {"sessions", "--json"}, {"approvals", "--all", "--json"}, {"doctor", "--json"}} {
		out, _ := w.postern.CLI(args...).CombinedOutput() // doctor fails where there is something to find
		mustNotContain(t, string(out), realPassword, placeholder)
	}
}

func secretForms(s string) map[string]string {
	return map[string]string{
		"plain": s, "base64": strings.TrimRight(base64.StdEncoding.EncodeToString([]byte(s)), "="),
		"hex": hex.EncodeToString([]byte(s)), "url": url.QueryEscape(s),
	}
}

// TestSecretNeverComesBack: an upstream that echoes the real password does not
// show it to the agent, in any of the listed forms.
func TestSecretNeverComesBack(t *testing.T) {
	w := theWorld
	defer w.query(t, "TRUNCATE echoes")
	for form, text := range secretForms(realPassword) {
		if err := w.pg.SQL("shop", "INSERT INTO echoes VALUES ('"+form+"', 'before "+text+" after', '"+text+"')"); err != nil {
			t.Fatal(err)
		}
	}
	out, err := w.psql("planner", "orders", "SELECT form, value FROM echoes", "SELECT json_agg(value) FROM echoes",
		"SELECT raw FROM echoes", "SELECT array_agg(value) FROM echoes", "COPY echoes (value) TO STDOUT")
	if err != nil {
		t.Fatal(err, out)
	}
	mustContain(t, out, placeholder, "before", "after")
	for form, text := range secretForms(realPassword) {
		if strings.Contains(out, text) {
			t.Errorf("the agent got the real password (%s):\n%s", form, out)
		}
	}
}

// TestRotation: a changed secret reaches the next session, and the agent is not
// touched.
func TestRotation(t *testing.T) {
	w := theWorld
	const next = "canary-rotated-b91-entirely-different"
	change := func(password string) {
		t.Helper()
		if err := w.pg.SQL("postgres", "ALTER ROLE orders_rw PASSWORD '"+password+"'"); err != nil {
			t.Fatal(err)
		}
		if err := w.postern.Seal("secrets.age", "password: "+password+"\n"); err != nil {
			t.Fatal(err)
		}
		if out, err := w.postern.CLI("secret", "refresh").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	change(next)
	defer change(realPassword)
	out, err := w.psql("planner", "orders", "SELECT name FROM customers WHERE id = 1")
	if err != nil || strings.TrimSpace(out) != "Ada" {
		t.Errorf("after the rotation: %v: %s", err, out)
	}
}

// TestSourceOutage: a secret that cannot be fetched anew keeps its last value.
func TestSourceOutage(t *testing.T) {
	w := theWorld
	file := filepath.Join(w.postern.Dir, "secrets.age")
	if err := os.Rename(file, file+".away"); err != nil {
		t.Fatal(err)
	}
	out, err := w.postern.CLI("secret", "refresh").CombinedOutput()
	if err == nil {
		t.Errorf("the refresh says nothing of the missing file: %s", out)
	}
	if out, err := w.psql("planner", "orders", "SELECT 1"); err != nil {
		t.Errorf("the last known value is not used: %v: %s", err, out)
	}
	if err := os.Rename(file+".away", file); err != nil {
		t.Fatal(err)
	}
}
