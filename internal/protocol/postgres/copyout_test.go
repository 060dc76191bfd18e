package postgres

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/sql"
	"github.com/postern/postern/internal/wiretest"
)

// asks are the messages with which the gateway asks for the columns of a COPY.
func asks(text string) [][]byte {
	return [][]byte{parse(probeName, text), describeStatement(probeName), closeStatement(probeName)}
}

// described is the upstream's answer.
func described(columns ...column) []byte {
	return slices.Concat(parseOK, noParameters, rowDescription(columns...), closeOK)
}

func TestCopyOutIsMasked(t *testing.T) {
	id, email := from("id", oidCustomers, 1), from("email", oidCustomers, 2)
	header := copySignature + long(0) + long(0)
	for _, tt := range []struct {
		text, asked string
		columns     []column
		begin       []byte
		data, heard []string
	}{
		{
			"copy customers to stdout", `SELECT * FROM "customers"`,
			[]column{id, email},
			msg('H', "\x00\x00\x02\x00\x00\x00\x00"),
			[]string{"1\t" + canary + "\n", "2\t\\N\n"},
			[]string{"1\t[masked]\n", "2\t\\N\n"},
		},
		{
			"copy customers (email, id) to stdout csv header", `SELECT "email", "id" FROM "customers"`,
			[]column{email, id},
			msg('H', "\x00\x00\x02\x00\x00\x00\x00"),
			[]string{"email,id\n", "\"a\n" + canary + "\",1\n", ",2\n"},
			[]string{"email,id\n", "\"[masked]\",1\n", ",2\n"},
		},
		{
			"copy customers to stdout", `SELECT * FROM "customers"`,
			[]column{id, email},
			msg('H', "\x01\x00\x02\x00\x01\x00\x01"),
			[]string{header + short(2) + long(4) + long(7) + long(len(canary)) + canary, short(2) + long(4) + long(8) + "\xff\xff\xff\xff", "\xff\xff"},
			[]string{header, short(2) + long(4) + long(7) + long(8) + "[masked]", short(2) + long(4) + long(8) + "\xff\xff\xff\xff", "\xff\xff"},
		},
		{
			"copy mailing to stdout", `SELECT * FROM "mailing"`,
			[]column{from("address", oidView, 1)},
			copyOutText,
			[]string{canary + "\n"},
			[]string{"[masked]\n"},
		},
	} {
		(&world{masked: emails}).play(t, func(s *wiretest.Session, agent, up *wiretest.Peer) {
			agent.Say(query(tt.text))
			up.Hear(append(asks(tt.asked), syncUnit, query(tt.text))...)
			said, heard := [][]byte{described(tt.columns...), ready('I'), tt.begin}, [][]byte{tt.begin}
			for _, d := range tt.data {
				said = append(said, copyData(d))
			}
			for _, d := range tt.heard {
				heard = append(heard, copyData(d))
			}
			end := slices.Concat(copyDone, complete("COPY 2"), ready('I'))
			up.Say(append(said, end)...)
			agent.Hear(append(heard, end)...)
		})
	}
}

func TestCopyOutThroughTheExtendedProtocol(t *testing.T) {
	const text = "copy customers(email) to stdout"
	(&world{masked: emails}).play(t, func(s *wiretest.Session, agent, up *wiretest.Peer) {
		agent.Say(parse("", text), bindTo("", ""), execute(""), syncUnit)
		up.Hear(parse("", text), bindTo("", ""), describePortal(""), slices.Concat(asks(`SELECT "email" FROM "customers"`)...), execute(""), syncUnit)
		up.Say(parseOK, bindOK, noData, described(from("email", oidCustomers, 2)), copyOutText,
			copyData(canary+"\n"), copyDone, complete("COPY 1"), ready('I'))
		agent.Hear(parseOK, bindOK, copyOutText, copyData("[masked]\n"), copyDone, complete("COPY 1"), ready('I'))
	})
}

