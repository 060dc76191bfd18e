package bpf

import (
	"reflect"
	"strings"
	"testing"

	"github.com/cilium/ebpf/btf"
)

// The Go types are generated, but by whoever last ran the generator: this
// holds them against the BTF of the object that is really embedded.
func TestGoTypesMatchTheObject(t *testing.T) {
	spec, err := LoadPostern()
	if err != nil {
		t.Fatal(err)
	}
	for name, goValue := range map[string]any{
		"policy_entry": PosternPolicyEntry{},
		"listener_key": PosternListenerKey{},
		"listener":     PosternListener{},
		"loopback_key": PosternLoopbackKey{},
		"flow":         PosternFlow{},
		"sender_key":   PosternSenderKey{},
		"sock_state":   PosternSockState{},
		"gateway":      PosternGateway{},
		"limit":        PosternLimit{},
		"event":        PosternEvent{},
		"ask":          PosternAsk{},
		"answer":       PosternAnswer{},
	} {
		var c *btf.Struct
		if err := spec.Types.TypeByName(name, &c); err != nil {
			t.Errorf("struct %s: %v", name, err)
			continue
		}
		compareLayout(t, c, reflect.TypeOf(goValue))
	}
}

func compareLayout(t *testing.T, c *btf.Struct, goType reflect.Type) {
	t.Helper()
	if uintptr(c.Size) != goType.Size() {
		t.Errorf("%s: %d bytes in C, %d in Go", c.Name, c.Size, goType.Size())
	}
	fields := map[string]reflect.StructField{}
	for i := range goType.NumField() {
		if f := goType.Field(i); f.Name != "_" {
			fields[strings.ToLower(f.Name)] = f
		}
	}
	if len(fields) != len(c.Members) {
		t.Errorf("%s: %d members in C, %d in Go", c.Name, len(c.Members), len(fields))
	}
	end := uint32(0)
	for _, m := range c.Members {
		size, err := btf.Sizeof(m.Type)
		if err != nil {
			t.Fatal(err)
		}
		if m.Offset.Bytes() != end {
			t.Errorf("%s.%s: implicit padding before it: a map key would hold bytes nobody wrote", c.Name, m.Name)
		}
		end = m.Offset.Bytes() + uint32(size)
		f, ok := fields[strings.ReplaceAll(m.Name, "_", "")]
		if !ok {
			t.Errorf("%s.%s is missing in Go", c.Name, m.Name)
			continue
		}
		if f.Offset != uintptr(m.Offset.Bytes()) || f.Type.Size() != uintptr(size) {
			t.Errorf("%s.%s: offset %d size %d in C, %d and %d in Go",
				c.Name, m.Name, m.Offset.Bytes(), size, f.Offset, f.Type.Size())
		}
	}
	if end != c.Size {
		t.Errorf("%s: implicit padding at its end", c.Name)
	}
}

func TestLicence(t *testing.T) {
	spec, err := LoadPostern()
	if err != nil {
		t.Fatal(err)
	}
	for name, p := range spec.Programs {
		if p.License != "Dual BSD/GPL" {
			t.Errorf("%s: licence %q: the kernel would refuse its helpers", name, p.License)
		}
	}
}
