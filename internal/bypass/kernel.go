package bypass

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The kernel programs themselves, and what else rules the network.
var kernelAttempts = []Attempt{
	{Name: "bpf-open-pins", Tries: "opens the pinned programs and maps", Families: neither, Must: boxed(by(ByKernel), BySeccomp), do: openPins},
	{
		Name: "bpf-detach", Tries: "takes hold of an attached program by its number, to detach it", Families: neither,
		Must: boxed(by(ByKernel), BySeccomp), do: linkByID,
	},
	{Name: "bpf-load", Tries: "loads a program that allows everything", Families: neither, Must: boxed(by(ByKernel), BySeccomp), do: loadProgram},
	{Name: "pin-folder", Tries: "changes the folder of the pins", Families: neither, Must: boxed(by(ByKernel), ByMounts), do: pinFolder},
	{Name: "proc-sys-net", Tries: "writes to the network's settings", Families: neither, Must: boxed(by(ByKernel), ByMounts), do: sysctl},
}

// Commands of bpf(2).
const (
	bpfProgLoad      = 5
	bpfObjGet        = 7
	bpfLinkGetFDByID = 30

	progTypeSockAddr   = 18
	attachInet4Connect = 10
)

// bpf makes the call with an attribute of the given words; what it opens is
// closed again.
func bpf(command int, attribute []byte) error {
	fd, _, errno := unix.Syscall(unix.SYS_BPF, uintptr(command), uintptr(unsafe.Pointer(&attribute[0])), uintptr(len(attribute)))
	if errno != 0 {
		return errno
	}
	return unix.Close(int(fd))
}

func openPins(t *try) error {
	if t.Pins == "" {
		return fmt.Errorf("%w: where the pins are is not known", errAbsent)
	}
	var last error
	for _, name := range []string{"links/connect4", "links/egress", "maps/policy"} {
		path, err := unix.BytePtrFromString(filepath.Join(t.Pins, name))
		if err != nil {
			return err
		}
		var pinner runtime.Pinner
		pinner.Pin(path)
		attribute := make([]byte, 16)
		binary.NativeEndian.PutUint64(attribute, uint64(uintptr(unsafe.Pointer(path))))
		last = bpf(bpfObjGet, attribute)
		pinner.Unpin()
		if last == nil {
			return nil
		}
	}
	return named("BPF_OBJ_GET", last)
}

// linkByID does not go on to BPF_LINK_DETACH: who has the descriptor may, and
// the host is to stay closed.
func linkByID(t *try) error {
	if len(t.Links) == 0 {
		return fmt.Errorf("%w: the programs' numbers are not known", errAbsent)
	}
	attribute := make([]byte, 16)
	binary.NativeEndian.PutUint32(attribute, t.Links[0])
	return named("BPF_LINK_GET_FD_BY_ID", bpf(bpfLinkGetFDByID, attribute))
}

func loadProgram(*try) error {
	instructions := []byte{
		0xb7, 0, 0, 0, 1, 0, 0, 0, // r0 = 1
		0x95, 0, 0, 0, 0, 0, 0, 0, // exit
	}
	license := []byte("GPL\x00")
	var pinner runtime.Pinner
	defer pinner.Unpin()
	pinner.Pin(&instructions[0])
	pinner.Pin(&license[0])
	attribute := make([]byte, 72)
	binary.NativeEndian.PutUint32(attribute, progTypeSockAddr)
	binary.NativeEndian.PutUint32(attribute[4:], uint32(len(instructions)/8))
	binary.NativeEndian.PutUint64(attribute[8:], uint64(uintptr(unsafe.Pointer(&instructions[0]))))
	binary.NativeEndian.PutUint64(attribute[16:], uint64(uintptr(unsafe.Pointer(&license[0]))))
	binary.NativeEndian.PutUint32(attribute[68:], attachInet4Connect)
	return named("BPF_PROG_LOAD", bpf(bpfProgLoad, attribute))
}

func pinFolder(t *try) error {
	if t.Pins == "" {
		return fmt.Errorf("%w: where the pins are is not known", errAbsent)
	}
	mine := filepath.Join(t.Pins, "bypass")
	if err := os.Mkdir(mine, 0o700); err != nil {
		return err
	}
	return os.Remove(mine)
}

func sysctl(*try) error {
	f, err := os.OpenFile("/proc/sys/net/ipv4/ip_default_ttl", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return f.Close()
}
