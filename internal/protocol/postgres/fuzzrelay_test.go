package postgres

import (
	"bytes"
	"context"
	"testing"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/relay/messages"
)

// conversations are seeds: what two sides say, in turn.
var conversations = [][2][][]byte{
	{{query("select email from customers")}, {rowDescription(from("email", oidCustomers, 2)), row("bob@example.com"), complete("SELECT 1"), ready('I')}},
	{{parse("", "select 1"), bindTo("", ""), describePortal(""), execute(""), syncUnit}, ok("1")},
	{{parse("n", "select lower(email) from customers"), bindTo("", "n"), execute(""), flush}, {parseOK, bindOK, rowDescription(computed("l")), row("bob@example.com")}},
	{{query("copy orders from stdin"), copyData("1\n"), copyDone, terminate}, {copyInText, complete("COPY 1"), ready('I')}},
	{{query("copy orders to stdout")}, {copyOutText, copyData("1\n"), copyDone, complete("COPY 1"), ready('I')}},
	{{query("begin"), query("delete from orders"), query("commit")}, {complete("BEGIN"), ready('T'), syntaxError, ready('E'), complete("ROLLBACK"), ready('I')}},
	{{query("set search_path = x"), query("select id from orders")}, {complete("SET"), ready('I'), rowDescription(from("id", oidOrders, 1)), row("1"), complete("SELECT 1"), ready('I')}},
	{{parse("n", "select 1"), syncUnit, closeStatement("n"), describeStatement("n"), syncUnit}, {parseOK, ready('I'), closeOK, failure("26000", "no"), ready('I')}},
	{{query("begin; declare c cursor for select email from customers"), query("fetch all c")}, {complete("BEGIN"), complete("DECLARE CURSOR"), ready('T'), rowDescription(computed("x")), row("bob@example.com")}},
}

func addConversations(f *testing.F) {
	for _, c := range conversations {
		f.Add(bytes.Join(c[0], nil), bytes.Join(c[1], nil))
	}
}

// FuzzRequests: of arbitrary bytes of a client only whole messages go upstream,
// in order and byte for byte, between what the gateway says itself; a statement
// only when the gate allowed exactly its text; of a gate that denies everything
// no statement at all.
func FuzzRequests(f *testing.F) {
	addConversations(f)
	f.Fuzz(func(t *testing.T, client, upstream []byte) {
		for _, denies := range []bool{true, false} {
			allowed := map[string]int{}
			c, gate := bare(func(_ context.Context, r *engine.Request) error {
				if denies {
					return noDelete
				}
				allowed[r.Text]++
				return nil
			})
			sent := relayed(c, client, upstream, func(out *messages.Out, m []byte) bool {
				end, err := asked(c, gate, out, m)
				return end || err != nil
			})
			checkSent(t, sent, client, allowed)
			if c.Broken(); gate.Unended() > 0 {
				t.Fatal("an exchange was not ended")
			}
		}
	})
}

// relayed plays both sides against c, a message of each in turn, and returns
// what went upstream.
func relayed(c *codec, client, upstream []byte, request func(*messages.Out, []byte) (end bool)) []byte {
	var out messages.Out
	next := func(b *[]byte) []byte {
		n, _, err := split(*b)
		if n == 0 || err != nil {
			*b = nil
			return nil
		}
		m := bytes.Clone((*b)[:n])
		*b = (*b)[n:]
		return m
	}
	for len(client) > 0 || len(upstream) > 0 {
		if m := next(&client); m != nil && request(&out, m) {
			client = nil
		}
		if m := next(&upstream); m != nil && c.Response(&out, m) != nil {
			break
		}
	}
	return out.Up
}

// checkSent checks what reached the upstream.
func checkSent(t *testing.T, sent, client []byte, allowed map[string]int) {
	t.Helper()
	var theirs [][]byte
	for b := client; ; {
		n, _, err := split(b)
		if n == 0 || err != nil {
			break
		}
		theirs, b = append(theirs, b[:n]), b[n:]
	}
	question := false
	for len(sent) > 0 {
		n, _, err := split(sent)
		if n == 0 || err != nil {
			t.Fatalf("no whole message went upstream: %q", sent)
		}
		m := sent[:n]
		sent = sent[n:]
		asked := isQuestion(m)
		if ours(m) || asked || m[0] == 'S' && question {
			question = asked
			continue
		}
		question = false
		for len(theirs) > 0 && !bytes.Equal(theirs[0], m) {
			theirs = theirs[1:]
		}
		if len(theirs) == 0 {
			t.Fatalf("upstream heard what no client said, or in another order: %q", m)
		}
		theirs = theirs[1:]
		if m[0] == 'Q' {
			text, err := queryText(m)
			if err != nil || allowed[string(text)] == 0 {
				t.Fatalf("upstream heard a statement that the gate did not allow: %q", m)
			}
			allowed[string(text)]--
		}
		if (m[0] == 'B' || m[0] == 'E' || m[0] == 'F' || m[0] == 'd') && len(allowed) == 0 {
			t.Fatalf("upstream heard %q, and the gate allowed nothing", m)
		}
	}
}

