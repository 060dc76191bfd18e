package redirect

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

	"github.com/postern/postern/bpf"
	"github.com/postern/postern/internal/identity"
)

const (
	// DefaultBPFFS is where systemd mounts bpffs.
	DefaultBPFFS = "/sys/fs/bpf"

	// layout names the pins of one map layout. Another layout gets another
	// directory, from which the links are taken over one by one (see adopt).
	layout = "v2"

	// MaxDepth is how many levels below the cgroup2 root a policy cgroup may
	// lie: the programs look at this many (POSTERN_MAX_LEVEL).
	MaxDepth = 8

	// maxVerifierLog bounds what an error quotes of the verifier, in lines.
	maxVerifierLog = 20
)

// hook is one program and its place.
type hook struct {
	name    string // of the pin
	attach  ebpf.AttachType
	program func(*bpf.PosternPrograms) *ebpf.Program
}

// hooks are in the order of attaching: those that only deny come first, so
// that an attachment which is interrupted leaves the cgroup closed.
var hooks = []hook{
	{"egress", ebpf.AttachCGroupInetEgress, func(p *bpf.PosternPrograms) *ebpf.Program { return p.PosternEgress }},
	{"ingress", ebpf.AttachCGroupInetIngress, func(p *bpf.PosternPrograms) *ebpf.Program { return p.PosternIngress }},
	{"sock_create", ebpf.AttachCGroupInetSockCreate, func(p *bpf.PosternPrograms) *ebpf.Program { return p.PosternSockCreate }},
	{"bind4", ebpf.AttachCGroupInet4Bind, func(p *bpf.PosternPrograms) *ebpf.Program { return p.PosternBind4 }},
	{"bind6", ebpf.AttachCGroupInet6Bind, func(p *bpf.PosternPrograms) *ebpf.Program { return p.PosternBind6 }},
	{"sendmsg4", ebpf.AttachCGroupUDP4Sendmsg, func(p *bpf.PosternPrograms) *ebpf.Program { return p.PosternSendmsg4 }},
	{"sendmsg6", ebpf.AttachCGroupUDP6Sendmsg, func(p *bpf.PosternPrograms) *ebpf.Program { return p.PosternSendmsg6 }},
	{"recvmsg4", ebpf.AttachCGroupUDP4Recvmsg, func(p *bpf.PosternPrograms) *ebpf.Program { return p.PosternRecvmsg4 }},
	{"recvmsg6", ebpf.AttachCGroupUDP6Recvmsg, func(p *bpf.PosternPrograms) *ebpf.Program { return p.PosternRecvmsg6 }},
	{"getpeername4", ebpf.AttachCgroupInet4GetPeername, func(p *bpf.PosternPrograms) *ebpf.Program { return p.PosternGetpeername4 }},
	{"getpeername6", ebpf.AttachCgroupInet6GetPeername, func(p *bpf.PosternPrograms) *ebpf.Program { return p.PosternGetpeername6 }},
	{"sockops", ebpf.AttachCGroupSockOps, func(p *bpf.PosternPrograms) *ebpf.Program { return p.PosternSockops }},
	{"connect4", ebpf.AttachCGroupInet4Connect, func(p *bpf.PosternPrograms) *ebpf.Program { return p.PosternConnect4 }},
	{"connect6", ebpf.AttachCGroupInet6Connect, func(p *bpf.PosternPrograms) *ebpf.Program { return p.PosternConnect6 }},
}

// Options name the cgroup and the place of the pins.
type Options struct {
	Cgroup     string // the policy root: a directory of a cgroup2 mount
	BPFFS      string // default DefaultBPFFS
	MountBPFFS bool   // mount bpffs at BPFFS when nothing is there yet
	Create     bool   // make the cgroup when it is missing
	Foretell   bool   // let connections wait for the daemon's word on their upstream
}

func (o Options) bpffs() string {
	if o.BPFFS == "" {
		return DefaultBPFFS
	}
	return o.BPFFS
}

