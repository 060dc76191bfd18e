package archtest

import (
	"path"
	"slices"
	"strings"
	"testing"
)

// rule says which packages of ours a package may import; * stands for one
// folder, as in path.Match.
type rule struct {
	importer string
	imports  string // separated by spaces
}

// rules: the first that matches holds. Parts meet only in cmd/; elsewhere pass
// a func, a one-method interface declared by its user, or a struct.
var rules = []rule{
	{"bpf", ""},
	{"packaging", "internal/config"},
	{"pkg/*", ""},
	{"internal/archtest", ""},
	{"internal/wire", ""},
	{"internal/secret", ""},
	{"internal/secret/arena", "internal/secret"},
	{"internal/mask", ""},
	{"internal/config", ""},
	{"internal/identity", ""},
	{"internal/identity/oidc", "internal/secret"}, // tokens, and the secret of a client
	{"internal/version", ""},
	{"internal/scan", ""},
	{"internal/terminal", ""},
	{"internal/supervisor", ""},
	{"internal/ca", ""},
	{"internal/dns", ""},
	{"internal/dial", ""},
	{"internal/store", ""},
	{"internal/budget", ""},
	{"internal/engine", "internal/secret internal/wire"},
	{"internal/wiretest", "internal/engine internal/secret internal/wire"},
	{"internal/policy", "internal/engine"},
	{"internal/approval", "internal/engine"},
	{"internal/run", "internal/engine"},
	{"internal/relay/*", "internal/engine internal/secret internal/wire"},
	// A protocol knows bytes: no policy, source, record, config or other protocol.
	{"internal/protocol/ssh", "internal/engine internal/relay/* internal/secret internal/wire internal/shell internal/protocol/ssh/*"},
	{"internal/protocol/ssh/line", "internal/engine internal/shell"},
	{"internal/protocol/ssh/*", "internal/engine internal/relay/channels"},
	{"internal/protocol/*", "internal/engine internal/relay/* internal/secret internal/wire internal/sql"},
	{"internal/sql", "internal/engine"},
	{"internal/shell", "internal/engine"},
	{"internal/sql/analyze", "internal/engine internal/sql"},
	{"internal/secret/source", "internal/secret internal/secret/arena"},
	{"internal/secret/lease", "internal/secret internal/secret/source"},
	{"internal/secret/source/*", "internal/secret internal/secret/source"},
	{"internal/record", "internal/engine pkg/recording"},
	{"internal/redirect", "bpf internal/identity"},
	{"internal/sandbox", ""},
	{"internal/guard", "internal/redirect internal/identity internal/config internal/sandbox"},
	{"internal/metrics", "internal/identity internal/version"},
	{"internal/trial", "pkg/control"},
	{"internal/control", "internal/identity pkg/control"},
	{"internal/bypass", "internal/bypass/*"},
	{"internal/bypass/installed", "internal/bypass internal/bypass/outside internal/config internal/guard internal/identity internal/redirect"},
	{"internal/bypass/*", ""},
	// gateway.Serve is where a connection meets everything that decides on it.
	{"internal/gateway", "internal/approval internal/budget internal/dial internal/dns internal/engine internal/mask internal/policy internal/record internal/secret internal/wire pkg/recording"},
	{"cmd/postern-sqlparse", "internal/sql internal/sql/analyze internal/version"},
	// Root and small: what it links is what there is to audit.
	{"cmd/postern-guard", "internal/config internal/guard internal/identity internal/redirect internal/supervisor internal/version"},
	{"cmd/posternd", "pkg/* internal/* internal/relay/* internal/protocol/* internal/identity/* internal/secret/* internal/secret/source/*"},
	{"cmd/postern", "pkg/* internal/* internal/bypass/*"},
	{"test/*", "pkg/* internal/* bpf internal/relay/* internal/protocol/* internal/secret/* internal/secret/source/* internal/bypass/* internal/identity/* test/*"},
	{"test/*/*", "pkg/* internal/* bpf internal/relay/* internal/protocol/* internal/secret/* internal/secret/source/* internal/bypass/* internal/identity/* test/*"},
}

