package redirect

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/postern/postern/bpf"
)

// Everybody stands for all policy cgroups in BreakGlass.
const Everybody = 0

// BreakGlass lets the agents of a policy cgroup, or Everybody, go where they
// want for a while, as TCP and UDP, past the gateway. The kernel ends it by
// itself; connections that are open then can send nothing more. A duration of 0
// ends it now, and of Everybody all that is broken, of single agents too. It is
// the guard's, who is root: the daemon has no such map.
func (k *Kernel) BreakGlass(policyCgroup uint64, period time.Duration) error {
	if period <= 0 {
		return k.mendGlass(policyCgroup)
	}
	m := k.maps[bpf.PosternMapGlass]
	now, err := sinceBoot()
	if err != nil {
		return err
	}
	if err := m.Put(policyCgroup, uint64(now+period)); err != nil {
		return fmt.Errorf("break the glass: %w", err)
	}
	return nil
}

func (k *Kernel) mendGlass(policyCgroup uint64) error {
	all := []uint64{policyCgroup}
	if policyCgroup == Everybody {
		broken, err := k.Broken()
		if err != nil {
			return err
		}
		all = slices.AppendSeq(all, maps.Keys(broken))
	}
	for _, cgroup := range all {
		if err := k.maps[bpf.PosternMapGlass].Delete(cgroup); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("mend the glass: %w", err)
		}
	}
	return nil
}

// Broken says for whom the glass is broken now, and until when.
func (k *Kernel) Broken() (map[uint64]time.Time, error) {
	now, err := sinceBoot()
	if err != nil {
		return nil, err
	}
	broken := map[uint64]time.Time{}
	var cgroup, until uint64
	entries := k.maps[bpf.PosternMapGlass].Iterate()
	for entries.Next(&cgroup, &until) {
		if left := time.Duration(until) - now; left > 0 {
			broken[cgroup] = time.Now().Add(left)
		}
	}
	if err := entries.Err(); err != nil {
		return nil, fmt.Errorf("list the broken glass: %w", err)
	}
	return broken, nil
}

func sinceBoot() (time.Duration, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return 0, fmt.Errorf("time since boot: %w", err)
	}
	return time.Duration(now.Nano()), nil
}
