package sftp

import (
	"bytes"
	"errors"
	"io"

	"github.com/postern/postern/internal/engine"
)

// answers takes what the upstream says, until it says no more.
func (r *relay) answers() error {
	f, err := read(r.Upstream, nil)
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err != nil || f.kind() != typeVersion {
		return &engine.Denial{Code: engine.Unavailable, Reason: "the upstream does not speak SFTP", Help: "an operator looks at what its shell's start-up files print"}
	}
	v, err := version(f.body())
	if err != nil {
		return &engine.Denial{Code: engine.Unavailable, Reason: "the upstream does not speak version 3 of SFTP"}
	}
	if err := r.toAgent(v); err != nil {
		return err
	}
	close(r.versioned)
	for {
		f, err = read(r.Upstream, f)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = r.answer(f)
		}
		if err != nil {
			return err
		}
	}
}

// answer gives one to whoever asked.
func (r *relay) answer(f frame) error {
	d := decoder{rest: f.body()}
	id := d.uint32()
	r.mu.Lock()
	p := r.pending[id]
	delete(r.pending, id)
	r.mu.Unlock()
	if d.bad || p == nil {
		return malformed("an answer of type %d to nothing", f.kind())
	}
	if p.own != nil {
		p.own <- bytes.Clone(f)
		return nil
	}
	if r.short(p, f) {
		return nil
	}
	<-r.room
	out, err := r.settle(p, f)
	if err != nil {
		return err
	}
	if out == nil {
		out = f.withID(p.id)
	}
	return r.toAgent(out)
}

// settle notes what came of a request. It returns the packet for the agent where
// that is not the upstream's.
func (r *relay) settle(p *pending, f frame) ([]byte, error) {
	kind, d := f.kind(), decoder{rest: f.body()[4:]}
	failed := ""
	if kind == typeStatus {
		if s := Status(d.uint32()); d.bad {
			if p.exchange != nil {
				finish(p.exchange, p.record, engine.Broken)
			}
			return nil, malformed("a status")
		} else if s != StatusOK {
			failed = s.String()
		}
	}
	switch p.request.Type {
	case typeRead:
		return r.read(p, f)
	case typeWrite:
		p.file.wrote(failed)
		return r.plainStatus(p, f)
	case typeClose:
		p.file.finish(outcome(failed), failed)
		return r.plainStatus(p, f)
	case typeOpen, typeOpendir:
		return r.opened(p, &d, failed, f)
	}
	if p.exchange != nil {
		p.record.Error = failed
		finish(p.exchange, p.record, outcome(failed))
	}
	if p.request.Extension == extLimits {
		r.limits(f)
	}
	return r.plainStatus(p, f)
}

// plainStatus replaces the words of a status, in which an upstream may say
// anything, by its name.
func (r *relay) plainStatus(p *pending, f frame) ([]byte, error) {
	if f.kind() != typeStatus {
		return nil, nil
	}
	d := decoder{rest: f.body()[4:]}
	s := Status(d.uint32())
	return statusPacket(p.id, s, s.String()), nil
}

func outcome(failed string) engine.Status {
	if failed != "" {
		return engine.Failed
	}
	return engine.OK
}

// opened remembers a file under its handle.
func (r *relay) opened(p *pending, d *decoder, failed string, f frame) ([]byte, error) {
	kind := f.kind()
	if kind == typeStatus {
		p.record.Error = failed
		finish(p.exchange, p.record, engine.Failed)
		return r.plainStatus(p, f)
	}
	handle := d.handle()
	if kind != typeHandle || d.bad || len(d.rest) > 0 || handle == "" {
		finish(p.exchange, p.record, engine.Broken)
		return nil, malformed("an answer of type %d to open", kind)
	}
	opened := newFile(p)
	r.mu.Lock()
	_, twice := r.files[handle]
	if !twice {
		r.files[handle] = opened
	}
	r.mu.Unlock()
	if twice {
		opened.finish(engine.Broken, "its handle is another file's")
		return nil, malformed("a handle that is open already")
	}
	return nil, nil
}

// String is what a client is told of a status.
func (s Status) String() string {
	switch s {
	case StatusOK:
		return "Success"
	case StatusEOF:
		return "End of file"
	case StatusNoSuchFile:
		return "No such file"
	case StatusPermissionDenied:
		return "Permission denied"
	case StatusBadMessage:
		return "Bad message"
	case StatusUnsupported:
		return "Operation unsupported"
	}
	return "Failure"
}
