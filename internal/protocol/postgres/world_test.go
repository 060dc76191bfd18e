package postgres

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/relay/messages"
	"github.com/postern/postern/internal/secret"
	"github.com/postern/postern/internal/wiretest"
)

// The world of the transcripts: agent "planner" holds app / placeholder-orders
// for database shop; upstream that is orders_rw with a password of its own.
const (
	placeholderPassword = "placeholder-orders"
	canary              = "canary-7f3a9c51d2e84b60"

	oidCustomers = 20001 // id, email
	oidOrders    = 20002 // id, total
	oidView      = 20003 // over customers, by a rule that is not followed
	oidPartition = 20004 // of customers: email, id
)

// world is what a transcript is played in.
type world struct {
	auth     string   // agent_auth, default password
	masked   []string // patterns
	decide   func(context.Context, *engine.Request) error
	sure     func(*engine.Request) *engine.Denial
	limits   engine.Limits
	login    engine.Login
	other    *engine.Login   // that there is once the first was refused
	protocol engine.Protocol // shared by sessions of one daemon
	gate     *wiretest.Gate
	agent    string
	hide     string
	waits    bool // decide may
}

// driver is how the tests' sessions are relayed in this run.
var driver wiretest.Driver

func TestMain(m *testing.M) {
	os.Exit(wiretest.EachDriver(m, func(d wiretest.Driver) { driver = d }))
}

// looping returns a loop that runs until the test ends, nil when the driver is
// goroutines.
func looping(t *testing.T) *messages.Loop {
	if driver == wiretest.Goroutines {
		return nil
	}
	l := messages.NewLoop(1, wiretest.NewPoller)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- l.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return l
}

// noPassword is a target whose upstream trusts the gateway, so that transcripts
// of other things need not log in at length.
var noPassword = engine.Login{Credential: secret.Credential{User: "orders_rw", Database: "orders"}}

func (w *world) start(t *testing.T) *wiretest.Session {
	t.Helper()
	if w.auth == "" {
		w.auth = authPassword
	}
	if w.login.Credential.User == "" {
		w.login = noPassword
	}
	if w.protocol.New == nil {
		w.protocol = New(Options{Classifier: &grammar{}, Loop: looping(t)})
	}
	if w.agent == "" {
		w.agent = "planner"
	}
	w.gate = &wiretest.Gate{Decide: w.decide, Sure: w.sure, Patterns: w.masked, Mask: w.mask, Hide: w.hide}
	if !w.waits {
		w.gate.Waits = func(*engine.Request) bool { return false }
	}
	return wiretest.Start(t, wiretest.Options{
		Protocol: w.protocol,
		Env: engine.Env{
			Flow: engine.Flow{Agent: w.agent, Session: "s1"}, Target: "orders", AgentAuth: w.auth, Limits: w.limits,
			Placeholder: secret.Placeholder{User: "app", Database: "shop", Password: secret.New([]byte(placeholderPassword))},
		},
		Login: w.login, Other: w.other, Gate: w.gate, Show: show,
	})
}

// mask is what the gateway does: columns by pattern, and all that is derived.
func (w *world) mask(f engine.Field) engine.Masker {
	named := slices.ContainsFunc(w.masked, func(p string) bool {
		return f.Column != "" && engine.MatchColumn(p, f.Schema, f.Table, f.Column)
	})
	if named || len(f.Derived) > 0 {
		return wiretest.Redact{}
	}
	return nil
}

// play begins a session and runs the rest of the transcript in it.
func (w *world) play(t *testing.T, transcript func(s *wiretest.Session, agent, up *wiretest.Peer)) {
	t.Helper()
	wiretest.Play(t, func(t *testing.T) {
		s, _ := w.begin(t)
		transcript(s, s.Client, s.Upstream())
	})
}

// begin logs in on both sides; it returns the cancel key the agent was given.
func (w *world) begin(t *testing.T) (s *wiretest.Session, cancelKey []byte) {
	t.Helper()
	s = w.start(t)
	s.Client.Say(startup(3<<16, "user", "app", "database", "shop"))
	s.Client.Hear(authRequest(authClear))
	s.Client.Say(msg('p', placeholderPassword+"\x00"))
	s.Client.Hear(authRequest(authOK))
	parameters := startupOf(t, s.Upstream().Take())
	if parameters["user"] != "orders_rw" || parameters["database"] != "orders" {
		t.Fatalf("the upstream heard %v", parameters)
	}
	s.Upstream().Say(authRequest(authOK), backendKey(7, "real"), ready('I'))
	s.Upstream().Hear(query(catalogQuery(w.masked)))
	s.Upstream().Say(catalogAnswer(w.masked, 'I'))
	b := s.Client.Take()
	if len(b) < 13 || b[0] != 'K' || !bytes.Equal(b[13:], ready('I')) {
		t.Fatalf("the agent heard %s", show(b))
	}
	return s, b[5:13]
}

