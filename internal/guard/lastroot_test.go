package guard

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/postern/postern/internal/config"
)

// TestRootOfABadConfiguration: where the programs belong is known whatever else is
// wrong with a configuration: where they were last, or what can be read of it.
func TestRootOfABadConfiguration(t *testing.T) {
	dir := t.TempDir()
	file, state := filepath.Join(dir, "postern.yaml"), filepath.Join(dir, "state")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	good := "root: held.slice\nstate_dir: " + state + "\n"
	want := func(root string, problem bool) *config.Config {
		t.Helper()
		got, cfg, err := Root(file)
		if got != root || (err != nil) != problem {
			t.Errorf("%q, %v, want %q", got, err, root)
		}
		return cfg
	}
	write(good + "nonsense: true\n")
	want("held.slice", true)
	write(good)
	cfg := want("held.slice", false)
	for range 2 {
		if err := RememberRoot(cfg); err != nil {
			t.Fatal(err)
		}
	}
	if st, err := os.Stat(filepath.Join(state+"-guard", rootFile)); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st, err)
	}
	write("root: elsewhere.slice\nstate_dir: " + state + "\nnonsense: true\n")
	want("held.slice", true) // where agents were put until now
	write("root: elsewhere.slice\nstate_dir: " + state + "\n")
	want("elsewhere.slice", false)
	write("root: ../../..\nstate_dir: " + dir + "/other\n")
	want(config.DefaultRoot, true)
	write("\x00")
	want(config.DefaultRoot, true)
	if err := os.WriteFile(filepath.Join(state+"-guard", rootFile), []byte("../outside\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	write(good + "nonsense: true\n")
	want("held.slice", true)
}
