package config

import (
	"bytes"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// now is when the tests happen.
var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func TestMistakes(t *testing.T) {
	files, err := filepath.Glob("testdata/bad/*.yaml")
	if err != nil || len(files) < 15 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			src, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			c, problems := Parse(filepath.Base(file), src, now)
			var got strings.Builder
			errors := 0
			for _, p := range problems {
				fmt.Fprintln(&got, p)
				if p.Severity == Error {
					errors++
				}
			}
			if (c == nil) != (errors > 0) {
				t.Errorf("config %v with %d errors", c != nil, errors)
			}
			golden := strings.TrimSuffix(file, ".yaml") + ".golden"
			if *update {
				if err := os.WriteFile(golden, []byte(got.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got.String() != string(want) {
				t.Errorf("got\n%s\nwant\n%s", got.String(), want)
			}
			if len(problems) == 0 {
				t.Error("no problem found")
			}
		})
	}
}

func load(t *testing.T, file string) *Config {
	t.Helper()
	src, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	c, problems := Parse(file, src, now)
	for _, p := range problems {
		t.Error(p)
	}
	if c == nil {
		t.Fatal("not loaded")
	}
	return c
}

func TestExample(t *testing.T) {
	c := load(t, "testdata/example.yaml")
	p := c.Policies[0]
	if len(p.Rules) != 5 || len(p.Masks) != 2 || p.Rules[0].Deny == "" || !p.Rules[1].Allow {
		t.Errorf("policy %+v", p)
	}
	if a := p.Rules[4].Ask; a == nil || a.Within != 10*time.Minute || !a.ReasonRequired || a.SelfAllowed {
		t.Errorf("ask %+v", a)
	}
	if at := p.Rules[3].WhenPos.String(); at != "testdata/example.yaml:25:15" {
		t.Errorf("the when is at %s", at)
	}
	if r := c.Targets[0].Credential.Password; r.Source != "openbao" || r.Path != "kv/orders" || r.Key != "password" {
		t.Errorf("password %+v", r)
	}
}

func TestDefaults(t *testing.T) {
	c := load(t, "testdata/minimal.yaml")
	if c.Root != DefaultRoot || c.Record.MaxSessionBytes != DefaultSessionBytes || c.Limits.Idle != DefaultIdle {
		t.Errorf("%+v", c)
	}
	if g := c.Targets[0]; g.TLS.Verify != "full" || g.AgentAuth != DefaultAgentAuth || g.Anonymous {
		t.Errorf("%+v", g)
	}
	if c.Agents[0].Observing(now) {
		t.Error("an agent without mode observes")
	}
}

func TestEverything(t *testing.T) {
	c := load(t, "testdata/full.yaml")
	g := c.Targets[0]
	if fmt.Sprint(g.Hosts) != "[orders-db.internal:5432 192.0.2.7:5432 [2001:db8::7]:5432]" || g.Dial.String() != "10.1.2.3:6432" {
		t.Errorf("%v %v", g.Hosts, g.Dial)
	}
	if g.TLS.ClientKey.Key != "k" || g.Credential.Password.Path != "kv/c" {
		t.Error("the alias was not followed")
	}
	if c.Targets[1].RealAddresses || !c.Targets[2].RealAddresses {
		t.Error("real_addresses is not what was written")
	}
	if !c.Targets[1].Anonymous || c.Targets[1].TLS.Verify != "off" {
		t.Errorf("%+v", c.Targets[1])
	}
	a := &c.Agents[0]
	if !a.Observing(now) || a.Observing(a.Until) {
		t.Error("observe does not end at its end")
	}
	if c.Record.MaxTotalBytes != 1<<40 || c.Limits.HeldBytes != 128<<10 {
		t.Errorf("%+v %+v", c.Record, c.Limits)
	}
}

func TestFile(t *testing.T) {
	if c, problems := Load("testdata/none.yaml"); c != nil || len(problems) != 1 {
		t.Errorf("%v %v", c, problems)
	}
	if c, _ := Load("testdata/minimal.yaml"); c == nil || c.File != "testdata/minimal.yaml" {
		t.Errorf("%v", c)
	}
	big := bytes.Repeat([]byte("# long\n"), maxFile/7+1)
	if c, problems := Parse("big", big, now); c != nil || len(problems) != 1 || !strings.Contains(problems[0].Message, "larger") {
		t.Errorf("%v", problems)
	}
}

// A few lines of aliases can stand for millions of values.
func TestAliasBomb(t *testing.T) {
	var b strings.Builder
	b.WriteString("agents:\n  - &a {name: a, loopback: &l [" + strings.Repeat("1,", 2000) + "1]}\n")
	for range 2000 {
		b.WriteString("  - *a\n")
	}
	start := time.Now()
	c, problems := Parse("bomb", []byte(b.String()), now)
	if c != nil || time.Since(start) > 5*time.Second || len(problems) > maxProblems+1 {
		t.Errorf("%d problems in %s", len(problems), time.Since(start))
	}
}

// forget zeroes every Pos below v, which is addressable.
func forget(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			forget(v.Elem())
		}
	case reflect.Slice:
		for i := range v.Len() {
			forget(v.Index(i))
		}
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[Pos]() {
			v.SetZero()
			return
		}
		if v.Type() == reflect.TypeFor[time.Time]() {
			return
		}
		for i := range v.NumField() {
			forget(v.Field(i))
		}
	}
}

