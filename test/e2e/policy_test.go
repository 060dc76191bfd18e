package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestPolicyLearns: an agent whose policy allows next to nothing is observed;
// of the recording a policy is learnt that passes `postern check`, under which
// nothing recorded would change but what is listed as left out, and which then
// holds the agent really.
func TestPolicyLearns(t *testing.T) {
	w := theWorld
	apply := w.observed(t)
	began := time.Now()
	out, err := w.psql("learner", "orders",
		"SELECT id, name, email FROM customers ORDER BY id", "SELECT count(*) FROM orders WHERE state = 'new'",
		"INSERT INTO scratch VALUES (901, 'learnt')", "UPDATE scratch SET note = 'again' WHERE id = 901", "DELETE FROM scratch WHERE id = 901",
		"SELECT name FROM customers WHERE email LIKE 'a%'", "DO 'BEGIN END'", "BEGIN", "PREPARE p AS SELECT id FROM orders", "EXECUTE p", "COMMIT",
		"COPY orders (id) TO PROGRAM 'true'")
	if err == nil {
		t.Errorf("PostgreSQL let a user who is not superuser run a program:\n%s", out)
	}
	mustContain(t, out, "Ada", "p_")
	mustNotContain(t, out, "ada@example.org")
	catalog, code := w.status(t, "policy", "catalog", "--target", "orders")
	if code != 0 {
		t.Fatal(catalog)
	}
	mustContain(t, catalog, "public.customers", "email", "search_path")
	file, candidate := filepath.Join(t.TempDir(), "catalog.yaml"), filepath.Join(t.TempDir(), "candidate.yaml")
	if err := os.WriteFile(file, []byte(catalog), 0o600); err != nil {
		t.Fatal(err)
	}
	meant := []string{"--agent", "learner", "--since", (time.Since(began) + time.Second).String(), "--catalog", file}
	out, code = w.status(t, append([]string{"policy", "learn", "--write", candidate}, meant...)...)
	if code != 0 {
		t.Fatal(out)
	}
	mustContain(t, out, "left out: SELECT name FROM customers WHERE email", "left out: DO 'BEGIN END'", "left out: COPY orders (id) TO PROGRAM",
		"acts outside of the gateway", "when request.sql.by_key")
	if out, code := w.status(t, "check", candidate); code != 0 || strings.Contains(out, "learnt-") {
		t.Errorf("the learnt policy has problems:\n%s", out)
	}

	w.changesNothingElse(t, candidate, meant)
	learnt, err := os.ReadFile(candidate)
	if err != nil {
		t.Fatal(err)
	}
	apply(withoutOwn(strings.Replace(string(learnt), "mode: observe", "mode: enforce", 1)))
	out, _ = w.psql("learner", "orders", "SELECT name FROM customers WHERE id = 1", "INSERT INTO scratch VALUES (902, 'x')", "DELETE FROM scratch WHERE id = 902",
		"DELETE FROM scratch", "SELECT * FROM staff", "COPY orders (id) TO PROGRAM 'true'")
	mustContain(t, out, "Ada", "INSERT 0 1", "DELETE 1", "allows delete on public.scratch", "allows select on public.staff", "allows copy-program on public.orders")
}

// observed gives the installation an agent "learner" that is only observed.
func (w *world) observed(t *testing.T) (apply func(string)) {
	t.Helper()
	agents := fmt.Sprintf("agents:\n  - {name: learner, cgroup: %s/learner, policy: nothing, mode: observe, until: %s}\n",
		w.postern.Root, time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
	return w.extended(t, agents, `policies:
  - name: nothing
    rules:
      - {name: session, target: orders, verbs: [session], allow: true}
    masks:
      - {target: "*", columns: [customers.email, "*.ssn"], with: pseudonym}
`)
}

// extended adds agents and policies until the test ends, and returns how to
// change the configuration meanwhile.
func (w *world) extended(t *testing.T, agents, policies string) (apply func(string)) {
	t.Helper()
	whole := w.configuration()
	apply = func(text string) { w.apply(t, text) }
	t.Cleanup(func() { apply(whole) })
	apply(strings.Replace(strings.Replace(whole, "agents:\n", agents, 1), "policies:\n", policies, 1))
	return apply
}

// status runs a command of postern, and returns all it said and its exit status.
func (w *world) status(t *testing.T, args ...string) (string, int) {
	t.Helper()
	cmd := w.postern.CLI(args...)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// changesNothingElse replays what was recorded of TestPolicyLearns.
func (w *world) changesNothingElse(t *testing.T, candidate string, meant []string) {
	t.Helper()
	out, code := w.status(t, append([]string{"policy", "test", candidate, "--json"}, meant...)...)
	var o struct {
		Statements, Same, Changed int
		Changes                   []struct{ Was, Would, Text string }
	}
	if err := json.Unmarshal([]byte(out), &o); err != nil {
		t.Fatal(err, out)
	}
	var changed []string
	for _, c := range o.Changes {
		changed = append(changed, c.Was+" "+c.Would+" "+c.Text)
	}
	want := []string{
		"allow deny SELECT name FROM customers WHERE email LIKE 'a%'", "allow deny DO 'BEGIN END'", "allow deny COPY orders (id) TO PROGRAM 'true'",
	}
	if strings.Join(changed, "\n") != strings.Join(want, "\n") || code != 1 || o.Same != o.Statements-len(want) || o.Same < 6 {
		t.Errorf("exit status %d, changes:\n%s", code, out)
	}
}

// withoutOwn leaves out of a whole configuration what the installation writes
// itself, and the end of an observation that is over.
func withoutOwn(text string) string {
	var out []string
	skip := false
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, " ") && !strings.HasPrefix(line, "-") {
			key, _, _ := strings.Cut(line, ":")
			skip = slices.Contains([]string{"root", "state_dir", "control", "guard", "metrics", "sqlparse", "secrets"}, key)
		}
		if !skip && !strings.HasPrefix(strings.TrimSpace(line), "until: ") {
			out = append(out, line)
		}
	}
	return strings.Join(out, "")
}