// What the question for the columns fails with, the COPY fails with.
func TestCopyOutWhoseQuestionFails(t *testing.T) {
	const text = "copy orders to stdout"
	missing := failure("42P01", "no such relation")
	t.Run("outside of a transaction", func(t *testing.T) {
		(&world{masked: emails}).play(t, func(s *wiretest.Session, agent, up *wiretest.Peer) {
			agent.Say(query(text))
			up.Hear(append(asks(`SELECT * FROM "orders"`), syncUnit, query(text))...)
			up.Say(missing, ready('I'), missing, ready('I'))
			agent.Hear(missing, ready('I'))
		})
	})
	t.Run("inside of one", func(t *testing.T) {
		(&world{masked: emails}).play(t, func(s *wiretest.Session, agent, up *wiretest.Peer) {
			agent.Say(query("begin"))
			up.Hear(query("begin"))
			up.Say(complete("BEGIN"), ready('T'))
			agent.Hear(complete("BEGIN"), ready('T'))
			agent.Say(query(text))
			up.Hear(append(asks(`SELECT * FROM "orders"`), syncUnit, query(text))...)
			up.Say(missing, ready('E'), failure("25P02", "current transaction is aborted"), ready('E'))
			agent.Hear(missing, ready('E'))
		})
	})
	t.Run("extended", func(t *testing.T) {
		(&world{masked: emails}).play(t, func(s *wiretest.Session, agent, up *wiretest.Peer) {
			agent.Say(parse("", text), bindTo("", ""), execute(""), syncUnit)
			up.Hear(parse("", text), bindTo("", ""), describePortal(""), slices.Concat(asks(`SELECT * FROM "orders"`)...), execute(""), syncUnit)
			up.Say(parseOK, bindOK, noData, missing, ready('I'))
			agent.Hear(parseOK, bindOK, missing, ready('I'))
		})
	})
}

// Columns that are not those that were described are not masked by guess.
func TestCopyOutOfOtherColumnsIsRefused(t *testing.T) {
	for name, answer := range map[string][]byte{
		"fewer described":       append(described(from("email", oidCustomers, 2)), ready('I')...),
		"another row":           append(described(from("id", oidCustomers, 1), from("email", oidCustomers, 2)), ready('I')...),
		"a row within a row":    append(described(from("id", oidCustomers, 1), from("email", oidCustomers, 2)), ready('I')...),
		"ends in mid row":       append(described(from("id", oidCustomers, 1), from("email", oidCustomers, 2)), ready('I')...),
		"a row that is endless": append(described(from("id", oidCustomers, 1), from("email", oidCustomers, 2)), ready('I')...),
	} {
		data := map[string][]byte{
			"another row": copyData(canary + "\n"), "a row within a row": copyData("1\tx\t" + canary + "\n"),
			"ends in mid row": append(copyData("1\t"+canary), copyDone...), "a row that is endless": copyData("1\t" + canary + strings.Repeat("x", 5000)),
		}[name]
		t.Run(name, func(t *testing.T) {
			w := &world{masked: emails, limits: engine.Limits{MessageBytes: 10000, HeldBytes: 1 << 16, Handshake: 10e9, Statements: 100}}
			w.play(t, func(s *wiretest.Session, agent, up *wiretest.Peer) {
				agent.Say(query("copy customers to stdout"))
				up.Take()
				if name == "a row that is endless" {
					data = append(data, copyData(strings.Repeat("x", 6000))...)
				}
				up.Say(answer, msg('H', "\x00\x00\x02\x00\x00\x00\x00"), data)
				if b := agent.Take(); bytes.Contains(b, []byte(canary)) || !bytes.Contains(b, []byte("SFATAL")) {
					t.Errorf("the agent heard:\n%s", show(b))
				}
				agent.Gone()
			})
		})
	}
}

// A COPY in a batch cannot be asked about before the batch has run.
func TestCopyOutInABatch(t *testing.T) {
	t.Run("text goes through the detectors", func(t *testing.T) {
		(&world{hide: canary}).play(t, func(s *wiretest.Session, agent, up *wiretest.Peer) {
			agent.Say(query("copy orders to stdout; select 1"))
			up.Hear(query("copy orders to stdout; select 1"))
			up.Say(copyOutText, copyData("1\t"+canary+"\n"), copyDone, complete("COPY 1"), ready('I'))
			agent.Hear(copyOutText, copyData("1\t[hidden]\n"), copyDone, complete("COPY 1"), ready('I'))
		})
	})
	for text, begin := range map[string][]byte{
		"copy customers(email) to stdout; select 1": copyOutText, "copy orders to stdout; select 1": copyOutBinary,
	} {
		(&world{masked: emails}).play(t, func(s *wiretest.Session, agent, up *wiretest.Peer) {
			agent.Say(query(text))
			up.Hear(query(text))
			up.Say(begin, copyData(canary+"\n"))
			if b := agent.Take(); bytes.Contains(b, []byte(canary)) || !bytes.Contains(b, []byte("statement of its own")) {
				t.Errorf("the agent heard:\n%s", show(b))
			}
			agent.Gone()
			up.Gone()
		})
	}
}

