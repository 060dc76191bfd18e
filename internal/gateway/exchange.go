package gateway

import (
	"sync/atomic"
	"time"

	"github.com/postern/postern/internal/budget"
	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/mask"
	"github.com/postern/postern/pkg/recording"
)

// exchange is one allowed request and its answer; it implements
// engine.Exchange.
type exchange struct {
	gate   *gate
	setup  *Setup // as when it was allowed
	number uint64 // of the request in the recording
	began  time.Time
	count  int // rows that wait in gate.rows

	account *budget.Account // as when it was allowed
	observe bool
	held    *held // nil: it is decided

	raw      bool // what it reads and writes is no text
	terminal bool // it is shown on one
	streams  []*stream
	bytes    atomic.Int64 // that went to the agent by streams, or were charged
}

// rowsAtOnce is how many bytes of rows are put on record together.
const rowsAtOnce = 32 << 10

// plan remembers the maskers of the last result, since drivers ask the same
// again and again.
type plan struct {
	fields  *engine.Field // identity of the slice it was made for
	n       int
	maskers []engine.Masker
}

// Result implements engine.Exchange.
func (x *exchange) Result(fields []engine.Field) []engine.Masker {
	g := x.gate
	if g.setup.Results {
		x.check(g.log.Fields(x.number, fields))
	}
	if len(fields) == 0 {
		return nil
	}
	if g.plan.fields == &fields[0] && g.plan.n == len(fields) {
		return g.plan.maskers
	}
	maskers := make([]engine.Masker, len(fields))
	for i := range fields {
		maskers[i] = g.maskerFor(&fields[i])
	}
	g.plan = plan{&fields[0], len(fields), maskers}
	return maskers
}

// maskerFor picks how a field is masked: by the first mask that names its
// column; else, computed from masked columns or of unknown origin, redacted,
// unless all of their masks leave that to the detectors; else by the detectors and the known secret.
func (g *gate) maskerFor(f *engine.Field) engine.Masker {
	if m := g.masks.of(f); m != nil {
		return g.counted("column", mask.For(m.Kind, f.Type, f.Binary, g.agent.keyOf(m)))
	}
	if len(f.Derived) > 0 && !g.masks.detects(f.Derived) {
		return g.counted("derived", mask.For(mask.Redact, f.Type, f.Binary, nil))
	}
	var m engine.Masker
	if g.masks != nil && g.masks.Scanner != nil {
		m = g.counted("detected", mask.Detect(g.masks.Scanner, f.Column+" "+f.Name, f.Type, f.Binary))
	}
	if known := g.known.Load(); known != nil && !fixedTypes[f.Type] {
		return chained{g.counted("secret", &echo{matcher: known, sized: f.Binary && !textTypes[f.Type]}), m}
	}
	return m
}

// fixedTypes have no room for a secret that is worth the name.
var fixedTypes = map[string]bool{
	"bool": true, "int2": true, "int4": true, "int8": true, "oid": true, "float4": true, "float8": true,
	"date": true, "time": true, "timestamp": true, "timestamptz": true, "interval": true, "uuid": true, "xid": true,
}

// textTypes are the same bytes in both formats, at whatever length.
var textTypes = map[string]bool{
	"text": true, "varchar": true, "bpchar": true, "name": true, "json": true, "jsonb": true, "xml": true, "bytea": true,
}

// echo replaces the session's own secret, should the upstream send it back. A
// value whose bytes hold lengths becomes NULL.
type echo struct {
	matcher *mask.Matcher
	sized   bool
}

func (e *echo) Mask(v []byte) ([]byte, bool) {
	if v == nil {
		return nil, true
	}
	out, n := e.matcher.Mask(nil, v)
	if n > 0 && e.sized {
		return nil, true
	}
	return out, false
}

// chained applies two maskers, the second of which may be nil.
type chained struct{ first, second engine.Masker }

func (c chained) Mask(v []byte) ([]byte, bool) {
	v, null := c.first.Mask(v)
	if null || c.second == nil {
		return v, null
	}
	return c.second.Mask(v)
}

// counter counts the values that a masker changed.
type counter struct {
	engine.Masker
	inc func()
}

func (g *gate) counted(kind string, m engine.Masker) engine.Masker {
	return counter{m, g.gateway.Metrics.masked(kind)}
}

func (c counter) Mask(v []byte) ([]byte, bool) {
	out, null := c.Masker.Mask(v)
	if null != (v == nil) || len(out) != len(v) || len(v) > 0 && &out[0] != &v[0] {
		c.inc()
	}
	return out, null
}

// Row implements engine.Exchange.
func (x *exchange) Row(row []byte) *engine.Denial {
	if d := x.charge(1, len(row)); d != nil {
		return d
	}
	g := x.gate
	if !g.setup.Results {
		return nil
	}
	g.rows = recording.AppendRow(g.rows, row)
	if x.count++; len(g.rows) >= rowsAtOnce {
		x.flush()
	}
	return nil
}

// flush puts the rows that wait on record.
func (x *exchange) flush() {
	if x.count == 0 {
		return
	}
	g := x.gate
	x.check(g.log.Rows(x.number, g.rows, x.count))
	x.room(int64(len(g.rows)))
	x.count, g.rows = 0, g.rows[:0]
	if cap(g.rows) > 2*rowsAtOnce {
		g.rows = nil
	}
}

// Data implements engine.Exchange.
func (x *exchange) Data(dir engine.Direction, b []byte, rows int) *engine.Denial {
	if dir == engine.Downward {
		if d := x.charge(rows, len(b)); d != nil {
			return d
		}
	}
	if !x.setup.Results && dir == engine.Downward {
		return nil
	}
	if dir == engine.Upward {
		b = x.gate.mask(b)
	}
	x.check(x.gate.log.Data(x.number, dir, b))
	x.room(int64(len(b)))
	return nil
}

// Text implements engine.Exchange. It counts, but is passed whole.
func (x *exchange) Text(b []byte) []byte {
	b = x.gate.mask(b)
	x.account.Owe(budget.Amounts{budget.Bytes: int64(len(b))})
	return b
}

// End implements engine.Exchange.
func (x *exchange) End(o engine.Outcome) {
	x.flush()
	x.closeStreams()
	if o.Duration == 0 {
		o.Duration = x.gate.gateway.Now().Sub(x.began)
	}
	if o.Bytes == 0 {
		o.Bytes = x.bytes.Load()
	}
	if o.Exit != nil {
		x.check(x.gate.log.Exit(recording.Exit{Request: x.number, Status: o.Exit.Status, Signal: o.Exit.Signal}))
	}
	if x.held != nil {
		x.held.release()
	}
	x.check(x.gate.log.Outcome(x.number, o))
	x.gate.gateway.Metrics.answered(x.gate.session, o)
}

// check ends the session when something of it cannot be put on record.
func (x *exchange) check(err error) {
	if err != nil {
		x.gate.cancel(x.gate.unrecorded(err))
	}
}

// room ends the session when the results on its record reach the limit.
func (x *exchange) room(n int64) {
	g := x.gate
	if g.taken.Add(n) > x.setup.MaxSession {
		g.cancel(&engine.Denial{
			Code:   engine.Ended,
			Reason: "the session's recording has reached its limit",
			Help:   "connect again, or raise record.max_session_bytes",
		})
	}
}
