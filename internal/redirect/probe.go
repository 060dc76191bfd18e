package redirect

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"golang.org/x/sys/unix"

	"github.com/postern/postern/internal/identity"
)

// Answer is what a probe found out.
type Answer string

const (
	Yes     Answer = "yes"
	No      Answer = "no"
	Unknown Answer = "could not tell"
)

// Feature is one thing the programs need of the kernel or the host.
type Feature struct {
	Name   string `json:"name"`
	Answer Answer `json:"answer"`
	Detail string `json:"detail,omitempty"` // why not, or why it could not be told
	Help   string `json:"help,omitempty"`   // what to do about it
}

const (
	helpKernel = "run a kernel of version 5.10 or later with CONFIG_CGROUP_BPF, CONFIG_BPF_SYSCALL and CONFIG_INET"
	helpRoot   = "run it as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN"
)

// Probe tries what Attach needs, feature by feature. It goes by trial, never by
// the kernel's version, for distributions backport. It attaches nothing.
func Probe() []Feature {
	probes := []Feature{probeCgroup2(), probeSocketCgroups()}
	for _, m := range []struct {
		name string
		kind ebpf.MapType
	}{
		{"map type ring buffer", ebpf.RingBuf},
		{"map type socket storage", ebpf.SkStorage},
		{"map type LRU hash", ebpf.LRUHash},
	} {
		probes = append(probes, feature(m.name, features.HaveMapType(m.kind)))
	}
	for _, h := range hooks {
		probes = append(probes, feature("hook "+h.name, trial(h.attach)))
	}
	for _, f := range []struct {
		name    string
		program ebpf.ProgramType
		helper  asm.BuiltinFunc
	}{
		{"ancestor cgroup of a task", ebpf.CGroupSockAddr, asm.FnGetCurrentAncestorCgroupId},
		{"cookie of a network namespace", ebpf.CGroupSockAddr, asm.FnGetNetnsCookie},
		{"storage of a socket in connect", ebpf.CGroupSockAddr, asm.FnSkStorageGet},
		{"storage of a new socket", ebpf.CGroupSock, asm.FnSkStorageGet},
		{"storage of a packet's socket", ebpf.CGroupSKB, asm.FnSkStorageGet},
		{"options in the SYN", ebpf.SockOps, asm.FnStoreHdrOpt},
	} {
		probes = append(probes, feature(f.name, features.HaveProgramHelper(f.program, f.helper)))
	}
	return probes
}

func feature(name string, err error) Feature {
	f := Feature{Name: name}
	switch {
	case err == nil:
		f.Answer = Yes
		return f
	case errors.Is(err, ebpf.ErrNotSupported):
		f.Answer, f.Help = No, helpKernel
	default:
		f.Answer, f.Help = Unknown, helpRoot
	}
	f.Detail = err.Error()
	return f
}

// trial loads a program that allows everything and lets go of it again.
func trial(attach ebpf.AttachType) error {
	kind := ebpf.CGroupSockAddr
	switch attach {
	case ebpf.AttachCGroupInetEgress, ebpf.AttachCGroupInetIngress:
		kind = ebpf.CGroupSKB
	case ebpf.AttachCGroupInetSockCreate:
		kind = ebpf.CGroupSock
	case ebpf.AttachCGroupSockOps:
		kind = ebpf.SockOps
	}
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type:         kind,
		AttachType:   attach,
		License:      "Dual BSD/GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
	})
	if errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("%w: %w", ebpf.ErrNotSupported, err)
	}
	if err != nil {
		return err
	}
	return program.Close()
}

func probeCgroup2() Feature {
	f := Feature{Name: "cgroup v2", Answer: Yes}
	mount, err := identity.CgroupMount()
	if err != nil {
		f.Answer, f.Detail, f.Help = No, err.Error(), "boot with systemd.unified_cgroup_hierarchy=1"
		return f
	}
	f.Detail = "mounted at " + mount
	return f
}

// probeSocketCgroups looks for what makes cgroup v2 programs miss sockets
// without a word: before kernel 5.15 a socket belongs either to a v2 cgroup or
// to net_cls and net_prio, and the first use of those decides for all. The v1
// hierarchies are in use when a cgroup exists in them besides their root.
func probeSocketCgroups() Feature {
	f := Feature{Name: "sockets belong to cgroup v2", Answer: Yes}
	table, err := os.ReadFile("/proc/cgroups")
	if errors.Is(err, os.ErrNotExist) {
		return f // a kernel without v1
	}
	if err != nil {
		f.Answer, f.Detail = Unknown, err.Error()
		return f
	}
	used := v1InUse(string(table), "net_cls", "net_prio")
	if len(used) == 0 {
		return f
	}
	f.Detail = strings.Join(used, " and ") + " of cgroup v1 in use"
	if features.HaveProgramHelper(ebpf.CGroupSKB, asm.FnGetNetnsCookie) == nil {
		return f // newer than 5.15, where a socket has both
	}
	f.Answer = No
	f.Help = "boot with cgroup_no_v1=net_cls,net_prio, or run a kernel of version 5.15 or later"
	return f
}

// v1InUse reads /proc/cgroups: name, hierarchy, number of cgroups, enabled.
func v1InUse(table string, names ...string) (used []string) {
	for line := range strings.Lines(table) {
		fields := strings.Fields(line)
		if len(fields) != 4 || fields[1] == "0" || fields[2] == "0" || fields[2] == "1" {
			continue
		}
		for _, name := range names {
			if fields[0] == name {
				used = append(used, name)
			}
		}
	}
	return used
}
