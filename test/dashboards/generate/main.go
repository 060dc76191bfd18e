// Command generate writes packaging/grafana/*.json from source.yaml beside them
// (make dashboards). What a dashboard is it leaves to mixin.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/postern/postern/test/dashboards/mixin"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: generate DIRECTORY")
		os.Exit(2)
	}
	if err := generate(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "generate:", err)
		os.Exit(1)
	}
}

func generate(dir string) error {
	all, err := mixin.Load(filepath.Join(dir, "source.yaml"))
	if err != nil {
		return err
	}
	for _, d := range all {
		text, err := d.JSON()
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, d.File+".json"), text, 0o644); err != nil {
			return err
		}
	}
	return nil
}
