package sftp

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/wiretest"
)

// TestVersion: the client hears version 3, and of extensions those that are
// understood.
func TestVersion(t *testing.T) {
	w := withUpstream(t, &wiretest.Gate{})
	go w.Write(packet{0, 0, 0, 0, typeInit}.uint32(6).done())
	if f := hears(t, w.upstream); f.kind() != typeInit || !bytes.Equal(f.body(), []byte{0, 0, 0, 3}) {
		t.Fatalf("the upstream hears %d %q", f.kind(), f.body())
	}
	go w.upstream.Write(packet{0, 0, 0, 0, typeVersion}.uint32(3).
		text("posix-rename@openssh.com").text("1").text("run@example.org").text("1").text("copy-data").text("1").done())
	f := hears(t, w)
	if want := (packet{}).uint32(3).text("posix-rename@openssh.com").text("1").text("copy-data").text("1"); !bytes.Equal(f.body(), want) {
		t.Errorf("the client hears %q", f.body())
	}
}

// TestMalformed: whoever does not follow the protocol is not spoken to any more,
// and what was no request reaches nobody.
func TestMalformed(t *testing.T) {
	for name, p := range map[string][]byte{
		"length 0":               {0, 0, 0, 0, 1, 2, 3, 4, 5},
		"length 2^32-1":          {0xff, 0xff, 0xff, 0xff, 3},
		"length over the limit":  packet{0, 4, 0, 1, typeRemove},
		"no type":                packet{0, 0, 0, 0, 99, 0, 0, 0, 1}.done(),
		"no id":                  packet{0, 0, 0, 0, typeRemove, 0}.done(),
		"path beyond the packet": newPacket(typeRemove, 1).uint32(100).raw([]byte("abc")).done(),
		"path of 2^31":           newPacket(typeRemove, 1).uint32(1 << 31).done(),
		"path too long":          newPacket(typeRemove, 1).text(strings.Repeat("a", maxPath+1)).done(),
		"NUL in a path":          newPacket(typeRemove, 1).text("a\x00b").done(),
		"bytes behind":           newPacket(typeRemove, 1).text("a").raw([]byte{1}).done(),
		"handle too long":        newPacket(typeClose, 1).text(strings.Repeat("h", maxHandle+1)).done(),
		"attributes cut":         newPacket(typeSetstat, 1).text("a").uint32(attrSize).uint32(1).done(),
		"attributes unknown":     newPacket(typeSetstat, 1).text("a").uint32(1 << 9).done(),
		"many extended":          newPacket(typeSetstat, 1).text("a").uint32(attrExtended).uint32(1 << 31).done(),
		"a second INIT":          packet{0, 0, 0, 0, typeInit}.uint32(3).done(),
		"an answer":              statusPacket(1, StatusOK, ""),
		"extension cut":          newPacket(typeExtended, 1).text(extPosixRename).text("a").done(),
		"extension with more":    newPacket(typeExtended, 1).text(extFsync).text("a").text("b").done(),
	} {
		t.Run(name, func(t *testing.T) {
			gate := &wiretest.Gate{}
			w := withServer(t, gate)
			w.hello()
			go w.Write(append(bytes.Clone(p), bytes.Repeat([]byte{0}, 64)...))
			isDenial(t, <-w.result, engine.Malformed)
			if events := gate.Events(); len(events) > 0 {
				t.Errorf("the gate saw %q", events)
			}
		})
	}
}

// TestMalformedUpstream: an upstream that answers what was not asked, or another
// way, ends the channel, and nothing of it reaches the client.
func TestMalformedUpstream(t *testing.T) {
	for name, answer := range map[string][]byte{
		"an id that nobody has":     statusPacket(99, StatusOK, ""),
		"no id":                     {0, 0, 0, 2, typeStatus, 0},
		"data for an open":          newPacket(typeData, 3).text("x").done(),
		"a handle that is empty":    newPacket(typeHandle, 3).text("").done(),
		"a handle that is too long": newPacket(typeHandle, 3).text(strings.Repeat("h", 300)).done(),
		"a status cut":              newPacket(typeStatus, 3).done(),
		"too long":                  {0, 5, 0, 0, typeStatus},
	} {
		t.Run(name, func(t *testing.T) {
			w := withUpstream(t, &wiretest.Gate{})
			go w.Write(packet{0, 0, 0, 0, typeInit}.uint32(3).done())
			hears(t, w.upstream)
			w.upstream.Write(packet{0, 0, 0, 0, typeVersion}.uint32(3).done())
			hears(t, w)
			go w.Write((&Request{Type: typeOpen, ID: 8, Path: "a", Flags: flagRead, Attrs: attrs(0, 0, 0)}).encode())
			for id := uint32(1); id <= 2; id++ { // the gateway's own: the home, and a
				if f := hears(t, w.upstream); f.kind() != typeRealpath {
					t.Fatalf("the upstream hears type %d", f.kind())
				}
				w.upstream.Write(newPacket(typeName, id).uint32(1).text("/home/u").text("").uint32(0).done())
			}
			if f := hears(t, w.upstream); f.kind() != typeOpen {
				t.Fatalf("the upstream hears type %d", f.kind())
			}
			go w.upstream.Write(answer)
			if err := <-w.result; err == nil {
				t.Error("the relay ended well")
			}
			w.SetReadDeadline(time.Now().Add(time.Second))
			if rest, err := io.ReadAll(w); len(rest) > 0 || errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("the client heard %q", rest)
			}
		})
	}
}

