package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

// copyForms are ways to write the same rows.
var copyForms = []string{
	"", "(FORMAT csv)", "(FORMAT csv, HEADER, FORCE_QUOTE *, ESCAPE '\\')", "(FORMAT csv, QUOTE '''', DELIMITER ';', NULL 'none')",
	"(FORMAT binary)", "(DELIMITER '|', NULL 'nothing', HEADER)",
}

// copyAgent copies masked columns out and back in, into a table where PostgreSQL
// itself shows what they have become.
func copyAgent(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, os.Getenv("DSN"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	for i, form := range copyForms {
		if strings.Contains(form, "HEADER") && strings.Contains(form, "DELIMITER") && conn.PgConn().ParameterStatus("server_version") < "15" {
			form = strings.Replace(form, ", HEADER", "", 1)
		}
		var rows bytes.Buffer
		from := fmt.Sprintf("COPY (SELECT id + %d, email FROM customers ORDER BY id) TO STDOUT %s", 8000+10*i, form)
		if _, err := conn.PgConn().CopyTo(ctx, &rows, from); err != nil {
			return fmt.Errorf("%s: %w", from, err)
		}
		for _, secret := range []string{"ada@example.org", "grace@example.org"} {
			if bytes.Contains(rows.Bytes(), []byte(secret)) {
				return fmt.Errorf("%s shows %s", from, secret)
			}
		}
		if strings.Contains(form, "FORCE_QUOTE") {
			form = "(FORMAT csv, HEADER, ESCAPE '\\')"
		}
		if _, err := conn.PgConn().CopyFrom(ctx, &rows, "COPY scratch FROM STDIN "+form); err != nil {
			return fmt.Errorf("%s: %w", form, err)
		}
	}
	return nil
}

// TestCopyOut: what COPY … TO STDOUT copies is masked as SELECT masks it, in
// every format, and PostgreSQL reads it again.
func TestCopyOut(t *testing.T) {
	w := theWorld
	selected, err := w.psql("planner", "orders", "SELECT email FROM customers ORDER BY id")
	if err != nil {
		t.Fatal(selected)
	}
	mustContain(t, selected, "p_")
	client := w.agent("planner", "orders", filepath.Join(w.dir, "client"))
	client.Env = append(client.Env, clientEnv+"=copy")
	if out, err := client.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	defer w.query(t, "DELETE FROM scratch WHERE id >= 8000")
	for i, form := range copyForms {
		copied := w.query(t, fmt.Sprintf("SELECT note FROM scratch WHERE id >= %d AND id < %[1]d + 10 ORDER BY id", 8000+10*i))
		if copied != strings.TrimSpace(selected) {
			t.Errorf("%s:\ncopied\n%s\nselected\n%s", form, copied, selected)
		}
	}
	for statement, wanted := range map[string]string{
		"COPY customers (ssn, id) TO STDOUT (NULL '078-05-1120')": "\t1",
		"COPY staff TO STDOUT":                          "1\tAda\t",
		"COPY customer_view (email) TO STDOUT":          "42809",
		"COPY computed TO STDOUT":                       "1\t",
		"COPY (SELECT id FROM customers) TO STDOUT":     "1\n",
		"COPY (SELECT c FROM customers c) TO STDOUT":    "\n",
		"COPY no_such_table TO STDOUT":                  "42P01",
		"BEGIN; COPY customers TO STDOUT":               "statement of its own",
		"COPY customers TO STDOUT (ENCODING 'latin1')":  "cannot be masked",
		"COPY customers TO '/tmp/postern-e2e-copy.txt'": "42501",
	} {
		out, _ := w.psql("planner", "orders", statement)
		mustContain(t, out, wanted)
		mustNotContain(t, out, "example.org", "078-05-1120", "zebra quilt", "walnut")
	}
	s := w.psqlSession(t, "planner", "orders")
	defer s.stop()
	s.do(`\set VERBOSITY verbose`)
	mustContain(t, s.do("BEGIN;\nCOPY no_such_table TO STDOUT;"), "42P01")
	mustContain(t, s.do("SELECT 1;"), "current transaction is aborted")
	mustContain(t, s.do("ROLLBACK;\nBEGIN;\nCOPY staff (id) TO STDOUT;\nCOMMIT;\nSELECT 'still here';"), "still here")
}
