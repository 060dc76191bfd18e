package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/internal/guard"
	"github.com/postern/postern/internal/identity"
)

const helpBubblewrap = "install bubblewrap (Debian, Fedora, Arch, SUSE: the package bubblewrap)"

// bubblewrap is nil where runs can be put into a sandbox.
func bubblewrap() error {
	_, err := os.Stat(guard.FindBubblewrap())
	return err
}

// host is what is around the kernel programs.
func (d *diagnosis) host(ctx context.Context) {
	d.cgroups()
	d.option("host.bpffs", "bpffs is mounted", bpffs("/sys/fs/bpf"), "at /sys/fs/bpf",
		"none: the guard mounts it", "mount -t bpf bpf /sys/fs/bpf, or let systemd")
	mode, err := lockdown("/sys/kernel/security/lockdown")
	d.option("host.lockdown", "kernel lockdown", err, mode,
		"agents.unix cannot be used: the hooks for Unix sockets read the kernel's memory", "boot with lockdown=integrity or none")
	_, err = os.Stat("/sys/kernel/btf/vmlinux")
	d.option("host.btf", "types of the kernel (BTF)", err, "/sys/kernel/btf/vmlinux",
		"agents.unix cannot be used", "run a kernel with CONFIG_DEBUG_INFO_BTF")
	err = bubblewrap()
	version := ""
	if err == nil {
		out, _ := exec.CommandContext(ctx, guard.FindBubblewrap(), "--version").Output()
		version = strings.TrimSpace(string(out))
	}
	d.option("host.bubblewrap", "bubblewrap", err, version, "runs of the tiers workspace and strict cannot be launched", helpBubblewrap)
	d.option("host.seccomp", "filters of system calls", seccomp(), "",
		"runs of the tiers workspace and strict cannot be launched", "run a kernel with CONFIG_SECCOMP_FILTER")
	d.option("host.userns", "user namespaces of ordinary users are off", userNamespaces("/proc/sys"), "",
		"nothing that is in the list of `postern verify`; agents of the tier redirected reach more of the kernel",
		"sysctl kernel.unprivileged_userns_clone=0 (Debian), kernel.apparmor_restrict_unprivileged_userns=1 (Ubuntu) or user.max_user_namespaces=0, if nothing else needs them")
}

// option adds something that Postern does without, at a cost.
func (d *diagnosis) option(id, name string, err error, ok, costs, help string) {
	f := finding{ID: id, Name: name, State: stateOK, Detail: ok}
	if err != nil {
		f.State, f.Detail, f.Costs, f.Help = stateMissing, err.Error(), costs, help
	}
	d.add(f)
}

// cgroups says how they are mounted, and looks for what ends runs at once.
func (d *diagnosis) cgroups() {
	mount, err := identity.CgroupMount()
	if err != nil {
		return // required, and in the list already
	}
	layout := "cgroup v2 only, at " + mount
	if mount != "/sys/fs/cgroup" {
		layout = "hybrid: v2 at " + mount + " beside v1"
	}
	d.add(finding{ID: "host.cgroups", Name: "layout of cgroups", State: stateOK, Detail: layout})
	d.option("host.cgroup_kill", "cgroups can be killed at once", cgroupKill(mount), "",
		"a run is ended process by process, which one that forks fast can draw out", "run Linux 5.14 or later")
}

// cgroupKill looks at any cgroup but the root of all, which has no such file.
func cgroupKill(mount string) error {
	cgroups, err := filepath.Glob(filepath.Join(mount, "*", "cgroup.procs"))
	if err != nil || len(cgroups) == 0 {
		return errors.New("there is no cgroup to look at yet")
	}
	_, err = os.Stat(filepath.Join(filepath.Dir(cgroups[0]), "cgroup.kill"))
	return err
}

// bpffs is nil where one is mounted.
func bpffs(at string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(at, &st); err != nil {
		return err
	}
	if st.Type != unix.BPF_FS_MAGIC {
		return fmt.Errorf("%s is no bpffs", at)
	}
	return nil
}

// lockdown is the mode in brackets (kernel_lockdown(7)); only confidentiality
// takes something away.
func lockdown(file string) (mode string, err error) {
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return "off: the kernel has none, or securityfs is not mounted", nil
	}
	if err != nil {
		return "", err
	}
	_, rest, _ := strings.Cut(string(text), "[")
	mode, _, _ = strings.Cut(rest, "]")
	if mode == "confidentiality" {
		return "", errors.New("the mode is confidentiality")
	}
	return mode, nil
}

func seccomp() error {
	_, err := os.Stat("/proc/sys/kernel/seccomp/actions_avail")
	return err
}

// userNamespaces is nil where ordinary users cannot make them: how an agent gets
// namespaces that it rules. The files are those of Linux, Debian and Ubuntu.
func userNamespaces(sysctl string) error {
	for file, off := range map[string]string{
		"user/max_user_namespaces": "0", "kernel/unprivileged_userns_clone": "0", "kernel/apparmor_restrict_unprivileged_userns": "1",
	} {
		text, err := os.ReadFile(filepath.Join(sysctl, file))
		if err == nil && strings.TrimSpace(string(text)) == off {
			return nil
		}
	}
	return errors.New("any user can make them")
}
