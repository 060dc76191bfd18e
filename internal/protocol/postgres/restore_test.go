package postgres

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgproto3/v2"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/sql"
	"github.com/postern/postern/internal/wiretest"
)

// knowing is a world whose agent knows somebody by a pseudonym, and may use masked
// columns for nothing.
func knowing() *world {
	w := &world{masked: emails, decide: func(_ context.Context, r *engine.Request) error {
		if i := slices.IndexFunc(r.Effects, func(e engine.Effect) bool { return e.Verb == sql.Filter }); i >= 0 {
			return &engine.Denial{Code: engine.ByPolicy, Reason: r.Effects[i].Object + " is masked"}
		}
		return nil
	}}
	w.sure = func(r *engine.Request) *engine.Denial {
		if d, ok := w.decide(context.Background(), r).(*engine.Denial); ok { //nolint:errorlint // it is made above
			return d
		}
		return nil
	}
	return w
}

func playKnowing(t *testing.T, transcript func(w *world, agent, up *wiretest.Peer)) {
	t.Helper()
	w := knowing()
	wiretest.Play(t, func(t *testing.T) {
		s, _ := w.begin(t)
		w.gate.Pseudonyms = map[string]string{"p_bob": "bob@example.com", "12345678": "87654321"}
		transcript(w, s.Client, s.Upstream())
	})
}

func bindOf(m pgproto3.Bind) []byte { return encode(nil, &m) }

// byParameters is how a Query with restored literals goes upstream.
func byParameters(text string, values ...string) []byte {
	params := make([][]byte, len(values))
	for i, v := range values {
		params[i] = []byte(v)
	}
	return slices.Concat(parse("", text), bindOf(pgproto3.Bind{Parameters: params}), describePortal(""), execute(""), closeStatement(""), syncUnit)
}

func TestPseudonymsInParameters(t *testing.T) {
	const text = "select id from customers where email = $1"
	playKnowing(t, func(w *world, agent, up *wiretest.Peer) {
		agent.Say(parse("s", text), bindTo("", "s", "p_bob"), execute(""), syncUnit)
		real := bindOf(pgproto3.Bind{PreparedStatement: "s", ParameterFormatCodes: []int16{0}, Parameters: [][]byte{[]byte("bob@example.com")}})
		up.Hear(parse("s", text), real, describePortal(""), execute(""), syncUnit)
		up.Say(parseOK, bindOK, rowDescription(from("id", oidCustomers, 1)), row("7"), complete("SELECT 1"), ready('I'))
		agent.Hear(parseOK, bindOK, row("7"), complete("SELECT 1"), ready('I'))
		agent.Say(bindTo("", "s", "bob@example.com"), execute(""), syncUnit) // the value itself is a question
		up.HearNothing()
		if b := agent.Take(); !bytes.Contains(b, []byte("public.customers.email is masked")) {
			t.Errorf("the agent heard:\n%s", show(b))
		}
	})
}

func TestPseudonymsInLiterals(t *testing.T) {
	playKnowing(t, func(w *world, agent, up *wiretest.Peer) {
		agent.Say(query("select id from customers where email = 'p_bob'"))
		up.Hear(byParameters("select id from customers where email = $1", "bob@example.com"))
		answer := slices.Concat(rowDescription(from("id", oidCustomers, 1)), row("7"), complete("SELECT 1"))
		up.Say(parseOK, bindOK, answer, closeOK, ready('I'))
		agent.Hear(answer, ready('I'))

		agent.Say(query("update customers set email = 'p_bob' where id = 3"))
		up.Hear(byParameters("update customers set email = $1 where id = 3", "bob@example.com"))
		up.Say(parseOK, bindOK, noData, complete("UPDATE 1"), closeOK, ready('I'))
		agent.Hear(complete("UPDATE 1"), ready('I'))

		agent.Say(query("select id from customers where email = 'p_bob'"))
		up.Hear(byParameters("select id from customers where email = $1", "bob@example.com"))
		up.Say(parseOK, bindOK, failure("57014", "canceling statement due to bob@example.com"), ready('I'))
		agent.Hear(failure("57014", maskedMessage), ready('I'))
		w.gate.Saw(t, // the record has what the agent wrote
			`submit query "select id from customers where email = 'p_bob'" select(public.customers)`,
			`row "\x00\x01\x00\x00\x00\x017"`, `end "select id from customers where email = 'p_bob'" ok "SELECT 1" rows=1`,
			`submit query "update customers set email = 'p_bob' where id = 3" update(public.customers)`,
			`end "update customers set email = 'p_bob' where id = 3" ok "UPDATE 1" rows=0`,
			`submit query "select id from customers where email = 'p_bob'" select(public.customers)`,
			`end "select id from customers where email = 'p_bob'" failed "SQLSTATE 57014" rows=0`)
	})
}

