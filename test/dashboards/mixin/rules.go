package mixin

import (
	"fmt"
	"os"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Rule is one of Prometheus's: an alert, or a record of an expression.
type Rule struct {
	Alert       string            `yaml:"alert"`
	Record      string            `yaml:"record"`
	Expr        string            `yaml:"expr"`
	For         string            `yaml:"for"`
	Labels      map[string]string `yaml:"labels"`
	Annotations map[string]string `yaml:"annotations"`
}

// Rules reads files of rules.
func Rules(paths ...string) (all []Rule, err error) {
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		var file struct {
			Groups []struct {
				Name  string `yaml:"name"`
				Rules []Rule `yaml:"rules"`
			} `yaml:"groups"`
		}
		d := yaml.NewDecoder(strings.NewReader(string(text)))
		d.KnownFields(true)
		if err := d.Decode(&file); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		for _, g := range file.Groups {
			all = append(all, g.Rules...)
		}
	}
	return all, nil
}

// Plain is an expression as Prometheus takes it, with everything for Grafana's
// variables, and for its spans what is given: that of a rate, and that which the
// whole dashboard shows.
func Plain(expr, rate, span string) string {
	return strings.NewReplacer(`"$instance"`, `".+"`, `"$agent"`, `".*"`, `"$target"`, `".*"`,
		"$__rate_interval", rate, "$__range", span).Replace(expr)
}
