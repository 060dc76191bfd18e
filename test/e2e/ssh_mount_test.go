package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postern/postern/internal/identity"
)

// sshfs shows a host's files as a folder. A run may not mount, so the agent is a
// service of root's in its cgroup.
func TestSSHMount(t *testing.T) {
	w := startSSH(t)
	w.more["agents:\n"] = fmt.Sprintf("  - {name: mounter, cgroup: %s/mounter, policy: mounter}\n", w.postern.Root)
	w.more["policies:\n"] = fmt.Sprintf(`  - name: mounter
    rules:
      - {name: session, target: inner, verbs: [session, subsystem, file-list], allow: true}
      - {name: kept, target: inner, verbs: [file-remove], objects: ["%[1]s/kept"], deny: this one is kept}
      - {name: files, target: inner, verbs: [file-read, file-write, file-remove, file-rename, file-mkdir, file-attributes], objects: ["%[1]s/**"], allow: true}
`, w.dir)
	w.configure()
	cgroups, err := identity.CgroupMount()
	if err != nil {
		t.Fatal(err)
	}
	mount := filepath.Join(w.home, "mount")
	if err := os.MkdirAll(mount, 0o755); err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf(`echo $$ > %[1]s/mounter/cgroup.procs || exit 9
export HOME=%[2]s
sshfs -o StrictHostKeyChecking=no,UserKnownHostsFile=/dev/null,LogLevel=ERROR,cache=no -p %[3]d root@127.0.0.1:%[4]s %[5]s || exit 8
cd %[5]s && head -c 300000 /dev/urandom > a && mkdir d && mv a d/b && cmp d/b %[4]s/d/b && cp d/b kept && rm d/b && ls -A d | wc -l
rm kept; ls; cd /; fusermount3 -u %[5]s`, filepath.Join(cgroups, w.postern.Root), w.home, w.sshd.Port, w.dir, mount)
	cmd := exec.Command("timeout", "60", "sh", "-c", script)
	t.Cleanup(func() { exec.Command("umount", "-l", mount).Run() }) //nolint:errcheck // it is not mounted, where all was right
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s\n%s", err, out, w.daemonLog())
	}
	if got := strings.Fields(string(out)); len(got) == 0 || got[0] != "0" {
		t.Errorf("what is left: %s", out)
	}
	mustContain(t, string(out), "Permission denied", "d\nkept\n")
	if _, err := os.Stat(filepath.Join(w.dir, "kept")); err != nil {
		t.Error(err)
	}
}
