package archtest

import (
	"go/ast"
	"go/token"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// proof finds tests in a document as "folder: `TestA`, `TestB`", where folder
// is the last part of the package's path.
var proof = regexp.MustCompile("([a-z0-9-]+):\\s+((?:`(?:Test|Fuzz|Example)\\w+`(?:,\\s+)?)+)")

var backticked = regexp.MustCompile("`((?:Test|Fuzz|Example)\\w+)`")

// TestProofsAreWhereDocumentsSay: a name such as TestReload is in several
// packages, so the documents say in which, and each name has such a place.
func TestProofsAreWhereDocumentsSay(t *testing.T) {
	tests := map[string]bool{}
	for _, s := range sources(t) {
		if s.test() {
			s.functions(func(f *ast.FuncDecl) { tests[path.Base(s.folder())+" "+f.Name.Name] = true })
		}
	}
	for _, document := range files(t) {
		if document != "README.md" && path.Dir(document) != "docs" || path.Ext(document) != ".md" {
			continue
		}
		text := string(read(t, document))
		placed := 0
		for _, m := range proof.FindAllStringSubmatch(text, -1) {
			for _, name := range backticked.FindAllStringSubmatch(m[2], -1) {
				placed++
				if !tests[m[1]+" "+name[1]] {
					t.Errorf("%s says that %s in %s proves something, but there is no such test: write it, or withdraw the claim", document, name[1], m[1])
				}
			}
		}
		if all := len(backticked.FindAllString(text, -1)); all != placed {
			t.Errorf("%s names %d tests, and says of %d in which folder they are: write folder: `TestName`", document, all, placed)
		}
	}
}

// TestEveryMetricIsDocumented: docs/metrics.md has a row for each metric of the
// lists that the gateway's and the daemon's tests keep, with its type and
// labels, and none besides.
func TestEveryMetricIsDocumented(t *testing.T) {
	const document = "docs/metrics.md"
	rows := map[string]string{}
	for _, line := range strings.Split(string(read(t, document)), "\n") {
		cells := strings.Split(line, "|")
		if len(cells) < 5 || !strings.HasPrefix(cells[1], " `postern_") {
			continue
		}
		labels := regexp.MustCompile("`(\\w+)`").FindAllStringSubmatch(cells[3], -1)
		var sorted []string
		for _, l := range labels {
			sorted = append(sorted, l[1])
		}
		slices.Sort(sorted)
		rows[strings.Trim(cells[1], " `")] = strings.TrimSpace(cells[2]) + " {" + strings.Join(sorted, ",") + "}"
	}
	for _, list := range []string{"internal/gateway/testdata/metrics.txt", "internal/metrics/testdata/metrics.txt"} {
		for line := range strings.Lines(string(read(t, list))) {
			name, kind, _ := strings.Cut(strings.TrimSpace(line), " ")
			if rows[name] != kind {
				t.Errorf("%s says of %s: %q, but it is %q", document, name, rows[name], kind)
			}
			delete(rows, name)
		}
	}
	for name := range rows {
		t.Errorf("%s has %s, which nothing exports", document, name)
	}
}

// TestWordsOfMetricsAreDocumented: so are the kinds of what the kernel denies
// and passes.
func TestWordsOfMetricsAreDocumented(t *testing.T) {
	text := string(read(t, "docs/metrics.md"))
	for _, kind := range valuesOf(t, "internal/redirect", "kindNames") {
		if !strings.Contains(text, "\n| `"+kind+"` |") {
			t.Errorf("docs/metrics.md lacks the kind %s", kind)
		}
	}
}

// TestWordsOfPoliciesAreDocumented: docs/policy.md or docs/masking.md has every verb, fact,
// variable, kind of mask and detector.
func TestWordsOfPoliciesAreDocumented(t *testing.T) {
	text := string(read(t, "docs/policy.md")) + string(read(t, "docs/masking.md"))
	words := []string{"unknown"}
	constants := constantsOf(t, "internal/sql")
	for _, name := range namesIn(t, "internal/sql", "Verbs") {
		words = append(words, constants[name])
	}
	for name, value := range constants {
		if strings.HasPrefix(name, "Fact") {
			words = append(words, "request."+value)
		}
	}
	words = append(words, keysOf(t, "internal/policy", "callerVariables")...)
	words = append(words, valuesOf(t, "internal/mask", "kindNames")...)
	words = append(words, detectors(t)...)
	if len(words) < 60 {
		t.Fatalf("only %d words were found in the sources: %q", len(words), words)
	}
	slices.Sort(words)
	for _, word := range slices.Compact(words) {
		if word != "" && !strings.Contains(text, "`"+word+"`") {
			t.Errorf("docs/policy.md and docs/masking.md lack `%s`", word)
		}
	}
}

// TestLimitsAreConstants: the limits of docs/architecture.md are constants of
// the packages that it names.
func TestLimitsAreConstants(t *testing.T) {
	const document = "docs/architecture.md"
	constants := map[string]bool{}
	for _, s := range sources(t) {
		for _, d := range s.Decls {
			if g, ok := d.(*ast.GenDecl); ok && g.Tok == token.CONST && !s.test() {
				for _, spec := range g.Specs {
					constants[path.Base(s.folder())+"."+spec.(*ast.ValueSpec).Names[0].Name] = true
				}
			}
		}
	}
	_, limits, ok := strings.Cut(string(read(t, document)), "\n## Limits\n")
	found := regexp.MustCompile("`([a-z]+\\.[A-Za-z]+)`[ ,]").FindAllStringSubmatch(limits, -1)
	if !ok || len(found) < 30 {
		t.Fatalf("%s lists %d limits", document, len(found))
	}
	for _, m := range found {
		if !constants[m[1]] {
			t.Errorf("%s has the limit %s, which is no constant", document, m[1])
		}
	}
}

// TestHooksAndMapsAreDocumented: docs/architecture.md has each.
func TestHooksAndMapsAreDocumented(t *testing.T) {
	text := string(read(t, "docs/architecture.md"))
	names := regexp.MustCompile(`(?m)^\} (\w+) SEC\("\.maps"\)`).FindAllStringSubmatch(string(read(t, "bpf/maps.h")), -1)
	hooks := regexp.MustCompile(`(?m)^\t\{"(\w+)", ebpf\.Attach`).FindAllStringSubmatch(string(read(t, "internal/redirect/attach.go")), -1)
	if len(names) < 8 || len(hooks) < 10 {
		t.Fatalf("found %d maps and %d hooks", len(names), len(hooks))
	}
	for _, m := range append(names, hooks...) {
		if !strings.Contains(text, "`"+m[1]+"`") {
			t.Errorf("docs/architecture.md lacks %s", m[1])
		}
	}
}

// use finds the commands of cmd/postern.
var use = regexp.MustCompile(`Use:\s+(?:"([a-z-]+)|verb \+)`)

// TestCommandsAreInTheReadme: each command of postern is in the README's table.
func TestCommandsAreInTheReadme(t *testing.T) {
	text := string(read(t, "README.md"))
	commands := []string{"approve", "deny"} // made by one function
	for _, file := range files(t) {
		if path.Dir(file) == "cmd/postern" && strings.HasSuffix(file, ".go") {
			for _, m := range use.FindAllStringSubmatch(string(read(t, file)), -1) {
				commands = append(commands, m[1])
			}
		}
	}
	if len(commands) < 15 {
		t.Fatalf("only %d commands were found: %q", len(commands), commands)
	}
	for _, c := range commands {
		if c != "" && c != "postern" && !regexp.MustCompile("`postern ([a-z]+ )?"+c+"[ `]").MatchString(text) {
			t.Errorf("README.md lacks the command %s", c)
		}
	}
}

// TestCallersOfRevealAreListed: Reveal is the only way out of secret.Secret, and
// docs/security.md says who takes it and what for.
func TestCallersOfRevealAreListed(t *testing.T) {
	const document = "docs/security.md"
	listed := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z/_]+\\.go)` \\|").FindAllStringSubmatch(string(read(t, document)), -1) {
		listed[m[1]] = true
	}
	for _, s := range sources(t) {
		if s.test() {
			continue
		}
		calls := false
		ast.Inspect(s.File, func(n ast.Node) bool {
			selector, ok := n.(*ast.SelectorExpr)
			calls = calls || ok && selector.Sel.Name == "Reveal"
			return !calls
		})
		if calls && !listed[s.path] {
			t.Errorf("%s reveals a secret: say in %s what for", s.path, document)
		}
		if calls {
			delete(listed, s.path)
		}
	}
	for path := range listed {
		t.Errorf("%s lists %s, which reveals no secret any more", document, path)
	}
}

// hit finds the names of detectors where internal/mask reports a find, and in
// its tables, of which one has them second and the others last.
var hit = regexp.MustCompile(`\bhit\([^\n]*"([a-z0-9-]+)"\)|[^"], "([a-z0-9-]+)"\}|\n\t\{"[^"\n]+", "([a-z0-9-]+)", `)

func detectors(t *testing.T) []string {
	found := map[string]bool{}
	for _, file := range files(t) {
		if path.Dir(file) == "internal/mask" && !strings.HasSuffix(file, "_test.go") {
			for _, m := range hit.FindAllStringSubmatch(string(read(t, file)), -1) {
				found[m[1]+m[2]+m[3]] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// variable returns the composite literal of a package's variable.
func variable(t *testing.T, folder, name string) *ast.CompositeLit {
	t.Helper()
	var found *ast.CompositeLit
	for _, s := range sources(t) {
		if s.folder() != folder || s.test() {
			continue
		}
		ast.Inspect(s.File, func(n ast.Node) bool {
			v, ok := n.(*ast.ValueSpec)
			if ok && len(v.Values) == 1 && v.Names[0].Name == name {
				found, _ = v.Values[0].(*ast.CompositeLit)
			}
			return found == nil
		})
	}
	if found == nil {
		t.Fatalf("%s has no variable %s any more: where are its words now?", folder, name)
	}
	return found
}

func literal(e ast.Expr) string {
	if b, ok := e.(*ast.BasicLit); ok && b.Kind == token.STRING {
		s, _ := strconv.Unquote(b.Value)
		return s
	}
	return ""
}

// keysOf and valuesOf are the strings before and after the colons of a
// variable; namesIn are the names in it.
func keysOf(t *testing.T, folder, name string) (keys []string) {
	for _, e := range variable(t, folder, name).Elts {
		keys = append(keys, literal(e.(*ast.KeyValueExpr).Key))
	}
	return keys
}

func valuesOf(t *testing.T, folder, name string) (values []string) {
	for _, e := range variable(t, folder, name).Elts {
		values = append(values, literal(e.(*ast.KeyValueExpr).Value))
	}
	return values
}

func namesIn(t *testing.T, folder, name string) (names []string) {
	for _, e := range variable(t, folder, name).Elts {
		if id, ok := e.(*ast.Ident); ok {
			names = append(names, id.Name)
		}
	}
	return names
}

// constantsOf are the constants of a package that are strings.
func constantsOf(t *testing.T, folder string) map[string]string {
	out := map[string]string{}
	for _, s := range sources(t) {
		if s.folder() != folder || s.test() {
			continue
		}
		for _, d := range s.Decls {
			g, ok := d.(*ast.GenDecl)
			if !ok || g.Tok != token.CONST {
				continue
			}
			for _, spec := range g.Specs {
				if v := spec.(*ast.ValueSpec); len(v.Values) == 1 && literal(v.Values[0]) != "" {
					out[v.Names[0].Name] = literal(v.Values[0])
				}
			}
		}
	}
	return out
}
