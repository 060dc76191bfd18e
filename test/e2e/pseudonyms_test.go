package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// pseudonymClients find person 3 by drivers, which bind values or write them out.
var pseudonymClients = map[string]string{
	"psycopg2": `import os, psycopg2
c = psycopg2.connect(os.environ["DSN"]).cursor()
c.execute("SELECT id FROM people WHERE email = %s AND phone IN (%s, %s)", (os.environ["EMAIL"], os.environ["PHONE"], "000000000000"))
print(c.fetchall())`,
	"psycopg3": `import os, psycopg
c = psycopg.connect(os.environ["DSN"]).cursor()
c.execute("SELECT id FROM people WHERE email = %s AND number = %s", (os.environ["EMAIL"], int(os.environ["NUMBER"])))
print(c.fetchall())`,
	"psycopg3 binary": `import os, psycopg, uuid
c = psycopg.connect(os.environ["DSN"]).cursor(binary=True)
c.execute("SELECT id FROM people WHERE email = %b AND number = %b AND ref = %b", (os.environ["EMAIL"], int(os.environ["NUMBER"]), uuid.UUID(os.environ["REF"])))
print(c.fetchall())`,
}

// TestPseudonymsReadBack: an agent finds and changes people that it knows by
// pseudonym only, through every client, and learns nothing else by it.
func TestPseudonymsReadBack(t *testing.T) {
	w := theWorld
	w.query(t, `SET ROLE orders_rw;
CREATE TABLE people (id int PRIMARY KEY, name text, email text, phone text, number int, ref uuid, note text);
INSERT INTO people SELECT i, 'person ' || i, 'person' || i || '@corp.test', (491700000000 + i)::text, 5000 + i, md5(i::text)::uuid, '' FROM generate_series(1, 5) i;
CREATE TABLE letters (id int PRIMARY KEY, email text);
CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.note := 'mail to ' || NEW.email; RETURN NEW; END $$;
CREATE TRIGGER tell BEFORE UPDATE ON people FOR EACH ROW EXECUTE FUNCTION tell()`)
	defer w.query(t, "DROP TABLE people, letters; DROP FUNCTION tell")
	w.psql("planner", "orders", "SELECT FROM people") //nolint:errcheck // who names what is new has the catalog read again
	ask := func(statements ...string) string {
		t.Helper()
		out, _ := w.psql("planner", "orders", statements...)
		mustNotContain(t, out, "corp.test", "49170000000")
		return strings.TrimSpace(out)
	}
	row := strings.Split(ask("SELECT email, phone, number, ref FROM people WHERE id = 3"), "|")
	if len(row) != 4 || !strings.HasSuffix(row[0], "@example.com") || len(row[1]) != 12 || len(row[3]) != 36 {
		t.Fatalf("%q", row)
	}
	for _, column := range []string{"email", "phone", "number", "ref"} {
		value := row[map[string]int{"email": 0, "phone": 1, "number": 2, "ref": 3}[column]]
		for _, form := range []string{"%s = '%s'", "%s IN ('%s')", "'%[2]s' = %[1]s", "people.%s = '%s'"} {
			if got := ask("SELECT id FROM people WHERE " + fmt.Sprintf(form, column, value)); got != "3" {
				t.Errorf(form+": %s", column, value, got)
			}
		}
		mustContain(t, ask(fmt.Sprintf("SELECT id FROM people WHERE %s::text LIKE '%.3s%%'", column, value)), "is masked")
		mustContain(t, ask(fmt.Sprintf("SELECT id FROM people WHERE %s > '%s'", column, value)), "is masked")
	}
	if got := ask("SELECT id FROM people WHERE number = " + row[2]); got != "3" {
		t.Errorf("number = %s: %s", row[2], got)
	}
	mustContain(t, ask("SELECT id FROM people WHERE email = 'person3@corp.test'", `\echo asked`), "is masked")
	mustContain(t, ask("SELECT id FROM (SELECT left(email, 40) AS e, id FROM people) s WHERE e = '"+row[0]+"'"), "is masked")
	mustContain(t, ask("SELECT '"+row[0]+"'::text AS x, id FROM people WHERE email = '"+row[0]+"'"), "|3")

	// Changes: the person is meant, the pseudonym is shown, and the trigger's copy is not.
	mustContain(t, ask("UPDATE people SET name = 'third' WHERE email = '"+row[0]+"' AND id = 3 RETURNING id, name, email, note"), "3|third|"+row[0]+"|mail to ")
	if got := w.query(t, "SELECT name, note FROM people WHERE id = 3"); got != "third|mail to person3@corp.test" {
		t.Errorf("the row is %s", got)
	}
	mustContain(t, ask("INSERT INTO letters VALUES (1, '"+row[0]+"')"), "INSERT 0 1")
	if got := w.query(t, "SELECT email FROM letters"); got != "person3@corp.test" {
		t.Errorf("the letter goes to %s", got)
	}
	mustContain(t, ask("SELECT l.id, l.email FROM letters l WHERE l.email = '"+row[0]+"'"), "1|"+row[0])

	// What the server shows of running statements has no value in it.
	s := w.psqlSession(t, "planner", "orders")
	defer s.stop()
	mustContain(t, s.do("SELECT name FROM people WHERE email = '"+row[0]+"';"), "third")
	if got := w.query(t, "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT name FROM people WHERE email = $1%'"); got != "1" {
		t.Errorf("%s sessions show the statement", got)
	}

	for name, program := range pseudonymClients {
		cmd := w.agent("planner", "orders", "/usr/bin/python3", "-c", program)
		cmd.Env = append(cmd.Env, "EMAIL="+row[0], "PHONE="+row[1], "NUMBER="+row[2], "REF="+row[3])
		if out, err := cmd.CombinedOutput(); err != nil || strings.TrimSpace(string(out)) != "[(3,)]" {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}