// isQuestion says whether m is of those that ask for the columns of a COPY.
func isQuestion(m []byte) bool {
	return bytes.Contains(m, []byte(probeName+"\x00")) && (m[0] == 'P' || m[0] == 'D' || m[0] == 'C')
}

// ours says whether the gateway itself may have said m.
func ours(m []byte) bool {
	return bytes.Equal(m, refusedQuery) || bytes.Equal(m, refusedParse) || bytes.Equal(m, query(catalogQuery(nil))) ||
		m[0] == 'D' && m[headerBytes] == 'P'
}

// readers are clients that ask for masked columns in every way there is.
var readers = [][][]byte{
	{query("select email from customers")},
	{parse("", "select email from customers"), bindTo("", ""), execute(""), syncUnit},
	{parse("n", "select lower(email) from customers"), describeStatement("n"), bindTo("p", "n"), describePortal("p"), execute("p"), execute("p"), syncUnit},
	{query("begin; declare c cursor for select lower(email) from customers"), query("fetch all c")},
	{query("begin; declare c cursor for select lower(email) from customers"), parse("", "fetch all c"), bindTo("", ""), execute(""), flush},
	{query("select address from mailing"), query("select id from orders"), syncUnit},
	{query("alter table customers alter email"), query("select x from customers")},
	{query("do anything"), parse("", "select x from unknown_table"), bindTo("", ""), execute(""), syncUnit},
}

// FuzzResponses: whatever an upstream says to a client that asks for masked
// columns, values reach the client masked or not at all, and always in whole
// messages.
func FuzzResponses(f *testing.F) {
	for i := range readers {
		for _, c := range conversations {
			f.Add(uint8(i), bytes.Join(c[1], nil))
		}
		f.Add(uint8(i), bytes.Join([][]byte{rowDescription(computed("x")), row("a", "b"), rowDescription(), row("a"), msg('D', "\xff\xff")}, nil))
		f.Add(uint8(i), bytes.Join([][]byte{parseOK, bindOK, noData, row("a"), rowDescription(from("x", oidCustomers, 0)), row("a")}, nil))
		f.Add(uint8(i), bytes.Join([][]byte{complete("X"), ready('I'), catalogAnswer([]string{"*"}, 'I'), rowDescription(from("x", 30000, 1)), row("a")}, nil))
	}
	f.Fuzz(func(t *testing.T, reader uint8, upstream []byte) {
		if claimsSystemColumns(upstream) {
			return // what the server says is its own has no mask
		}
		c, gate := bare(nil, "*")
		var out messages.Out
		for _, m := range readers[int(reader)%len(readers)] {
			if _, err := asked(c, gate, &out, bytes.Clone(m)); err != nil {
				t.Fatal(err)
			}
		}
		out = messages.Out{}
		for b := upstream; len(b) > 0; {
			n, _, err := split(b)
			if n == 0 || err != nil || c.Response(&out, bytes.Clone(b[:n])) != nil {
				break
			}
			b = b[n:]
		}
		for b := out.Down; len(b) > 0; {
			n, _, err := split(b)
			if n == 0 || err != nil {
				t.Fatalf("no whole message reached the client: %q", b)
			}
			if b[0] == 'd' || b[0] == 'V' {
				t.Fatalf("%q reached a client that did not ask for it", b[:n])
			}
			if b[0] == 'D' {
				err = rowValues(b[headerBytes:n], func(_ int, v []byte) {
					if v != nil && string(v) != "[masked]" {
						t.Errorf("a value reached the client: %q", v)
					}
				})
				if err != nil {
					t.Fatalf("a malformed row reached the client: %q", b[:n])
				}
			}
			b = b[n:]
		}
		if c.Broken(); gate.Unended() > 0 {
			t.Fatal("an exchange was not ended")
		}
	})
}

// claimsSystemColumns says whether some result in b is described as one of the
// server's own catalogs or of system columns.
func claimsSystemColumns(b []byte) bool {
	for len(b) > 0 {
		n, _, err := split(b)
		if n == 0 || err != nil {
			return false
		}
		if b[0] == 'T' {
			columns, err := decodeRowDescription(b[:n])
			for _, c := range columns {
				if err == nil && c.table != 0 && (c.table < firstUserOID || c.attr < 0) {
					return true
				}
			}
		}
		b = b[n:]
	}
	return false
}