// FuzzRequest: a request that is understood is written again as it was read.
func FuzzRequest(f *testing.F) {
	for kind, body := range map[byte][]byte{
		typeOpen:     packet{}.uint32(7).text("/a").uint32(3).uint32(attrSize).uint64(9),
		typeClose:    packet{}.uint32(7).text("h"),
		typeRead:     packet{}.uint32(7).text("h").uint64(5).uint32(9),
		typeWrite:    packet{}.uint32(7).text("h").uint64(5).text("data"),
		typeRemove:   packet{}.uint32(7).text("/a"),
		typeRename:   packet{}.uint32(7).text("/a").text("/b"),
		typeSetstat:  packet{}.uint32(7).text("/a").uint32(attrPermissions | attrTimes).uint32(0o644).uint64(9),
		typeExtended: packet{}.uint32(7).text(extLsetstat).text("/a").uint32(attrOwner).uint64(9),
	} {
		f.Add(kind, body)
	}
	f.Add(byte(typeExtended), []byte(packet{}.uint32(7).text(extPosixRename).text("/a").text("/b")))
	f.Add(byte(typeExtended), []byte(packet{}.uint32(7).text(extCopyData).text("h").uint64(0).uint64(0).text("i").uint64(0)))
	f.Fuzz(func(t *testing.T, kind byte, body []byte) {
		q, err := parseRequest(kind, body)
		if err != nil {
			return
		}
		if q.Path != "" && len(q.operands()) == 0 && !q.asksForPath() {
			t.Fatalf("a request of type %d %q names %q and does nothing to it", kind, q.Extension, q.Path)
		}
		if q.Type == typeWrite || q.Extension == extUsers || q.Extension == extCopyData || q.Extension == extFsync || q.Extension == extFstatvfs || q.Type == typeExtended && !extensions[q.Extension] {
			return // these go on as they came, or not at all
		}
		if again := q.encode(); !bytes.Equal(again[5:], body) {
			t.Fatalf("type %d:\n%q is written again as\n%q", kind, body, again[5:])
		}
	})
}

// FuzzClient: whatever a client says, nothing goes upstream of a file that the
// gate did not allow.
func FuzzClient(f *testing.F) {
	init := packet{0, 0, 0, 0, typeInit}.uint32(3).done()
	f.Add(append(bytes.Clone(init), (&Request{Type: typeOpen, ID: 1, Path: "a", Attrs: attrs(0, 0, 0)}).encode()...))
	f.Add(append(bytes.Clone(init), (&Request{Type: typeExtended, Extension: extHardlink, ID: 1, Path: "a", Other: "b"}).encode()...))
	f.Add(append(bytes.Clone(init), newPacket(typeExtended, 9).text(extUsers).text("").text("").done()...))
	f.Fuzz(func(t *testing.T, said []byte) {
		w := withUpstream(t, denies("", ""))
		go func() {
			w.Write(said)
			w.Close()
		}()
		go io.Copy(io.Discard, w)
		for {
			p, err := read(w.upstream, nil)
			if err != nil {
				break
			}
			switch q, _ := parseRequest(p.kind(), p.body()); {
			case p.kind() == typeInit:
				w.upstream.Write(packet{0, 0, 0, 0, typeVersion}.uint32(3).done())
			case q.Type == typeRealpath || q.Extension == extExpandPath || q.Extension == extHome:
				w.upstream.Write(newPacket(typeName, q.ID).uint32(1).text("/home/u/" + strings.Trim(q.Path, "./")).text("").uint32(0).done())
			case q.Extension == extLimits || q.Extension == extUsers:
				w.upstream.Write(statusPacket(q.ID, StatusUnsupported, ""))
			default:
				t.Errorf("upstream hears type %d of %q", p.kind(), said)
			}
		}
		<-w.result
	})
}
