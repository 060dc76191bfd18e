package postgres

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/relay/messages"
	"github.com/postern/postern/internal/secret"
	"github.com/postern/postern/internal/sql"
	"github.com/postern/postern/internal/wiretest"
)

// FuzzSplit: a message is as long as PostgreSQL would say, and no room is made
// for what cannot be.
func FuzzSplit(f *testing.F) {
	for _, m := range [][]byte{query("select 1"), syncUnit, {'Q', 0, 0, 0, 3}, {'Q', 0xff, 0xff, 0xff, 0xff}, {'Q', 0x7f, 0xff, 0xff, 0xff}, {'Q', 0}} {
		f.Add(m)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		n, need, err := split(b)
		if len(b) < headerBytes {
			if n != 0 || need != headerBytes || err != nil {
				t.Fatalf("%d, %d, %v", n, need, err)
			}
			return
		}
		declared := int64(int32(binary.BigEndian.Uint32(b[1:])))
		legal := declared >= 4 && declared <= maxLength
		switch {
		case legal != (err == nil):
			t.Fatalf("length %d: %v", declared, err)
		case err == nil && int64(need) != declared+1:
			t.Fatalf("length %d: needs %d", declared, need)
		case err == nil && (n != 0) != (len(b) >= need) || n != 0 && n != need:
			t.Fatalf("%d of %d bytes: %d", need, len(b), n)
		}
	})
}

// FuzzGreet: whatever a client says that does not hold the placeholder, it is
// not let in, and hears neither the placeholder nor a real name.
func FuzzGreet(f *testing.F) {
	f.Add(hello)
	f.Add(bytes.Join([][]byte{gssRequest, sslRequest}, nil))
	f.Add(special(codeCancel, long(7)+"real"))
	f.Add(startup(3<<16|9, "user", "app", "options", "-c role=x", "_pq_.x", "1"))
	f.Add(append(bytes.Clone(hello), msg('p', "guess\x00")...))
	f.Add([]byte{22, 3, 1, 0, 5, 1, 0, 0, 1, 0})
	p := New(Options{Classifier: &grammar{}})
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, auth := range []string{authPassword, authMD5, authSCRAM} {
			e, err := p.New(engine.Env{
				Target: "orders", AgentAuth: auth, Limits: wiretest.Limits,
				Placeholder: secret.Placeholder{User: "app", Database: "shop", Password: secret.New([]byte(canary))},
			})
			if err != nil {
				t.Fatal(err)
			}
			client, answered := wiretest.Preloaded(b)
			intent, err := e.Greet(t.Context(), client)
			client.Close()
			heard := answered()
			if err == nil && intent.Purpose != "cancel" {
				t.Fatalf("%s: let in as %v", auth, intent)
			}
			if bytes.Contains(heard, []byte(canary)) || bytes.Contains(heard, authRequest(authOK)) {
				t.Fatalf("%s: the client heard %q", auth, heard)
			}
		}
	})
}

// FuzzDecodeRequest: what a decoder accepts, encodes to the same bytes again:
// nothing in the message was overlooked.
func FuzzDecodeRequest(f *testing.F) {
	for _, m := range [][]byte{
		query("select 1"), parse("n", "select $1"), bindTo("p", "n", "a", "b"), describePortal("p"), execute("p"), closeStatement("n"),
		msg('F', long(1598)+short(1)+short(1)+short(2)+long(1)+"x"+long(-1)+short(0)), msg('P', "\x00\x00\x00\x01\x00\x00\x00\x17"),
		msg('B', "\x00\x00\x00\x01\x00\x01\x00\x01\xff\xff\xff\xff\x00\x02\x00\x01\x00\x00"),
	} {
		f.Add(m)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		n, _, err := split(b)
		if n == 0 || err != nil {
			return
		}
		m := b[:n]
		if again, ok := again(m); ok && !bytes.Equal(again, m) {
			t.Fatalf("%q became %q", m, again)
		}
	})
}