// base is the directory that is locked while an attachment changes.
func (o Options) base() string  { return filepath.Join(o.bpffs(), "postern") }
func (o Options) maps() string  { return filepath.Join(o.base(), layout, "maps") }
func (o Options) links() string { return filepath.Join(o.base(), layout, "links") }

// reuseport is the pin of the program that listeners get. It is attached to
// sockets, not to the cgroup, so it has no link.
func (o Options) reuseport() string { return filepath.Join(o.base(), layout, "reuseport") }

// Report says what Attach did, by hook.
type Report struct {
	Attached []string // were not attached, or to a cgroup that is gone
	Updated  []string // had an older program, replaced without a gap
	Kept     []string // were as they should be
	Optional []string // hooks of newer kernels that are attached
	Missing  string   // what this kernel cannot, and the core does without; empty: nothing
}

// ErrOtherCgroup: the programs hold another cgroup that still exists. Moving
// them would open it.
var ErrOtherCgroup = errors.New("the programs are attached to another cgroup, which would be left open; run `postern-guard detach` first if that is meant")

// Attach closes the policy root cgroup: from its return on nothing in there
// reaches the network but through the gateway. It may be run again at any
// time: what is attached stays, older programs are replaced atomically, and a
// cgroup that was removed and made again gets its programs back. After an
// error the cgroup is closed as far as Attach came, never open again.
func Attach(o Options) (Report, error) {
	if o.Create {
		if err := os.MkdirAll(o.Cgroup, 0o755); err != nil {
			return Report{}, fmt.Errorf("create the policy root cgroup: %w", err)
		}
	}
	id, err := identity.CgroupID(o.Cgroup)
	if err != nil {
		return Report{}, err
	}
	unlock, err := prepare(o)
	if err != nil {
		return Report{}, err
	}
	defer unlock()
	objects, err := load(o)
	if err != nil {
		return Report{}, err
	}
	defer objects.Close()
	cgroup, err := os.Open(o.Cgroup)
	if err != nil {
		return Report{}, fmt.Errorf("open the policy root cgroup: %w", err)
	}
	defer cgroup.Close()
	var report Report
	for _, h := range hooks {
		if err := h.ensure(o, cgroup, id, h.program(&objects.PosternPrograms), &report); err != nil {
			return report, fmt.Errorf("attach %s to %s: %w", h.name, o.Cgroup, err)
		}
	}
	if err := pinReuseport(o, objects.PosternReuseport); err != nil {
		return report, err
	}
	if err := attachOptional(o, cgroup, id, &report); err != nil {
		return report, err
	}
	return report, removeLayouts(o)
}

// pinReuseport pins the program for listeners that are opened from now on.
// Those that are open keep the one they have.
func pinReuseport(o Options, program *ebpf.Program) error {
	if err := os.Remove(o.reuseport()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("replace the program of listeners: %w", err)
	}
	if err := program.Pin(o.reuseport()); err != nil {
		return fmt.Errorf("pin the program of listeners: %w", err)
	}
	return nil
}

// otherLayouts are pin directories of other versions.
func otherLayouts(o Options) ([]string, error) {
	entries, err := os.ReadDir(o.base())
	if err != nil {
		return nil, fmt.Errorf("read the pins: %w", err)
	}
	var others []string
	for _, e := range entries {
		if e.IsDir() && e.Name() != layout {
			others = append(others, filepath.Join(o.base(), e.Name()))
		}
	}
	return others, nil
}

// removeLayouts removes what other versions pinned, whose links have been taken
// over by now. A daemon that has their maps open may go on to drain.
func removeLayouts(o Options) error {
	others, err := otherLayouts(o)
	for _, dir := range others {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	return err
}

// adopt takes the hook's link over from another version's pins: the link goes
// on to hold the cgroup, and has this version's program from one packet to the
// next. It does nothing when there is none, or when the pin is here already.
func (h hook) adopt(o Options, cgroupID uint64, program *ebpf.Program) (bool, error) {
	pin := filepath.Join(o.links(), h.name)
	if _, err := os.Lstat(pin); err == nil {
		return false, nil
	}
	others, err := otherLayouts(o)
	if err != nil {
		return false, err
	}
	for _, dir := range others {
		old := filepath.Join(dir, "links", h.name)
		pinned, err := link.LoadPinnedLink(old, nil)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return false, fmt.Errorf("open the pinned link %s: %w", old, err)
		}
		defer pinned.Close()
		state, err := stateOf(pinned)
		if err != nil {
			return false, err
		}
		if state.CgroupID != cgroupID {
			if exists(state.CgroupID) {
				return false, ErrOtherCgroup
			}
			continue
		}
		if err := pinned.Update(program); err != nil {
			return false, fmt.Errorf("update the link of another version: %w", err)
		}
		return true, os.Rename(old, pin)
	}
	return false, nil
}

