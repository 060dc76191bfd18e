package e2e

import (
	"bytes"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// occurrences are where a text is in the pages of the daemon that root reads, and
// whether there are some that root does not.
func (w *world) occurrences(t *testing.T, text string) (found []string, hidden bool) {
	t.Helper()
	pid := w.postern.DaemonPID()
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	line := regexp.MustCompile(`^([0-9a-f]+)-([0-9a-f]+) (r\S+) \S+ \S+ \S+\s*(.*)$`)
	for l := range strings.Lines(string(maps)) {
		m := line.FindStringSubmatch(strings.TrimSpace(l))
		if m == nil {
			continue
		}
		from, _ := strconv.ParseUint(m[1], 16, 64)
		to, _ := strconv.ParseUint(m[2], 16, 64)
		b := make([]byte, to-from)
		n, err := mem.ReadAt(b, int64(from))
		if strings.Contains(m[4], "secretmem") && err != nil && n == 0 {
			hidden = true
		}
		for i := range bytes.Count(b[:n], []byte(text)) {
			found = append(found, fmt.Sprintf("%s #%d", m[4], i))
		}
	}
	return found, hidden
}

// TestArenaIsHidden: of the daemon's memory root does not read the arena that it
// keeps secrets in, where the kernel has memfd_secret. (Copies on Go's heap root
// reads: docs/secrets.md says which there are. That the search finds what is to be
// found, the daemon's environment shows.)
func TestArenaIsHidden(t *testing.T) {
	w := theWorld
	if out, err := w.psql("planner", "orders", "SELECT 1"); err != nil {
		t.Fatal(out)
	}
	found, hidden := w.occurrences(t, "POSTERN_TEST_PASSWORD=")
	if len(found) == 0 {
		t.Error("the search does not find what is there")
	}
	doctor, _ := w.postern.CLI("doctor", "--json").CombinedOutput() // it fails where something else is missing
	if says := strings.Contains(string(doctor), `"memfd_secret"`); says != hidden {
		t.Errorf("doctor says memfd_secret: %t; hidden from root: %t", says, hidden)
	}
	if !hidden {
		t.Error("the arena is not hidden, and this kernel can do it")
	}
}