func TestCopyOutInAnotherEncodingIsRefused(t *testing.T) {
	for encoding, refused := range map[string]bool{"": false, "utf8": false, "UTF-8": false, "sjis": true, "LATIN1": true} {
		if got := foreignEncoding(&sql.Copied{Encoding: encoding}) != nil; got != refused {
			t.Errorf("%q: refused %t", encoding, got)
		}
	}
}

// reveal shows what a masker was given.
type reveal struct{ saw *[]string }

func (r reveal) Mask(v []byte) ([]byte, bool) {
	*r.saw = append(*r.saw, string(v))
	return v, string(v) == "to null"
}

// Values come out of their escapes and go back into them, wherever the pieces end.
func TestCopyRowsKeepValues(t *testing.T) {
	text := &sql.Copied{Null: `\N`, Delimiter: '\t'}
	csv := &sql.Copied{CSV: true, Delimiter: ',', Quote: '"', Escape: '"', Header: true}
	odd := &sql.Copied{CSV: true, Delimiter: ';', Quote: '\'', Escape: '\\', Null: "none"}
	for _, tt := range []struct {
		form            *sql.Copied
		in, saw, out    string
		columns         int
		nullIsUncertain bool
	}{
		{form: text, in: "a\tb\\tc\n", saw: "a|b\tc", columns: 2},
		{form: text, in: "\\\\\\n\\r\\b\\f\\v\t\\N\n\t\n", saw: "\\\n\r\b\f\v||", columns: 2},
		{form: text, in: "to null\tx\n", saw: "to null|x", out: "\\N\tx\n", columns: 2},
		{form: &sql.Copied{Null: "none", Delimiter: '|'}, in: "none|a\\|b\n", saw: "none|a|b", columns: 2}, // NULL, or the word
		{form: csv, in: "h1,h2\n\"a,\"\"b\"\"\nc\",\n\"\",x\n", saw: "a,\"b\"\nc||x", columns: 2},
		{form: csv, in: "h1\nto null\n", saw: "to null", out: "h1\n\n", columns: 1},
		{form: odd, in: "'it\\'s; \\\\';none\n'none';x\n", saw: "it's; \\|none|x", columns: 2},
	} {
		for cut := range len(tt.in) {
			var saw []string
			c := &copyRows{form: tt.form, limit: 1000}
			for range tt.columns {
				c.maskers = append(c.maskers, reveal{&saw})
			}
			var out []byte
			for _, piece := range []string{tt.in[:cut], tt.in[cut:]} {
				if err := c.feed([]byte(piece), func(row []byte, _ bool) { out = append(out, row...) }); err != nil {
					t.Fatalf("%q: %v", tt.in, err)
				}
			}
			want := tt.out
			if want == "" {
				want = tt.in
			}
			if got := strings.Join(saw, "|"); got != tt.saw || string(out) != want || !c.whole() {
				t.Errorf("%q cut at %d: saw %q, wrote %q", tt.in, cut, got, out)
			}
		}
	}
}

func FuzzCopyRows(f *testing.F) {
	for _, s := range []string{"1\tx\n", "\"a\nb\",2\n", copySignature + long(0) + long(0) + short(2) + long(1) + "a" + long(0) + "\xff\xff"} {
		f.Add([]byte(s), 3, byte(0))
		f.Add([]byte(s), 1, byte(1))
		f.Add([]byte(s), 20, byte(2))
	}
	f.Fuzz(func(t *testing.T, b []byte, cut int, kind byte) {
		if cut < 0 || cut > len(b) {
			return
		}
		run := func(pieces ...[]byte) (out []byte, err error) {
			c := &copyRows{
				form:   &sql.Copied{CSV: kind%3 == 1, Delimiter: ',', Quote: '"', Escape: '"', Null: `\N`},
				binary: kind%3 == 2, limit: 1 << 16, maskers: []engine.Masker{wiretest.Redact{}, nil},
			}
			for _, p := range pieces {
				if err = c.feed(p, func(row []byte, _ bool) { out = append(out, row...) }); err != nil {
					return out, err
				}
			}
			return out, nil
		}
		whole, err := run(b)
		parts, err2 := run(b[:cut], b[cut:])
		if !bytes.Equal(whole, parts) || (err == nil) != (err2 == nil) {
			t.Errorf("%q, %v in one piece; %q, %v in two", whole, err, parts, err2)
		}
	})
}
