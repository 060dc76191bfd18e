package sftp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Version is the only one that is spoken: OpenSSH's.
const Version = 3

const (
	// maxPacket is OpenSSH's own limit of a packet, which both ends keep to.
	maxPacket = 256 << 10
	// maxPath is Linux's limit of a path.
	maxPath = 4096
	// maxHandle is the protocol's limit of a handle.
	maxHandle = 256
)

// Types of packets (draft-ietf-secsh-filexfer-02, section 3).
const (
	typeInit     = 1
	typeVersion  = 2
	typeOpen     = 3
	typeClose    = 4
	typeRead     = 5
	typeWrite    = 6
	typeLstat    = 7
	typeFstat    = 8
	typeSetstat  = 9
	typeFsetstat = 10
	typeOpendir  = 11
	typeReaddir  = 12
	typeRemove   = 13
	typeMkdir    = 14
	typeRmdir    = 15
	typeRealpath = 16
	typeStat     = 17
	typeRename   = 18
	typeReadlink = 19
	typeSymlink  = 20
	typeStatus   = 101
	typeHandle   = 102
	typeData     = 103
	typeName     = 104
	typeAttrs    = 105
	typeExtended = 200
	typeReply    = 201 // to an extended request
)

// Status is how a request ended (section 7).
type Status uint32

const (
	StatusOK               Status = 0
	StatusEOF              Status = 1
	StatusNoSuchFile       Status = 2
	StatusPermissionDenied Status = 3
	StatusFailure          Status = 4
	StatusBadMessage       Status = 5
	StatusUnsupported      Status = 8
)

// Flags of OPEN.
const (
	flagRead      = 1 << 0
	flagWrite     = 1 << 1
	flagAppend    = 1 << 2
	flagCreate    = 1 << 3
	flagTruncate  = 1 << 4
	flagExclusive = 1 << 5
)

// Flags of attributes.
const (
	attrSize        = 1 << 0
	attrOwner       = 1 << 1
	attrPermissions = 1 << 2
	attrTimes       = 1 << 3
	attrExtended    = 1 << 31
)

// The extensions that are understood, by what their requests hold.
const (
	extPosixRename = "posix-rename@openssh.com"
	extHardlink    = "hardlink@openssh.com"
	extFsync       = "fsync@openssh.com"
	extStatvfs     = "statvfs@openssh.com"
	extFstatvfs    = "fstatvfs@openssh.com"
	extLsetstat    = "lsetstat@openssh.com"
	extLimits      = "limits@openssh.com"
	extExpandPath  = "expand-path@openssh.com"
	extCopyData    = "copy-data"
	extHome        = "home-directory"
	extUsers       = "users-groups-by-id@openssh.com"
)

var extensions = map[string]bool{
	extPosixRename: true, extHardlink: true, extFsync: true, extStatvfs: true, extFstatvfs: true, extLsetstat: true,
	extLimits: true, extExpandPath: true, extCopyData: true, extHome: true, extUsers: true,
}

// ErrMalformed is what a packet is that does not follow the protocol: whoever
// sent it is not spoken to any more.
var ErrMalformed = errors.New("sftp: malformed packet")

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrMalformed}, args...)...)
}

// frame is one packet as it is on the wire: its length, its type, then what
// requests and answers begin with, an id.
type frame []byte

func (f frame) kind() byte   { return f[4] }
func (f frame) body() []byte { return f[5:] }

// withID puts another id in. There must be one.
func (f frame) withID(id uint32) frame {
	binary.BigEndian.PutUint32(f[5:], id)
	return f
}

// read reads one packet. It is in buf where that has room.
func read(r io.Reader, buf []byte) (frame, error) {
	buf = buf[:cap(buf)]
	if len(buf) < 5 {
		buf = make([]byte, 64<<10)
	}
	if _, err := io.ReadFull(r, buf[:5]); err != nil {
		return nil, err
	}
	length := binary.BigEndian.Uint32(buf)
	if length < 1 || length > maxPacket {
		return nil, malformed("a length of %d", length)
	}
	if total := int(length) + 4; len(buf) < total {
		buf = append(make([]byte, 0, total), buf[:5]...)[:total]
	}
	buf = buf[:length+4]
	if _, err := io.ReadFull(r, buf[5:]); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return frame(buf), nil
}

