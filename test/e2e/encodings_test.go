package e2e

import (
	"strings"
	"testing"
)

// TestEveryClientEncoding: a text means what it says in UTF-8 only, so every
// other encoding is refused, at login and afterwards, and so are the settings
// that change what a quote or a backslash means.
func TestEveryClientEncoding(t *testing.T) {
	w := theWorld
	encodings := strings.Fields(w.query(t, "SELECT pg_encoding_to_char(i) FROM generate_series(0, 50) i WHERE pg_encoding_to_char(i) <> ''"))
	if len(encodings) < 40 {
		t.Fatalf("%q", encodings)
	}
	for _, name := range encodings {
		cmd := w.agent("planner", "orders", "psql", "-X", "-A", "-t", "-c", "SELECT 'in'")
		cmd.Env = append(cmd.Env, "PGCLIENTENCODING="+name)
		out, err := cmd.CombinedOutput()
		if in := err == nil && strings.TrimSpace(string(out)) == "in"; in != (name == "UTF8") || !in && !strings.Contains(string(out), "postern: ") {
			t.Errorf("login with %s: %v, %s", name, err, out)
		}
	}
	var statements []string
	for _, name := range encodings {
		if name != "UTF8" {
			statements = append(statements, "SET client_encoding = '"+name+"'", "SET NAMES '"+name+"'")
		}
	}
	s := w.psqlSession(t, "planner", "orders")
	defer s.stop()
	s.do(`\set VERBOSITY verbose`)
	for _, statement := range append(statements, "SET standard_conforming_strings = off", "SET backslash_quote = on", "SELECT set_config('client_encoding', 'BIG5', false)") {
		if out := s.do(statement + ";"); !strings.Contains(out, "42501") {
			t.Errorf("%s: %s", statement, out)
		}
	}
	mustContain(t, s.do("SELECT 'ü' || chr(8364) || '\\';"), `ü€\`)
	for _, options := range []string{"-c standard_conforming_strings=off", "-c client_encoding=SJIS", "-c backslash_quote=on"} {
		cmd := w.agent("planner", "orders", "psql", "-X", "-A", "-t", "-c", "SELECT 'in'")
		cmd.Env = append(cmd.Env, "PGOPTIONS="+options)
		if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "postern: ") {
			t.Errorf("login with %s: %v, %s", options, err, out)
		}
	}
}
