package postgres

import (
	"time"

	"github.com/postern/postern/internal/engine"
)

// entry is one answer that the upstream owes, named by the type of the message
// that asked for it.
type entry struct {
	kind      byte
	swallow   bool           // asked by the gateway: the client does not see the answer
	denial    *engine.Denial // replaces the error that the answer will be
	exchange  engine.Exchange
	resolved  *resolved
	statement *statement // of Parse and Describe
	portal    *portal    // of Bind, Describe and Execute
	catalog   *catalogReading
	probe     *probe     // of COPY … TO STDOUT, and of the question for its columns
	restored  []restored // values that the answer is not to show
	query     bool       // of a Query that went in the extended protocol
	started   time.Time

	result  result // of the result set that is running
	failed  bool
	stale   bool  // of a portal that may have become another since its Bind
	hold    *hold // the answer to one of its steps
	cut     bool  // the client has been told that it gets no more of it
	silent  bool  // of a statement of the gateway's own that fails on purpose: the client hears only that it may go on
	dropped int   // bytes, since it was cut
	rows    int64
	bytes   int64
	tag     string

	copying *copyRows // from CopyOutResponse to CopyDone
}

func (e *entry) end(s engine.Status) {
	if e.exchange == nil {
		e.portal.release(e.kind, s)
		return
	}
	if e.failed && s == engine.OK {
		s = engine.Failed
	}
	e.exchange.End(engine.Outcome{
		Status: s, Tag: e.tag, Rows: e.rows, Bytes: e.bytes, Duration: time.Since(e.started),
	})
	e.exchange = nil
}

// release ends the exchange of a portal whose Bind failed.
func (p *portal) release(kind byte, s engine.Status) {
	if kind == 'B' && s != engine.OK {
		p.drop(s)
	}
}

// queue is a FIFO that keeps its room.
type queue struct {
	entries []entry
	first   int
}

// maxOwed bounds the answers that may be owed: a Sync of five bytes costs an
// entry of two hundred. A batch of fifty thousand statements fits.
const maxOwed = 1 << 18

func (q *queue) len() int { return len(q.entries) - q.first }

func (q *queue) empty() bool { return q.first == len(q.entries) }

// head is valid until the next push or pop; nil when nothing is owed.
func (q *queue) head() *entry {
	if q.empty() {
		return nil
	}
	return &q.entries[q.first]
}

func (q *queue) push(e entry) {
	if q.first > 0 && q.first*2 >= len(q.entries) {
		n := copy(q.entries, q.entries[q.first:])
		clear(q.entries[n:])
		q.entries, q.first = q.entries[:n], 0
	}
	q.entries = append(q.entries, e)
}

// pop returns the head, which stays valid until the next push.
func (q *queue) pop() *entry {
	e := &q.entries[q.first]
	q.first++
	return e
}

// copying is the entry that takes CopyData of the client, nil when none does.
func (q *queue) copying() *entry {
	for i := len(q.entries) - 1; i >= q.first; i-- {
		e := &q.entries[i]
		if e.resolved != nil && e.resolved.copies == copyInto && (e.kind == 'Q' || e.kind == 'E') {
			return e
		}
	}
	return nil
}

// dropBehind removes entries of a kind that directly follow the head.
func (q *queue) dropBehind(kind byte) {
	at := q.first + 1
	for at < len(q.entries) && q.entries[at].kind == kind {
		q.entries = append(q.entries[:at], q.entries[at+1:]...)
	}
}
