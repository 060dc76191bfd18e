package archtest

import (
	"go/ast"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestPackagesHaveComments(t *testing.T) {
	commented, tests := map[string]bool{}, map[string]bool{}
	for _, s := range sources(t) {
		folder := s.folder()
		if _, seen := commented[folder]; !seen {
			commented[folder], tests[folder] = false, true
		}
		if s.Doc != nil && !strings.HasPrefix(s.Doc.Text(), "Code generated") {
			commented[folder] = true
		}
		tests[folder] = tests[folder] && s.test()
	}
	for folder, ok := range commented {
		if !ok {
			t.Errorf("%s: no package comment: say what it is for, what it leaves to others, where to start reading", folder)
		}
	}
}

// What pkg/ exports is a promise to other programs, so it says what it is.
// A method that an interface asks for is described there.
func TestExportedNamesOfPkgAreDocumented(t *testing.T) {
	described := describedMethods(t)
	for _, s := range sources(t) {
		if !strings.HasPrefix(s.path, "pkg/") || s.test() {
			continue
		}
		for _, d := range s.Decls {
			for _, name := range undocumented(d) {
				if f, ok := d.(*ast.FuncDecl); ok && f.Recv != nil && described[s.folder()+" "+name.Name] {
					continue
				}
				t.Errorf("%s:%d: %s has no comment: give shapes, units, limits and errors", s.path, s.positions.Position(name.Pos()).Line, name.Name)
			}
		}
	}
}

// describedMethods are "folder method" of those that an interface of the
// package describes, and of those every Go programmer knows.
func describedMethods(t *testing.T) map[string]bool {
	described := map[string]bool{}
	for _, s := range sources(t) {
		for _, known := range []string{"Error", "Unwrap", "Is", "String", "GoString", "MarshalJSON", "UnmarshalJSON"} {
			described[s.folder()+" "+known] = true
		}
		ast.Inspect(s.File, func(n ast.Node) bool {
			face, ok := n.(*ast.InterfaceType)
			if !ok {
				return true
			}
			for _, method := range face.Methods.List {
				for _, name := range method.Names {
					if method.Doc != nil || method.Comment != nil {
						described[s.folder()+" "+name.Name] = true
					}
				}
			}
			return true
		})
	}
	return described
}

// undocumented are the exported names that a declaration says nothing about.
func undocumented(d ast.Decl) (names []*ast.Ident) {
	switch d := d.(type) {
	case *ast.FuncDecl:
		if d.Name.IsExported() && d.Doc == nil && exportedReceiver(d) {
			names = append(names, d.Name)
		}
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			switch spec := spec.(type) {
			case *ast.TypeSpec:
				if spec.Name.IsExported() && d.Doc == nil && spec.Doc == nil {
					names = append(names, spec.Name)
				}
			case *ast.ValueSpec:
				if spec.Names[0].IsExported() && d.Doc == nil && spec.Doc == nil && spec.Comment == nil {
					names = append(names, spec.Names[0])
				}
			}
		}
	}
	return names
}

func exportedReceiver(f *ast.FuncDecl) bool {
	if f.Recv == nil {
		return true
	}
	receiver := f.Recv.List[0].Type
	if star, ok := receiver.(*ast.StarExpr); ok {
		receiver = star.X
	}
	name, ok := receiver.(*ast.Ident)
	return !ok || name.IsExported()
}

func TestProtocolFoldersAreWhole(t *testing.T) {
	folders, err := filepath.Glob(filepath.Join(root, "internal/protocol/*"))
	if err != nil || len(folders) == 0 {
		t.Fatalf("no protocols found: %v", err)
	}
	for _, folder := range folders {
		name, _ := filepath.Rel(root, folder)
		if _, err := os.Stat(filepath.Join(folder, "README.md")); err != nil {
			t.Errorf("%s has no README.md: say which versions, verbs, facts, limits and refusals it has", name)
		}
		if entries, err := os.ReadDir(filepath.Join(folder, "testdata")); err != nil || len(entries) == 0 {
			t.Errorf("%s has no testdata/: keep its transcripts there", name)
		}
		fuzzed := slices.ContainsFunc(sources(t), func(s source) bool {
			found := false
			s.functions(func(f *ast.FuncDecl) { found = found || strings.HasPrefix(f.Name.Name, "Fuzz") })
			return s.folder() == name && s.test() && found
		})
		if !fuzzed {
			t.Errorf("%s has no fuzz target: its decoders read what strangers send", name)
		}
	}
}

// testName finds the tests that a document names in backticks, as a whole
// word or before a subtest.
var testName = regexp.MustCompile("`((?:Test|Fuzz)[A-Z][A-Za-z0-9_]*)[^`\n]*`")

func TestTestsNamedInDocumentsExist(t *testing.T) {
	tests := map[string]bool{}
	for _, s := range sources(t) {
		if s.test() {
			s.functions(func(f *ast.FuncDecl) { tests[f.Name.Name] = true })
		}
	}
	documents := []string{"docs/security.md"} // must exist
	for _, path := range files(t) {
		if ok, _ := filepath.Match("internal/protocol/*/README.md", path); ok {
			documents = append(documents, path)
		}
	}
	for _, document := range documents {
		for _, m := range testName.FindAllSubmatch(read(t, document), -1) {
			if name := string(m[1]); !tests[name] {
				t.Errorf("%s says that %s proves something, but there is no such test: write it, or withdraw the claim", document, name)
			}
		}
	}
}

// link finds the targets of Markdown links and images.
var link = regexp.MustCompile(`\]\(<?([^)\s>]+)`)

func TestLinksInDocumentsResolve(t *testing.T) {
	for _, document := range files(t) {
		if path.Ext(document) != ".md" || strings.Contains(document, "testdata/") {
			continue
		}
		for _, m := range link.FindAllSubmatch(read(t, document), -1) {
			target, _, _ := strings.Cut(string(m[1]), "#")
			if target == "" || strings.Contains(target, ":") {
				continue // within the document, or elsewhere
			}
			if _, err := os.Stat(filepath.Join(root, filepath.Dir(document), target)); err != nil {
				t.Errorf("%s links to %s, which does not exist", document, target)
			}
		}
	}
}
