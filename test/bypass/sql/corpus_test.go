package sql

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/postern/postern/pkg/recording"
)

// testCase is one statement of the corpus. Its heading is "## VERBS | PROOF":
// which of the verbs the denial names, and how it shows without Postern that the
// statement does something. Verbs are those of rules, and besides:
//
//	masked   it may run, and no masked value comes back
//	allowed  it runs, with the same answer
//
// Proofs:
//
//	runs           it ends without an error
//	changes TABLE  the table's rows are others than before
//	shows          a canary is in the answer
//	leaves         there is a file at @FILE@ on the server's host
//	locks          a row lock of orders is held
type testCase struct {
	at, text string // file:line
	verbs    []string
	proof    string
}

// least is how many cases there are, so that none gets lost.
const least = 500

func readCorpus(t *testing.T) (cases []testCase) {
	t.Helper()
	files, err := filepath.Glob("corpus/*.sql")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var heading testCase
		line := 1
		for block := range strings.SplitSeq(string(b), "\n\n") {
			c := heading
			c.at = fmt.Sprintf("%s:%d", file, line)
			line += strings.Count(block, "\n") + 2
			if rest, ok := strings.CutPrefix(block, "## "); ok {
				title, text, _ := strings.Cut(rest, "\n")
				verbs, proof, ok := strings.Cut(title, " | ")
				if !ok {
					t.Fatalf("%s: %q is no heading", c.at, title)
				}
				heading.verbs, heading.proof = strings.Split(verbs, ","), proof
				c.verbs, c.proof, block = heading.verbs, proof, text
			}
			c.text = strings.TrimSuffix(block, "\n")
			cases = append(cases, c)
		}
	}
	return cases
}

// canaries are the forms of what must not come back.
var canaries = func() (forms []string) {
	for _, value := range []string{"ada@example.org", "grace@example.org", "078-05-1120", "219-09-9999"} {
		reversed := []byte(value)
		slices.Reverse(reversed)
		forms = append(forms, value, strings.ToUpper(value), string(reversed), hex.EncodeToString([]byte(value)),
			base64.StdEncoding.EncodeToString([]byte(value)))
	}
	return append(forms, "Ada@Example.Org", "canary", "0780511", "78051120", "SCRAM-SHA-256$")
}()

func shown(out string) string {
	i := slices.IndexFunc(canaries, func(c string) bool { return strings.Contains(out, c) })
	if i < 0 {
		return ""
	}
	return canaries[i]
}

// TestCorpus: what is denied would have happened, what is masked would have been
// shown, and what is allowed is not changed.
func TestCorpus(t *testing.T) {
	if theWorld == nil {
		t.Skip("needs root, to install Postern and to make network namespaces")
	}
	w := theWorld
	cases := readCorpus(t)
	if len(cases) < least {
		t.Errorf("%d cases, and there were %d", len(cases), least)
	}
	w.query(t, "postgres", "CREATE DATABASE pristine TEMPLATE corpus; CREATE DATABASE scratchpad TEMPLATE corpus")
	before := w.dump(t)
	for i, c := range cases {
		t.Run(c.at, func(t *testing.T) {
			direct := w.happens(t, c, i)
			w.tries(t, c, i, direct)
		})
	}
	if w.dump(t) != before {
		t.Error("the agent has changed something of the database")
	}
	w.searchRecordings(t)
	if out, err := w.psql("SELECT count(*) FROM orders"); err != nil || strings.TrimSpace(out) != "20" {
		t.Errorf("after all the agent reads %q", out)
	}
}

// searchRecordings holds that nothing but what the agent wrote itself has a
// canary in it on record.
func (w *world) searchRecordings(t *testing.T) {
	t.Helper()
	rows := 0
	for s, err := range recording.Sessions(filepath.Join(w.postern.State, "recordings"), recording.Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		r, err := recording.Open(s.Path)
		if err != nil {
			t.Fatal(err)
		}
		for e, err := r.Next(); err == nil; e, err = r.Next() {
			switch body := e.Body.(type) {
			case *recording.Request:
			case *recording.Rows:
				rows++
				for row := range body.All() {
					if found := shown(string(bytes.Join(row, []byte(" ")))); found != "" {
						t.Errorf("%s has %s on record: %q", s.Path, found, row)
					}
				}
			default:
				if found := shown(string(body.AppendTo(nil))); found != "" {
					t.Errorf("%s has %s on record: %+v", s.Path, found, body)
				}
			}
		}
		r.Close()
	}
	if rows < 50 {
		t.Errorf("only %d results are on record", rows)
	}
}

// written puts a case's own names into its text.
func (w *world) written(c testCase, i int, database string) (text, file string) {
	file = filepath.Join(w.shared, fmt.Sprintf("left-%d", i))
	return strings.NewReplacer("@FILE@", file, "@SECRET@", filepath.Join(w.shared, "canary-file"), "@HERE@", w.shared,
		"@DB@", database, "@SOCKET@", w.pg.Socket(), "@PORT@", fmt.Sprint(w.pg.Port), "@N@", fmt.Sprint(i)).Replace(c.text), file
}

