package archtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// module is the path of the main module; root is its folder.
const (
	module = "github.com/postern/postern/"
	root   = "../.."
)

var update = flag.Bool("update", false, "write docs/dependencies instead of comparing with it")

// run returns what a command prints, with the root as its directory.
func run(t *testing.T, env []string, name string, args ...string) []byte {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, stderr.Bytes())
	}
	return out
}

// files are the paths from the root of what is in git, or new and not ignored.
func files(t *testing.T) []string {
	t.Helper()
	// The tests of root may run in a tree that belongs to somebody else.
	out := run(t, nil, "git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	var paths []string
	for path := range strings.SplitSeq(string(out), "\x00") {
		if path == "" {
			continue
		}
		if info, err := os.Lstat(filepath.Join(root, path)); err == nil && info.Mode().IsRegular() {
			paths = append(paths, path)
		}
	}
	return paths
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// source is one Go file.
type source struct {
	path      string
	lines     int
	generated bool
	positions *token.FileSet
	*ast.File
}

func (s source) folder() string { return filepath.Dir(s.path) }
func (s source) test() bool     { return strings.HasSuffix(s.path, "_test.go") }

// functions calls f with each function declared in the file.
func (s source) functions(f func(*ast.FuncDecl)) {
	for _, d := range s.Decls {
		if fn, ok := d.(*ast.FuncDecl); ok {
			f(fn)
		}
	}
}

var parsed struct {
	sync.Mutex
	sources []source
}

// sources are all Go files of the repository, also of the nested modules.
func sources(t *testing.T) []source {
	t.Helper()
	parsed.Lock()
	defer parsed.Unlock()
	if parsed.sources != nil {
		return parsed.sources
	}
	for _, path := range files(t) {
		if !strings.HasSuffix(path, ".go") || strings.Contains(path, "testdata/") {
			continue
		}
		text := read(t, path)
		positions := token.NewFileSet()
		file, err := parser.ParseFile(positions, path, text, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		parsed.sources = append(parsed.sources, source{
			path: path, lines: bytes.Count(text, []byte("\n")),
			generated: ast.IsGenerated(file), positions: positions, File: file,
		})
	}
	return parsed.sources
}

// listed is a package as `go list -json` tells it.
type listed struct {
	ImportPath   string
	Standard     bool
	Imports      []string
	TestImports  []string
	XTestImports []string
	CgoFiles     []string
	Module       *struct{ Path string }
}

// short is the package's path from the root.
func (p listed) short() string { return strings.TrimPrefix(p.ImportPath, module) }

func list(t *testing.T, env []string, args ...string) (packages []listed) {
	t.Helper()
	const fields = "-json=ImportPath,Standard,Imports,TestImports,XTestImports,CgoFiles,Module"
	out := json.NewDecoder(bytes.NewReader(run(t, env, "go", append([]string{"list", fields}, args...)...)))
	for {
		var p listed
		err := out.Decode(&p)
		if errors.Is(err, io.EOF) {
			return packages
		}
		if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
}

// commands are the folders in cmd.
func commands(t *testing.T) (names []string) {
	t.Helper()
	for _, p := range list(t, nil, "./cmd/...") {
		names = append(names, strings.TrimPrefix(p.short(), "cmd/"))
	}
	if len(names) == 0 {
		t.Fatal("no command in cmd")
	}
	return names
}
