//go:build qemu

package boot

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const (
	build    = "../../build"
	packaged = "../../packaging/systemd/"
)

// initrd is the root file system with Postern, its units and the test's in it.
// The kernel unpacks several archives one after the other.
func initrd(t *testing.T) string {
	t.Helper()
	rootfs, err := os.ReadFile(filepath.Join(build, "boot/rootfs.cpio"))
	if err != nil {
		t.Fatalf("no rootfs to boot: run `make test-kernels`, or test/boot/rootfs as root: %v", err)
	}
	tree := t.TempDir()
	const bin, sbin, etc = "usr/local/bin", "usr/sbin", "etc/systemd/system"
	compile(t, filepath.Join(tree, bin, "guest"), "./guest")
	compile(t, filepath.Join(tree, sbin, "postern-guard"), "../../cmd/postern-guard")
	install(t, filepath.Join(build, "kernels/6.12/modules/veth.ko"), filepath.Join(tree, "usr/lib/postern-test/veth.ko"))
	install(t, filepath.Join(tree, bin, "guest"), filepath.Join(tree, "srv/rootfs/guest"))
	for _, dir := range []string{"proc", "tries"} {
		if err := os.MkdirAll(filepath.Join(tree, "srv/rootfs", dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	install(t, "image/postern.yaml", filepath.Join(tree, "etc/postern/postern.yaml"))
	install(t, "image/late.conf", filepath.Join(tree, etc, "postern-attach.service.d/late.conf"))
	for _, unit := range []string{
		packaged + "postern-attach.service", packaged + "postern-guard.service", packaged + "agents.slice", "image/outside.service",
		"image/plain@.service", "image/ordered@.service", "image/required@.service", "image/checked@.service",
	} {
		install(t, unit, filepath.Join(tree, etc, filepath.Base(unit)))
	}
	for unit, target := range map[string]string{"postern-attach": "sysinit", "postern-guard": "multi-user"} {
		wants := filepath.Join(tree, etc, target+".target.wants")
		if err := os.MkdirAll(wants, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("/"+etc+"/"+unit+".service", filepath.Join(wants, unit+".service")); err != nil {
			t.Fatal(err)
		}
	}
	for _, kind := range []string{"plain", "ordered", "required", "checked"} {
		bundle(t, tree, kind+"-host", "203.0.113.2", "")
		bundle(t, tree, kind+"-box", "198.51.100.2", `, {"type": "network", "path": "/run/netns/box"}`)
	}
	pack := exec.Command("sh", "-c", "find . | busybox cpio -o -H newc -R 0:0")
	pack.Dir = tree
	overlay, err := pack.Output()
	if err != nil {
		t.Fatalf("pack the initrd: %v", err)
	}
	path := filepath.Join(t.TempDir(), "initrd")
	if err := os.WriteFile(path, append(rootfs, overlay...), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// bundle is a container for runc, below the agent's cgroup.
func bundle(t *testing.T, tree, name, address, network string) {
	t.Helper()
	config, err := os.ReadFile("image/config.json")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.NewReplacer("NAME", name, "ADDRESS", address, "NETWORK", network).Replace(string(config))
	write(t, filepath.Join(tree, "srv", name, "config.json"), []byte(text), 0o644)
}

func compile(t *testing.T, to, program string) {
	t.Helper()
	cmd := exec.Command("go", "build", "-trimpath", "-o", to, program)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", program, err, out)
	}
}

// install copies a file; programs are those that already are.
func install(t *testing.T, from, to string) {
	t.Helper()
	content, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(from)
	if err != nil {
		t.Fatal(err)
	}
	write(t, to, content, info.Mode().Perm())
}

func write(t *testing.T, path string, content []byte, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, content, mode); err != nil {
		t.Fatal(err)
	}
}