// Request is one of the client's. Its slices are the packet's.
type Request struct {
	Type      byte
	ID        uint32
	Extension string // of an extended one
	Path      string
	Other     string // the second path, of those that have two
	Handle    string
	Into      string // the second handle, of copy-data
	Offset    uint64
	Length    uint32
	Data      []byte
	Flags     uint32 // of OPEN
	Attrs     Attrs

	opened *file  // what Handle is, once that was looked up
	answer string // where the request asks for a path: what the upstream said
}

// onHandle says that a request is about a file that is open.
func (r *Request) onHandle() bool {
	switch r.Type {
	case typeClose, typeRead, typeWrite, typeFstat, typeFsetstat, typeReaddir:
		return true
	}
	return r.Extension == extFsync || r.Extension == extFstatvfs || r.Extension == extCopyData
}

// asksForPath says that the answer to a request is a path.
func (r *Request) asksForPath() bool {
	return r.Type == typeRealpath || r.Extension == extExpandPath || r.Extension == extHome
}

// Attrs are a file's attributes, as far as they are decisions; they go on as they
// came.
type Attrs struct {
	Raw         []byte
	Flags       uint32
	Size        uint64
	Permissions uint32
}

// parseRequest reads what follows the type of a request.
func parseRequest(kind byte, body []byte) (Request, error) {
	d := decoder{rest: body}
	r := Request{Type: kind, ID: d.uint32()}
	switch kind {
	case typeOpen:
		r.Path, r.Flags, r.Attrs = d.path(), d.uint32(), d.attrs()
	case typeClose, typeFstat, typeReaddir:
		r.Handle = d.handle()
	case typeRead:
		r.Handle, r.Offset, r.Length = d.handle(), d.uint64(), d.uint32()
	case typeWrite:
		r.Handle, r.Offset, r.Data = d.handle(), d.uint64(), d.bytes(maxPacket)
	case typeLstat, typeStat, typeOpendir, typeRemove, typeRmdir, typeRealpath, typeReadlink:
		r.Path = d.path()
	case typeSetstat, typeMkdir:
		r.Path, r.Attrs = d.path(), d.attrs()
	case typeFsetstat:
		r.Handle, r.Attrs = d.handle(), d.attrs()
	case typeRename, typeSymlink:
		r.Path, r.Other = d.path(), d.path()
	case typeExtended:
		r.Extension = string(d.bytes(maxHandle))
		d.extension(&r)
	default:
		return r, malformed("a request of type %d", kind)
	}
	if d.bad || len(d.rest) > 0 && kind != typeExtended {
		return r, malformed("a request of type %d with %d bytes", kind, len(body))
	}
	return r, nil
}

// extension reads what follows the name. Requests that are not understood are
// refused, so what follows in them does not matter.
func (d *decoder) extension(r *Request) {
	switch r.Extension {
	case extPosixRename, extHardlink:
		r.Path, r.Other = d.path(), d.path()
	case extFsync, extFstatvfs:
		r.Handle = d.handle()
	case extStatvfs, extExpandPath, extHome:
		r.Path = d.path()
	case extLsetstat:
		r.Path, r.Attrs = d.path(), d.attrs()
	case extCopyData:
		r.Handle, r.Offset = d.handle(), d.uint64()
		d.uint64() // how much
		r.Into = d.handle()
		d.uint64() // to where
	case extUsers:
		d.bytes(maxPacket)
		d.bytes(maxPacket)
	case extLimits:
	default:
		return
	}
	d.bad = d.bad || len(d.rest) > 0
}

// decoder takes fields off a packet. After the first that is not there it is bad
// and returns nothing but zeros.
type decoder struct {
	rest []byte
	bad  bool
}

func (d *decoder) take(n int) []byte {
	if d.bad || n < 0 || len(d.rest) < n {
		d.bad = true
		return nil
	}
	b := d.rest[:n]
	d.rest = d.rest[n:]
	return b
}

