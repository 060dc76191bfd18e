package main

import (
	"fmt"
	"regexp"

	"github.com/postern/postern/internal/config"
	"github.com/postern/postern/internal/mask"
)

// detectors are those that the configuration adds, by name. One that is not
// right was told by config, and is left out.
func detectors(cfg *config.Config) map[string]mask.Custom {
	out := map[string]mask.Custom{}
	for _, d := range cfg.Detectors {
		kind, _ := mask.ParseKind(d.With)
		pattern, err := regexp.Compile(d.Pattern)
		if err != nil || len(d.Anchors) == 0 {
			continue
		}
		check, err := mask.ParseCheck(d.Check)
		if err != nil {
			continue
		}
		out[d.Name] = mask.Custom{
			Name: d.Name, Anchors: d.Anchors, Pattern: pattern, Before: d.Before, After: d.After,
			Check: check, CheckName: d.Check, Kind: kind,
		}
	}
	return out
}

// words is a detector as configured, to compare.
func words(d mask.Custom) string {
	return fmt.Sprint(d.Name, d.Anchors, d.Pattern, d.Before, d.After, d.CheckName, d.Kind)
}