// prepare makes the directories and takes the lock on them.
func prepare(o Options) (unlock func(), err error) {
	if err := ensureBPFFS(o); err != nil {
		return nil, err
	}
	for _, dir := range []string{o.base(), filepath.Join(o.base(), layout), o.maps(), o.links()} {
		if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("make the pin directory: %w", err)
		}
		if err := os.Chmod(dir, 0o700); err != nil {
			return nil, fmt.Errorf("close the pin directory to others: %w", err)
		}
	}
	return lock(o)
}

func lock(o Options) (unlock func(), err error) {
	dir, err := os.Open(o.base())
	if err != nil {
		return nil, fmt.Errorf("open the pin directory: %w", err)
	}
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX); err != nil {
		dir.Close()
		return nil, fmt.Errorf("lock %s: %w", o.base(), err)
	}
	return func() { dir.Close() }, nil
}

func ensureBPFFS(o Options) error {
	var st unix.Statfs_t
	if err := unix.Statfs(o.bpffs(), &st); err != nil {
		return fmt.Errorf("bpffs at %s: %w", o.bpffs(), err)
	}
	if st.Type == unix.BPF_FS_MAGIC {
		return nil
	}
	if !o.MountBPFFS {
		return fmt.Errorf("%s is not a bpffs: mount it with `mount -t bpf bpf %s`", o.bpffs(), o.bpffs())
	}
	if err := unix.Mount("bpf", o.bpffs(), "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil {
		return fmt.Errorf("mount bpffs at %s: %w", o.bpffs(), err)
	}
	return nil
}

// objects are the programs, with the maps pinned or taken from their pins.
type objects struct {
	bpf.PosternPrograms
	bpf.PosternMaps
}

func (o *objects) Close() {
	o.PosternPrograms.Close()
	o.PosternMaps.Close()
}

func load(o Options) (*objects, error) {
	spec, err := specFor(o)
	if err != nil {
		return nil, err
	}
	for _, name := range slices.Concat(daemonMaps, guardMaps, innerMaps) {
		spec.Maps[name].Pinning = ebpf.PinByName
	}
	var loaded objects
	err = spec.LoadAndAssign(&loaded, &ebpf.CollectionOptions{Maps: ebpf.MapOptions{PinPath: o.maps()}})
	if errors.Is(err, ebpf.ErrMapIncompatible) {
		return nil, fmt.Errorf("the maps pinned in %s have another layout than this program's: run `postern-guard detach` of the version that pinned them: %w", o.maps(), err)
	}
	var refused *ebpf.VerifierError
	if errors.As(err, &refused) {
		refused.Log = refused.Log[max(0, len(refused.Log)-maxVerifierLog):]
		return nil, fmt.Errorf("the kernel refuses a program (Postern needs Linux 5.10; `postern doctor` says what is missing): %+v", refused)
	}
	if err != nil {
		return nil, fmt.Errorf("load the programs (needs root or CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN): %w", err)
	}
	return &loaded, nil
}

// specFor is the programs as they are to be loaded into this kernel.
func specFor(o Options) (*ebpf.CollectionSpec, error) {
	// Kernels before 5.11 charge maps to RLIMIT_MEMLOCK.
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("raise RLIMIT_MEMLOCK for the maps: %w", err)
	}
	spec, err := bpf.LoadPostern()
	if err != nil {
		return nil, fmt.Errorf("read the embedded programs: %w", err)
	}
	return spec, errors.Join(
		setFlag(spec, bpf.PosternVarForetells, o.Foretell),
		setFlag(spec, bpf.PosternVarChoosesErrno, features.HaveProgramHelper(ebpf.CGroupSockAddr, asm.FnSetRetval) == nil))
}

