package redirect

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/postern/postern/bpf"
)

// mapNames are the maps that the daemon works with, innerMapNames those that
// only the programs use.
var (
	mapNames = []string{
		bpf.PosternMapPolicy, bpf.PosternMapListeners, bpf.PosternMapLoopback, bpf.PosternMapFlows,
		bpf.PosternMapDnsSrc, bpf.PosternMapGateways, bpf.PosternMapEvents, bpf.PosternMapStats,
	}
	innerMapNames = []string{bpf.PosternMapSk, bpf.PosternMapLimits}
)

// MapFiles opens the pinned maps the daemon needs, by name: what the guard
// hands over. The caller closes the files.
func MapFiles(o Options) (map[string]*os.File, error) {
	files := map[string]*os.File{}
	for _, name := range mapNames {
		m, err := ebpf.LoadPinnedMap(filepath.Join(o.maps(), name), nil)
		if err != nil {
			closeAll(files)
			return nil, fmt.Errorf("open the pinned map %s (is the guard attached?): %w", name, err)
		}
		fd, err := unix.FcntlInt(uintptr(m.FD()), unix.F_DUPFD_CLOEXEC, 0)
		m.Close()
		if err != nil {
			closeAll(files)
			return nil, fmt.Errorf("open the pinned map %s: %w", name, err)
		}
		files[name] = os.NewFile(uintptr(fd), name)
	}
	return files, nil
}

func closeAll(files map[string]*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// Kernel is the daemon's hold on the kernel side: policies, listeners, records
// and events. It needs CAP_BPF and no path. Safe for use by several goroutines.
type Kernel struct {
	maps map[string]*ebpf.Map
}

// OpenPinned opens the maps from their pins, as root.
func OpenPinned(o Options) (*Kernel, error) {
	files, err := MapFiles(o)
	if err != nil {
		return nil, err
	}
	defer closeAll(files)
	return Open(files)
}

// Open takes the maps that the guard handed over (MapFiles). The files remain
// the caller's to close.
func Open(files map[string]*os.File) (*Kernel, error) {
	spec, err := bpf.LoadPostern()
	if err != nil {
		return nil, fmt.Errorf("read the embedded programs: %w", err)
	}
	k := &Kernel{maps: map[string]*ebpf.Map{}}
	for _, name := range mapNames {
		m, err := openMap(files[name], spec.Maps[name])
		if err != nil {
			k.Close()
			return nil, fmt.Errorf("map %s: %w", name, err)
		}
		k.maps[name] = m
	}
	return k, nil
}

func openMap(file *os.File, want *ebpf.MapSpec) (*ebpf.Map, error) {
	if file == nil {
		return nil, errors.New("not among the maps handed over: are guard and daemon of one version?")
	}
	fd, err := unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	m, err := ebpf.NewMapFromFD(fd)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	if m.Type() != want.Type || m.KeySize() != want.KeySize || m.ValueSize() != want.ValueSize {
		m.Close()
		return nil, fmt.Errorf("has another layout (%s, key %d, value %d bytes): are guard and daemon of one version?",
			m.Type(), m.KeySize(), m.ValueSize())
	}
	return m, nil
}

// Close lets go of the maps. What they hold stays in force.
func (k *Kernel) Close() error {
	var errs []error
	for _, m := range k.maps {
		errs = append(errs, m.Close())
	}
	return errors.Join(errs...)
}

// SetPolicy puts the cgroup and all below it under the policy, unless one
// below has a policy of its own. The id 0 is not a policy.
func (k *Kernel) SetPolicy(cgroupID uint64, policyID uint32) error {
	if policyID == 0 || cgroupID == 0 {
		return fmt.Errorf("set policy %d of cgroup %d: 0 is no id", policyID, cgroupID)
	}
	if err := k.maps[bpf.PosternMapPolicy].Put(cgroupID, bpf.PosternPolicyEntry{Id: policyID}); err != nil {
		return fmt.Errorf("set policy %d of cgroup %d: %w", policyID, cgroupID, err)
	}
	return nil
}

// RemovePolicy closes the cgroup at once: its open connections too can send
// nothing more, unless an ancestor has a policy for new ones. Removing what is
// not there is no error.
func (k *Kernel) RemovePolicy(cgroupID uint64) error {
	err := k.maps[bpf.PosternMapPolicy].Delete(cgroupID)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("remove the policy of cgroup %d: %w", cgroupID, err)
	}
	return nil
}

// Policies is what is in force now, by cgroup id. A daemon that starts removes
// what its configuration does not have any more.
func (k *Kernel) Policies() (map[uint64]uint32, error) {
	policies := map[uint64]uint32{}
	var cgroupID uint64
	var entry bpf.PosternPolicyEntry
	entries := k.maps[bpf.PosternMapPolicy].Iterate()
	for entries.Next(&cgroupID, &entry) {
		policies[cgroupID] = entry.Id
	}
	if err := entries.Err(); err != nil {
		return nil, fmt.Errorf("list the policies: %w", err)
	}
	return policies, nil
}

// AllowLoopback lets the policy's agents use a port on loopback as it is: dial
// it without the gateway, bind it, listen on it.
func (k *Kernel) AllowLoopback(policyID uint32, port uint16) error {
	if port == 0 {
		return errors.New("allow a loopback port: 0 is no port")
	}
	key := bpf.PosternLoopbackKey{Policy: policyID, Port: port}
	if err := k.maps[bpf.PosternMapLoopback].Put(key, uint8(1)); err != nil {
		return fmt.Errorf("allow loopback port %d to policy %d: %w", port, policyID, err)
	}
	return nil
}

// ForbidLoopback takes back AllowLoopback, for open connections too.
func (k *Kernel) ForbidLoopback(policyID uint32, port uint16) error {
	err := k.maps[bpf.PosternMapLoopback].Delete(bpf.PosternLoopbackKey{Policy: policyID, Port: port})
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("forbid loopback port %d to policy %d: %w", port, policyID, err)
	}
	return nil
}

// LoopbackPort is one port that AllowLoopback opened.
type LoopbackPort struct {
	PolicyID uint32
	Port     uint16
}

// LoopbackPorts is what AllowLoopback opened.
func (k *Kernel) LoopbackPorts() ([]LoopbackPort, error) {
	var ports []LoopbackPort
	var key bpf.PosternLoopbackKey
	var value uint8
	entries := k.maps[bpf.PosternMapLoopback].Iterate()
	for entries.Next(&key, &value) {
		ports = append(ports, LoopbackPort{PolicyID: key.Policy, Port: key.Port})
	}
	if err := entries.Err(); err != nil {
		return nil, fmt.Errorf("list the loopback ports: %w", err)
	}
	return ports, nil
}

// Stats counts since the programs were first attached, by kind.
func (k *Kernel) Stats() (map[Kind]uint64, error) {
	counts := map[Kind]uint64{}
	for kind := range kindNames {
		var perCPU []uint64
		if err := k.maps[bpf.PosternMapStats].Lookup(uint32(kind), &perCPU); err != nil {
			return nil, fmt.Errorf("read the counter %s: %w", kind, err)
		}
		sum := uint64(0)
		for _, n := range perCPU {
			sum += min(n, math.MaxUint64-sum)
		}
		counts[kind] = sum
	}
	return counts, nil
}
