package sandbox

import (
	"fmt"
	"path/filepath"
	"slices"
)

var (
	// wide are folders that hold more than anybody means to give.
	wide = []string{"/", "/home", "/root", "/tmp", "/var", "/var/tmp", "/var/lib", "/var/cache", "/srv", "/mnt", "/media"}
	// kernels are the host's own besides what every run is shown. Sockets of
	// services are in /run.
	kernels = []string{"/proc", "/sys", "/dev", "/run", "/var/run", "/boot"}
)

// goElsewhere is what to do about a path that cannot be bound.
const goElsewhere = "go to a project, or name one with --bind"

// Bindable says whether a path may be bound at its own place: not what every run
// sees anyway, nor what is more than anybody means to give. The paths of private
// are Postern's own.
func Bindable(path, home string, private []string) error {
	switch {
	case !filepath.IsAbs(path) || filepath.Clean(path) != path:
		return fmt.Errorf("%q is not an absolute path", path)
	case path == "/":
		return fmt.Errorf("the whole file system cannot be bound: %s", goElsewhere)
	case Inside(home, path):
		return fmt.Errorf("%s is or holds the home directory, which stays outside: %s", path, goElsewhere)
	case slices.Contains(wide, path):
		return fmt.Errorf("%s is more than a project: %s", path, goElsewhere)
	}
	for _, at := range slices.Concat(shown, roots, kernels) {
		if Inside(path, at) {
			return fmt.Errorf("%s belongs to the system: %s", path, goElsewhere)
		}
	}
	for _, at := range private {
		if Inside(path, at) || Inside(at, path) {
			return fmt.Errorf("%s has files of Postern's own: %s", path, goElsewhere)
		}
	}
	return nil
}

// homeless is the home of users whose own could not be made.
const homeless = "/home/agent"

// HomeOf is the home of a run whose user has this one on the host: the same,
// unless it is a part of the system.
func HomeOf(home string) string {
	if !filepath.IsAbs(home) || filepath.Clean(home) != home || home == "/" {
		return homeless
	}
	for _, at := range slices.Concat(shown, roots, kernels) {
		if Inside(home, at) || Inside(at, home) {
			return homeless
		}
	}
	return home
}
