package sftp

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/wiretest"
)

// TestDecides: each request is decided by its verb and the path that the server
// resolves, and a denied one reaches no file.
func TestDecides(t *testing.T) {
	for _, test := range []struct {
		name    string
		request Request
		effects string
	}{
		{"open", Request{Type: typeOpen, Path: "a", Flags: flagRead}, "file-read(~/a)"},
		{"open to write", Request{Type: typeOpen, Path: "a", Flags: flagWrite | flagCreate | flagTruncate}, "file-write(~/a)"},
		{"open for both", Request{Type: typeOpen, Path: "a", Flags: flagRead | flagWrite}, "file-read(~/a) file-write(~/a)"},
		{"open without flags", Request{Type: typeOpen, Path: "a"}, "file-read(~/a)"},
		{"append", Request{Type: typeOpen, Path: "a", Flags: flagAppend}, "file-read(~/a) file-write(~/a)"},
		{"open with set-uid", Request{Type: typeOpen, Path: "n", Flags: flagWrite | flagCreate, Attrs: attrs(attrPermissions, 0, 0o4755)}, "file-write(~/n) file-attributes(~/n)"},
		{"up and down", Request{Type: typeOpen, Path: "d/../d/../a", Flags: flagRead}, "file-read(~/a)"},
		{"by a link", Request{Type: typeOpen, Path: "to-a", Flags: flagRead}, "file-read(~/a)"},
		{"by a link to a directory", Request{Type: typeOpen, Path: "to-d/f", Flags: flagRead}, "file-read(~/d/f)"},
		{"new by a link that leads nowhere", Request{Type: typeOpen, Path: "to-nowhere", Flags: flagWrite | flagCreate}, "file-write(~/nowhere)"},
		{"opendir", Request{Type: typeOpendir, Path: "to-d"}, "file-list(~/d)"},
		{"stat", Request{Type: typeStat, Path: "to-a"}, "file-list(~/a)"},
		{"lstat", Request{Type: typeLstat, Path: "to-d/../to-a"}, "file-list(~/to-a)"},
		{"lstat of a link's directory", Request{Type: typeLstat, Path: "to-d/f"}, "file-list(~/d/f)"},
		{"readlink", Request{Type: typeReadlink, Path: "to-a"}, "file-list(~/to-a)"},
		{"remove", Request{Type: typeRemove, Path: "to-d/f"}, "file-remove(~/d/f)"},
		{"remove a link", Request{Type: typeRemove, Path: "to-a"}, "file-remove(~/to-a)"},
		{"rmdir", Request{Type: typeRmdir, Path: "e/"}, "file-remove(~/e)"},
		{"mkdir", Request{Type: typeMkdir, Path: "to-d/new"}, "file-mkdir(~/d/new)"},
		{"truncate", Request{Type: typeSetstat, Path: "a", Attrs: attrs(attrSize, 1, 0)}, "file-write(~/a)"},
		{"chmod", Request{Type: typeSetstat, Path: "to-a", Attrs: attrs(attrPermissions, 0, 0o600)}, "file-attributes(~/a)"},
		{"lsetstat", Request{Type: typeExtended, Extension: extLsetstat, Path: "to-a", Attrs: attrs(attrPermissions, 0, 0o600)}, "file-attributes(~/to-a)"},
		{"rename", Request{Type: typeRename, Path: "to-d/f", Other: "g"}, "file-rename(~/d/f) file-rename(~/g)"},
		{"posix-rename", Request{Type: typeExtended, Extension: extPosixRename, Path: "a", Other: "e/a"}, "file-rename(~/a) file-rename(~/e/a)"},
		{"symlink", Request{Type: typeSymlink, Path: "../x", Other: "e/l"}, "file-link(~/e/l) file-link(~/x) file-link(UP/x)"},
		{"symlink, absolute", Request{Type: typeSymlink, Path: "/etc/passwd", Other: "l"}, "file-link(~/l) file-link(/etc/passwd)"},
		{"hardlink", Request{Type: typeExtended, Extension: extHardlink, Path: "a", Other: "h"}, "file-link(~/a) file-read(~/a) file-write(~/a) file-link(~/h)"},
		{"statvfs", Request{Type: typeExtended, Extension: extStatvfs, Path: "to-d"}, "file-list(~/d)"},
		{"realpath", Request{Type: typeRealpath, Path: "to-d"}, "file-list(~/d)"},
		{"expand-path", Request{Type: typeExtended, Extension: extExpandPath, Path: "to-d"}, "file-list(~/d)"},
	} {
		t.Run(test.name, func(t *testing.T) {
			gate := denies("", "")
			w := withServer(t, gate)
			w.tree()
			before := w.listing()
			w.hello()
			if test.request.Attrs.Raw == nil {
				test.request.Attrs = attrs(0, 0, 0)
			}
			test.request.ID = 77
			if s := w.status(test.request); s != StatusPermissionDenied {
				t.Errorf("the status is %v", s)
			}
			got := strings.ReplaceAll(strings.Join(effects(gate, w.home), " "), filepath.Dir(w.home), "UP")
			if got != test.effects {
				t.Errorf("the gate was asked for\n\t%s\nand not\n\t%s", got, test.effects)
			}
			if after := w.listing(); after != before {
				t.Errorf("denied, but now there is\n%s", after)
			}
			if !strings.Contains(w.heard(), "not this file; rule no; ask somebody (session s1)") {
				t.Errorf("standard error says %q", w.heard())
			}
		})
	}
}

