package bypass

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

// TestDoctor: of an installation that holds it says so, program by program, and
// of one whose glass is broken it does not.
func TestDoctor(t *testing.T) {
	needRoot(t)
	var d struct {
		OK     bool
		Checks []struct {
			ID, State, Detail, Costs, Help string
			Required                       bool
		}
		Links []struct {
			Hook     string
			LinkID   uint32 `json:"link_id"`
			CgroupID uint64 `json:"cgroup_id"`
			Optional bool
		}
		Agents []struct {
			Agent, Least, Open, Raise string
			Possible                  []string
		}
	}
	out, err := theWorld.postern.CLI("doctor", "--json").Output()
	if err == nil {
		err = json.Unmarshal(out, &d)
	}
	if err != nil || !d.OK {
		t.Fatalf("%v: %s", err, out)
	}
	ids := map[string]bool{}
	for _, c := range d.Checks {
		if ids[c.ID] || c.ID == "" {
			t.Errorf("id %q is not its own", c.ID)
		}
		ids[c.ID] = true
		if c.State != "ok" && (c.Costs == "" || c.Help == "") {
			t.Errorf("%s is %s: what does it cost, and how is it had? %+v", c.ID, c.State, c)
		}
	}
	for _, id := range []string{
		"kernel.hook_connect4", "kernel.errno_of_a_refused_connect", "kernel.hooks_for_unix_sockets", "kernel.sockets_belong_to_cgroup_v2",
		"host.cgroups", "host.cgroup_kill", "host.bpffs", "host.lockdown", "host.btf", "host.bubblewrap", "host.userns", "attached", "guard", "daemon",
	} {
		if !ids[id] {
			t.Errorf("%s was not looked at", id)
		}
	}
	for i, l := range d.Links {
		if l.LinkID == 0 || l.CgroupID != d.Links[0].CgroupID {
			t.Errorf("link %d: %+v", i, l)
		}
	}
	if len(d.Links) < 14 || len(d.Agents) != 3 || !slices.Contains(d.Agents[0].Possible, "strict") || d.Agents[0].Raise == "" {
		t.Errorf("%d links, agents %+v", len(d.Links), d.Agents)
	}
	if out, err := theWorld.postern.CLI("break-glass", "--for", "1m", "--reason", "the doctor has to see it").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	text, err := theWorld.postern.CLI("doctor").CombinedOutput()
	if err == nil || !strings.Contains(string(text), "the glass is whole: broken for") {
		t.Errorf("%v: %s", err, text)
	}
	if out, err := theWorld.postern.CLI("break-glass", "--end").CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}
