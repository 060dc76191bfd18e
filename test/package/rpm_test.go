//go:build qemu

package pkgtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestRPM installs, upgrades and removes the package by rpm(8) in a root of its
// own, where no systemd runs: what is there, whose it is, and what stays.
func TestRPM(t *testing.T) {
	root := t.TempDir()
	script(t, `
		busybox cpio -i --quiet -d -D "$TREE" <../../build/boot/rootfs.cpio 2>/dev/null || (cd "$TREE" && busybox cpio -i -d) <../../build/boot/rootfs.cpio
		for version in 1 2; do
			PACKAGE_VERSION=0.1.0~$version FORMATS=rpm ../../packaging/build "$WORK/$version" amd64
			cp "$WORK/$version"/*.rpm "$TREE/srv/$version.rpm"
		done`, root)
	// What it requires is Debian's here, of which rpm knows nothing.
	rpm := func(args ...string) (string, error) {
		out, err := exec.Command("rpm", append([]string{"--root", root, "--nodeps"}, args...)...).CombinedOutput()
		return string(out), err
	}
	must := func(args ...string) string {
		t.Helper()
		out, err := rpm(args...)
		if err != nil {
			t.Fatalf("rpm %v: %v: %s", args, err, out)
		}
		return out
	}
	must("-i", filepath.Join(root, "srv/1.rpm"))
	if said := must("-V", "postern"); said != "" {
		t.Errorf("installed otherwise than packed: %s", said)
	}
	identity := filepath.Join(root, "etc/postern/identity.txt")
	if info, err := os.Stat(identity); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("identity: %v, %v", info, err)
	}
	key := text(t, identity)
	out, err := exec.Command("chroot", root, "posternd", "--check", "/etc/postern/postern.yaml").CombinedOutput()
	if err != nil {
		t.Errorf("the configuration as installed: %v: %s", err, out)
	}
	config := filepath.Join(root, "etc/postern/postern.yaml")
	if err := os.WriteFile(config, append([]byte(text(t, config)), "# ours\n"...), 0o644); err != nil {
		t.Fatal(err)
	}
	must("-U", filepath.Join(root, "srv/2.rpm"))
	if text(t, identity) != key || !strings.HasSuffix(text(t, config), "# ours\n") {
		t.Error("an upgrade changed the identity or the configuration")
	}
	if out, err := rpm("-U", filepath.Join(root, "srv/1.rpm")); err == nil {
		t.Errorf("went back to an older version: %s", out)
	}
	said := must("-e", "postern")
	if !strings.Contains(said, "postern: ") {
		t.Errorf("the removal does not say what became of the programs: %q", said)
	}
	for path, there := range map[string]bool{
		"usr/sbin/posternd": false, "usr/lib/systemd/system/posternd.service": false, "usr/libexec/postern": false,
		"etc/postern/postern.yaml.rpmsave": true, "etc/postern/identity.txt": true, "var/lib/postern": true,
	} {
		if _, err := os.Stat(filepath.Join(root, path)); (err == nil) != there {
			t.Errorf("after removal: %s: %v", path, err)
		}
	}
}

func text(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