// setFlag sets a constant of the programs, by which the verifier leaves out what
// this kernel does not have.
func setFlag(spec *ebpf.CollectionSpec, name string, on bool) error {
	value := uint32(0)
	if on {
		value = 1
	}
	if err := spec.Variables[name].Set(value); err != nil {
		return fmt.Errorf("set %s: %w", name, err)
	}
	return nil
}

// ensure makes the hook's pinned link lead from the program to the cgroup.
func (h hook) ensure(o Options, cgroup *os.File, cgroupID uint64, program *ebpf.Program, report *Report) error {
	pin := filepath.Join(o.links(), h.name)
	if adopted, err := h.adopt(o, cgroupID, program); adopted || err != nil {
		report.Updated = append(report.Updated, h.name)
		return err
	}
	pinned, err := link.LoadPinnedLink(pin, nil)
	if errors.Is(err, fs.ErrNotExist) {
		report.Attached = append(report.Attached, h.name)
		return h.fresh(pin, cgroup, program)
	}
	if err != nil {
		return fmt.Errorf("open the pinned link %s: %w", pin, err)
	}
	defer pinned.Close()
	state, err := stateOf(pinned)
	if err != nil {
		return err
	}
	if state.CgroupID != cgroupID {
		if exists(state.CgroupID) {
			return ErrOtherCgroup
		}
		// A link whose cgroup is gone holds nothing and cannot be updated to
		// hold something again, though the kernel reports no error.
		if err := os.Remove(pin); err != nil {
			return fmt.Errorf("remove the pin of a dead link: %w", err)
		}
		report.Attached = append(report.Attached, h.name)
		return h.fresh(pin, cgroup, program)
	}
	info, err := program.Info()
	if err != nil {
		return fmt.Errorf("read the program's tag: %w", err)
	}
	if state.Tag == info.Tag {
		report.Kept = append(report.Kept, h.name)
		return nil
	}
	report.Updated = append(report.Updated, h.name)
	return pinned.Update(program)
}

func (h hook) fresh(pin string, cgroup *os.File, program *ebpf.Program) error {
	attached, err := link.AttachRawLink(link.RawLinkOptions{
		Target:  int(cgroup.Fd()),
		Program: program,
		Attach:  h.attach,
	})
	if err != nil {
		return err
	}
	defer attached.Close()
	if err := attached.Pin(pin); err != nil {
		return fmt.Errorf("pin the link at %s: %w", pin, err)
	}
	return nil
}

// exists says whether a living cgroup has this id.
func exists(cgroupID uint64) bool {
	mount, err := identity.CgroupMount()
	if err != nil {
		return true
	}
	cgroups, err := identity.NewCgroups(mount)
	if err != nil {
		return true
	}
	defer cgroups.Close()
	_, err = cgroups.Path(cgroupID)
	return !errors.Is(err, identity.ErrNoCgroup)
}

// Detach opens the cgroup: it removes every link and map. For uninstalling,
// and for nothing else. Detaching what is not attached is no error.
func Detach(o Options) error {
	if _, err := os.Stat(o.base()); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	unlock, err := lock(o)
	if err != nil {
		return err
	}
	defer unlock()
	// Opposite to attaching: what only denies goes last.
	if err := removeOptional(o); err != nil {
		return err
	}
	others, err := otherLayouts(o)
	if err != nil {
		return err
	}
	for i := len(hooks) - 1; i >= 0; i-- {
		for _, dir := range append(others, filepath.Join(o.base(), layout)) {
			err := os.Remove(filepath.Join(dir, "links", hooks[i].name))
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("detach %s: %w", hooks[i].name, err)
			}
		}
	}
	if err := os.RemoveAll(o.base()); err != nil {
		return fmt.Errorf("remove the pins: %w", err)
	}
	return nil
}
