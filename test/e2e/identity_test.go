package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/postern/postern/internal/identity"
	"github.com/postern/postern/pkg/recording"
	"github.com/postern/postern/test/servers"
)

// identityConfig has one agent that acts for somebody: whoever is a dba may
// update, everybody else may read.
const identityConfig = `identity:
  issuers:
    - {name: corp, url: %q, client_id: postern}
  roles:
    - {name: dba, issuer: corp, groups: [dba]}
agents:
  - {name: clerk, cgroup: %[2]s/clerk, policy: reads, policies: [{role: dba, policy: writes}], identity: {required: true, issuers: [corp, static]}}
  - {name: service, cgroup: %[2]s/service, policy: reads, policies: [{role: dba, policy: writes}], identity: {required: true, static: {subject: nightly, owner: ada, groups: [batch]}}}
`

const identityPolicies = `policies:
  - name: reads
    rules:
      - {name: session, target: orders, verbs: [session], allow: true}
      - {name: read, target: orders, verbs: [select], allow: true}
  - name: writes
    rules:
      - {name: session, target: orders, verbs: [session], allow: true}
      - {name: read, target: orders, verbs: [select], allow: true}
      - {name: write, target: orders, verbs: [update], when: '"dba" in identity.groups', allow: true}
      - {name: remove, target: orders, verbs: [delete], ask: {approvers: [dba], within: 1m}}
`

