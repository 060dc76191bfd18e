package redirect

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

func TestAttachIsIdempotent(t *testing.T) {
	needRoot(t)
	o := newOptions(t)
	if problems := Check(o); len(problems) == 0 {
		t.Error("nothing is attached, and Check finds nothing wrong")
	}
	for i, want := range []func(Report) int{
		func(r Report) int { return len(r.Attached) },
		func(r Report) int { return len(r.Kept) },
	} {
		report, err := Attach(o)
		if err != nil {
			t.Fatal(err)
		}
		if want(report) != len(hooks) {
			t.Errorf("attach %d: %+v", i+1, report)
		}
		if problems := Check(o); len(problems) != 0 {
			t.Errorf("after attach %d: %v", i+1, problems)
		}
	}
	status := StatusOf(o)
	if len(status.Links) != len(hooks) || status.Links[0].Tag == "" || status.Links[0].LinkID == 0 {
		t.Errorf("status %+v", status)
	}
	info, err := os.Stat(o.base())
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("pin directory: %v, %v; want mode 700", info.Mode(), err)
	}
	for range 2 {
		if err := Detach(o); err != nil {
			t.Fatal(err)
		}
	}
	if problems := Check(o); len(problems) != 1 {
		t.Errorf("after detach: %v", problems)
	}
}

// systemd removes a slice's cgroup when it stops the slice. The pins survive,
// load, and hold nothing.
func TestAttachAgainWhenTheCgroupWasMadeAnew(t *testing.T) {
	w := newWorld(t)
	held := len(StatusOf(w.options).Optional)
	removeCgroups(w.options.Cgroup)
	w.must(os.Mkdir(w.options.Cgroup, 0o755))
	problems := Check(w.options)
	if len(problems) != len(hooks)+held || !strings.Contains(problems[0].String(), "made anew") {
		t.Errorf("problems: %v", problems)
	}
	report, err := Attach(w.options)
	w.must(err)
	if len(report.Attached) != len(hooks) {
		t.Errorf("report %+v", report)
	}
	if problems := Check(w.options); len(problems) != 0 {
		t.Errorf("problems: %v", problems)
	}
	cgroup, _ := w.cgroup("agent", 0)
	if _, errno := w.agent(cgroup).try(unix.AF_INET, unix.SOCK_STREAM, 0); errno != unix.EPERM {
		t.Errorf("socket: %v, want EPERM", errno)
	}
}

func TestAttachDoesNotOpenAnotherCgroup(t *testing.T) {
	w := newWorld(t)
	moved := w.options
	moved.Cgroup, _ = w.cgroup("elsewhere", 0)
	if _, err := Attach(moved); !errors.Is(err, ErrOtherCgroup) {
		t.Errorf("attach elsewhere: %v, want %v", err, ErrOtherCgroup)
	}
	if problems := Check(w.options); len(problems) != 0 {
		t.Errorf("problems: %v", problems)
	}
}

// A pinned link with other instructions is updated in place: the link stays,
// so there is no moment without a program.
func TestAttachReplacesOlderPrograms(t *testing.T) {
	w := newWorld(t)
	pin := filepath.Join(w.options.links(), "bind4")
	pinned, err := link.LoadPinnedLink(pin, nil)
	w.must(err)
	defer pinned.Close()
	older, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupInet4Bind, License: "Dual BSD/GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	})
	w.must(err)
	defer older.Close()
	w.must(pinned.Update(older))
	before, err := stateOf(pinned)
	w.must(err)
	report, err := Attach(w.options)
	w.must(err)
	if len(report.Updated) != 1 || report.Updated[0] != "bind4" || len(report.Kept) != len(hooks)-1 {
		t.Errorf("report %+v", report)
	}
	after, err := stateOf(pinned)
	w.must(err)
	if after.LinkID != before.LinkID || after.Tag == before.Tag {
		t.Errorf("before %+v, after %+v", before, after)
	}
}