// TestPolicyExplains: what a statement does and what is made of it, from an
// argument, a file and standard input, with what the database knows and without.
func TestPolicyExplains(t *testing.T) {
	w := theWorld
	run := func(stdin string, args ...string) string {
		t.Helper()
		cmd := w.postern.CLI(append([]string{"policy", "explain", "--agent", "planner", "--target", "orders"}, args...)...)
		cmd.Stdin = strings.NewReader(stdin)
		out, err := cmd.CombinedOutput()
		if err != nil {
			out = fmt.Appendf(out, "%v", err)
		}
		return string(out)
	}
	catalog := filepath.Join(t.TempDir(), "catalog.yaml")
	text := "search_path: [pg_catalog, public]\nrelations:\n  public.orders: {columns: [id, customer, state], keys: [[id]]}\n  public.customers: {columns: [id, name, email, ssn], keys: [[id]]}\n"
	if err := os.WriteFile(catalog, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	out := run("", "DELETE FROM orders WHERE id = 7", "--catalog", catalog)
	mustContain(t, out, "allow by rule narrow-writes", "public.orders", "request.sql.by_key", "true")
	mustNotContain(t, out, "\x1b[")
	out = run("DELETE FROM orders WHERE id = 7", "--file", "-")
	mustContain(t, out, "deny", "not known is: request.sql.by_key", "every column counts as masked")
	out = run("", "SELECT name FROM customers WHERE email LIKE 'a%'", "--catalog", catalog)
	mustContain(t, out, "deny", "filter", "public.customers.email", "masked   public.customers.email, public.customers.ssn")
	out = run("", "COPY orders TO PROGRAM 'x'", "--catalog", catalog)
	mustContain(t, out, "copy-program", "acts outside of the gateway")
	mustContain(t, run("", "SELEC 1"), "deny", "not understood", "syntax error")
	for _, bad := range []struct {
		args []string
		says string
	}{
		{nil, "give the SQL as one argument"},
		{[]string{"SELECT 1", "--file", "-"}, "give the SQL as one argument"},
		{[]string{"--file", "-"}, "there is no SQL in it"},
		{[]string{"SELECT 1", "--agent", "nobody"}, `has no agent "nobody"`},
		{[]string{"SELECT 1", "--target", "nowhere"}, `has no target "nowhere"`},
		{[]string{"SELECT 1", "--catalog", "/nowhere.yaml"}, "/nowhere.yaml"},
	} {
		if out := run("", bad.args...); !strings.Contains(out, bad.says) || !strings.Contains(out, "exit status 1") {
			t.Errorf("%q: %s", bad.args, out)
		}
	}
	var a struct{ Action, Rule string }
	if err := json.Unmarshal([]byte(run("", "SELECT 1", "--json")), &a); err != nil || a.Action != "allow" || a.Rule != "session" {
		t.Errorf("%+v %v", a, err)
	}
}

// TestPolicyExamples runs the examples of docs/policy.md, with the configuration
// of the README.
func TestPolicyExamples(t *testing.T) {
	w := theWorld
	between := func(file, from, to string) string {
		t.Helper()
		text, err := os.ReadFile(filepath.Join("../..", file))
		if err != nil {
			t.Fatal(err)
		}
		_, rest, ok := strings.Cut(string(text), from)
		found, _, end := strings.Cut(rest, to)
		if !ok || !end {
			t.Fatalf("%s has no %q", file, from)
		}
		return found
	}
	examples := between("docs/policy.md", "<!-- examples of postern policy -->", "<!-- end of the examples -->")
	script := strings.TrimSpace(strings.SplitN(strings.SplitN(examples, "```sh\n", 2)[1], "```", 2)[0])
	expectations := strings.SplitN(strings.SplitN(examples, "```yaml\n", 2)[1], "```", 2)[0]
	cfg := strings.Replace(between("README.md", "```yaml\n", "```"), "/etc/ssl/corp-ca.pem", w.corpCA, 1)
	cfg = fmt.Sprintf("control: {socket: %s/run/control.sock}\nsqlparse: {path: %s/postern-sqlparse}\n", w.postern.Dir, w.postern.Build) + cfg
	dir := t.TempDir()
	for name, text := range map[string]string{"policy.yaml": cfg, "expectations.yaml": expectations} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := w.psql("planner", "orders", "SELECT 1"); err != nil { // the catalog is read
		t.Fatal(out)
	}
	lines := strings.Split(script, "\n")
	wants := []string{"", "allow by rule narrow-writes", `"object": "public.customers.email"`, "3 statements, nothing would change"}
	if len(lines) != len(wants) {
		t.Fatalf("there are %d examples: %q", len(lines), lines)
	}
	for i, line := range lines {
		cmd := exec.Command("bash", "-c", line)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "PATH="+w.postern.Build+":/usr/bin:/bin")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v", line, err)
		}
		mustContain(t, string(out), wants[i])
	}
}
