package archtest

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// A dependency is a design decision: each binary's list is checked in, so that
// a change of it shows in review.
func TestDependencies(t *testing.T) {
	const folder = "docs/dependencies"
	names := commands(t)
	for _, command := range names {
		path := filepath.Join(root, folder, command+".txt")
		got := linked(t, command)
		if *update {
			if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		want, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		for _, module := range difference(got, string(want)) {
			t.Errorf("cmd/%s links %s, which is not in %s/%s.txt: do without, or run `make generate` and say in the commit what it replaces and drags in", command, module, folder, command)
		}
		for _, module := range difference(string(want), got) {
			t.Errorf("%s/%s.txt lists %s, which is not linked any more: run `make generate`", folder, command, module)
		}
	}
	entries, err := os.ReadDir(filepath.Join(root, folder))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if command := strings.TrimSuffix(e.Name(), ".txt"); !slices.Contains(names, command) {
			t.Errorf("%s/%s is of no command in cmd: remove it", folder, e.Name())
		}
	}
}

// TestNodePackagesRunOnDebian: what npm installs for tests runs on the Node.js of
// Debian 12, however new the one is on the machine where it was chosen.
func TestNodePackagesRunOnDebian(t *testing.T) {
	const debian = 18
	asks := regexp.MustCompile(`"node": ">=? ?v?(\d+)[^"]*"`)
	found := 0
	for _, path := range files(t) {
		if filepath.Base(path) != "package-lock.json" {
			continue
		}
		for _, m := range asks.FindAllSubmatch(read(t, path), -1) {
			found++
			if least, err := strconv.Atoi(string(m[1])); err != nil || least > debian {
				t.Errorf("%s: a package asks for %s, and Debian 12 has Node.js %d: take an older version of it", path, m[0], debian)
			}
		}
	}
	if found == 0 {
		t.Error("no package says which Node.js it asks for")
	}
}

// linked are the modules of a command, one per line, sorted; their versions
// are in go.mod.
func linked(t *testing.T, command string) string {
	t.Helper()
	cgo := "CGO_ENABLED=0"
	if command == "postern-sqlparse" {
		cgo = "CGO_ENABLED=1"
	}
	var modules []string
	for _, p := range list(t, []string{cgo, "GOOS=linux", "GOARCH=amd64"}, "-deps", "./cmd/"+command) {
		if p.Module != nil && p.Module.Path+"/" != module {
			modules = append(modules, p.Module.Path+"\n")
		}
	}
	slices.Sort(modules)
	return strings.Join(slices.Compact(modules), "")
}

// difference are the lines of a that b has not.
func difference(a, b string) (lines []string) {
	known := strings.Fields(b)
	for _, line := range strings.Fields(a) {
		if !slices.Contains(known, line) {
			lines = append(lines, line)
		}
	}
	return lines
}