// provider is npm's, with the agents clerk and service configured by it.
func provider(t *testing.T) *servers.OIDC {
	t.Helper()
	w := theWorld
	op, err := servers.StartOIDC(servers.OIDCOptions{Node: "../oidc/node", Dir: filepath.Join(w.dir, "oidc")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(op.Stop)
	w.extended(t, fmt.Sprintf(identityConfig, op.Issuer, w.postern.Root), identityPolicies)
	return op
}

var codeIn = regexp.MustCompile(`Open (\S+)`)

// logIn logs root in as a user, by device flow, as a person does.
func (w *world) logIn(t *testing.T, user string) string { return w.logInAs(t, user, 0) }

// logInAs is the same for another user of the host.
func (w *world) logInAs(t *testing.T, user string, uid uint32) string {
	t.Helper()
	cmd := w.postern.CLI("login", "corp")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	told, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill() //nolint:errcheck // it has ended
	text := ""
	b := make([]byte, 4096)
	for codeIn.FindString(text) == "" || !strings.Contains(text, "\n") {
		n, err := told.Read(b)
		if text += string(b[:n]); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
	}
	if err := servers.Approve(codeIn.FindStringSubmatch(text)[1], user); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v: %s", err, out.String())
	}
	return out.String()
}

// as runs statements as the agent clerk, for somebody.
func (w *world) as(agent string, options []string, statements ...string) (string, error) {
	args := []string{"psql", "-X", "-A", "-t", "-v", "VERBOSITY=verbose"}
	for _, s := range statements {
		args = append(args, "-c", s)
	}
	cmd := w.postern.RunIn("redirected", agent, options, args...)
	cmd.Env = append(cmd.Env, w.env("orders")...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestIdentityByDeviceLogin: two people log in at a real provider; the same agent
// with the same DSN may update for the dba and not for the analyst, and each
// session on record says for whom it was.
func TestIdentityByDeviceLogin(t *testing.T) {
	w := theWorld
	provider(t)
	defer w.cli(t, "logout", "corp")
	out, err := w.as("clerk", nil, "SELECT 1")
	if err == nil {
		t.Error("an agent that acts for somebody ran for nobody")
	}
	mustContain(t, out, "postern login")

	for user, want := range map[string]string{"alice": "UPDATE 1", "bob": "no rule of policy reads allows update"} {
		mustContain(t, strings.ToLower(w.logIn(t, user)), "logged in as "+user)
		out, _ := w.as("clerk", []string{"--as", "login"}, "SELECT 'for ' || '"+user+"'", "UPDATE orders SET state = '"+user+"' WHERE id = 7")
		mustContain(t, out, "for "+user, want)
	}
	if got := w.query(t, "SELECT state FROM orders WHERE id = 7"); got != "alice" {
		t.Errorf("the row says %q", got)
	}
	w.query(t, "UPDATE orders SET state = 'new' WHERE id = 7")
	for user, groups := range map[string]string{"alice": "dba,sre", "bob": "analyst"} {
		for text, who := range w.behalf(t, "clerk") {
			if strings.Contains(text, "'"+user+"'") && (who == nil || who.Subject != user || who.Issuer != "corp" || strings.Join(who.Groups, ",") != groups) {
				t.Errorf("%s is on record as of %+v", text, who)
			}
		}
	}
	var sessions []struct {
		Agent    string
		Identity *struct{ Subject string }
	}
	if err := json.Unmarshal([]byte(w.cli(t, "sessions", "--agent", "clerk", "--json")), &sessions); err != nil || len(sessions) < 2 {
		t.Fatal(err, sessions)
	}
	for _, s := range sessions {
		if s.Identity == nil || s.Identity.Subject == "" {
			t.Errorf("a session of %s is for nobody", s.Agent)
		}
	}
}

// behalf are the requests of an agent on record, with for whom they were.
func (w *world) behalf(t *testing.T, agent string) map[string]*recording.Identity {
	t.Helper()
	out := map[string]*recording.Identity{}
	for s, err := range recording.Sessions(filepath.Join(w.postern.State, "recordings"), recording.Filter{Agent: agent}) {
		if err != nil {
			t.Fatal(err)
		}
		var who *recording.Identity
		for _, e := range w.events(t, s.Path) {
			switch b := e.Body.(type) {
			case *recording.Identity:
				who = b
			case *recording.Request:
				out[b.Text] = who
			}
		}
	}
	if len(out) == 0 {
		t.Errorf("nothing of %s is on record", agent)
	}
	return out
}

// TestRunSeesNoToken: neither the file that a run's token comes from, nor the
// environment of who launched it, nor any process of the same user outside.
func TestRunSeesNoToken(t *testing.T) {
	w := theWorld
	op := provider(t)
	token := filepath.Join(w.dir, "token-of-a-run")
	secret := idToken(t, op, "alice")
	if err := os.WriteFile(token, []byte(secret), 0o644); err != nil {
		t.Fatal(err)
	}
	// A process of the same user, outside, with a canary in its environment.
	other := exec.Command("sleep", "60")
	other.Env = []string{"TOKEN=" + secret}
	other.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { other.Process.Kill(); other.Wait() }() //nolint:errcheck // it is a sleep
	script := `cat /proc/[0-9]*/environ /proc/[0-9]*/root` + token + ` ` + token + ` 2>/dev/null; ls /proc | grep -c '^[0-9]'; cat /proc/1/comm; kill -9 1; echo alive; exit 7`
	for _, as := range []string{"token-file=" + token, "env=OIDC_TOKEN"} {
		cmd := w.postern.RunIn("redirected", "clerk", []string{"--as", as}, "sh", "-c", script)
		if as == "env=OIDC_TOKEN" {
			cmd.Env = append(cmd.Env, "OIDC_TOKEN="+secret)
			if err := os.Remove(token); err != nil {
				t.Fatal(err)
			}
		}
		out, err := cmd.CombinedOutput()
		mustNotContain(t, string(out), secret)
		mustContain(t, string(out), "alive")
		if cmd.ProcessState.ExitCode() != 7 {
			t.Errorf("%s: %v: %s", as, err, out)
		}
	}
	// Without an identity the same script sees it, which is how the test can fail.
	bare, _ := w.postern.RunIn("redirected", "planner", nil, "sh", "-c", script).CombinedOutput()
	mustContain(t, string(bare), secret)
}

// TestNarrowedRun: --allow takes away, and gives nothing.
func TestNarrowedRun(t *testing.T) {
	w := theWorld
	out, _ := w.as("planner", []string{"--allow", "orders:select"}, "BEGIN", "SELECT name FROM customers WHERE id = 1", "INSERT INTO scratch VALUES (77, 'x')")
	mustContain(t, out, "Ada", "this run was launched without it (insert on public.scratch)", "postern run --allow")
	out, err := w.as("planner", []string{"--allow", "md5"}, "SELECT 1")
	if err == nil {
		t.Error("a target that the run was launched without was opened")
	}
	mustContain(t, out, "this run was launched without target orders")
	out, err = w.as("planner", []string{"--allow", "nowhere"}, "SELECT 1")
	if err == nil {
		t.Error("a target that there is none of was taken")
	}
	mustContain(t, out, `there is no target "nowhere"`)
	out, _ = w.as("reader", []string{"--allow", "orders:select,delete"}, "DELETE FROM orders")
	mustContain(t, out, "no rule of policy reader allows delete")
}

// TestRunOfAToken: a token from a file, or from the environment, says for whom;
// one that is forged, of another audience or expired says what is wrong, and
// nothing of it is told.
func TestRunOfAToken(t *testing.T) {
	w := theWorld
	provider(t)
	for name, token := range map[string]string{
		"nonsense":   "canary-not-a-token",
		"none":       "eyJhbGciOiJub25lIn0.eyJpc3MiOiJjYW5hcnkifQ.",
		"other's":    "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJodHRwczovL2V4YW1wbGUuY29tIiwic3ViIjoiY2FuYXJ5In0.c2ln",
		"not a JSON": "YQ.YQ.YQ",
	} {
		file := filepath.Join(w.dir, "token")
		if err := os.WriteFile(file, []byte(token+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := w.as("clerk", []string{"--as", "token-file=" + file}, "SELECT 1")
		if err == nil {
			t.Errorf("%s: it counts: %s", name, out)
		}
		mustContain(t, out, "refused")
		mustNotContain(t, out+w.daemonLog(), token)
	}
	for as, want := range map[string]string{
		"token-file=/nonexistent/token": "no such file", "env=NOT_SET": "NOT_SET is not set", "token-file": "takes a value", "kerberos": "none of login, device",
	} {
		out, err := w.as("clerk", []string{"--as", as}, "SELECT 1")
		if err == nil {
			t.Errorf("%s: %s", as, out)
		}
		mustContain(t, out, want)
	}
}

// TestServiceHasAStaticIdentity: what runs without a run's identity in an agent's
// cgroup is whom the configuration says.
func TestServiceHasAStaticIdentity(t *testing.T) {
	w := theWorld
	provider(t)
	mount, err := identity.CgroupMount()
	if err != nil {
		t.Fatal(err)
	}
	cgroup := filepath.Join(mount, w.postern.Root, "service")
	cmd := exec.Command("sh", "-c", "echo $$ > "+cgroup+"/cgroup.procs && exec setpriv --reuid 65534 --regid 65534 --clear-groups psql -X -A -t -c \"SELECT 'nightly'\" -c 'UPDATE orders SET state = state'")
	cmd.Env = append([]string{"PATH=/usr/local/bin:/usr/bin:/bin"}, w.env("orders")...)
	cmd.Env = append(cmd.Env, "PGSSLMODE=require", "PGSSLROOTCERT=")
	out, _ := cmd.CombinedOutput()
	mustContain(t, string(out), "nightly", "no rule of policy reads allows update")
	for text, who := range w.behalf(t, "service") {
		if who == nil || who.Issuer != "static" || who.Subject != "nightly" || who.Owner != "ada" {
			t.Errorf("%s is on record as of %+v", text, who)
		}
	}
}

// by runs the command line as another user of the host.
func (w *world) by(uid uint32, args ...string) (string, error) {
	cmd := w.postern.CLI(args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestApproversLogIn: a user of the host who is no root decides what asks the
// roles of who they have logged in as; nobody decides about their own run, and
// who is asked by nothing sees nothing.
func TestApproversLogIn(t *testing.T) {
	w := theWorld
	provider(t)
	defer w.cli(t, "logout", "corp")
	const approver = uint32(personUID)
	if out, err := w.by(approver, "approvals"); err == nil {
		t.Errorf("somebody who has not logged in sees approvals: %s", out)
	} else {
		mustContain(t, out, "postern login")
	}
	defer w.by(approver, "logout", "corp") //nolint:errcheck // it may be logged out
	planner := w.psqlSession(t, "planner", "orders")
	ask := func(s *session, statement string) string {
		t.Helper()
		s.send(statement)
		return s.asked()
	}
	// bob is no dba: he sees nothing, and decides nothing.
	w.logInAs(t, "bob", approver)
	id := ask(planner, wideDelete)
	if out, err := w.by(approver, "approvals", "--json"); err != nil || strings.Contains(out, id) {
		t.Errorf("bob sees %s, %v", out, err)
	}
	if out, err := w.by(approver, "approve", id, "--reason", "why not"); err == nil {
		t.Errorf("bob approved: %s", out)
	}
	// alice is one.
	w.logInAs(t, "alice", approver)
	if out, err := w.by(approver, "approvals", "--json"); err != nil || !strings.Contains(out, id) {
		t.Errorf("alice sees %s, %v", out, err)
	}
	if out, err := w.by(approver, "deny", id, "--reason", "not today"); err != nil {
		t.Errorf("alice cannot decide: %s", out)
	}
	mustContain(t, planner.answer(), "denied by Alice (corp): not today")
	// Of a run for herself she is not an approver, whatever uid she has.
	w.logIn(t, "alice")
	cmd := w.postern.RunIn("redirected", "clerk", []string{"--as", "login"}, "psql", "-X", "-A", "-t")
	cmd.Env = append(cmd.Env, w.env("orders")...)
	hers := startAgent(t, cmd)
	defer hers.stop()
	id = ask(hers, "DELETE FROM orders WHERE id = 999;")
	out, err := w.by(approver, "approve", id, "--reason", "mine")
	if err == nil {
		t.Errorf("alice approved her own: %s", out)
	}
	mustContain(t, out, "it is your own request")
	w.cli(t, "approve", id, "--reason", "somebody else")
	mustContain(t, hers.answer(), "DELETE 0")
}

// TestLauncherDoesNotApprove: whoever launched a run approves nothing of it, though
// it is for nobody, its agent has a user of its own, and they are logged in as an
// approver.
func TestLauncherDoesNotApprove(t *testing.T) {
	w := theWorld
	provider(t)
	p := newPerson(t)
	w.logInAs(t, "alice", personUID)
	defer w.by(personUID, "logout", "corp") //nolint:errcheck // it may be logged out
	agent := startAgent(t, p.run([]string{"--tier", "strict"}, "psql", "-X", "-A", "-t"))
	defer agent.stop()
	agent.send(wideDelete)
	id := agent.asked()
	out, err := w.by(personUID, "approve", id, "--reason", "mine")
	if err == nil {
		t.Errorf("the launcher approved it: %s", out)
	}
	mustContain(t, out, "it is your own request")
	if out, err := w.by(personUID, "deny", id, "--reason", "never mind"); err != nil {
		t.Errorf("the launcher cannot take it back: %s", out)
	}
	mustContain(t, agent.answer(), "denied by Alice (corp): never mind")
}
