package identity

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// fileIDKernfs is the handle type of kernfs: the handle is the 64-bit id of
// the node (include/linux/exportfs.h, FILEID_KERNFS, kernel 5.5).
const fileIDKernfs = 0xfe

// maxCachedPaths bounds the cache of paths; ids are never reused, so what is
// forgotten is only looked up again.
const maxCachedPaths = 4096

// CgroupMount says where cgroup v2 is mounted: /sys/fs/cgroup on most hosts,
// beside the v1 hierarchies (/sys/fs/cgroup/unified) on a hybrid one.
func CgroupMount() (string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "", fmt.Errorf("find the cgroup2 mount: %w", err)
	}
	defer f.Close()
	mount, err := cgroupMountIn(f)
	if err != nil {
		return "", fmt.Errorf("find the cgroup2 mount in /proc/self/mountinfo: %w", err)
	}
	return mount, nil
}

var errNoCgroup2 = errors.New("cgroup v2 is not mounted: boot with systemd.unified_cgroup_hierarchy=1, or mount it with `mount -t cgroup2 none DIR`")

// cgroupMountIn reads lines as proc(5) describes them:
// id parent major:minor root mountpoint options [optional...] - type source super.
// Of several mounts one that shows the whole tree wins, then the last one.
func cgroupMountIn(r io.Reader) (string, error) {
	whole, part := "", ""
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		left, right, ok := strings.Cut(lines.Text(), " - ")
		fields := strings.Fields(left)
		kind, _, _ := strings.Cut(right, " ")
		if !ok || kind != "cgroup2" || len(fields) < 5 {
			continue
		}
		if fields[3] == "/" {
			whole = unescape(fields[4])
		} else {
			part = unescape(fields[4])
		}
	}
	if err := lines.Err(); err != nil {
		return "", err
	}
	if whole != "" {
		return whole, nil
	}
	if part != "" {
		return part, nil
	}
	return "", errNoCgroup2
}

// unescape undoes the octal escapes of mountinfo.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// CgroupID is the id of the cgroup at path, as bpf_get_current_cgroup_id and
// a link's info have it. A cgroup that is removed and made again has another.
func CgroupID(path string) (uint64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return 0, fmt.Errorf("cgroup %s: %w", path, err)
	}
	if st.Type != unix.CGROUP2_SUPER_MAGIC {
		return 0, fmt.Errorf("cgroup %s: not on a cgroup2 file system", path)
	}
	handle, _, err := unix.NameToHandleAt(unix.AT_FDCWD, path, 0)
	if err != nil {
		return 0, fmt.Errorf("cgroup %s: name_to_handle_at: %w", path, err)
	}
	if handle.Type() != fileIDKernfs || handle.Size() != 8 {
		return 0, fmt.Errorf("cgroup %s: file handle of type %#x and %d bytes is not a cgroup id", path, handle.Type(), handle.Size())
	}
	return binary.NativeEndian.Uint64(handle.Bytes()), nil
}

// Cgroups finds the paths of cgroups below one root by their ids. Safe for use
// by several goroutines.
type Cgroups struct {
	root string
	dir  *os.File

	mu    sync.Mutex
	paths map[uint64]string
}

// NewCgroups watches over the tree at root, a directory of a cgroup2 mount.
func NewCgroups(root string) (*Cgroups, error) {
	dir, err := os.Open(root)
	if err != nil {
		return nil, fmt.Errorf("open cgroup root: %w", err)
	}
	return &Cgroups{root: root, dir: dir, paths: map[uint64]string{}}, nil
}

func (c *Cgroups) Close() error { return c.dir.Close() }

// ErrNoCgroup: no cgroup has this id, or not any more.
var ErrNoCgroup = errors.New("no cgroup with this id")

// Path is the path of the cgroup with this id, cached for good: ids are not
// reused and cgroups are not renamed. With CAP_DAC_READ_SEARCH that is one
// system call; without, the tree below the root is searched.
func (c *Cgroups) Path(id uint64) (string, error) {
	c.mu.Lock()
	path, ok := c.paths[id]
	c.mu.Unlock()
	if ok {
		return path, nil
	}
	path, err := c.byHandle(id)
	if errors.Is(err, unix.EPERM) {
		path, err = c.bySearch(id)
	}
	if err != nil {
		return "", err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.paths) >= maxCachedPaths {
		clear(c.paths)
	}
	c.paths[id] = path
	return path, nil
}

func (c *Cgroups) byHandle(id uint64) (string, error) {
	handle := unix.NewFileHandle(fileIDKernfs, binary.NativeEndian.AppendUint64(nil, id))
	fd, err := unix.OpenByHandleAt(int(c.dir.Fd()), handle, unix.O_PATH|unix.O_CLOEXEC)
	if errors.Is(err, unix.ESTALE) || errors.Is(err, unix.ENOENT) {
		return "", ErrNoCgroup
	}
	if err != nil {
		return "", fmt.Errorf("cgroup %d: open_by_handle_at: %w", id, err)
	}
	defer unix.Close(fd)
	path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return "", fmt.Errorf("cgroup %d: %w", id, err)
	}
	if strings.HasSuffix(path, " (deleted)") {
		return "", ErrNoCgroup
	}
	return path, nil
}

// bySearch compares inode numbers, which are the ids on 64-bit kernels.
func (c *Cgroups) bySearch(id uint64) (string, error) {
	found := ""
	err := filepath.WalkDir(c.root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil //nolint:nilerr // removed while we look, or not ours to read
		}
		var st unix.Stat_t
		if unix.Lstat(path, &st) == nil && st.Ino == id {
			found = path
			return filepath.SkipAll
		}
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("cgroup %d: %w", id, err)
	}
	if found == "" {
		return "", ErrNoCgroup
	}
	return found, nil
}
