package sql

import (
	"testing"

	"github.com/postern/postern/internal/engine"
)

// TestPivot: what acts outside of the gateway is marked, what only waits or
// ends sessions is not, and where code was not looked into nothing is said.
func TestPivot(t *testing.T) {
	for _, e := range Pivots {
		if !Pivot(e) {
			t.Errorf("%v is among the examples and no pivot", e)
		}
	}
	for _, c := range []struct {
		verb, object string
		fact         any
	}{
		{CopyProgram, "t", true},
		{CopyFile, "t", true},
		{CopyOut, "t", false},
		{Select, "t", false},
		{Admin, "public.dblink_exec", true},
		{Admin, "pg_catalog.pg_read_binary_file", true},
		{Admin, "pg_catalog.query_to_xml", true},
		{Admin, "create foreign table", true},
		{Admin, "drop subscription", false},
		{Admin, "pg_catalog.pg_sleep", false},
		{Admin, "pg_catalog.pg_stat_reset_shared", false},
		{Admin, "of some later version", true},
		{Do, "plpgsql", nil},
		{Do, "plpython3u", true},
		{Function, "public.f", nil},
		{Call, "public.p", nil},
		{engine.Unknown, "", nil},
	} {
		s := &Statement{Effects: []engine.Effect{{Verb: Select, Object: "u"}, {Verb: c.verb, Object: c.object}}, Limit: -1}
		s.Seal()
		if got := s.Facts[FactPivot]; got != c.fact {
			t.Errorf("%s %s: %v, want %v", c.verb, c.object, got, c.fact)
		}
	}
}
