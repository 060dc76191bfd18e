package guard

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// weigh warns when a process has what the kernel programs do not see:
// capabilities with which it sends whole frames, where there is a device to send
// them by. All the processes are in one network namespace.
func (d *doors) weigh(pids []string) {
	for _, pid := range pids {
		ns, err := os.Open(filepath.Join("/proc", pid, "ns/net"))
		if err != nil {
			continue // it has ended
		}
		leads := false
		err = inside(ns, func() error {
			devices, err := net.Interfaces()
			for _, i := range devices {
				leads = leads || i.Flags&net.FlagLoopback == 0
			}
			return err
		})
		ns.Close()
		if err != nil || !leads {
			continue
		}
		status, err := os.ReadFile(filepath.Join("/proc", pid, "status"))
		if has := capabilities(string(status)); err == nil && has != "" {
			d.log.Warn("an agent can send past the hooks: start its container with --cap-drop for these, or with --network none",
				"pid", pid, "capabilities", has)
			return
		}
	}
}

// capabilities are those of interest that a process can come to have, by its
// bounding set.
func capabilities(status string) string {
	var has []string
	for line := range strings.Lines(status) {
		text, found := strings.CutPrefix(line, "CapBnd:")
		if !found {
			continue
		}
		set, err := strconv.ParseUint(strings.TrimSpace(text), 16, 64)
		if err != nil {
			return ""
		}
		for _, c := range []struct {
			bit  int
			name string
		}{{unix.CAP_NET_ADMIN, "NET_ADMIN"}, {unix.CAP_NET_RAW, "NET_RAW"}} {
			if set&(1<<c.bit) != 0 {
				has = append(has, c.name)
			}
		}
	}
	return strings.Join(has, ",")
}
