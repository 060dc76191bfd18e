package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/internal/guard"
	"github.com/postern/postern/internal/identity"
	"github.com/postern/postern/internal/redirect"
)

// TestMain also is the anchor, which is this same program.
func TestMain(m *testing.M) {
	if guard.Main(os.Args) {
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// TestAttachWithABadConfiguration: a mistake in the configuration does not leave
// agents open after the next start of the host, and does not keep the programs
// attached when the package is removed. It is told, and nothing that requires the
// programs is started.
func TestAttachWithABadConfiguration(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to attach kernel programs")
	}
	mount, err := identity.CgroupMount()
	if err != nil {
		t.Fatal(err)
	}
	dir, bpffs := t.TempDir(), t.TempDir()
	root := fmt.Sprintf("postern-guard-attach-%d", os.Getpid())
	file := filepath.Join(dir, "postern.yaml")
	if err := os.WriteFile(file, []byte("root: "+root+"\nstate_dir: "+dir+"/state\nagents: [{name: planner, cgroup: elsewhere, policy: none}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	where := redirect.Options{Cgroup: filepath.Join(mount, root), BPFFS: bpffs}
	t.Cleanup(func() {
		guard.Weigh(where.Cgroup) //nolint:errcheck // it has no anchor any more
		unix.Rmdir(where.Cgroup)
		unix.Unmount(bpffs, unix.MNT_DETACH)
	})
	command := func(verb string) (string, error) {
		var out bytes.Buffer
		err := run([]string{verb, "--config", file, "--bpffs", bpffs}, &out)
		return out.String(), err
	}
	if _, err := command("attach"); err == nil || !strings.Contains(err.Error(), "is closed; the configuration has problems") || !strings.Contains(err.Error(), file) {
		t.Errorf("attach: %v", err)
	}
	if st := redirect.StatusOf(where); len(st.Problems) > 0 || len(st.Links) == 0 {
		t.Errorf("it is not closed: %v", st.Problems)
	}
	if _, err := command("check"); err == nil {
		t.Error("check has nothing against the configuration")
	}
	if out, err := command("detach"); err != nil || !strings.Contains(out, "is open") {
		t.Errorf("detach: %q, %v", out, err)
	}
	if st := redirect.StatusOf(where); len(st.Problems) == 0 {
		t.Error("it is still closed")
	}
}