func attrs(flags uint32, size uint64, permissions uint32) Attrs {
	p := packet{}.uint32(flags)
	if flags&attrSize != 0 {
		p = p.uint64(size)
	}
	if flags&attrPermissions != 0 {
		p = p.uint32(permissions)
	}
	return Attrs{Raw: p, Flags: flags, Size: size, Permissions: permissions}
}

// tree is what TestDecides works on.
func (w *world) tree() {
	w.write("a", "text of a\n")
	w.write("d/f", "f\n")
	must(w.t, os.Mkdir(filepath.Join(w.home, "e"), 0o755))
	must(w.t, os.Symlink("a", filepath.Join(w.home, "to-a")))
	must(w.t, os.Symlink("d", filepath.Join(w.home, "to-d")))
	must(w.t, os.Symlink("nowhere", filepath.Join(w.home, "to-nowhere")))
}

func (w *world) listing() string {
	var b strings.Builder
	must(w.t, filepath.Walk(w.home, func(path string, info os.FileInfo, err error) error {
		fmt.Fprintln(&b, path, info.Mode(), info.Size())
		return err
	}))
	return b.String()
}

// TestHomeIsFree: what every client asks first needs no rule.
func TestHomeIsFree(t *testing.T) {
	gate := denies("", "")
	w := withServer(t, gate)
	w.hello()
	f := w.asks(Request{Type: typeRealpath, ID: 3, Path: "."})
	if f.kind() != typeName || !bytes.Contains(f.body(), []byte(w.home)) {
		t.Errorf("the answer is %q", f.body())
	}
	gate.Saw(t)
}

// TestNothingIsToldOfDenied: what does not exist looks like what does.
func TestNothingIsToldOfDenied(t *testing.T) {
	w := withServer(t, denies("", ""))
	w.hello()
	for i, path := range []string{"nowhere/deep/x", "/nowhere/x", "nowhere"} {
		if s := w.status(Request{Type: typeStat, ID: uint32(i), Path: path}); s != StatusPermissionDenied {
			t.Errorf("%s: %v", path, s)
		}
	}
	w = withServer(t, denies("", "else"))
	w.hello()
	if s := w.status(Request{Type: typeStat, ID: 9, Path: "nowhere/deep/x"}); s != StatusNoSuchFile {
		t.Errorf("allowed, and the status is %v", s)
	}
}

