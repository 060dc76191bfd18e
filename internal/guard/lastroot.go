package guard

import (
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/postern/postern/internal/config"
)

// rootFile is where the policy root is remembered that was last attached to, beside
// the record of broken glass.
const rootFile = "root"

// Root is the policy root of a configuration, relative to the cgroup2 root. One
// with problems does not leave agents open: its root is the one that was attached
// to last, or what can be read of the file. The problem comes along.
func Root(file string) (root string, cfg *config.Config, problem error) {
	cfg, problems := config.Load(file)
	if cfg != nil {
		return cfg.Root, cfg, nil
	}
	legible := config.Legible(file)
	root = legible.Root
	if last, err := os.ReadFile(besideGlass(legible.StateDir, rootFile)); err == nil && filepath.IsLocal(strings.TrimSpace(string(last))) {
		root = strings.TrimSpace(string(last))
	}
	return root, nil, errors.New(problems[0].String())
}

// RememberRoot is for Root after the next start of the host.
func RememberRoot(cfg *config.Config) error {
	path := besideGlass(cfg.StateDir, rootFile)
	if last, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(last)) == cfg.Root {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", []byte(cfg.Root+"\n"), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