// same loads what c marshals to and compares.
func same(t *testing.T, c *Config) {
	t.Helper()
	out, err := Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	again, problems := Parse(c.File, out, now)
	if again == nil {
		t.Fatalf("%v\n%s", problems, out)
	}
	forget(reflect.ValueOf(c))
	forget(reflect.ValueOf(again))
	if !reflect.DeepEqual(c, again) {
		t.Errorf("got\n%+v\nwant\n%+v\nfrom\n%s", again, c, out)
	}
}

func TestRoundTrip(t *testing.T) {
	for _, file := range []string{"example", "minimal", "full"} {
		same(t, load(t, "testdata/"+file+".yaml"))
	}
}

// What loads, loads again from its own marshalled form, and is the same.
func FuzzParse(f *testing.F) {
	for _, pattern := range []string{"testdata/*.yaml", "testdata/bad/*.yaml"} {
		files, _ := filepath.Glob(pattern)
		for _, file := range files {
			src, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(src)
		}
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		c, problems := Parse("fuzz.yaml", src, now)
		if c == nil {
			if len(problems) == 0 {
				t.Error("refused without a problem")
			}
			return
		}
		same(t, c)
	})
}

// TestLegible: the sockets are found while the rest has problems.
func TestLegible(t *testing.T) {
	file := filepath.Join(t.TempDir(), "postern.yaml")
	text := "control: {socket: /run/other/control.sock}\nnonsense: 1\ntargets: [{name: x}]\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c := Legible(file)
	if c.Control.Socket != "/run/other/control.sock" || c.Guard.Socket != DefaultGuardSocket {
		t.Errorf("control %q, guard %q", c.Control.Socket, c.Guard.Socket)
	}
	for _, text := range []string{"", ": : :", "[1, 2]", "a: &a [*a]"} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if c := Legible(file); c.Control.Socket != DefaultControlSocket {
			t.Errorf("%q: control %q", text, c.Control.Socket)
		}
	}
}

// A name means the same however it is written: in whatever case, in its
// language or in A-labels.
func TestHostNames(t *testing.T) {
	for s, want := range map[string]string{
		"orders-db.internal": "orders-db.internal", "Orders-DB.INTERNAL": "orders-db.internal", "under_score.internal": "under_score.internal",
		"bücher.example": "xn--bcher-kva.example", "BÜCHER.example": "xn--bcher-kva.example", "bu\u0308cher.example": "xn--bcher-kva.example",
		"xn--bcher-kva.example": "xn--bcher-kva.example", "XN--Bcher-KVA.example": "xn--bcher-kva.example",
		"faß.example": "xn--fa-hia.example", "例え.テスト": "xn--r8jz45g.xn--zckzah", "例え。テスト": "xn--r8jz45g.xn--zckzah", "ｄｂ.internal": "db.internal",
		"*.bücher.example": "*.xn--bcher-kva.example", "*.Corp.example": "*.corp.example", "*.internal": "*.internal",
		"d\u200bb.internal": "db.internal", "db": "db", "db1": "db1", "1db.internal": "1db.internal", "3com.example": "3com.example", "xn--": "", "*": "", "*.": "", "..": "", "127.1": "",
	} {
		if got, message, help := listedHost(s); got != want || (message == "") != (want != "") || (message == "") != (help == "") {
			t.Errorf("%q is %q, %q, %q; want %q", s, got, message, help, want)
		}
	}
	h := HostPort{"*.corp.example", 5432}
	for name, want := range map[string]bool{"a.corp.example": true, "a.b.corp.example": true, "corp.example": false, ".corp.example": false, "xcorp.example": false, "a.corp.example.org": false} {
		if h.Covers(name) != want {
			t.Errorf("%s covers %s: %t", h, name, !want)
		}
	}
	if c := load(t, "testdata/full.yaml"); !c.Targets[1].Hosts[0].Wildcard() || c.Targets[1].Hosts[1].Wildcard() || !c.Targets[1].Hosts[1].Covers("open.internal") {
		t.Error(c.Targets[1].Hosts)
	}
}

// What is read as a name is one that can be asked for, and stays the same when
// it is read again.
func FuzzHostName(f *testing.F) {
	for _, s := range []string{"orders-db.internal", "*.bücher.example", "xn--bcher-kva.example", "127.1", "a\x00b", "faß", "*.*", "１.２"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		name, message, _ := listedHost(s)
		if message != "" {
			return
		}
		if again, message, _ := listedHost(name); message != "" || again != name {
			t.Fatalf("%q is %q and then %q, %s", s, name, again, message)
		}
		base := strings.TrimPrefix(name, "*.")
		if !ascii(base) || strings.ContainsAny(base, "*\x00 /@:%") || len(name) > maxName || strings.ToLower(base) != base {
			t.Fatalf("%q is %q", s, name)
		}
		if _, err := netip.ParseAddr(base); err == nil {
			t.Fatalf("%q is the address %s", s, base)
		}
	})
}

// TestNoUnixSocketIsNotAny: an empty list of agents.unix is one.
func TestNoUnixSocketIsNotAny(t *testing.T) {
	for text, none := range map[string]bool{"": false, ", unix: []": true, ", unix: [/run/a.sock]": false} {
		src := "agents: [{name: a, cgroup: agents.slice/a, policy: p" + text + "}]\npolicies: [{name: p}]\n"
		c, problems := Parse("x.yaml", []byte(src), time.Now())
		if c == nil {
			t.Fatalf("%s: %v", text, problems)
		}
		if got := c.Agents[0].Unix; (got != nil && len(got) == 0) != none {
			t.Errorf("%q: %#v", text, got)
		}
	}
}
