package bypass

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"

	attempts "github.com/postern/postern/internal/bypass"
	"github.com/postern/postern/internal/bypass/outside"
)

// verified is what `postern verify --json` prints.
type verified struct {
	Stopped, Open, Absent, Failed int
	Agents                        []struct {
		Agent, Tier string
		Verdicts    []attempts.Verdict
	}
}

// verify runs the command where nobody has the addresses that it needs, as on
// any host, and makes sure that it leaves nothing behind.
func verify(t *testing.T, args ...string) (v verified, said string, code int) {
	t.Helper()
	if err := theWorld.disconnect(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if _, err := netlink.LinkByName(outside.Device); err == nil {
			t.Error("the cable is left")
		}
		if err := theWorld.reconnect(); err != nil {
			t.Fatal(err)
		}
	}()
	cmd := theWorld.postern.CLI(append([]string{"verify"}, args...)...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var failed *exec.ExitError
	if err != nil && !errors.As(err, &failed) {
		t.Fatal(err)
	}
	if cmd.ProcessState != nil {
		code = cmd.ProcessState.ExitCode()
	}
	for _, a := range args {
		if a == "--json" {
			if err := json.Unmarshal(out.Bytes(), &v); err != nil {
				t.Fatalf("%v: %s%s", err, out.Bytes(), errs.Bytes())
			}
		}
	}
	return v, out.String() + errs.String(), code
}

// TestVerify: an operator proves it on the installed host.
func TestVerify(t *testing.T) {
	needRoot(t)
	v, said, code := verify(t, "--json")
	all, allSaid, allCode := verify(t, "--json", "--agent", "planner", "--tier", "all")
	if code+allCode != 0 || v.Failed+all.Failed != 0 || v.Stopped == 0 || len(v.Agents) != 3 || len(all.Agents) != 3 {
		t.Errorf("codes %d, %d; %d, %d failed; %d stopped; %d agents, %d tiers: %s%s",
			code, allCode, v.Failed, all.Failed, v.Stopped, len(v.Agents), len(all.Agents), said, allSaid)
	}
	list := attempts.All()
	for _, a := range append(v.Agents, all.Agents...) {
		for _, verdict := range a.Verdicts {
			// On a host whose own addresses are in use not all can be tried.
			if verdict.Result == attempts.Absent && verdict.Attempt == "metadata" {
				continue
			}
			t.Run(fmt.Sprintf("%s/%s/%s/%s", a.Agent, a.Tier, verdict.Attempt, verdict.Family), func(t *testing.T) { check(t, list, verdict) })
		}
	}
}

func TestVerifyTable(t *testing.T) {
	needRoot(t)
	_, said, code := verify(t, "--agent", "planner", "--attempt", "udp-sendto,vsock,tcp-connect")
	t.Log("\n" + said)
	if code != 0 {
		t.Errorf("code %d", code)
	}
	for _, want := range []string{"udp-sendto", "v4 v6", "pass", "redirected", "agent planner, tier redirected: 4 stopped", "0 FAILED"} {
		if !strings.Contains(said, want) {
			t.Errorf("%q is missing in:\n%s", want, said)
		}
	}
}

// TestVerifyFindsHoles: with the glass broken, agents go past the gateway. A
// judge that says otherwise would be none.
func TestVerifyFindsHoles(t *testing.T) {
	needRoot(t)
	glass := theWorld.postern.CLI("break-glass", "--for", "1m", "--reason", "the judge has to see it", "--agent", "planner")
	if out, err := glass.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	defer func() {
		if out, err := theWorld.postern.CLI("break-glass", "--end", "--agent", "planner").CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	}()
	v, said, code := verify(t, "--json", "--agent", "planner", "--attempt", "tcp-connect,udp-sendto")
	if code != 1 || v.Failed != 4 {
		t.Fatalf("code %d, %d failed: %s", code, v.Failed, said)
	}
	for _, verdict := range v.Agents[0].Verdicts {
		if len(verdict.Frames) == 0 || !verdict.Report.Open {
			t.Errorf("%s by %s: open %t, frames %q", verdict.Attempt, verdict.Family, verdict.Report.Open, verdict.Frames)
		}
	}
}

// TestVerifyRefuses: who may not, and where it cannot.
func TestVerifyRefuses(t *testing.T) {
	needRoot(t)
	for name, c := range map[string]struct {
		args []string
		uid  uint32
		want string
	}{
		"not root":      {nil, 65534, "takes root"},
		"no agent":      {[]string{"--agent", "nobody-knows"}, 0, "there is no agent"},
		"no attempt":    {[]string{"--attempt", "nobody-knows"}, 0, "there is no attempt"},
		"no tier":       {[]string{"--tier", "open"}, 0, "is no tier"},
		"not visible":   {[]string{"--tier", "strict", "--agent", "reader"}, 0, "add it to agents.mounts"},
		"runs as root":  {[]string{"--user", "root"}, 0, "no agent runs as root"},
		"address taken": {nil, 0, "is an address of this host"},
	} {
		t.Run(name, func(t *testing.T) {
			if name != "address taken" {
				if err := theWorld.disconnect(); err != nil {
					t.Fatal(err)
				}
				defer theWorld.reconnect()
			}
			cmd := theWorld.postern.CLI(append([]string{"verify"}, c.args...)...)
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: c.uid, Gid: c.uid}}
			out, err := cmd.CombinedOutput()
			if err == nil || !strings.Contains(string(out), c.want) {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
}

// TestVerifyInterrupted: Ctrl-C leaves nothing behind.
func TestVerifyInterrupted(t *testing.T) {
	needRoot(t)
	if err := theWorld.disconnect(); err != nil {
		t.Fatal(err)
	}
	defer theWorld.reconnect()
	cmd := theWorld.postern.CLI("verify")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	theWorld.awaitRuns(t, 1)
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); cmd.ProcessState.Success() {
		t.Errorf("it ends with success: %v", err)
	}
	if _, err := netlink.LinkByName(outside.Device); err == nil {
		t.Error("the cable is left")
	}
	theWorld.awaitRuns(t, 0)
}
