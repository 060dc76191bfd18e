package sql

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"
)

func shapeOf(text string) (string, bool) {
	b, ok := appendShape(nil, text)
	return string(b), ok
}

// Texts that differ in their numbers only share what is known of one.
func TestCacheByShape(t *testing.T) {
	c := running(t, Options{})
	first := classify(t, c, "SELECT a FROM t WHERE id = 1 AND x < 2.5")
	before := c.Stats()
	for _, same := range []string{"SELECT a FROM t WHERE id = 1 AND x < 2.5", "SELECT a FROM t WHERE id = 77 AND x < 0.1"} {
		if got, ok := c.Known(same); !ok || got != first {
			t.Errorf("%s is not known", same)
		}
		if got := classify(t, c, same); got != first {
			t.Errorf("%s was analysed anew", same)
		}
	}
	if s := c.Stats(); s.Misses != before.Misses || s.Hits != before.Hits+4 {
		t.Errorf("%+v", s)
	}
	for _, other := range []string{
		"SELECT a FROM t WHERE id = 1.0 AND x < 2.5", "SELECT a FROM t WHERE id = '1' AND x < 2.5", "SELECT a FROM t2 WHERE id = 1 AND x < 2.5",
		"select a from t where id = 1 and x < 2.5", "SELECT a FROM t WHERE id = $1 AND x < 2.5", "SELECT a FROM t WHERE id = 1 AND x < 2.5 ",
		"SELECT a FROM t WHERE id = 9999999999 AND x < 2.5", "SELECT a FROM t WHERE id = 1 -- 2\n AND x < 2.5",
	} {
		if _, ok := c.Known(other); ok {
			t.Errorf("%s is known", other)
		}
	}
	// Where a number matters, each text is its own.
	ten := classify(t, c, "SELECT a FROM t LIMIT 10")
	if _, ok := c.Known("SELECT a FROM t LIMIT 11"); ok || ten.Limit != 10 {
		t.Error("a LIMIT is taken for another")
	}
}

// Text that is difficult has no shape.
func TestNoShape(t *testing.T) {
	for _, text := range []string{
		`SELECT E'a'`, `SELECT U&'a'`, `SELECT u&"a"`, "SELECT $$1$$", "SELECT $a$1$a$", "SELECT 1 -- 2", "SELECT /* 1 */ 2", `SELECT 'a\'`, "SELECT 'ä'", "SELECT 1e5", "SELECT 1_000",
		"SELECT 0x1F", "SELECT 1.", "SELECT .5", "SELECT 1..2", "SELECT 'open", `SELECT "open`, "SELECT $1a", "SELECT $", "SELECT 1a", "SELECT '\x01'", "SELECT \x01", "SELECT \x02",
		"SELECT `a`", strings.Repeat(" ", maxShape+1), "SELECT b'1'", "SELECT x'1'", "SELECT n'1'", "SELECT 1'2'",
	} {
		if s, ok := shapeOf(text); ok {
			t.Errorf("%q has the shape %q", text, s)
		}
	}
}

// The cache is bounded, and forgets what was not used for longest.
func TestCacheIsBounded(t *testing.T) {
	c := newCache(shards * 10 * overhead)
	statement := &Statement{ByLiterals: true}
	for i := range 10_000 {
		c.put("SELECT "+strings.Repeat("x", i%700), statement, i%50)
	}
	for i := range c.shards {
		h := &c.shards[i]
		n, bytes := 0, 0
		for e := h.first; e != nil; e = e.next {
			n, bytes = n+1, bytes+e.bytes
			if e.next == h.first {
				break
			}
		}
		if h.bytes > h.limit || bytes != h.bytes || n != len(h.texts)+len(h.shapes) || n == 0 {
			t.Errorf("shard %d: %d entries in the ring, %d in the maps, %d bytes of %d counted as %d", i, n, len(h.texts)+len(h.shapes), bytes, h.limit, h.bytes)
		}
	}
	big := &Statement{}
	if got := c.put("SELECT 'big'", big, 1<<20); got != big {
		t.Error("what does not fit is lost")
	}
	if s, _ := c.get("SELECT 'big'", time.Now); s != nil {
		t.Error("what does not fit was kept")
	}
}

// oracle asks the real worker, past every cache.
type oracle struct {
	c *Classifier
	p *process
}

func newOracle(t testing.TB) *oracle {
	c, err := New(Options{Path: workerPath})
	must(t, err)
	o := &oracle{c: c}
	t.Cleanup(func() {
		if o.p != nil {
			o.p.stop()
		}
	})
	return o
}

// ask returns the encoded answer; ok is false when the worker was lost.
func (o *oracle) ask(t testing.TB, text string) (answer []byte, ok bool) {
	if o.p == nil {
		p, err := o.c.start()
		must(t, err)
		o.p = p
	}
	b, err := o.p.exchange(text, time.Now().Add(DefaultDeadline))
	if err != nil {
		o.p.stop()
		o.p = nil
	}
	return b, err == nil
}

// FuzzShape: two texts with one shape have equal analyses, where the analysis
// says that numbers do not matter. The second text is the first with other
// numbers; the grammar itself is the oracle.
func FuzzShape(f *testing.F) {
	src, err := os.ReadFile("analyze/testdata/statements.txt")
	must(f, err)
	for line := range strings.Lines(string(src)) {
		if line = strings.TrimSuffix(line, "\n"); line != "" && !strings.HasPrefix(line, "\t") && !strings.HasPrefix(line, "#") {
			f.Add(line, uint64(len(line))*0x9e3779b97f4a7c15)
		}
	}
	f.Add("SELECT a[1:2], 3::int, -4, 5.6 FROM t WHERE b IN (7, 8) ORDER BY 9 LIMIT 10 OFFSET 11", uint64(1<<63|12345))
	f.Add("SELECT 1FROM t; SELECT 1 e5, 2.5.e3, 0 x1", uint64(1<<63|777))
	o := newOracle(f)
	f.Fuzz(func(t *testing.T, text string, numbers uint64) {
		other := renumber(text, numbers)
		shape, ok := shapeOf(text)
		if len(shape) > len(text) {
			t.Fatalf("the shape %q is longer than %q", shape, text)
		}
		if again, same := shapeOf(other); !ok || !same || again != shape || other == text {
			return
		}
		a, okA := o.ask(t, text)
		b, okB := o.ask(t, other)
		if !okA || !okB {
			return
		}
		if r := parseAnswer(a, false); r.err != nil || r.statement.ByLiterals {
			return // nothing is remembered under the shape
		}
		if !bytes.Equal(a, b) {
			t.Errorf("%q and %q have the shape %q and the analyses\n%q\n%q", text, other, shape, a, b)
		}
	})
}

// renumber puts other digits in the place of each run of them, some of other
// lengths.
func renumber(text string, numbers uint64) string {
	var b strings.Builder
	for i := 0; i < len(text); {
		j := i
		for j < len(text) && text[j] >= '0' && text[j] <= '9' {
			j++
		}
		if j == i {
			b.WriteByte(text[i])
			i++
			continue
		}
		numbers = numbers*6364136223846793005 + 1442695040888963407
		n := j - i
		if numbers>>40&3 == 0 {
			n = 1 + int(numbers>>42&7)
		}
		for k := range n {
			b.WriteByte('0' + byte(numbers>>(8+3*k)%10))
		}
		i = j
	}
	return b.String()
}