// again decodes a request and encodes it. The few fields that the decoders
// check and do not keep are taken from the message.
func again(m []byte) (out []byte, ok bool) {
	text := func(parts ...[]byte) []byte {
		var b []byte
		for _, p := range parts {
			b = append(append(b, p...), 0)
		}
		return b
	}
	switch m[0] {
	case 'Q':
		q, err := queryText(m)
		return appendMessage(nil, 'Q', text(q)), err == nil
	case 'P':
		p, err := decodeParse(m)
		types := m[len(m)-min(len(m), 4*p.types):]
		b := binary.BigEndian.AppendUint16(text(p.name, p.text), uint16(p.types))
		return appendMessage(nil, 'P', append(b, types...)), err == nil
	case 'B':
		d, err := decodeBind(m)
		if err != nil {
			return nil, false
		}
		r := body(m)
		r.cstring()
		r.cstring()
		formats, _ := formatCodes(&r)
		b := appendCodes(text(d.portal, d.statement), formats)
		for i, p := range d.params {
			if p.Binary != formatOf(formats, i) {
				return nil, true
			}
		}
		return appendMessage(nil, 'B', appendCodes(appendParams(b, d.params), d.results)), true
	case 'D', 'C':
		kind, name, err := decodeNamed(m, "")
		return appendMessage(nil, m[0], append([]byte{kind}, text(name)...)), err == nil
	case 'E':
		portal, err := decodeExecute(m)
		return appendMessage(nil, 'E', append(text(portal), m[len(m)-4:]...)), err == nil
	case 'F':
		oid, params, err := decodeFunctionCall(m)
		if err != nil {
			return nil, false
		}
		r := body(m)
		r.uint32()
		formats, _ := formatCodes(&r)
		b := appendCodes(binary.BigEndian.AppendUint32(nil, oid), formats)
		return appendMessage(nil, 'F', append(appendParams(b, params), m[len(m)-2:]...)), true
	}
	return nil, false
}

func appendCodes(b []byte, codes []int16) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(codes)))
	for _, c := range codes {
		b = binary.BigEndian.AppendUint16(b, uint16(c))
	}
	return b
}

func appendParams(b []byte, params []engine.Param) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(params)))
	for _, p := range params {
		if p.Null {
			b = binary.BigEndian.AppendUint32(b, 0xffffffff)
			continue
		}
		b = append(binary.BigEndian.AppendUint32(b, uint32(len(p.Value))), p.Value...)
	}
	return b
}

// FuzzDecodeResponse is the same for what an upstream sends.
func FuzzDecodeResponse(f *testing.F) {
	for _, m := range [][]byte{
		row("a", "", "b"), rowDescription(computed("x"), from("email", oidCustomers, 2)), failure("42601", "no"), msg('D', short(1)+long(-1)),
		msg('S', "a\x00b\x00"), msg('A', "\x00\x00\x00\x01ch\x00text\x00"), copyInText, copyOutBinary, msg('D', "\xff\xff"), msg('T', "\xff\xff"),
	} {
		f.Add(m)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		n, _, err := split(b)
		if n == 0 || err != nil {
			return
		}
		m, out := b[:n], []byte(nil)
		switch m[0] {
		case 'D':
			values := [][]byte{}
			err = rowValues(m[headerBytes:], func(_ int, v []byte) { values = append(values, v) })
			if checked := checkRow(m[headerBytes:], len(values)); err == nil && checked != nil {
				t.Fatalf("%q: rowValues accepts, checkRow says %v", m, checked)
			}
			if checkRow(m[headerBytes:], len(values)+1) == nil {
				t.Fatalf("%q: a row of other columns was accepted", m)
			}
			out = maskRowOf(m, values, err)
		case 'T':
			var columns []column
			columns, err = decodeRowDescription(m)
			out = bytes.Clone(m) // type lengths and modifiers are not kept
			if err == nil && len(rowDescription(columns...)) != len(m) {
				t.Fatalf("%q: %d columns", m, len(columns))
			}
		case 'E', 'N':
			var fields notice
			if fields, err = decodeNotice(m); err == nil {
				out = fields.append(nil, m[0])
			}
		case 'S':
			var name, value []byte
			name, value, err = decodeParameterStatus(m)
			out = msg('S', string(name)+"\x00"+string(value)+"\x00")
		case 'A':
			var pid uint32
			var channel, payload []byte
			pid, channel, payload, err = decodeNotification(m)
			out = msg('A', long(int(pid))+string(channel)+"\x00"+string(payload)+"\x00")
		default:
			return
		}
		if err == nil && !bytes.Equal(out, m) {
			t.Fatalf("%q became %q", m, out)
		}
	})
}

