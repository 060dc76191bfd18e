package postgres

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/wiretest"
)

var emails = []string{"customers.email"}

// answers plays one query whose rows have these columns, and returns the one
// row that the agent hears.
func answers(t *testing.T, text string, columns []column, values ...string) (heard []byte) {
	t.Helper()
	(&world{masked: emails}).play(t, func(s *wiretest.Session, agent, up *wiretest.Peer) {
		agent.Say(query(text))
		up.Hear(query(text))
		description := rowDescription(columns...)
		up.Say(description, row(values...), complete("SELECT 1"), ready('I'))
		b := agent.Take()
		if strings.Contains(text, "created_since") {
			up.Hear(query(catalogQuery(emails)))
			up.Say(catalogAnswer(emails, 'I'))
			b = append(b, agent.Take()...)
		}
		b, found := bytes.CutPrefix(b, description)
		b, found2 := bytes.CutSuffix(b, append(complete("SELECT 1"), ready('I')...))
		if !found || !found2 {
			t.Fatalf("the agent heard:\n%s", show(b))
		}
		heard = b
	})
	return heard
}

func TestMaskingFollowsTheColumn(t *testing.T) {
	for text, tt := range map[string]struct {
		column column
		masked bool
	}{
		"select email from customers":                  {from("email", oidCustomers, 2), true},
		"select email as id from customers":            {from("id", oidCustomers, 2), true}, // alias
		"select id from customers":                     {from("id", oidCustomers, 1), false},
		"select md5(email) from customers":             {computed("md5"), true}, // cast, md5, substr, reverse, encode
		"select row_to_json(*) from customers":         {computed("row_to_json"), true},
		"select count(id) from customers":              {computed("count"), false},
		"select c from customers":                      {from("c", oidCustomers, 0), true},  // the whole row
		"select o from orders":                         {from("o", oidOrders, 0), false},    // of another table
		"select address from mailing":                  {from("address", oidView, 1), true}, // a view over it
		"select lower(address) from mailing":           {computed("lower"), true},
		"select phone from customers":                  {from("phone", oidCustomers, 3), true}, // appeared since the catalog was read
		"select ctid from customers":                   {from("ctid", oidCustomers, -1), false},
		"select x from created_since":                  {from("x", 30000, 1), true},
		"select lower(x) from created_since":           {computed("lower"), true},
		"select email from customers_old":              {from("email", oidPartition, 1), true}, // a partition
		"select id from customers_old":                 {from("id", oidPartition, 2), false},
		"select lower(email) from customers_old":       {computed("lower"), true},
		"select total from orders":                     {from("total", oidOrders, 2), false},
		"update customers set id = 1 returning email":  {from("email", oidCustomers, 2), true},
		"select relname from pg_class":                 {from("relname", 1259, 2), false},
		"fetch all in a_cursor_that_nobody_declared_x": {from("email", oidCustomers, 2), true},
	} {
		want := row("bob@example.com")
		if tt.masked {
			want = row("[masked]")
		}
		if got := answers(t, text, []column{tt.column}, "bob@example.com"); !bytes.Equal(got, want) {
			t.Errorf("%s:\n%s", text, show(got))
		}
	}
}

// A relation that another session has made is masked whole, and the catalog is
// read again for it, once in a while.
func TestCatalogIsReadAgainForNewRelations(t *testing.T) {
	(&world{masked: emails}).play(t, func(_ *wiretest.Session, agent, up *wiretest.Peer) {
		const text = "select x from created_since"
		ask := func() {
			agent.Say(query(text))
			up.Hear(query(text))
			up.Say(rowDescription(computed("x")), row("bob@example.com"), complete("SELECT 1"), ready('I'))
		}
		masked := [][]byte{rowDescription(computed("x")), row("[masked]"), complete("SELECT 1")}
		for range 2 {
			ask()
			agent.Hear(masked...)
			up.Hear(query(catalogQuery(emails)))
			up.Say(catalogAnswer(emails, 'I'))
			agent.Hear(ready('I'))
			ask() // it is not there yet
			agent.Hear(append(masked, ready('I'))...)
			time.Sleep(catalogAge)
		}
	})
}

// Through a cursor the text says nothing of what is fetched.
func TestMaskingThroughCursor(t *testing.T) {
	(&world{masked: emails}).play(t, func(s *wiretest.Session, agent, up *wiretest.Peer) {
		const declare = "begin; declare c cursor for select lower(email) from customers"
		agent.Say(query(declare))
		up.Hear(query(declare))
		up.Say(complete("BEGIN"), complete("DECLARE CURSOR"), ready('T'))
		agent.Take()
		agent.Say(query("fetch 1 c"))
		up.Hear(query("fetch 1 c"))
		up.Say(rowDescription(computed("lower")), row("bob@example.com"))
		agent.Hear(rowDescription(computed("lower")), row("[masked]"))
		up.Say(failure("22P02", `invalid input syntax for type integer: "bob@example.com"`), ready('E'))
		agent.Hear(failure("22P02", maskedMessage), ready('E'))
	})
}