// TestTransfers: sizes and hashes of what passed are on record.
func TestTransfers(t *testing.T) {
	gate := denies("", "none")
	w := withServer(t, gate)
	content := bytes.Repeat([]byte("0123456789abcdef"), 5000)
	w.write("big", string(content))
	w.hello()
	in, out := w.open("big", flagRead), w.open("copy", flagWrite|flagCreate)
	gate.Events()
	for at := 0; at < len(content); at += 32 << 10 {
		f := w.asks(Request{Type: typeRead, ID: 5, Handle: in, Offset: uint64(at), Length: 32 << 10})
		d := decoder{rest: f.body()[4:]}
		piece := d.bytes(maxPacket)
		w.send(newPacket(typeWrite, 6).text(out).uint64(uint64(at)).text(string(piece)).done())
		if s := statusOf(t, hears(t, w)); s != StatusOK {
			t.Fatal(s)
		}
	}
	w.status(Request{Type: typeClose, ID: 7, Handle: in})
	w.status(Request{Type: typeClose, ID: 8, Handle: out})
	got, err := os.ReadFile(filepath.Join(w.home, "copy"))
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("the copy has %d bytes: %v", len(got), err)
	}
	sum := sha256.Sum256(content)
	gate.Saw(t,
		fmt.Sprintf("file file-read %s/big 80000 %x", w.home, sum[:4]), fmt.Sprintf("end %q ok \"file-read\" rows=0", `open "`+w.home+`/big" for read`),
		fmt.Sprintf("file file-write %s/copy 80000 %x", w.home, sum[:4]), fmt.Sprintf("end %q ok \"file-write\" rows=0", `open "`+w.home+`/copy" for write, create`))
}

// TestHandles: an open file is what it was opened for, and no more.
func TestHandles(t *testing.T) {
	w := withServer(t, denies(VerbAttributes, ""))
	w.tree()
	w.hello()
	in, out := w.open("a", flagRead), w.open("new", flagWrite|flagCreate)
	for name, test := range map[string]struct {
		packet []byte
		want   Status
	}{
		"write to one for reading":     {newPacket(typeWrite, 2).text(in).uint64(0).text("x").done(), StatusPermissionDenied},
		"truncate one for reading":     {(&Request{Type: typeFsetstat, ID: 2, Handle: in, Attrs: attrs(attrSize, 0, 0)}).encode(), StatusBadMessage}, // as the server says
		"chmod one for reading":        {(&Request{Type: typeFsetstat, ID: 2, Handle: in, Attrs: attrs(attrPermissions, 0, 0o600)}).encode(), StatusPermissionDenied},
		"chmod one's own":              {(&Request{Type: typeFsetstat, ID: 2, Handle: out, Attrs: attrs(attrPermissions, 0, 0o600)}).encode(), StatusOK},
		"set-uid":                      {(&Request{Type: typeFsetstat, ID: 2, Handle: out, Attrs: attrs(attrPermissions, 0, 0o4755)}).encode(), StatusPermissionDenied},
		"a handle that is none":        {newPacket(typeRead, 2).text("zzzz").uint64(0).uint32(9).done(), StatusFailure},
		"no handle":                    {newPacket(typeClose, 2).text("").done(), StatusFailure},
		"copy into one for reading":    {newPacket(typeExtended, 2).text(extCopyData).text(out).uint64(0).uint64(0).text(in).uint64(0).done(), StatusPermissionDenied},
		"fsync one for reading":        {newPacket(typeExtended, 2).text(extFsync).text(in).done(), StatusPermissionDenied},
		"fsync":                        {newPacket(typeExtended, 2).text(extFsync).text(out).done(), StatusOK},
		"an extension nobody knows":    {newPacket(typeExtended, 2).text("run@example.org").text("rm").done(), StatusUnsupported},
		"another one's, of the server": {newPacket(typeExtended, 2).text("vendor-id").text("x").done(), StatusUnsupported},
	} {
		w.send(test.packet)
		if s := statusOf(t, hears(t, w)); s != test.want {
			t.Errorf("%s: %v, not %v", name, s, test.want)
		}
	}
	w.status(Request{Type: typeClose, ID: 3, Handle: out})
	w.send(newPacket(typeWrite, 4).text(out).uint64(0).text("x").done())
	if s := statusOf(t, hears(t, w)); s != StatusFailure {
		t.Errorf("a closed handle: %v", s)
	}
}

