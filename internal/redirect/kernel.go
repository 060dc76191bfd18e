package redirect

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/postern/postern/bpf"
)

// The maps, by who works with them: daemonMaps are handed over to the daemon,
// guardMaps stay with who is root, innerMaps are used by the programs only.
var (
	daemonMaps = []string{
		bpf.PosternMapPolicy, bpf.PosternMapLoopback, bpf.PosternMapFlows, bpf.PosternMapDnsSrc, bpf.PosternMapEvents,
		bpf.PosternMapStats, bpf.PosternMapUnixPaths, bpf.PosternMapAsks, bpf.PosternMapVerdicts, bpf.PosternMapDestinations,
	}
	guardMaps = []string{bpf.PosternMapListeners, bpf.PosternMapGateways, bpf.PosternMapHome, bpf.PosternMapGlass}
	innerMaps = []string{bpf.PosternMapSk, bpf.PosternMapLimits, bpf.PosternMapPaces, bpf.PosternMapAsked}
)

// MapFiles opens the pinned maps the daemon needs, by name: what the guard
// hands over. The caller closes the files.
func MapFiles(o Options) (map[string]*os.File, error) { return o.mapFiles(daemonMaps) }

func (o Options) mapFiles(names []string) (map[string]*os.File, error) {
	files := map[string]*os.File{}
	for _, name := range names {
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

// Kernel is a hold on the kernel side: policies, listeners, records and events.
// The daemon has it by Open, needs CAP_BPF for it and no path; the guard by
// OpenPinned, with which listeners can be opened. Safe for use by several
// goroutines.
type Kernel struct {
	maps      map[string]*ebpf.Map
	reuseport *ebpf.Program // for the guard's listeners
	twoCalls  atomic.Bool   // the kernel does not look up and delete in one
}

// OpenPinned opens everything from its pins, as root.
func OpenPinned(o Options) (*Kernel, error) {
	files, err := o.mapFiles(slices.Concat(daemonMaps, guardMaps))
	if err != nil {
		return nil, err
	}
	defer closeAll(files)
	k, err := open(files, slices.Concat(daemonMaps, guardMaps))
	if err != nil {
		return nil, err
	}
	k.reuseport, err = ebpf.LoadPinnedProgram(o.reuseport(), nil)
	if err != nil {
		k.Close()
		return nil, fmt.Errorf("open the pinned program of listeners (is the guard attached?): %w", err)
	}
	return k, nil
}

// Open takes the maps that the guard handed over (MapFiles). The files remain
// the caller's to close.
func Open(files map[string]*os.File) (*Kernel, error) { return open(files, daemonMaps) }

func open(files map[string]*os.File, names []string) (*Kernel, error) {
	spec, err := bpf.LoadPostern()
	if err != nil {
		return nil, fmt.Errorf("read the embedded programs: %w", err)
	}
	k := &Kernel{maps: map[string]*ebpf.Map{}}
	for _, name := range names {
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
	if k.reuseport != nil {
		errs = append(errs, k.reuseport.Close())
	}
	return errors.Join(errs...)
}

// PolicyID is the kernel's number for an agent. It depends on the name alone,
// so that what an older daemon left in the kernel means the same agent.
func PolicyID(agent string) uint32 {
	sum := sha256.Sum256([]byte(agent))
	return max(1, binary.BigEndian.Uint32(sum[:]))
}

// SetPolicy puts the cgroup and all below it under the policy, unless one
// below has a policy of its own. The id 0 is not a policy.
//
// With unixPaths that are not nil its agents, in the gateway's network
// namespace, reach the Unix sockets at these paths only, byte by byte as a
// program names them. It takes the hooks of Linux 6.7 (Status.Optional says
// whether they are attached).
func (k *Kernel) SetPolicy(cgroupID uint64, policyID uint32, unixPaths []string) error {
	if policyID == 0 || cgroupID == 0 {
		return fmt.Errorf("set policy %d of cgroup %d: 0 is no id", policyID, cgroupID)
	}
	if err := k.listUnix(policyID, unixPaths); err != nil {
		return err
	}
	entry := bpf.PosternPolicyEntry{Id: policyID}
	if unixPaths != nil {
		entry.Flags = unixListed
	}
	if err := k.maps[bpf.PosternMapPolicy].Put(cgroupID, entry); err != nil {
		return fmt.Errorf("set policy %d of cgroup %d: %w", policyID, cgroupID, err)
	}
	return nil
}

// unixListed is POLICY_UNIX_LISTED.
const unixListed = 1

// listUnix makes the paths of a policy those of the list.
func (k *Kernel) listUnix(policyID uint32, paths []string) error {
	m := k.maps[bpf.PosternMapUnixPaths]
	keep := map[bpf.PosternUnixKey]bool{}
	for _, p := range paths {
		key := bpf.PosternUnixKey{Policy: policyID}
		if len(p) == 0 || len(p) >= len(key.Path) {
			return fmt.Errorf("Unix socket %q: a path has 1 to %d bytes", p, len(key.Path)-1)
		}
		for i := range len(p) {
			key.Path[i] = int8(p[i])
		}
		if err := m.Put(key, uint8(1)); err != nil {
			return fmt.Errorf("list the Unix socket %s: %w", p, err)
		}
		keep[key] = true
	}
	var key bpf.PosternUnixKey
	var value uint8
	var gone []bpf.PosternUnixKey
	entries := m.Iterate()
	for entries.Next(&key, &value) {
		if key.Policy == policyID && !keep[key] {
			gone = append(gone, key)
		}
	}
	if err := entries.Err(); err != nil {
		return fmt.Errorf("list the Unix sockets: %w", err)
	}
	for _, key := range gone {
		if err := m.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("forget a Unix socket: %w", err)
		}
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

// Use is what a policy has on a port of loopback.
type Use uint8

// The uses. Without one the port leads to the gateway at home, and is left
// alone in another network namespace.
const (
	AsIs   = Use(bpf.PosternLoopbackUseLOOPBACK_AS_IS)  // dialled without the gateway, bound, listened on
	Target = Use(bpf.PosternLoopbackUseLOOPBACK_TARGET) // leads to the gateway everywhere
)

// LoopbackPort is one port of one policy.
type LoopbackPort struct {
	PolicyID uint32
	Port     uint16
}

// UseLoopback sets what a port on loopback is for a policy's agents.
func (k *Kernel) UseLoopback(p LoopbackPort, use Use) error {
	if p.Port == 0 {
		return errors.New("use a loopback port: 0 is no port")
	}
	key := bpf.PosternLoopbackKey{Policy: p.PolicyID, Port: p.Port}
	if err := k.maps[bpf.PosternMapLoopback].Put(key, uint8(use)); err != nil {
		return fmt.Errorf("use loopback port %d for policy %d: %w", p.Port, p.PolicyID, err)
	}
	return nil
}

// ForgetLoopback takes back UseLoopback, for open connections too.
func (k *Kernel) ForgetLoopback(p LoopbackPort) error {
	err := k.maps[bpf.PosternMapLoopback].Delete(bpf.PosternLoopbackKey{Policy: p.PolicyID, Port: p.Port})
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("forget loopback port %d of policy %d: %w", p.Port, p.PolicyID, err)
	}
	return nil
}

// LoopbackPorts is what UseLoopback set.
func (k *Kernel) LoopbackPorts() (map[LoopbackPort]Use, error) {
	ports := map[LoopbackPort]Use{}
	var key bpf.PosternLoopbackKey
	var use uint8
	entries := k.maps[bpf.PosternMapLoopback].Iterate()
	for entries.Next(&key, &use) {
		ports[LoopbackPort{PolicyID: key.Policy, Port: key.Port}] = Use(use)
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

// Counts is Stats by the kinds' words.
func (k *Kernel) Counts() (map[string]uint64, error) {
	stats, err := k.Stats()
	if err != nil {
		return nil, err
	}
	counts := map[string]uint64{}
	for kind, n := range stats {
		counts[kind.String()] = n
	}
	return counts, nil
}