// An error can be made to carry any value.
func TestMaskingOfErrors(t *testing.T) {
	leak := `invalid input syntax for type integer: "bob@example.com"`
	for text, withheld := range map[string]bool{
		"select email from customers":              true,
		"select x from mailing":                    true,
		"select id from orders":                    false,
		"update customers set id = id where email": true,
	} {
		(&world{masked: emails}).play(t, func(s *wiretest.Session, agent, up *wiretest.Peer) {
			agent.Say(query(text))
			up.Hear(query(text))
			up.Say(msg('E', "SERROR\x00C22P02\x00M"+leak+"\x00D"+leak+"\x00H"+leak+"\x00W"+leak+"\x00q"+leak+"\x00\x00"), ready('I'))
			if heard := agent.Take(); bytes.Contains(heard, []byte("bob@example.com")) == withheld {
				t.Errorf("%s:\n%s", text, show(heard))
			}
		})
	}
	// Whatever the statement was: a constraint of a masked table.
	(&world{masked: emails}).play(t, func(s *wiretest.Session, agent, up *wiretest.Peer) {
		agent.Say(query("commit"))
		up.Hear(query("commit"))
		up.Say(msg('E', "SERROR\x00C23505\x00Mduplicate\x00DKey (email)=(bob@example.com)\x00spublic\x00tcustomers\x00\x00"), ready('I'))
		agent.Hear(msg('E', "SERROR\x00C23505\x00M"+maskedMessage+"\x00spublic\x00tcustomers\x00\x00"), ready('I'))
	})
}

// A reading of the catalog can be made to fail, by a short statement_timeout for
// one. It must not leave the session with less to mask.
func TestFailedCatalogReadingMasksEverything(t *testing.T) {
	(&world{masked: emails}).play(t, func(s *wiretest.Session, agent, up *wiretest.Peer) {
		agent.Say(query("create table t"))
		up.Hear(query("create table t"))
		up.Say(complete("CREATE TABLE"), ready('I'))
		agent.Hear(complete("CREATE TABLE"))
		up.Hear(query(catalogQuery(emails)))
		up.Say(failure("57014", "statement timeout"), ready('I'))
		agent.Hear(ready('I'))
		for _, c := range []column{computed("lower"), from("email", oidCustomers, 2), from("total", oidOrders, 2)} {
			agent.Say(query("select lower(email) from customers"))
			up.Hear(query("select lower(email) from customers"))
			up.Say(rowDescription(c), row("bob@example.com"), complete("SELECT 1"), ready('I'))
			agent.Hear(rowDescription(c), row("[masked]"), complete("SELECT 1"))
			up.Hear(query(catalogQuery(emails))) // it is tried again
			up.Say(failure("57014", "statement timeout"), ready('I'))
			agent.Hear(ready('I'))
		}
	})
}

// While names are about to change, none is trusted: what is pipelined behind a
// DDL is masked whole.
func TestPipelinedBehindDDL(t *testing.T) {
	(&world{masked: emails}).play(t, func(s *wiretest.Session, agent, up *wiretest.Peer) {
		const swap = "alter table customers rename to orders"
		agent.Say(query(swap), query("select lower(x) from orders"))
		up.Hear(query(swap), query("select lower(x) from orders"))
		up.Say(complete("ALTER TABLE"), ready('I'), rowDescription(computed("lower")), row("bob@example.com"), complete("SELECT 1"), ready('I'))
		agent.Hear(complete("ALTER TABLE"), ready('I'), rowDescription(computed("lower")), row("[masked]"), complete("SELECT 1"))
		up.Hear(query(catalogQuery(emails)))
		up.Say(catalogAnswer(emails, 'I'))
		agent.Hear(ready('I'))
	})
}

// A reading that fails within a transaction has failed the transaction, and the
// agent is told so.
func TestCatalogReadingFailsTheTransaction(t *testing.T) {
	(&world{}).play(t, func(s *wiretest.Session, agent, up *wiretest.Peer) {
		agent.Say(query("begin; create table t"))
		up.Hear(query("begin; create table t"))
		up.Say(complete("BEGIN"), complete("CREATE TABLE"), ready('T'))
		agent.Hear(complete("BEGIN"), complete("CREATE TABLE"))
		up.Hear(query(catalogQuery(nil)))
		up.Say(failure("57014", "statement timeout"), ready('E'))
		agent.Hear(ready('E'))
	})
}

