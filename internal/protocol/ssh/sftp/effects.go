package sftp

import (
	"fmt"
	"path"
	"strings"
)

// The verbs of what is done to files. The object is the path, as the server
// resolves it.
const (
	VerbList       = "file-list"       // a directory's names, or a file's attributes
	VerbRead       = "file-read"       // what is in a file
	VerbWrite      = "file-write"      // changes that, or makes a file
	VerbRemove     = "file-remove"     // a file or an empty directory
	VerbRename     = "file-rename"     // both names
	VerbMkdir      = "file-mkdir"      // makes a directory
	VerbAttributes = "file-attributes" // changes owner, permissions or times
	VerbLink       = "file-link"       // makes another name for a file: both names
)

// follow says how far a server follows links of a path.
type follow uint8

const (
	toParent follow = iota // its last part is the name itself
	toEnd                  // to the file that is meant in the end
)

// operand is one path of a request, and what would be done to it.
type operand struct {
	path   string
	follow follow
	verbs  []string
	// relative is the path beside which this one is meant, as a link's text is; it
	// is not resolved.
	relative string
}

// operands are what a request would do, but for those on open handles.
func (r *Request) operands() []operand {
	one := func(f follow, verbs ...string) []operand { return []operand{{path: r.Path, follow: f, verbs: verbs}} }
	switch r.Type {
	case typeOpen:
		return one(toEnd, r.opens()...)
	case typeOpendir, typeStat:
		return one(toEnd, VerbList)
	case typeLstat, typeReadlink:
		return one(toParent, VerbList)
	case typeSetstat:
		return one(toEnd, r.changes()...)
	case typeMkdir:
		return one(toParent, VerbMkdir)
	case typeRemove, typeRmdir:
		return one(toParent, VerbRemove)
	case typeRename:
		return r.both(VerbRename)
	case typeSymlink:
		// OpenSSH's server takes the text of the link first, others the link. Rules
		// see both, each as if it were the link and as if it were beside it.
		return []operand{
			{path: r.Other, follow: toParent, verbs: []string{VerbLink}},
			{path: r.Path, verbs: []string{VerbLink}, relative: r.Other},
		}
	}
	switch r.Extension {
	case extPosixRename:
		return r.both(VerbRename)
	case extHardlink:
		// By its new name a file can be read and written as by the old one.
		return []operand{
			{path: r.Path, follow: toParent, verbs: []string{VerbLink, VerbRead, VerbWrite}},
			{path: r.Other, follow: toParent, verbs: []string{VerbLink}},
		}
	case extStatvfs:
		return one(toEnd, VerbList)
	case extLsetstat:
		return one(toParent, r.changes()...)
	}
	return nil
}

func (r *Request) both(verb string) []operand {
	return []operand{
		{path: r.Path, follow: toParent, verbs: []string{verb}},
		{path: r.Other, follow: toParent, verbs: []string{verb}},
	}
}

// opens are the verbs of OPEN. Without a flag servers open for reading.
func (r *Request) opens() []string {
	var verbs []string
	if r.Flags&flagRead != 0 || r.Flags&flagWrite == 0 {
		verbs = append(verbs, VerbRead)
	}
	if r.Flags&(flagWrite|flagAppend|flagCreate|flagTruncate) != 0 {
		verbs = append(verbs, VerbWrite)
	}
	if r.Attrs.Flags&^(attrSize|attrPermissions|attrTimes) != 0 || r.Attrs.special() {
		verbs = append(verbs, VerbAttributes)
	}
	return verbs
}

// changes are the verbs of SETSTAT: a size is a matter of what is in the file.
func (r *Request) changes() []string {
	var verbs []string
	if r.Attrs.Flags&attrSize != 0 {
		verbs = append(verbs, VerbWrite)
	}
	if r.Attrs.Flags&^attrSize != 0 || len(verbs) == 0 {
		verbs = append(verbs, VerbAttributes)
	}
	return verbs
}

// special says that permissions have more in them than who may do what.
func (a *Attrs) special() bool {
	return a.Flags&attrPermissions != 0 && a.Permissions&0o7000 != 0
}

// ownFile says whether a change of attributes by a handle is a part of writing a
// file: size, times, and permissions for owner, group and others.
func (a *Attrs) ownFile() bool {
	return a.Flags&^(attrSize|attrPermissions|attrTimes) == 0 && !a.special()
}

// split is the directory that a server resolves for a name, and the name in it.
// Where the last part is none, as in "a/..", all of it is resolved.
func split(p string) (directory, name string, ok bool) {
	trimmed := strings.TrimRight(p, "/")
	at := strings.LastIndexByte(trimmed, '/')
	name = trimmed[at+1:]
	switch {
	case name == "" || name == "." || name == "..":
		return p, "", false
	case at < 0:
		return ".", name, true
	case at == 0:
		return "/", name, true
	}
	return trimmed[:at], name, true
}

// lexical is what a path is without asking the server, for one that it cannot
// resolve.
func lexical(home, p string) string {
	if !strings.HasPrefix(p, "/") {
		p = home + "/" + p
	}
	return path.Clean("/" + p)
}

// words is a request in words, for people and the record, with the paths that
// were decided.
func (r *Request) words() string {
	switch r.Type {
	case typeOpen:
		var how []string
		for _, f := range []struct {
			bit  uint32
			name string
		}{
			{flagRead, "read"}, {flagWrite, "write"}, {flagAppend, "append"}, {flagCreate, "create"}, {flagTruncate, "truncate"}, {flagExclusive, "exclusive"},
		} {
			if r.Flags&f.bit != 0 {
				how = append(how, f.name)
			}
		}
		return fmt.Sprintf("open %q for %s", r.Path, strings.Join(how, ", "))
	case typeSetstat, typeFsetstat:
		return fmt.Sprintf("setstat %q%s", r.Path, r.Attrs.words())
	case typeExtended:
		name, _, _ := strings.Cut(r.Extension, "@")
		if r.Other != "" {
			return fmt.Sprintf("%s %q %q", name, r.Path, r.Other)
		}
		return fmt.Sprintf("%s %q%s", name, r.Path, r.Attrs.words())
	}
	if r.Other != "" {
		return fmt.Sprintf("%s %q %q", names[r.Type], r.Path, r.Other)
	}
	return fmt.Sprintf("%s %q", names[r.Type], r.Path)
}

func (a *Attrs) words() string {
	out := ""
	if a.Flags&attrSize != 0 {
		out += fmt.Sprintf(" size %d", a.Size)
	}
	if a.Flags&attrOwner != 0 {
		out += " owner and group"
	}
	if a.Flags&attrPermissions != 0 {
		out += fmt.Sprintf(" permissions %04o", a.Permissions&0o7777)
	}
	if a.Flags&attrTimes != 0 {
		out += " times"
	}
	return out
}

var names = map[byte]string{
	typeLstat: "lstat", typeStat: "stat", typeOpendir: "opendir", typeRemove: "remove", typeMkdir: "mkdir", typeRmdir: "rmdir",
	typeRealpath: "realpath", typeRename: "rename", typeReadlink: "readlink", typeSymlink: "symlink",
}
