package e2e

import "testing"

// TestViews: the columns of a view are masked one by one, as their definition
// says where they come from, with the kind of mask of the column they show.
func TestViews(t *testing.T) {
	w := theWorld
	w.query(t, `SET ROLE orders_rw;
CREATE VIEW v_joined AS SELECT o.id, state, email AS mail, lower(email) AS low, upper(state) AS loud FROM orders o JOIN customers c ON c.id = o.customer;
CREATE VIEW v_nested AS SELECT id, mail AS m, low, loud FROM v_joined;
CREATE VIEW v_whole AS SELECT id, c AS r FROM customers c;
CREATE MATERIALIZED VIEW v_stored AS SELECT id, email AS mail, name FROM customers`)
	defer w.query(t, "DROP MATERIALIZED VIEW v_stored; DROP VIEW v_whole, v_nested, v_joined")
	w.psql("planner", "orders", "SELECT FROM v_stored") //nolint:errcheck // who names what is new has the catalog read again
	ask := func(statement string) string {
		t.Helper()
		out, err := w.psql("planner", "orders", statement)
		if err != nil {
			t.Errorf("%s: %s", statement, out)
		}
		return out
	}
	masked := ask("SELECT email FROM customers WHERE id = 1")
	mustContain(t, masked, "p_")
	for _, statement := range []string{
		"SELECT email FROM customer_view WHERE id = 1", "SELECT e FROM customer_view_renamed WHERE id = 1", "SELECT mail FROM v_stored WHERE id = 1",
	} {
		if got := ask(statement); got != masked {
			t.Errorf("%s: %q, and the table's own %q", statement, got, masked)
		}
	}
	if got := ask("SELECT mail FROM v_joined WHERE id = 2"); got != masked {
		t.Errorf("customer 1 of order 2: %q, not %q", got, masked)
	}
	if got := ask("SELECT m FROM v_nested WHERE id = 2"); got != masked {
		t.Errorf("customer 1 of order 2: %q, not %q", got, masked)
	}
	mustContain(t, ask("SELECT id, name FROM v_stored ORDER BY name"), "1|Ada\n2|Grace\n")
	mustContain(t, ask("SELECT loud, low FROM v_nested WHERE loud = 'NEW' AND id = 2"), "NEW|[redacted]")
	for _, statement := range []string{"SELECT r FROM v_whole", "SELECT r::text FROM v_whole", "SELECT (r).email FROM v_whole", "SELECT to_jsonb(v) FROM v_nested v"} {
		out, _ := w.psql("planner", "orders", statement)
		mustNotContain(t, out, "example.org", "EXAMPLE")
	}
	out, _ := w.psql("planner", "orders", "SELECT id FROM v_stored WHERE mail LIKE 'a%'")
	mustContain(t, out, "is masked")
}