// The result of a FunctionCall has no description to mask it by.
func TestFunctionCall(t *testing.T) {
	call := msg('F', long(1598)+short(0)+short(0)+short(0))
	t.Run("no masks", func(t *testing.T) {
		w := &world{hide: canary}
		w.play(t, func(s *wiretest.Session, agent, up *wiretest.Peer) {
			agent.Say(call)
			up.Hear(call)
			result := "it is " + canary
			up.Say(msg('V', long(len(result))+result), ready('I'))
			agent.Hear(msg('V', long(len("it is [hidden]"))+"it is [hidden]"), ready('I'))
			w.gate.Saw(t, `submit call "FunctionCall oid 1598" function(oid 1598)`, `down "it is [hidden]"`, `end "FunctionCall oid 1598" ok "" rows=0`)
		})
	})
	t.Run("masks", func(t *testing.T) {
		w := &world{masked: emails}
		w.play(t, func(s *wiretest.Session, agent, up *wiretest.Peer) {
			agent.Say(call)
			if b := agent.Take(); !bytes.Contains(b, []byte("cannot be masked")) || !bytes.HasSuffix(b, ready('I')) {
				t.Errorf("the agent heard:\n%s", show(b))
			}
			up.HearNothing()
		})
	})
}

// Rows that are not what was described end the session, and none of it reaches
// the agent or the record.
func TestMalformedRows(t *testing.T) {
	for name, bad := range map[string][]byte{
		"negative count":        msg('D', "\xff\xff"),
		"negative length":       msg('D', short(1)+"\xff\xff\xff\xfe"),
		"length beyond the end": msg('D', short(1)+long(9)+"short"),
		"fewer values":          msg('D', short(0)),
		"more values":           row("a", "secret"),
		"bytes behind":          msg('D', short(1)+long(1)+"a"+"secret"),
		"no body":               msg('D', ""),
	} {
		for _, masked := range [][]string{nil, emails} {
			t.Run(name, func(t *testing.T) {
				w := &world{masked: masked}
				w.play(t, func(s *wiretest.Session, agent, up *wiretest.Peer) {
					agent.Say(query("select email from customers"))
					up.Hear(query("select email from customers"))
					description := rowDescription(from("email", oidCustomers, 2))
					up.Say(description, bad, complete("SELECT 1"), ready('I'))
					agent.Hear(description, fatal(malformed("DataRow").(*engine.Denial)))
					agent.Gone()
					up.Gone()
				})
			})
		}
	}
}

func TestMalformedDescriptions(t *testing.T) {
	for name, bad := range map[string][]byte{
		"RowDescription, negative count": msg('T', "\xff\xff"),
		"RowDescription, short":          msg('T', short(1)+"x\x00"),
		"RowDescription, bytes behind":   append(rowDescription(computed("x"))[:1], msg('x', string(rowDescription(computed("x"))[5:])+"y")[1:]...),
		"CopyResponse, negative count":   msg('H', "\x00\xff\xff"),
		"CopyResponse, format":           msg('H', "\x02\x00\x00"),
		"CopyResponse, short":            msg('H', "\x00\x00\x02\x00\x00"),
		"CommandComplete, no NUL":        msg('C', "SELECT 1"),
		"ReadyForQuery, long":            msg('Z', "II"),
		"ReadyForQuery, unknown":         msg('Z', "X"),
		"ErrorResponse, no end":          msg('E', "SERROR\x00"),
		"NoticeResponse, no end":         msg('N', "SERROR"),
		"NotificationResponse, short":    msg('A', "\x00\x00"),
		"ParameterStatus, one string":    msg('S', "x\x00"),
		"a DataRow before all":           row("x"),
		"CopyData that nobody asked for": copyData("x"),
		"CopyBothResponse":               msg('W', "\x00\x00\x00"),
		"CopyIn that nobody asked for":   copyInText,
		"FunctionCallResponse":           msg('V', long(1)+"x"),
		"ParseComplete":                  parseOK,
		"BindComplete":                   bindOK,
		"Authentication":                 authRequest(authClear),
		"BackendKeyData":                 backendKey(1, "key!"),
		"a type nobody knows":            msg('~', ""),
	} {
		t.Run(name, func(t *testing.T) {
			(&world{}).play(t, func(s *wiretest.Session, agent, up *wiretest.Peer) {
				agent.Say(query("copy orders to stdout; select 1"))
				up.Hear(query("copy orders to stdout; select 1"))
				up.Say(bad, ready('I'))
				b := agent.Take()
				if n, _, err := split(b); n != len(b) || err != nil || b[0] != 'E' || !bytes.Contains(b, []byte("FATAL")) {
					t.Errorf("the agent heard:\n%s", show(b))
				}
				agent.Gone()
				up.Gone()
			})
		})
	}
}