func (d *decoder) uint32() uint32 {
	if b := d.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (d *decoder) uint64() uint64 {
	if b := d.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (d *decoder) bytes(most int) []byte {
	n := d.uint32()
	if n > uint32(most) {
		d.bad = true
		return nil
	}
	return d.take(int(n))
}

// path is text that names a file. A NUL would be read by nobody as it stands.
func (d *decoder) path() string {
	b := d.bytes(maxPath)
	for _, c := range b {
		d.bad = d.bad || c == 0
	}
	return string(b)
}

func (d *decoder) handle() string { return string(d.bytes(maxHandle)) }

func (d *decoder) attrs() Attrs {
	from := d.rest
	a := Attrs{Flags: d.uint32()}
	if a.Flags&attrSize != 0 {
		a.Size = d.uint64()
	}
	if a.Flags&attrOwner != 0 {
		d.take(8)
	}
	if a.Flags&attrPermissions != 0 {
		a.Permissions = d.uint32()
	}
	if a.Flags&attrTimes != 0 {
		d.take(8)
	}
	if a.Flags&attrExtended != 0 {
		for n := d.uint32(); n > 0 && !d.bad; n-- {
			d.bytes(maxPacket)
			d.bytes(maxPacket)
		}
	}
	if a.Flags&^(attrSize|attrOwner|attrPermissions|attrTimes|attrExtended) != 0 {
		d.bad = true // what these would be is not known, and so not where they end
	}
	if !d.bad {
		a.Raw = from[:len(from)-len(d.rest)]
	}
	return a
}

// packet builds one, with room for its length.
type packet []byte

func newPacket(kind byte, id uint32) packet {
	p := packet{0, 0, 0, 0, kind}
	return binary.BigEndian.AppendUint32(p, id)
}

func (p packet) uint32(v uint32) packet { return binary.BigEndian.AppendUint32(p, v) }
func (p packet) uint64(v uint64) packet { return binary.BigEndian.AppendUint64(p, v) }
func (p packet) raw(b []byte) packet    { return append(p, b...) }

func (p packet) text(s string) packet {
	p = binary.BigEndian.AppendUint32(p, uint32(len(s)))
	return append(p, s...)
}

// done puts the length in.
func (p packet) done() []byte {
	binary.BigEndian.PutUint32(p, uint32(len(p)-4))
	return p
}

// statusPacket tells how a request ended.
func statusPacket(id uint32, s Status, message string) []byte {
	return newPacket(typeStatus, id).uint32(uint32(s)).text(message).text("en").done()
}

// encode writes a request again, under another id and with other paths, as they
// stand in r.
func (r *Request) encode() []byte {
	p := newPacket(r.Type, r.ID)
	switch r.Type {
	case typeOpen:
		p = p.text(r.Path).uint32(r.Flags).raw(r.Attrs.Raw)
	case typeClose, typeFstat, typeReaddir:
		p = p.text(r.Handle)
	case typeRead:
		p = p.text(r.Handle).uint64(r.Offset).uint32(r.Length)
	case typeSetstat, typeMkdir:
		p = p.text(r.Path).raw(r.Attrs.Raw)
	case typeFsetstat:
		p = p.text(r.Handle).raw(r.Attrs.Raw)
	case typeRename, typeSymlink:
		p = p.text(r.Path).text(r.Other)
	case typeExtended:
		p = p.text(r.Extension)
		switch r.Extension {
		case extPosixRename, extHardlink:
			p = p.text(r.Path).text(r.Other)
		case extLsetstat:
			p = p.text(r.Path).raw(r.Attrs.Raw)
		case extStatvfs, extExpandPath, extHome:
			p = p.text(r.Path)
		}
	default:
		p = p.text(r.Path)
	}
	return p.done()
}

// version returns the answer to INIT without extensions that are not understood,
// so that clients do not use them.
func version(body []byte) ([]byte, error) {
	d := decoder{rest: body}
	if v := d.uint32(); d.bad || v != Version {
		return nil, malformed("the server speaks version %d", v)
	}
	p := packet{0, 0, 0, 0, typeVersion}.uint32(Version)
	for len(d.rest) > 0 {
		name, value := d.bytes(maxPacket), d.bytes(maxPacket)
		if d.bad {
			return nil, malformed("the server's version")
		}
		if extensions[string(name)] {
			p = p.text(string(name)).text(string(value))
		}
	}
	return p.done(), nil
}