// Pins of another version: their links go on to hold the cgroup, with the
// programs of this one, and their directory is gone afterwards.
func TestAttachTakesOverAnotherLayout(t *testing.T) {
	w := newWorld(t)
	before := StatusOf(w.options)
	old := filepath.Join(w.options.base(), "v1")
	w.must(os.Rename(filepath.Join(w.options.base(), layout), old))
	if problems := Check(w.options); len(problems) == 0 {
		t.Error("pins of another version count as this one's")
	}
	report, err := Attach(w.options)
	w.must(err)
	if len(report.Updated) != len(hooks) || len(report.Attached) != 0 {
		t.Errorf("report %+v", report)
	}
	after := StatusOf(w.options)
	for i := range before.Links {
		if after.Links[i].LinkID != before.Links[i].LinkID || after.Links[i].ProgramID == before.Links[i].ProgramID {
			t.Errorf("link before %+v, after %+v", before.Links[i], after.Links[i])
		}
	}
	if _, err := os.Stat(old); !os.IsNotExist(err) || len(after.Problems) != 0 {
		t.Errorf("old pins: %v; problems %v", err, after.Problems)
	}
	w.must(os.Rename(filepath.Join(w.options.base(), layout), old))
	w.must(Detach(w.options))
	if _, err := os.Stat(w.options.base()); !os.IsNotExist(err) {
		t.Errorf("pins of another version are still there after detaching: %v", err)
	}
}

func TestCheckFindsAMissingHook(t *testing.T) {
	w := newWorld(t)
	w.must(os.Remove(filepath.Join(w.options.links(), "egress")))
	w.must(os.Chmod(w.options.base(), 0o755))
	problems := Check(w.options)
	if len(problems) != 2 || problems[1].Hook != "egress" {
		t.Errorf("problems: %v", problems)
	}
	report, err := Attach(w.options)
	w.must(err)
	if len(report.Attached) != 1 || len(Check(w.options)) != 0 {
		t.Errorf("report %+v, problems %v", report, Check(w.options))
	}
}

func TestAttachSaysWhatIsMissing(t *testing.T) {
	needRoot(t)
	o := newOptions(t)
	o.MountBPFFS = false
	if _, err := Attach(o); err == nil || !strings.Contains(err.Error(), "mount -t bpf") {
		t.Errorf("no bpffs: %v", err)
	}
	o = newOptions(t)
	o.Cgroup = filepath.Join(o.Cgroup, "missing")
	if _, err := Attach(o); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no cgroup: %v", err)
	}
	o.Create = true
	if _, err := Attach(o); err != nil {
		t.Errorf("create: %v", err)
	}
	if _, err := OpenPinned(Options{BPFFS: o.BPFFS + "/none"}); err == nil || !strings.Contains(err.Error(), "attached?") {
		t.Errorf("open without pins: %v", err)
	}
	if _, err := Open(nil); err == nil || !strings.Contains(err.Error(), "of one version?") {
		t.Errorf("open of no maps: %v", err)
	}
}

func TestProbeOnThisKernel(t *testing.T) {
	needRoot(t)
	for _, f := range Probe() {
		if f.Answer != Yes {
			t.Errorf("%+v", f)
		}
	}
}

func TestV1InUse(t *testing.T) {
	const table = "#subsys_name\thierarchy\tnum_cgroups\tenabled\n" +
		"cpuset\t3\t9\t1\nnet_cls\t4\t2\t1\nnet_prio\t4\t1\t1\nperf_event\t0\t99\t1\n"
	if used := v1InUse(table, "net_cls", "net_prio", "perf_event"); len(used) != 1 || used[0] != "net_cls" {
		t.Errorf("in use: %v", used)
	}
}

func TestPoliciesAndPortsAreListed(t *testing.T) {
	w := newWorld(t)
	_, id := w.cgroup("agent", lowPolicy)
	w.must(w.kernel.UseLoopback(LoopbackPort{lowPolicy, 3000}, AsIs))
	policies, err := w.kernel.Policies()
	if err != nil || len(policies) != 1 || policies[id] != lowPolicy {
		t.Errorf("policies %v, %v", policies, err)
	}
	ports, err := w.kernel.LoopbackPorts()
	if err != nil || len(ports) != 1 || ports[LoopbackPort{lowPolicy, 3000}] != AsIs {
		t.Errorf("ports %v, %v", ports, err)
	}
	for range 2 {
		w.must(w.kernel.RemovePolicy(id))
		w.must(w.kernel.ForgetLoopback(LoopbackPort{lowPolicy, 3000}))
	}
	if w.kernel.SetPolicy(id, 0, nil) == nil || w.kernel.SetPolicy(0, 1, nil) == nil || w.kernel.UseLoopback(LoopbackPort{1, 0}, AsIs) == nil {
		t.Error("an id of 0 was accepted")
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := w.kernel.Events(ctx, func(Event) {}); !errors.Is(err, context.Canceled) {
		t.Errorf("events of a context that ended: %v", err)
	}
}