const (
	hashed = "SELECT 'hash ' || coalesce(md5(string_agg(t::text, ',' ORDER BY t::text)), '') FROM %s t"
	locked = "SELECT 'locked ' || (count(*) > 0) FROM pg_locks WHERE mode IN ('RowShareLock', 'RowExclusiveLock') AND relation = 'orders'::regclass"
)

// alone are statements that cannot be tried in a transaction that is rolled back.
var alone = regexp.MustCompile(`(?i)\b(commit|end|rollback|start|begin|call|vacuum|checkpoint|alter system|database|subscription|dblink\w*|pg_create_\w+|pg_replication_\w+)\b`)

// happens runs a case as the superuser, in a transaction that is rolled back, or
// else in a database of its own.
func (w *world) happens(t *testing.T, c testCase, i int) (out string) {
	t.Helper()
	database, own := "scratchpad", alone.MatchString(c.text)
	if own {
		database = fmt.Sprintf("direct_%d", i)
		w.query(t, "postgres", "CREATE DATABASE "+database+" TEMPLATE pristine")
		defer w.query(t, "postgres", "DROP DATABASE "+database+" WITH (FORCE)")
	}
	text, file := w.written(c, i, database)
	table, changes := strings.CutPrefix(c.proof, "changes ")
	texts := []string{text}
	switch {
	case changes:
		texts = append(texts, fmt.Sprintf(hashed, table))
	case c.proof == "locks":
		texts = append(texts, locked)
	}
	if !own {
		texts = append(append([]string{"BEGIN"}, texts...), "ROLLBACK")
	}
	out, err := w.pg.Batch(database, texts...)
	proven := false
	switch {
	case changes:
		proven = strings.Contains(out, "hash ") && !strings.Contains(out, w.hash(t, table))
	case c.proof == "runs":
		proven = err == nil
	case c.proof == "shows":
		proven = shown(out) != ""
	case c.proof == "locks":
		proven = strings.Contains(out, "locked true")
	case c.proof == "leaves":
		_, err := os.Stat(file)
		proven = err == nil
		os.Remove(file)
	}
	if !proven {
		t.Errorf("without Postern it does not do what it should (%s):\n%s\n%s", c.proof, text, out)
	}
	return restricted.ReplaceAllString(out, "")
}

// hash is of a table's rows as they are at first.
func (w *world) hash(t *testing.T, table string) string {
	t.Helper()
	if w.hashes[table] == "" {
		w.hashes[table] = w.query(t, "pristine", fmt.Sprintf(hashed, table))
	}
	return w.hashes[table]
}

var (
	verbDenied   = regexp.MustCompile(`no rule of policy planner allows ([a-z-]+)`)
	masksDenied  = regexp.MustCompile(`is masked, or newer .* (used|uses|writes)`)
	verbOfMasked = map[string]string{"uses": "filter", "writes": "derive"}
)

// tries runs a case as the agent.
func (w *world) tries(t *testing.T, c testCase, i int, direct string) {
	t.Helper()
	text, file := w.written(c, i, "corpus")
	out, err := w.psql(text)
	if found := shown(strings.ReplaceAll(out, text, "")); found != "" {
		t.Errorf("%s shows %s:\n%s", text, found, out)
	}
	if _, err := os.Stat(file); err == nil {
		t.Errorf("%s left its file", text)
	}
	if strings.HasPrefix(c.proof, "changes") && w.query(t, "corpus", "SELECT count(*) FROM orders WHERE state = 'old' AND id <= 20") != "20" {
		t.Errorf("%s has changed orders", text)
	}
	switch c.verbs[0] {
	case "masked":
		return
	case "allowed":
		if err != nil || out != direct {
			t.Errorf("%s: %v\n%s\nand without Postern\n%s", text, err, out, direct)
		}
		return
	}
	verb := denied(out)
	if err == nil || !slices.Contains(c.verbs, verb) {
		t.Errorf("%s: %v, denied as %q and not %v\n%s", text, err, verb, c.verbs, out)
	}
}

// denied is the verb that a denial names, empty when it was not denied.
func denied(out string) string {
	switch m := verbDenied.FindStringSubmatch(out); {
	case !strings.Contains(out, "42501: postern:"):
		return ""
	case m != nil:
		return m[1]
	case masksDenied.MatchString(out):
		return verbOfMasked[masksDenied.FindStringSubmatch(out)[1]]
	case strings.Contains(out, "cannot be told"):
		return "unknown"
	}
	return "refused"
}

// psql sends a text as the agent, in one Query.
func (w *world) psql(text string) (string, error) {
	cmd := w.postern.Run("planner", "psql", "-X", "-q", "-A", "-t", "-v", "VERBOSITY=verbose", "-c", text,
		"host=corpus-db.internal user=app dbname=corpus sslmode=require")
	cmd.Env = append(cmd.Env, "PGPASSWORD="+placeholder)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (w *world) query(t *testing.T, database, text string) string {
	t.Helper()
	out, err := w.pg.Query(database, text)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// restricted are lines with a key that pg_dump makes anew each time.
var restricted = regexp.MustCompile(`(?m)^\\(un)?restrict .*$`)

// dump is all that is in the agent's database.
func (w *world) dump(t *testing.T) string {
	t.Helper()
	out, err := w.pg.Dump("corpus")
	if err != nil {
		t.Fatal(err)
	}
	return restricted.ReplaceAllString(out, "")
}
