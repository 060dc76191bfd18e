package main

import (
	"fmt"

	"github.com/postern/postern/internal/mask"
	"github.com/wasilibs/go-re2"
	"github.com/wasilibs/go-re2/experimental"
	"github.com/zricethezav/gitleaks/v8/detect"
)

// engine is a peer, or Postern. run returns how many finds there were.
type engine struct {
	name string
	run  func(work) int
}

// personal are expressions for what gitleaks has no rules for and Postern
// finds: without the checks, which come after a match.
var personal = []string{
	`[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}`,
	`\b[A-Z]{2}[0-9]{2}[A-Z0-9]{11,30}\b`,
	`\b[34568][0-9]{12,18}\b`,
	`\b(?:[0-9]{4}[ -]){3}[0-9]{4}\b`,
	`\+[1-9][0-9 ().-]{7,20}[0-9]`,
	`\b[0-9]{3}-[0-9]{2}-[0-9]{4}\b`,
	`\b[0-9]{3}\.[0-9]{3}\.[0-9]{3}-[0-9]{2}\b`,
	`\b[12][0-9]{14}\b`,
	`\b[0-9]{11}\b`,
}

func engines() ([]engine, error) {
	leaks, err := detect.NewDetectorDefaultConfig()
	if err != nil {
		return nil, fmt.Errorf("gitleaks: %w", err)
	}
	expressions := append([]string(nil), personal...)
	for _, id := range leaks.Config.OrderedRules {
		if r := leaks.Config.Rules[id]; r.Regex != nil {
			expressions = append(expressions, r.Regex.String())
		}
	}
	set, err := experimental.CompileSetWithOptions(expressions, experimental.CompileOptions{MaxMem: 256 << 20})
	if err != nil {
		return nil, fmt.Errorf("go-re2: %w", err)
	}
	single := make([]*re2.Regexp, len(expressions))
	for i, e := range expressions {
		if single[i], err = re2.Compile(e); err != nil {
			return nil, fmt.Errorf("go-re2: %s: %w", e, err)
		}
	}
	return []engine{
		{"postern", postern()},
		{"gitleaks", func(w work) (finds int) {
			for _, chunk := range w.chunks {
				finds += len(leaks.DetectString(chunk))
			}
			return finds
		}},
		{"go-re2", func(w work) (finds int) {
			for _, chunk := range w.chunks {
				matching, err := set.FindAllStringWithError(chunk, len(expressions))
				if err != nil {
					return -1 // out of memory: no rate
				}
				for _, i := range matching {
					finds += len(single[i].FindAllStringIndex(chunk, -1))
				}
			}
			return finds
		}},
	}, nil
}

// postern masks value by value, as the gateway does; the others only search,
// and may do so in large pieces.
func postern() func(work) int {
	scanner := mask.NewScanner(mask.Secrets | mask.PII)
	masker := mask.Detect(scanner, "", "text", false)
	return func(w work) (finds int) {
		for _, v := range w.values {
			masker.Mask(v)
			finds += len(masker.Hits())
		}
		return finds
	}
}