// testImports are what any package's tests may import besides.
const testImports = "internal/wiretest internal/secret/source/sourcetest internal/bypass/* test/servers"

// foreign packages that only some of ours may import, and why. In tests they
// are free where onlyTests says so.
var foreign = []struct {
	prefix    string
	importers string
	freeTests bool
	why       string
}{
	{"github.com/cilium/ebpf", "bpf internal/redirect", false, "internal/redirect is the only side of the kernel programs in user space: add what you need there"},
	{"github.com/pganalyze/pg_query_go", "internal/sql/analyze", false, "cgo stays in the worker postern-sqlparse: ask it through internal/sql"},
	{"os/exec", "internal/secret/source/exec internal/sql internal/guard cmd/* test/* test/*/*", true, "the daemon starts no processes but the exec source and the SQL workers"},
	{"C", "", false, "our own code has no cgo"},
	{"plugin", "", false, "everything is linked"},
	{"github.com/hashicorp/vault", "internal/secret/source/*", false, sdk},
	{"github.com/openbao/openbao", "internal/secret/source/*", false, sdk},
	{"github.com/aws/aws-sdk-go", "internal/secret/source/*", false, sdk},
	{"github.com/Azure/azure-sdk-for-go", "internal/secret/source/*", false, sdk},
	{"cloud.google.com/go", "internal/secret/source/*", false, sdk},
}

const sdk = "only a secret source speaks to a vault or a cloud"

func matches(patterns, name string) bool {
	return slices.ContainsFunc(strings.Fields(patterns), func(p string) bool {
		ok, err := path.Match(p, name)
		return ok && err == nil
	})
}

func TestImportsOfOurs(t *testing.T) {
	for _, p := range list(t, nil, "-tags=qemu", "./...") {
		name := p.short()
		i := slices.IndexFunc(rules, func(r rule) bool { return matches(r.importer, name) })
		if i < 0 {
			t.Errorf("%s: no rule says what it may import: add it to rules in internal/archtest/imports_test.go", name)
			continue
		}
		allowed := rules[i].imports
		for _, imported := range ours(p.Imports) {
			if !matches(allowed, imported) {
				t.Errorf("%s imports %s, but may import only [%s]: let cmd/ pass it a func, a small interface or a struct", name, imported, allowed)
			}
		}
		for _, imported := range ours(append(p.TestImports, p.XTestImports...)) {
			if imported != name && !matches(allowed+" "+testImports, imported) {
				t.Errorf("the tests of %s import %s, but may import only [%s %s]", name, imported, allowed, testImports)
			}
		}
	}
}

// ours are those of the imports that are in this module, by their short names.
func ours(imports []string) (names []string) {
	for _, i := range imports {
		if name, ok := strings.CutPrefix(i, module); ok && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

func TestImportsOfOthers(t *testing.T) {
	for _, p := range list(t, nil, "-tags=qemu", "./...") {
		for _, f := range foreign {
			if matches(f.importers, p.short()) {
				continue
			}
			under := func(i string) bool { return i == f.prefix || strings.HasPrefix(i, f.prefix+"/") }
			if slices.ContainsFunc(p.Imports, under) {
				t.Errorf("%s imports %s: %s", p.short(), f.prefix, f.why)
			}
			if !f.freeTests && slices.ContainsFunc(append(p.TestImports, p.XTestImports...), under) {
				t.Errorf("the tests of %s import %s: %s", p.short(), f.prefix, f.why)
			}
		}
	}
}

// Only the SQL worker is linked with C code that is not the standard library's.
func TestCommandsWithoutCgo(t *testing.T) {
	for _, command := range commands(t) {
		if command == "postern-sqlparse" {
			continue
		}
		for _, p := range list(t, []string{"CGO_ENABLED=1"}, "-deps", "./cmd/"+command) {
			if !p.Standard && len(p.CgoFiles) > 0 {
				t.Errorf("cmd/%s links %s, which needs cgo: it must build with CGO_ENABLED=0, static; leave C to cmd/postern-sqlparse", command, p.ImportPath)
			}
		}
	}
}