// maskRowOf writes a row with maskers that change nothing.
func maskRowOf(m []byte, values [][]byte, err error) []byte {
	if err != nil {
		return nil
	}
	return maskRow(nil, m, make([]engine.Masker, len(values)))
}

// FuzzSCRAM: neither side accepts a message that was not made with the key.
func FuzzSCRAM(f *testing.F) {
	f.Add([]byte("n,,n=,r=abc"), []byte("c=biws,r=abc,p=AAAA"))
	f.Add([]byte(rfcClientFirst), []byte(rfcClientFinal))
	f.Add([]byte("r=abc,s=AAAA,i=1"), []byte("v=AAAA"))
	f.Add([]byte("y,,n=,r="), []byte("c=,r=,p="))
	keys := deriveKeys(secret.New([]byte(canary)), []byte("salt"), 1)
	f.Fuzz(func(t *testing.T, first, final []byte) {
		s := scramServer{keys: keys}
		if _, err := s.first(first); err == nil {
			if _, ok, _ := s.final(final); ok {
				t.Fatal("the server accepted a proof of nobody")
			}
		}
		c := newSCRAMClient(func([]byte, int) scramKeys { return keys }, "n,,", nil)
		if _, err := c.final(first); err == nil {
			t.Fatal("the client accepted a nonce that cannot extend its own")
		}
		c.serverSignature = keys.serverSignature("x")
		if c.verify(final) == nil {
			t.Fatal("the client accepted a signature of nobody")
		}
	})
}

// bare is a codec of a session that has just begun, and its gate.
func bare(decide func(context.Context, *engine.Request) error, masked ...string) (*codec, *wiretest.Gate) {
	w := &world{masked: masked}
	gate := &wiretest.Gate{Decide: decide, Patterns: masked, Mask: w.mask}
	reading := newReading(masked, 1)
	for b := catalogAnswer(masked, 'I'); len(b) > 0; {
		n, _, _ := split(b)
		switch b[0] {
		case 'D':
			reading.row(b[headerBytes:n])
		case 'C':
			reading.endResult()
		}
		b = b[n:]
	}
	cat, _, err := reading.finish()
	if err != nil {
		panic(err)
	}
	return &codec{
		gate: gate, catalog: cat, classifier: &grammar{}, session: "s1", limits: wiretest.Limits, stale: func() {},
		statements: map[string]*statement{}, portals: map[string]*portal{},
		sqlNames: map[string]*sql.Statement{}, resolved: map[*sql.Statement]*resolved{}, tx: 'I',
	}, gate
}

// asked hands a client's message to c and decides it, as the relay does.
func asked(c *codec, gate *wiretest.Gate, out *messages.Out, m []byte) (end bool, err error) {
	step, err := c.Request(out, m)
	if err != nil {
		return true, err
	}
	r, prepare := step.Decide, step.Decide == nil
	if prepare {
		r = step.Prepare
	}
	if r == nil {
		return step.End, nil
	}
	if !c.Known(r) {
		if r.Refused = c.Resolve(context.Background(), r); r.Refused == nil && !c.Known(r) {
			panic("unknown after it was resolved")
		}
	}
	var d *engine.Denial
	if prepare && r.Refused == nil {
		if d = gate.Would(r); d == nil {
			c.Allowed(out, nil)
			return false, nil
		}
	} else {
		x, err := gate.Submit(context.Background(), r)
		if err == nil {
			c.Allowed(out, x)
			return false, nil
		}
		errors.As(err, &d)
	}
	c.Denied(out, d)
	return false, nil
}