// catalogAnswer is the upstream's answer to catalogQuery.
func catalogAnswer(patterns []string, status byte) []byte {
	var b []byte
	result := func(rows ...[]byte) {
		b = append(b, rowDescription(column{name: []byte("x"), typ: 25})...)
		b = append(b, bytes.Join(rows, nil)...)
		b = append(b, complete("SELECT")...)
	}
	id := strconv.Itoa
	result(row("pg_catalog"), row("public"))
	result(row("total_of"))
	result(
		row(id(oidCustomers), "public", "customers", "r"), row(id(oidOrders), "public", "orders", "r"),
		row(id(oidView), "public", "mailing", "r"), row(id(oidPartition), "public", "customers_old", "r"),
	)
	result(row(id(oidCustomers), "{id}"), row(id(oidOrders), "{id}"))
	if len(patterns) > 0 {
		result(
			row(id(oidCustomers), "1", "id", "", "23", "int4"), row(id(oidCustomers), "2", "email", "", "25", "text"),
			row(id(oidOrders), "1", "id", "", "23", "int4"), row(id(oidOrders), "2", "total", "", "1700", "numeric"), row(id(oidView), "1", "address", "", "25", "text"),
			row(id(oidPartition), "1", "email", "", "25", "text"), row(id(oidPartition), "2", "id", "", "23", "int4"),
		)
		result(row(id(oidView), id(oidCustomers)))
		result(row(id(oidPartition), id(oidCustomers)))
	}
	return append(b, ready(status)...)
}

// Messages, named as in the protocol chapter.

func msg(t byte, body string) []byte { return appendMessage(nil, t, []byte(body)) }

func startup(version uint32, parameters ...string) []byte {
	b := binary.BigEndian.AppendUint32(make([]byte, 4), version)
	for _, p := range parameters {
		b = append(append(b, p...), 0)
	}
	b = append(b, 0)
	binary.BigEndian.PutUint32(b, uint32(len(b)))
	return b
}

func special(code uint32, body string) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(8+len(body)))
	return append(binary.BigEndian.AppendUint32(b, code), body...)
}

func authRequest(code uint32, data ...string) []byte {
	return appendMessage(nil, 'R', append(binary.BigEndian.AppendUint32(nil, code), strings.Join(data, "")...))
}

func backendKey(pid uint32, key string) []byte {
	return appendMessage(nil, 'K', append(binary.BigEndian.AppendUint32(nil, pid), key...))
}

func query(text string) []byte { return msg('Q', text+"\x00") }
func parse(name, text string) []byte {
	return msg('P', name+"\x00"+text+"\x00\x00\x00")
}

func bindTo(portal, statement string, params ...string) []byte {
	b := portal + "\x00" + statement + "\x00\x00\x00" + short(len(params))
	for _, p := range params {
		b += long(len(p)) + p
	}
	return msg('B', b+"\x00\x00")
}
func describePortal(name string) []byte    { return msg('D', "P"+name+"\x00") }
func describeStatement(name string) []byte { return msg('D', "S"+name+"\x00") }
func execute(portal string) []byte         { return msg('E', portal+"\x00\x00\x00\x00\x00") }
func closeStatement(name string) []byte    { return msg('C', "S"+name+"\x00") }

var (
	syncUnit      = msg('S', "")
	flush         = msg('H', "")
	terminate     = msg('X', "")
	copyDone      = msg('c', "")
	parseOK       = msg('1', "")
	bindOK        = msg('2', "")
	closeOK       = msg('3', "")
	noData        = msg('n', "")
	noParameters  = msg('t', "\x00\x00")
	refusedParse  = parse(refusedName, refusedStatement)
	refusedQuery  = query(refusedStatement)
	syntaxError   = failure("42601", "syntax error at or near \"!\"")
	copyInText    = msg('G', "\x00\x00\x01\x00\x00")
	copyOutText   = msg('H', "\x00\x00\x01\x00\x00")
	copyOutBinary = msg('H', "\x01\x00\x01\x00\x01")
)

func ready(status byte) []byte   { return msg('Z', string(status)) }
func complete(tag string) []byte { return msg('C', tag+"\x00") }
func copyData(b string) []byte   { return msg('d', b) }
func failure(code, m string) []byte {
	return msg('E', "SERROR\x00VERROR\x00C"+code+"\x00M"+m+"\x00\x00")
}
func denied(d *engine.Denial) []byte { return appendDenial(nil, d, "s1") }
func fatal(d *engine.Denial) []byte  { return appendFatal(nil, d, "s1") }
func short(n int) string             { return string(binary.BigEndian.AppendUint16(nil, uint16(n))) }

func long(n int) string { return string(binary.BigEndian.AppendUint32(nil, uint32(n))) }

func row(values ...string) []byte {
	b := short(len(values))
	for _, v := range values {
		b += long(len(v)) + v
	}
	return msg('D', b)
}

func rowDescription(columns ...column) []byte {
	b := short(len(columns))
	for _, c := range columns {
		format := 0
		if c.binary {
			format = 1
		}
		b += string(c.name) + "\x00" + long(int(c.table)) + short(int(c.attr)) + long(int(c.typ)) + "\xff\xff" + long(-1) + short(format)
	}
	return msg('T', b)
}

// computed and from are columns of a result.
func computed(name string) column { return column{name: []byte(name), typ: 25} }

func from(name string, table uint32, attr int16) column {
	return column{name: []byte(name), table: table, attr: attr, typ: 25}
}

func startupOf(t *testing.T, b []byte) map[string]string {
	t.Helper()
	if len(b) < 9 || int(binary.BigEndian.Uint32(b)) != len(b) {
		t.Fatalf("no start-up message: %q", b)
	}
	r := reader{b: b[8:]}
	m, _, err := startupParameters(&r)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// show renders messages one to a line.
func show(b []byte) string {
	var out strings.Builder
	for len(b) > 0 {
		n, _, err := split(b)
		if n == 0 || err != nil {
			n = len(b)
		}
		if n >= headerBytes {
			fmt.Fprintf(&out, "\t%c %.300q\n", b[0], b[headerBytes:n])
		} else {
			fmt.Fprintf(&out, "\t%q\n", b[:n])
		}
		b = b[n:]
	}
	if out.Len() == 0 {
		return "\t(nothing)"
	}
	return strings.TrimSuffix(out.String(), "\n")
}
