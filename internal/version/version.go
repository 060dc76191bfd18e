// Package version says what was built, from what the Go linker knows.
package version

import (
	"runtime"
	"runtime/debug"
	"strings"
)

// Number is the release, set by the build with -X; "dev" without.
var Number = "dev"

// String is the release and, where known, the commit.
func String() string {
	if c := Commit(); c != "" {
		return Number + " (" + c + ")"
	}
	return Number
}

// Commit is the abbreviated commit, with "+" when the tree had changes.
func Commit() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	commit, dirty := "", false
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			commit = s.Value[:min(12, len(s.Value))]
		case "vcs.modified":
			dirty = s.Value == "true"
		}
	}
	if dirty {
		commit += "+"
	}
	return strings.TrimSpace(commit)
}

// Build is what it was built with, from which commit and when that was made,
// for reports of bugs.
func Build() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return runtime.Version()
	}
	set := map[string]string{}
	for _, s := range info.Settings {
		set[s.Key] = s.Value
	}
	out := info.GoVersion + " " + set["GOOS"] + "/" + set["GOARCH"]
	if set["CGO_ENABLED"] == "1" {
		out += " cgo"
	}
	if revision := set["vcs.revision"]; revision != "" {
		out += "; commit " + revision + " of " + set["vcs.time"]
		if set["vcs.modified"] == "true" {
			out += ", changed"
		}
	}
	return out
}
