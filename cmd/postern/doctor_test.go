package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postern/postern/internal/config"
	"github.com/postern/postern/internal/guard"
	"github.com/postern/postern/internal/redirect"
	"github.com/postern/postern/pkg/control"
)

// TestOnlyWhatIsRequiredFails: a host that lacks something optional is fine, and
// is told what it costs.
func TestOnlyWhatIsRequiredFails(t *testing.T) {
	gone := errors.New("gone")
	d := &diagnosis{OK: true}
	d.require("a", "a", nil, "there", "help")
	d.option("b", "b", gone, "there", "costs", "help")
	if !d.OK || d.Checks[1].State != stateMissing || d.Checks[1].Costs != "costs" || d.Checks[1].Help != "help" || d.Checks[0].Help != "" {
		t.Errorf("%+v", d)
	}
	d.require("c", "c", gone, "there", "help")
	if d.OK || d.Checks[2].State != stateWrong || d.Checks[2].Detail != "gone" {
		t.Errorf("%+v", d)
	}
}

func TestFindingsOfFeatures(t *testing.T) {
	for answer, want := range map[redirect.Answer]string{redirect.Yes: stateOK, redirect.No: stateMissing, redirect.Unknown: stateUnknown} {
		f := findingOf(redirect.Feature{Name: "hook connect4", Answer: answer, Help: "help"}, true, "costs")
		if f.ID != "kernel.hook_connect4" || f.State != want || (f.Costs == "") != (want == stateOK) {
			t.Errorf("%s: %+v", answer, f)
		}
	}
}

// TestAttachedTellsAll: every problem, every link by its number, and glass that
// is broken.
func TestAttachedTellsAll(t *testing.T) {
	d := &diagnosis{OK: true}
	d.attached(guard.Status{Status: redirect.Status{
		Links:    []redirect.LinkState{{Hook: "connect4", LinkID: 12, CgroupID: 7}},
		Optional: []redirect.LinkState{{Hook: "connect_unix", LinkID: 13, CgroupID: 7}},
		Problems: []redirect.Problem{{Hook: "egress", Detail: "not attached"}, {Hook: "bind4", Detail: "attached to cgroup 3"}},
	}, Glass: map[string]time.Time{"planner": time.Now()}})
	if d.OK || len(d.Links) != 2 || d.Links[0].LinkID != 12 || !d.Links[1].Optional {
		t.Errorf("%+v", d)
	}
	var text []string
	for _, f := range d.Checks {
		text = append(text, f.Detail)
	}
	for _, want := range []string{"egress: not attached", "bind4: attached to cgroup 3", "broken for planner"} {
		if !strings.Contains(strings.Join(text, "\n"), want) {
			t.Errorf("%q is missing in %q", want, text)
		}
	}
}

func TestAgentsTiers(t *testing.T) {
	d := &diagnosis{OK: true}
	for _, a := range []config.Agent{{Name: "a", Tier: "redirected"}, {Name: "b", Tier: "redirected", User: "b"}, {Name: "c", Tier: "strict", User: "c"}} {
		d.agent(&a)
	}
	boxes := bubblewrap() == nil
	for i, want := range []struct {
		possible []string
		raised   bool
	}{{[]string{"redirected", "workspace", "strict"}, true}, {[]string{"redirected", "workspace", "strict"}, true}, {[]string{"strict"}, false}} {
		got := d.Agents[i]
		if boxes && !slices.Equal(got.Possible, want.possible) || (got.Raise != "") != want.raised || got.Open == "" {
			t.Errorf("%+v", got)
		}
	}
	if d.OK != boxes {
		t.Errorf("bubblewrap is there: %t, and an agent that needs it is fine: %t", boxes, d.OK)
	}
}