// A value that is no pseudonym is compared where a rule allows it, and set as it
// is: digits may be a pseudonym, or somebody's number.
func TestWhatIsNoPseudonym(t *testing.T) {
	playKnowing(t, func(w *world, agent, up *wiretest.Peer) {
		for _, text := range []string{
			"select id from customers where email = 'bob@example.com'", "select id from customers where email = 'p_bob' and email = 'x'",
			"begin; select id from customers where email = 'p_bob'",
		} {
			agent.Say(query(text))
			up.HearNothing()
			if b := agent.Take(); !bytes.Contains(b, []byte("public.customers.email is masked")) {
				t.Errorf("%s: the agent heard:\n%s", text, show(b))
			}
		}
		for _, text := range []string{"update customers set email = 'new@example.com' where id = 3", "update customers set email = '12345678' where id = 3"} {
			agent.Say(query(text))
			up.Hear(query(text))
			up.Say(complete("UPDATE 1"), ready('I'))
			agent.Hear(complete("UPDATE 1"), ready('I'))
		}
		agent.Say(query("select id from customers where email = '12345678'"))
		up.Hear(byParameters("select id from customers where email = $1", "87654321"))
		up.Say(parseOK, bindOK, rowDescription(from("id", oidCustomers, 1)), complete("SELECT 0"), closeOK, ready('I'))
		agent.Hear(rowDescription(from("id", oidCustomers, 1)), complete("SELECT 0"), ready('I'))
		agent.Say(parse("l", "select id from customers where email = 'p_bob'"), syncUnit)
		up.HearNothing()
		if b := agent.Take(); !bytes.Contains(b, []byte("public.customers.email is masked")) {
			t.Errorf("a literal in Parse: the agent heard:\n%s", show(b))
		}
	})
}

// A trigger may put a restored value anywhere in the answer.
func TestRestoredValuesAreHidden(t *testing.T) {
	const text = "update customers set email = $1 where id = 3"
	playKnowing(t, func(w *world, agent, up *wiretest.Peer) {
		agent.Say(parse("", text), bindTo("", "", "p_bob"), execute(""), syncUnit)
		up.Take()
		up.Say(parseOK, bindOK, rowDescription(from("note", oidOrders, 2)), msg('N', "SNOTICE\x00VNOTICE\x00C00000\x00Maudit\x00\x00"),
			row("was bob@example.com"), complete("UPDATE 1"), ready('I'))
		b := agent.Take()
		if bytes.Contains(b, []byte("bob@")) || !bytes.Contains(b, row("was p_bob")) {
			t.Errorf("the agent heard:\n%s", show(b))
		}
	})
	values := []restored{{shown: []byte("p_bob"), real: []byte("bob@example.com")}, {shown: []byte("p_x"), real: []byte("x")}}
	for _, tt := range []struct {
		typ, in, out string
		binary, null bool
	}{
		{"text", "to bob@example.com, x", "to p_bob, x", true, false},
		{"_text", "{bob@example.com}", "{p_bob}", false, false},
		{"_text", "\x00bob@example.com", "", true, true},
		{"_text", "\x00", "\x00", true, false},
		{"int4", "12", "12", false, false},
	} {
		m := hiding([]engine.Masker{nil}, []engine.Field{{Type: tt.typ, Binary: tt.binary}}, values)[0]
		if got, null := m.Mask([]byte(tt.in)); null != tt.null || !null && string(got) != tt.out {
			t.Errorf("%s %q: %q, %t", tt.typ, tt.in, got, null)
		}
	}
}

func TestParameterized(t *testing.T) {
	const text = "select 'it''s', 5 from t where a = 'p_1' and b in (12345678, 'p_2')"
	all := sql.Literals(text)
	if len(all) != 5 {
		t.Fatalf("%v", all)
	}
	got, params := parameterized(text, []restored{{literal: all[4], real: []byte("two")}, {literal: all[2], real: []byte("one")}})
	if want := "select 'it''s', 5 from t where a = $1 and b in (12345678, $2)"; got != want || string(bytes.Join(params, []byte(","))) != "one,two" {
		t.Errorf("%s, %q", got, params)
	}
	if v := all[0].Value(text); v != "it's" {
		t.Errorf("%q", v)
	}
	for _, none := range []string{"select E'x'", "select $$x$$", "select 'a\\'", "select '", strings.Repeat("x", 5000)} {
		if l := sql.Literals(none); l != nil {
			t.Errorf("%.20s: %v", none, l)
		}
	}
}
