package sftp

import (
	"crypto/sha256"
	"hash"
	"sync"

	"github.com/postern/postern/internal/engine"
)

// file is what is open under a handle.
type file struct {
	path     string
	flags    uint32
	dir      bool
	exchange engine.Exchange

	mu     sync.Mutex
	record engine.File
	sum    hash.Hash
	next   uint64 // where the hash has come to
	broken bool   // pieces came out of order, or twice
	ended  bool
}

func newFile(p *pending) *file {
	return &file{
		path: p.record.Path, flags: p.request.Flags, dir: p.request.Type == typeOpendir,
		exchange: p.exchange, record: p.record, sum: sha256.New(),
	}
}

// writable says whether the file was opened to be changed.
func (f *file) writable() bool {
	return !f.dir && f.flags&(flagWrite|flagAppend|flagCreate|flagTruncate) != 0
}

// piece counts bytes that were read or written, and hashes them as long as they
// come in order.
func (f *file) piece(offset uint64, b []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.record.Bytes += int64(len(b))
	switch {
	case f.broken || len(b) == 0:
	case offset != f.next && f.flags&flagAppend == 0:
		f.broken = true
	default:
		f.sum.Write(b)
		f.next += uint64(len(b))
	}
}

// wrote notes that a piece could not be written.
func (f *file) wrote(failed string) {
	if failed == "" {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.record.Error, f.broken = failed, true
}

// blur notes that bytes changed which did not pass here.
func (f *file) blur() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.broken = true
}

// finish puts on record what was done, once.
func (f *file) finish(s engine.Status, failed string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ended {
		return
	}
	f.ended = true
	if failed != "" {
		f.record.Error = failed
	}
	if !f.broken && f.next > 0 {
		f.record.SHA256 = [32]byte(f.sum.Sum(nil))
	}
	if s == engine.OK && f.record.Error != "" {
		s = engine.Failed
	}
	finish(f.exchange, f.record, s)
}

func (r *relay) file(handle string) *file {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.files[handle]
}

// charge counts bytes for the client against budgets.
func (f *file) charge(n int) *engine.Denial {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ended {
		return nil
	}
	return f.exchange.Charge(n)
}

// withHandle sends on what is done to an open file: that was decided when it was
// opened. What was not, it leaves to the decider.
func (r *relay) withHandle(q *Request, sent frame) (done bool, err error) {
	f := r.file(q.Handle)
	if f == nil {
		return true, r.refuse(q.ID, StatusFailure, "postern: no such handle")
	}
	q.opened = f
	p := &pending{id: q.ID, request: q, file: f}
	const notWritable = "postern: the file was not opened for writing"
	switch {
	case q.Type == typeClose:
		return true, r.closing(p, sent)
	case q.Type == typeRead:
		return true, r.reading(p, sent)
	case q.Type == typeWrite && !f.writable(), q.Extension == extFsync && !f.writable():
		return true, r.refuse(q.ID, StatusPermissionDenied, notWritable)
	case q.Type == typeWrite:
		f.piece(q.Offset, q.Data)
	case q.Type == typeFsetstat && !(f.writable() && q.Attrs.ownFile()):
		return false, nil
	case q.Type == typeFsetstat && q.Attrs.Flags&attrSize != 0:
		f.blur()
	case q.Extension == extCopyData:
		into := r.file(q.Into)
		if into == nil || !into.writable() {
			return true, r.refuse(q.ID, StatusPermissionDenied, notWritable)
		}
		into.blur()
	}
	return true, r.pass(p, sent)
}

// closing forgets a handle when it is closed: the upstream may give it away again
// with the answer.
func (r *relay) closing(p *pending, sent frame) error {
	id, ok := r.enter(p)
	if !ok {
		return errOver
	}
	r.upstreamMu.Lock()
	defer r.upstreamMu.Unlock()
	r.mu.Lock()
	delete(r.files, p.request.Handle)
	r.mu.Unlock()
	_, err := r.Upstream.Write(sent.withID(id))
	return err
}
