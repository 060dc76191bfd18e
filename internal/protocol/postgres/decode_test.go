package postgres

import (
	"bytes"
	"encoding/binary"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/relay/messages"
)

func TestDecodeBindParameters(t *testing.T) {
	m := msg('B', "p\x00s\x00"+short(2)+short(0)+short(1)+short(2)+long(1)+"a"+long(-1)+short(1)+short(1))
	b, err := decodeBind(m)
	want := []engine.Param{{Value: []byte("a")}, {Null: true, Binary: true}}
	if err != nil || string(b.portal) != "p" || string(b.statement) != "s" || !reflect.DeepEqual(b.params, want) || !slices.Equal(b.results, []int16{1}) {
		t.Errorf("%+v, %v", b, err)
	}
}

// An empty value is not NULL, whoever masks it.
func TestEmptyIsNotNull(t *testing.T) {
	m := msg('D', short(2)+long(0)+long(-1))
	if got := maskRow(nil, m, make([]engine.Masker, 2)); !bytes.Equal(got, m) {
		t.Errorf("%q became %q", m, got)
	}
	got := maskRow(nil, m, []engine.Masker{toNil{}, toNil{}})
	if !bytes.Equal(got, m) {
		t.Errorf("an empty mask: %q", got)
	}
}

// toNil masks by nothing at all, without saying that it is NULL.
type toNil struct{}

func (toNil) Mask([]byte) ([]byte, bool) { return nil, false }

func TestOptionWords(t *testing.T) {
	for s, want := range map[string][]string{
		"":                   nil,
		"  ":                 nil,
		"-c a=b":             {"-c", "a=b"},
		"\t-c\na=b\\ c\\\\ ": {"-c", `a=b c\`},
		`\`:                  {`\`},
	} {
		if got := optionWords(s); !slices.Equal(got, want) {
			t.Errorf("%q: %q", s, got)
		}
	}
}

func TestArrayElements(t *testing.T) {
	for s, want := range map[string][]string{
		"{id}": {"id"}, "{a,b}": {"a", "b"}, `{"a,b",c}`: {"a,b", "c"}, `{"a\"b","c\\d"}`: {`a"b`, `c\d`},
	} {
		if got := arrayElements(s); !slices.Equal(got, want) {
			t.Errorf("%s: %q", s, got)
		}
	}
}

func TestScrubberTakesTheLongestFirst(t *testing.T) {
	s := newScrubber("app", [2]string{"orders", "shop"}, [2]string{"orders_rw", "app"}, [2]string{"db", "[upstream]"})
	if got := s.scrub([]byte("orders_rw at db has orders")); string(got) != "app at db has shop" {
		t.Errorf("%q", got)
	}
}

func TestCatalogRowsThatAreMalformed(t *testing.T) {
	for result, rows := range [][][]byte{
		{row("a", "b")}, {row("f", "x")}, {row("x", "public", "t", "r"), row("1")}, {row("20001")}, {row("20001", "x", "id", "", "25", "text")}, {row("20001", "1", "x")}, {row("20001", "x")},
	} {
		for _, m := range append(rows, msg('D', "\xff\xff"), msg('D', "")) {
			r := newReading([]string{"*"}, 1)
			r.into.relations[20001] = &relation{columns: map[int16]string{}, masked: map[int16]bool{}}
			r.result = result
			if r.row(m[headerBytes:]) == nil {
				t.Errorf("result %d: %q was accepted", result, m)
			}
		}
	}
}

func TestDenialsAsErrors(t *testing.T) {
	for code, state := range map[engine.Code]string{
		engine.ByPolicy: "42501", engine.ByPerson: "42501", engine.Expired: "42501", engine.Cancelled: "57014", engine.Limit: "54000",
		engine.Unavailable: "57P03", engine.Malformed: "08P01", engine.Misuse: "28P01", engine.Ended: "57P01",
	} {
		b := appendDenial(nil, &engine.Denial{Code: code, Rule: "r", Reason: "why\x00Mforged", Help: "do"}, "s1")
		n, err := decodeNotice(b)
		if err != nil || n.field('C') != state || n.field('M') != "postern: why Mforged" || n.field('H') != "do" ||
			n.field('D') != `Decided by rule "r" of the policy. Postern session s1.` || n.field('S') != "ERROR" {
			t.Errorf("%s: %q, %v", code, n, err)
		}
	}
}

func TestPendingAsNotice(t *testing.T) {
	now := time.Now()
	b := appendPending(nil, engine.Pending{ID: "a1", Rule: "ask", DecideBy: now.Add(time.Minute)}, now)
	n, err := decodeNotice(b)
	if b[0] != 'N' || err != nil || n.field('M') != "postern: waiting for approval a1" || !strings.Contains(n.field('D'), "1m0s") {
		t.Errorf("%q, %v", n, err)
	}
}

// A client that pipelines for ever takes a bounded part of our memory.
func TestUnansweredMessagesAreLimited(t *testing.T) {
	c, _ := bare(nil)
	var out messages.Out
	for range maxOwed {
		if _, err := c.Request(&out, syncUnit); err != nil {
			t.Fatal(err)
		}
	}
	var d *engine.Denial
	if _, err := c.Request(&out, syncUnit); !errors.As(err, &d) || d.Code != engine.Limit {
		t.Errorf("%v", err)
	}
}

func TestCancelRequestEncoding(t *testing.T) {
	b := cancelRequest(7, []byte("real"))
	if int(binary.BigEndian.Uint32(b)) != len(b) || !bytes.Equal(b, special(codeCancel, long(7)+"real")) {
		t.Errorf("%q", b)
	}
}
