package archtest

import (
	"bytes"
	"go/ast"
	"path"
	"regexp"
	"strings"
	"testing"
)

// Limits that keep a file readable and a function on one screen, in lines.
const (
	maxFile     = 500
	maxFunction = 70
)

func TestFilesAndFunctionsAreShort(t *testing.T) {
	for _, s := range sources(t) {
		if s.generated {
			continue
		}
		if s.lines > maxFile {
			t.Errorf("%s has %d lines: split it by what its parts do, at most %d", s.path, s.lines, maxFile)
		}
		s.functions(func(f *ast.FuncDecl) {
			first, last := s.positions.Position(f.Pos()), s.positions.Position(f.End())
			if lines := last.Line - first.Line + 1; lines > maxFunction {
				t.Errorf("%s:%d: %s has %d lines: give its steps names of their own (a test: move its table out), at most %d", s.path, first.Line, f.Name.Name, lines, maxFunction)
			}
		})
	}
}

// emptyNames say nothing about what a package is for.
var emptyNames = []string{"common", "util", "utils", "helper", "helpers", "manager", "handler", "data", "info"}

func TestPackageNamesSayWhatFor(t *testing.T) {
	for _, s := range sources(t) {
		name := strings.TrimSuffix(s.Name.Name, "_test")
		for _, empty := range emptyNames {
			if name == empty || path.Base(s.folder()) == empty {
				t.Errorf("%s: package %s: name it after what it provides", s.path, empty)
			}
		}
	}
}

func TestKernelSourcesNameTheirLicence(t *testing.T) {
	const licence = "SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause"
	found := 0
	for _, path := range files(t) {
		if !strings.HasPrefix(path, "bpf/") || !(strings.HasSuffix(path, ".c") || strings.HasSuffix(path, ".h")) {
			continue
		}
		found++
		if first, _, _ := bytes.Cut(read(t, path), []byte("\n")); !bytes.Contains(first, []byte(licence)) {
			t.Errorf("%s: its first line must say %q: the kernel gives its helpers to nothing else, and users may choose", path, licence)
		}
	}
	if found == 0 {
		t.Error("no kernel source found in bpf/")
	}
}

// A promise to do something later belongs into an issue, and a path of one
// machine helps nobody on another. The words are put together here, for this
// file is searched too.
var unwanted = []struct {
	word *regexp.Regexp
	why  string
}{
	{regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|X` + `XX)\b`), "do it now, or open an issue"},
	{regexp.MustCompile(`(^|[^\w.-])/wor` + `k/`), "a path of one machine: write it relative to the repository"},
	{regexp.MustCompile(`\.\./shar` + `ed\b`), "refers to what is not in the repository"},
}

func TestFilesHoldNoLeftovers(t *testing.T) {
	for _, path := range files(t) {
		if strings.HasSuffix(path, "go.sum") || strings.HasSuffix(path, ".png") {
			continue
		}
		text := read(t, path)
		for _, u := range unwanted {
			if at := u.word.FindIndex(text); at != nil {
				line := 1 + bytes.Count(text[:at[0]], []byte("\n"))
				t.Errorf("%s:%d: %q: %s", path, line, text[at[0]:at[1]], u.why)
			}
		}
	}
}

// The objects of bpf/ are kept so that a build takes no clang.
func TestNoFileIsABinary(t *testing.T) {
	for _, path := range files(t) {
		if strings.HasPrefix(path, "bpf/") && strings.HasSuffix(path, "_bpfel.o") {
			continue
		}
		if bytes.HasPrefix(read(t, path), []byte("\x7fELF")) {
			t.Errorf("%s: what go build leaves: delete it, and build into build/", path)
		}
	}
}