// TestWaiting: while one file operation waits for a person, others go on, but for
// those on the same file; the client may have many under way.
func TestWaiting(t *testing.T) {
	decided := make(chan bool)
	waits := func(r *engine.Request) bool { return strings.Contains(r.Text, "remove") }
	gate := &wiretest.Gate{Waits: waits, Decide: func(ctx context.Context, r *engine.Request) error {
		if !waits(r) {
			return nil
		}
		r.Pending(engine.Pending{ID: "a1", Rule: "careful"})
		select {
		case yes := <-decided:
			if yes {
				return nil
			}
			return &engine.Denial{Code: engine.ByPerson, Rule: "careful", Reason: "no"}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}}
	w := withServer(t, gate)
	w.tree()
	w.hello()
	handle := w.open("a", flagRead)
	remove := Request{Type: typeRemove, ID: 100, Path: "d/f"}
	again := Request{Type: typeStat, ID: 101, Path: "d/f"}
	w.send(remove.encode(), again.encode())
	for i := range 50 { // an answer each, though the file above waits
		f := w.asks(Request{Type: typeRead, ID: uint32(i), Handle: handle, Length: 4})
		if f.kind() != typeData {
			t.Fatalf("a read is answered with type %d", f.kind())
		}
		if s := w.asks(Request{Type: typeStat, ID: uint32(i), Path: "a"}); s.kind() != typeAttrs {
			t.Fatalf("a stat is answered with type %d", s.kind())
		}
	}
	if _, err := os.Stat(filepath.Join(w.home, "d/f")); err != nil {
		t.Fatal("it is removed before anybody said so")
	}
	if !strings.Contains(w.heard(), "postern approve a1") {
		t.Errorf("standard error says %q", w.heard())
	}
	decided <- true
	var ids []uint32
	for range 2 {
		d := decoder{rest: hears(t, w).body()}
		ids = append(ids, d.uint32())
		if s := Status(d.uint32()); ids[0] == 100 && len(ids) == 2 && s != StatusNoSuchFile {
			t.Errorf("what comes after the removal finds %v", s)
		}
	}
	if !slices.Equal(ids, []uint32{100, 101}) {
		t.Errorf("answered in the order %v", ids)
	}
}

// TestEndsMidway: a client that goes away leaves nothing open, and what it had is
// on record.
func TestEndsMidway(t *testing.T) {
	gate := denies("", "none")
	w := withServer(t, gate)
	w.tree()
	w.hello()
	handle := w.open("a", flagRead)
	w.asks(Request{Type: typeRead, ID: 5, Handle: handle, Length: 4})
	gate.Events()
	w.Close()
	if err := <-w.result; err != nil {
		t.Error(err)
	}
	sum := sha256.Sum256([]byte("text"))
	gate.Saw(t,
		fmt.Sprintf("file file-read %s/a 4 %x the connection ended", w.home, sum[:4]),
		fmt.Sprintf("end %q broken \"file-read\" rows=0", `open "`+w.home+`/a" for read`))
}

// TestMasks: what is found in a file is stars, however a client cuts, and every
// byte else is where it was.
func TestMasks(t *testing.T) {
	for _, most := range []uint32{maxPacket, 8000, 64} {
		testMasks(t, most)
	}
}

// testMasks reads from a server that gives so much at once, which may cut too.
func testMasks(t *testing.T, most uint32) {
	const secret = "sk-live-0123456789"
	gate := denies("", "none")
	gate.Hide = secret
	w := withCappedServer(t, gate, most)
	text := strings.Repeat("line of text\n", 700) + "key: " + secret + " # end\n" + strings.Repeat("more\n", 900)
	want := strings.Replace(text, secret, strings.Repeat("*", len(secret)), 1)
	w.write("config", text)
	w.hello()
	for _, size := range []int{1 << 20, 32 << 10, 4096, 1000, 333} {
		handle := w.open("config", flagRead)
		var got []byte
		for {
			f := w.asks(Request{Type: typeRead, ID: 5, Handle: handle, Offset: uint64(len(got)), Length: uint32(size)})
			if f.kind() == typeStatus {
				break
			}
			d := decoder{rest: f.body()[4:]}
			got = append(got, d.bytes(maxPacket)...)
		}
		if string(got) != want {
			t.Errorf("in pieces of %d, from a server that gives %d: %d bytes, not as they should be", size, most, len(got))
		}
		w.status(Request{Type: typeClose, ID: 6, Handle: handle})
	}
	handle := w.open("config", flagRead)
	for at := strings.Index(text, secret); at < strings.Index(text, secret)+len(secret); at++ {
		f := w.asks(Request{Type: typeRead, ID: 5, Handle: handle, Offset: uint64(at), Length: 1})
		if piece := string(f.body()[8:]); piece != "*" {
			t.Fatalf("byte %d of the secret is %q", at, piece)
		}
	}
}

// TestUpstreamThatWritesFirst reads nothing while it writes, and gives less than it is
// asked for: its answers are taken all the same, while the client has more to write
// than anybody takes. What is missing of a file that was closed is not read by its
// handle, which may be another's.
func TestUpstreamThatWritesFirst(t *testing.T) {
	gate := denies("", "none")
	gate.Hide = "sk-live-0123456789"
	w := withUpstream(t, gate)
	answer := func(q frame, p packet) {
		binary.BigEndian.PutUint32(p[5:], binary.BigEndian.Uint32(q.body()))
		if _, err := w.upstream.Write(p.done()); err != nil {
			t.Error(err)
		}
	}
	w.upstream.SetDeadline(time.Now().Add(time.Minute))
	opened := make(chan string)
	go func() {
		hears(t, w.upstream)
		w.upstream.Write(packet{0, 0, 0, 0, typeVersion}.uint32(Version).done())
		for range 2 { // its home, and the file's path
			answer(hears(t, w.upstream), newPacket(typeName, 0).uint32(1).text("/f").text("/f").uint32(0))
		}
		answer(hears(t, w.upstream), newPacket(typeHandle, 0).text("h"))
	}()
	w.hello()
	go func() { opened <- w.open("/f", flagRead|flagWrite) }()
	handle := <-opened
	passes := func(q Request) frame {
		w.send(q.encode())
		return hears(t, w.upstream)
	}
	asked := []frame{passes(Request{Type: typeRead, ID: 2, Handle: handle, Length: 1000}), passes(Request{Type: typeRead, ID: 3, Handle: handle, Length: 1000})}
	w.send(newPacket(typeWrite, 4).text(handle).uint64(0).text(strings.Repeat("x", 1000)).done())
	time.Sleep(50 * time.Millisecond) // until it is on its way upstream, where nobody takes it
	for i, q := range asked {
		answer(q, newPacket(typeData, 0).text([]string{"short", "short too"}[i]))
	}
	go func() {
		for range 3 { // the WRITE, and what is missing
			switch q := hears(t, w.upstream); q.kind() {
			case typeWrite:
				answer(q, newPacket(typeStatus, 0).uint32(uint32(StatusOK)).text("").text(""))
			case typeRead:
				answer(q, newPacket(typeStatus, 0).uint32(uint32(StatusEOF)).text("").text(""))
			}
		}
	}()
	heard := map[uint32]string{}
	for range 3 {
		f := hears(t, w)
		heard[binary.BigEndian.Uint32(f.body())] = string(f.body()[8:])
	}
	if heard[2] != "short" || heard[3] != "short too" || len(heard) != 3 {
		t.Errorf("heard %v", heard)
	}

	asked = []frame{passes(Request{Type: typeRead, ID: 5, Handle: handle, Length: 1000}), passes(Request{Type: typeClose, ID: 6, Handle: handle})}
	answer(asked[0], newPacket(typeData, 0).text("short"))
	if f := hears(t, w); statusOf(t, f) != StatusFailure || !strings.Contains(string(f.body()), "not open any more") {
		t.Errorf("the rest of a file that was closed: %q", f.body())
	}
	answer(asked[1], newPacket(typeStatus, 0).uint32(uint32(StatusOK)).text("").text(""))
	if s := statusOf(t, hears(t, w)); s != StatusOK {
		t.Errorf("closing: %v", s)
	}
}

// TestLimits: a client is told to ask for no more than is masked at once.
func TestLimits(t *testing.T) {
	for _, hide := range []string{"", "secret"} {
		gate := denies("", "none")
		gate.Hide = hide
		w := withServer(t, gate)
		w.hello()
		f := w.asks(Request{Type: typeExtended, ID: 1, Extension: extLimits})
		d := decoder{rest: f.body()[4:]}
		longest, read := d.uint64(), d.uint64()
		if f.kind() != typeReply || longest != maxPacket || (read == maxMaskedRead) != (hide != "") || read == 0 || read > maxPacket {
			t.Errorf("masking %q: packets of %d, reads of %d", hide, longest, read)
		}
	}
}
