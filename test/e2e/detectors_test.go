package e2e

import "testing"

// TestCustomDetectors: detectors of the configuration mask the values of real
// tables, on every road that those that are built in do.
func TestCustomDetectors(t *testing.T) {
	w := theWorld
	ask := func(statement string) string {
		t.Helper()
		out, err := w.psql("planner", "orders", statement)
		if err != nil {
			t.Errorf("%s: %s", statement, out)
		}
		mustNotContain(t, out, "12345674", "87654323", "QZX830417", "901820")
		return out
	}
	mustContain(t, ask("SELECT note FROM visits WHERE id = 1"), "let in EMP-redacted-staff-number with badge *******", "17")
	mustContain(t, ask("SELECT note FROM visits WHERE id = 2"), "let in EMP-12345675 with no badge, call redacted-phone")
	// The column's name is an anchor; an integer has no room for a replacement.
	mustContain(t, ask("SELECT id, staff_no FROM visits ORDER BY id"), "1|\n2|12345675\n")
	mustContain(t, ask("SELECT extra FROM visits WHERE id = 1"), `{"who": "EMP-redacted-staff-number"}`)
	ask("COPY (SELECT note, staff_no, extra FROM visits) TO STDOUT")
	ask("SELECT note || extra::text AS staff_no FROM visits")
}
