package redirect

import (
	"bytes"
	"encoding/binary"
	"reflect"
	"slices"
	"testing"
	"unsafe"

	"github.com/postern/postern/bpf"
)

// synWith is a SYN with these TCP options, padded, behind an IPv4 header.
func synWith(options ...byte) []byte {
	for len(options)%4 != 0 {
		options = append(options, 0)
	}
	ip := make([]byte, 20)
	ip[0], ip[9] = 0x45, 6
	tcp := make([]byte, 20)
	tcp[12] = byte((20+len(options))/4) << 4
	return append(append(ip, tcp...), options...)
}

func tokenOption(token uint64) []byte {
	return binary.NativeEndian.AppendUint64([]byte{254, 12, 0x50, 0x53}, token)
}

func TestTokenIn(t *testing.T) {
	const token = 0x1122334455667788
	mss := []byte{2, 4, 5, 0xb4}
	v6 := synWith(tokenOption(token)...)
	v6 = append(append([]byte{0x60, 0, 0, 0, 0, 0, 6, 64}, make([]byte, 32)...), v6[20:]...)
	for name, tt := range map[string]struct {
		syn  []byte
		want bool
	}{
		"alone":                 {synWith(tokenOption(token)...), true},
		"behind others":         {synWith(append(append(mss, 1, 1), tokenOption(token)...)...), true},
		"v6":                    {v6, true},
		"none":                  {synWith(mss...), false},
		"behind the end":        {synWith(append([]byte{0, 0, 0, 0}, tokenOption(token)...)...), false},
		"other magic":           {synWith(254, 12, 0x50, 0x54, 1, 2, 3, 4, 5, 6, 7, 8), false},
		"other length":          {synWith(254, 11, 0x50, 0x53, 1, 2, 3, 4, 5, 6, 7, 8), false},
		"length zero":           {synWith(254, 0, 0x50, 0x53), false},
		"over the end":          {synWith(254, 12, 0x50, 0x53), false},
		"kind without length":   {synWith(1, 1, 1, 254), false},
		"empty":                 {nil, false},
		"no header":             {[]byte{0x45}, false},
		"UDP":                   {bytes.Replace(synWith(tokenOption(token)...), []byte{0, 6}, []byte{0, 17}, 1), false},
		"data offset too small": {func() []byte { s := synWith(tokenOption(token)...); s[32] = 0x40; return s }(), false},
		"data offset too large": {func() []byte { s := synWith(tokenOption(token)...); s[32] = 0xf0; return s }(), false},
	} {
		got, ok := tokenIn(tt.syn)
		if ok != tt.want || (ok && got != token) {
			t.Errorf("%s: %#x, %v", name, got, ok)
		}
	}
}

func FuzzTokenIn(f *testing.F) {
	f.Add(synWith(tokenOption(42)...))
	f.Add(synWith(2, 4, 5, 0xb4))
	f.Fuzz(func(t *testing.T, syn []byte) {
		before := bytes.Clone(syn)
		token, ok := tokenIn(syn)
		if !bytes.Equal(before, syn) {
			t.Error("the SYN was changed")
		}
		if ok && !bytes.Contains(syn, tokenOption(token)) {
			t.Errorf("token %#x was not in there", token)
		}
	})
}

func FuzzDecodeEvent(f *testing.F) {
	f.Add(make([]byte, binary.Size(bpf.PosternEvent{})))
	f.Fuzz(func(t *testing.T, raw []byte) {
		e, err := decodeEvent(raw)
		if (err == nil) != (len(raw) == binary.Size(bpf.PosternEvent{})) {
			t.Errorf("%d bytes: %v", len(raw), err)
		}
		if bytes.ContainsRune([]byte(e.Comm), 0) {
			t.Errorf("comm %q", e.Comm)
		}
	})
}

// Events are decoded field by field, so the Go type must have no padding.
func TestEventHasNoPadding(t *testing.T) {
	if binary.Size(bpf.PosternEvent{}) != int(unsafe.Sizeof(bpf.PosternEvent{})) ||
		binary.Size(bpf.PosternAsk{}) != int(unsafe.Sizeof(bpf.PosternAsk{})) {
		t.Error("encoding/binary sees another size than the compiler")
	}
}

func TestKindsAreNamed(t *testing.T) {
	seen := map[string]bool{}
	for k := Kind(1); k < Kind(bpf.PosternKindKIND_COUNT); k++ {
		if name := k.String(); name == "unknown" || seen[name] {
			t.Errorf("kind %d: %q", k, name)
		} else {
			seen[name] = true
		}
	}
	if Kind(9999).String() != "unknown" || Kind(0).Denied() || !Internal.Denied() || Redirected.Denied() {
		t.Error("what is no denial counts as one, or the other way round")
	}
}

func TestEveryProgramHasAHook(t *testing.T) {
	// One more is for the listeners' sockets.
	if got := reflect.TypeFor[bpf.PosternPrograms]().NumField(); got != len(hooks)+1 {
		t.Errorf("%d programs, %d hooks", got, len(hooks))
	}
	spec, err := bpf.LoadPostern()
	if err != nil {
		t.Fatal(err)
	}
	if len(spec.Programs) != len(hooks)+1 {
		t.Errorf("%d programs in the object, %d hooks", len(spec.Programs), len(hooks))
	}
	for _, name := range slices.Concat(daemonMaps, guardMaps, innerMaps) {
		if spec.Maps[name] == nil {
			t.Errorf("no map %s in the object", name)
		}
	}
}
