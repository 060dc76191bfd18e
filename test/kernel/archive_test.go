//go:build qemu

package kernel

import (
	"bytes"
	"fmt"
)

// entry is one file of an initrd.
type entry struct {
	name         string
	mode         uint32
	major, minor uint32 // of a device
	content      []byte
}

// File types in a mode, as in stat(2).
const (
	modeDirectory = 0o040000
	modeFile      = 0o100000
	modeDevice    = 0o020000
)

// archive is an initrd of what the kernel needs to start init: the program,
// the console it prints to, and modules that it may load. The format is cpio's "newc"
// (Documentation/driver-api/early-userspace/buffer-format.rst).
func archive(init []byte, modules map[string][]byte) []byte {
	var out bytes.Buffer
	entries := []entry{
		{name: "dev", mode: modeDirectory | 0o755},
		{name: "dev/console", mode: modeDevice | 0o600, major: 5, minor: 1},
		{name: "init", mode: modeFile | 0o755, content: init},
		{name: "modules", mode: modeDirectory | 0o755},
	}
	for name, content := range modules {
		entries = append(entries, entry{name: "modules/" + name, mode: modeFile | 0o644, content: content})
	}
	for i, e := range append(entries, entry{name: "TRAILER!!!"}) {
		inode := i + 1
		const uid, gid, links, mtime, devMajor, devMinor, checksum = 0, 0, 1, 0, 0, 0, 0
		out.WriteString("070701")
		for _, field := range []uint32{
			uint32(inode), e.mode, uid, gid, links, mtime, uint32(len(e.content)),
			devMajor, devMinor, e.major, e.minor, uint32(len(e.name) + 1), checksum,
		} {
			fmt.Fprintf(&out, "%08x", field)
		}
		out.WriteString(e.name + "\x00")
		pad(&out)
		out.Write(e.content)
		pad(&out)
	}
	return out.Bytes()
}

func pad(out *bytes.Buffer) {
	for out.Len()%4 != 0 {
		out.WriteByte(0)
	}
}