func TestHostProbes(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for text, want := range map[string]string{
		"[none] integrity confidentiality\n": "none", "none [integrity] confidentiality\n": "integrity", "none integrity [confidentiality]\n": "",
	} {
		if mode, err := lockdown(write("lockdown", text)); mode != want || (err != nil) != (want == "") {
			t.Errorf("%q: %q, %v", text, mode, err)
		}
	}
	if mode, err := lockdown(filepath.Join(dir, "nothing")); err != nil || mode == "" {
		t.Errorf("no lockdown: %q, %v", mode, err)
	}
	write("sys/user/max_user_namespaces", "1000\n")
	if err := userNamespaces(filepath.Join(dir, "sys")); err == nil {
		t.Error("user namespaces are called off")
	}
	for name, off := range map[string]string{"user/max_user_namespaces": "0\n", "kernel/unprivileged_userns_clone": "0\n", "kernel/apparmor_restrict_unprivileged_userns": "1\n"} {
		write("off/"+name, off)
		if err := userNamespaces(filepath.Join(dir, "off")); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		os.RemoveAll(filepath.Join(dir, "off"))
	}
	if err := bpffs(dir); err == nil {
		t.Error("a folder is called bpffs")
	}
	write("cgroups/a/cgroup.procs", "")
	if err := cgroupKill(filepath.Join(dir, "cgroups")); err == nil {
		t.Error("cgroup.kill is not there and found")
	}
	write("cgroups/a/cgroup.kill", "")
	if err := cgroupKill(filepath.Join(dir, "cgroups")); err != nil {
		t.Error(err)
	}
}

// TestDiagnosisIsStable: other programs read these fields; docs/doctor.md lists
// them.
func TestDiagnosisIsStable(t *testing.T) {
	d := diagnosis{
		OK: true, Checks: []finding{{ID: "a", Name: "b", State: stateMissing, Detail: "c", Costs: "d", Help: "e"}},
		Links:  []attachment{{redirect.LinkState{Hook: "h", LinkID: 1, ProgramID: 2, Tag: "t", CgroupID: 3}, true}},
		Agents: []agentInTier{{Agent: "a", Least: "b", Possible: []string{"c"}, Open: "d", Raise: "e", Observed: true}},
	}
	const want = `{"ok":true,"checks":[{"id":"a","name":"b","state":"missing","required":false,"detail":"c","costs":"d","help":"e"}],` +
		`"links":[{"hook":"h","link_id":1,"program_id":2,"tag":"t","cgroup_id":3,"optional":true}],` +
		`"agents":[{"agent":"a","least":"b","possible":["c"],"open":"d","raise":"e","observed":true}]}`
	got, err := json.Marshal(d)
	if err != nil || string(got) != want {
		t.Errorf("got  %s, %v\nwant %s", got, err, want)
	}
	page, err := os.ReadFile("../../docs/doctor.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, field := range []string{
		"ok", "checks", "id", "name", "state", "required", "detail", "costs", "help", "links", "hook", "link_id", "program_id", "tag", "cgroup_id",
		"optional", "agents", "agent", "least", "possible", "open", "raise", "observed", "stopped", "absent", "failed", "tier", "verdicts",
		"attempt", "tries", "family", "result", "by", "frames", "errno", "broken", "unexplained",
	} {
		if !strings.Contains(string(page), "`"+field+"`") {
			t.Errorf("docs/doctor.md does not have the field %s", field)
		}
	}
}

// TestSecretsInMemory: memory that is protected less is told, with what it costs,
// and is no failure.
func TestSecretsInMemory(t *testing.T) {
	d := &diagnosis{OK: true}
	d.secrets(control.Check{OK: true, Detail: "memfd_secret"})
	d.secrets(control.Check{Detail: "mlock: no memfd_secret", Help: "a newer kernel"})
	if !d.OK || d.Checks[0].State != stateOK || d.Checks[0].Detail != "memfd_secret" {
		t.Errorf("%+v", d)
	}
	if c := d.Checks[1]; c.State != stateMissing || c.Required || c.Costs == "" || c.Help != "a newer kernel" || !strings.Contains(c.Detail, "no memfd_secret") {
		t.Errorf("%+v", c)
	}
}
