package sftp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/relay/channels"
)

const (
	// maxOutstanding is how many requests of one channel may be unanswered. sftp
	// sends 64 at once and sshfs a few hundred; what comes on top waits.
	maxOutstanding = 1024
	// maxMasked is the same where files are masked, and answers that come short are
	// kept until the rest of their piece has come: some 16 MiB.
	maxMasked = 64
	// maxHandles is how many files and directories one channel may have open.
	// OpenSSH's server has about as many descriptors.
	maxHandles = 1024
	// maxWaiting is how many requests of one channel may wait for people at once.
	maxWaiting = 64
	// maxTold is how many denials of one channel are shown on standard error. File
	// systems that are mounted ask again and again.
	maxTold = 20
)

// Handler returns the life of a channel that speaks SFTP. session is told to
// agents with a denial.
func Handler(session string) channels.Handler {
	return func(ctx context.Context, s *channels.Streams) error {
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		most := maxOutstanding
		if s.Gate.Scrubs() {
			most = maxMasked
		}
		r := &relay{
			Streams: s, session: session, cancel: cancel, scrubber: s.Gate.Beside(), masks: s.Gate.Scrubs(),
			pending: map[uint32]*pending{}, files: map[string]*file{},
			queue: make(chan *Request, maxWaiting), room: make(chan struct{}, most), rest: make(chan *pending, maxMasked),
			versioned: make(chan struct{}),
		}
		return r.run(ctx)
	}
}

// relay is one channel. Three goroutines serve it: one for what the client
// sends, one that has its requests decided, and one for the upstream's answers;
// where files are masked a fourth, for what answers are short of.
type relay struct {
	*channels.Streams
	session  string
	cancel   context.CancelCauseFunc
	scrubber engine.Gate // for the goroutine of the answers
	masks    bool        // it may change something
	home     string      // where relative paths begin

	queue     chan *Request // requests that name files, in the order they came
	room      chan struct{} // a place for each request that is not answered
	deciding  sync.WaitGroup
	rest      chan *pending // READs whose answers were short
	versioned chan struct{} // closed when the version is agreed on

	agentMu    sync.Mutex // held while a packet is written to the agent
	upstreamMu sync.Mutex // the same for the upstream

	mu      sync.Mutex
	next    uint32 // the last id that was given
	pending map[uint32]*pending
	files   map[string]*file // by handle
	parked  []*parked
	told    int // denials on standard error
}

// pending is a request that the upstream has not answered. Ids upstream are the
// gateway's: clients may use one twice, and the gateway asks for itself.
type pending struct {
	id       uint32 // the client's
	request  *Request
	exchange engine.Exchange // nil where no decision was needed
	record   engine.File     // for the exchange's end
	file     *file           // of requests with a handle
	own      chan frame      // where the gateway asked; nil: the client did
	window   *window         // of a READ that was widened
}

func (r *relay) run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, r.Hangup)
	defer stop()
	r.deciding.Go(func() { r.decisions(ctx) })
	r.Go(func() { r.client(ctx) })
	if r.masks {
		r.Go(func() { r.rests(ctx) })
	}
	if err := r.answers(); err != nil {
		r.cancel(fmt.Errorf("the upstream's side: %w", err))
	}
	r.cancel(errOver)
	r.deciding.Wait()
	r.end()
	if cause := context.Cause(ctx); !errors.Is(cause, errOver) {
		return cause
	}
	return nil
}

var errOver = errors.New("the upstream says no more")

// client takes what the client sends, until it sends no more. It may outlast the
// rest of the relay, for nothing but the end of the channel ends a Read.
func (r *relay) client(ctx context.Context) {
	err := r.begin(ctx)
	if err == nil {
		err = r.requests(ctx)
	}
	close(r.queue)
	if errors.Is(err, ErrMalformed) {
		err = &engine.Denial{Code: engine.Malformed, Reason: "what the client said is not SFTP"}
	}
	if err != nil {
		r.cancel(err)
		return
	}
	r.deciding.Wait()
	r.Upstream.CloseWrite() //nolint:errcheck // the channel is gone then
}

// begin agrees on the version: both sides' first packets.
func (r *relay) begin(ctx context.Context) error {
	f, err := read(r.Agent, nil)
	if err != nil {
		return err
	}
	if d := (decoder{rest: f.body()}); f.kind() != typeInit || d.uint32() < Version || d.bad {
		return malformed("the first packet")
	}
	if err := r.toUpstream(packet{0, 0, 0, 0, typeInit}.uint32(Version).done()); err != nil {
		return err
	}
	select {
	case <-r.versioned:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	home, status, err := r.resolve(ctx, ".")
	if err == nil && status != StatusOK {
		err = &engine.Denial{Code: engine.Unavailable, Reason: "the upstream does not say where its paths begin"}
	}
	r.home = home
	return err
}

// requests takes what the client asks for.
func (r *relay) requests(ctx context.Context) error {
	var buf []byte
	for {
		f, err := read(r.Agent, buf)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		buf = f
		q, err := parseRequest(f.kind(), f.body())
		if err != nil {
			return err
		}
		select {
		case r.room <- struct{}{}:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if err := r.take(ctx, &q, f); err != nil {
			return err
		}
	}
}

// take sends a request on, or has it decided.
func (r *relay) take(ctx context.Context, q *Request, f frame) error {
	if q.onHandle() {
		if done, err := r.withHandle(q, f); done || err != nil {
			return err
		}
	}
	switch {
	case q.Type == typeExtended && !extensions[q.Extension]:
		return r.refuse(q.ID, StatusUnsupported, "postern: this extension is not passed on")
	case q.Extension == extLimits, q.Extension == extUsers:
		return r.pass(&pending{id: q.ID, request: q}, f)
	}
	// What is queued outlives the buffer.
	q.Attrs.Raw, q.Data = bytes.Clone(q.Attrs.Raw), nil
	select {
	case r.queue <- q:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// pass sends a packet on as it came, but for its id.
func (r *relay) pass(p *pending, f frame) error {
	p.request.Data = nil // it is the buffer's
	id, ok := r.enter(p)
	if !ok {
		return r.refuse(p.id, StatusFailure, "postern: too many files are open")
	}
	return r.toUpstream(f.withID(id))
}

// enter gives a request its id upstream. It is false where a file is to be opened
// and no more may be.
func (r *relay) enter(p *pending) (id uint32, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pending == nil { // all is over
		return 0, false
	}
	if p.opens() {
		open := len(r.files)
		for _, other := range r.pending {
			if other.opens() {
				open++
			}
		}
		if open >= maxHandles {
			return 0, false
		}
	}
	for r.next++; r.pending[r.next] != nil; r.next++ { // ids wrap, in the end
	}
	r.pending[r.next] = p
	return r.next, true
}

func (p *pending) opens() bool {
	return p.own == nil && p.request != nil && (p.request.Type == typeOpen || p.request.Type == typeOpendir)
}

func (r *relay) toUpstream(b []byte) error {
	r.upstreamMu.Lock()
	defer r.upstreamMu.Unlock()
	_, err := r.Upstream.Write(b)
	return err
}

func (r *relay) toAgent(b []byte) error {
	r.agentMu.Lock()
	defer r.agentMu.Unlock()
	_, err := r.Agent.Write(b)
	return err
}

// refuse answers a request that goes no further.
func (r *relay) refuse(id uint32, s Status, message string) error {
	<-r.room
	return r.toAgent(statusPacket(id, s, message))
}

// deny answers a request with a denial: to the program as its status, to whoever
// looks as a line on standard error, since most programs show no more of a status
// than its number.
func (r *relay) deny(id uint32, d *engine.Denial) error {
	r.sayDenial(d)
	return r.refuse(id, StatusPermissionDenied, r.line(d))
}

func (r *relay) line(d *engine.Denial) string { return channels.Line(d, r.session) }

func (r *relay) sayDenial(d *engine.Denial) {
	r.mu.Lock()
	r.told++
	show := r.told <= maxTold
	r.mu.Unlock()
	if show {
		r.Say(r.line(d) + "\n")
	}
}

// ask is a question of the gateway's. It returns when the upstream has answered.
func (r *relay) ask(ctx context.Context, q *Request) (frame, error) {
	own := make(chan frame, 1)
	id, ok := r.enter(&pending{request: q, own: own})
	if !ok {
		return nil, errOver
	}
	asked := *q
	asked.ID = id
	if err := r.toUpstream(asked.encode()); err != nil {
		return nil, err
	}
	select {
	case f := <-own:
		return f, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// resolve asks the upstream what a path is without links.
func (r *relay) resolve(ctx context.Context, path string) (string, Status, error) {
	return r.resolveBy(ctx, &Request{Type: typeRealpath, Path: path})
}

func (r *relay) resolveBy(ctx context.Context, q *Request) (string, Status, error) {
	f, err := r.ask(ctx, q)
	if err != nil {
		return "", 0, err
	}
	d := decoder{rest: f.body()[4:]}
	switch {
	case f.kind() == typeStatus:
		if s := Status(d.uint32()); !d.bad && s != StatusOK {
			return "", s, nil
		}
	case f.kind() == typeName && d.uint32() == 1:
		if path := d.path(); !d.bad && strings.HasPrefix(path, "/") {
			return path, StatusOK, nil
		}
	}
	return "", 0, malformed("the upstream's answer to realpath, of type %d", f.kind())
}

// end ends what is still open, when nothing more comes from either side.
func (r *relay) end() {
	r.mu.Lock()
	pending, files := r.pending, r.files
	r.pending, r.files = nil, nil
	r.mu.Unlock()
	for _, p := range pending {
		if p.exchange != nil {
			p.record.Error = "the connection ended"
			finish(p.exchange, p.record, engine.Broken)
		}
	}
	for _, f := range files {
		f.finish(engine.Broken, "the connection ended")
	}
}

// finish ends an exchange with what was done to a file.
func finish(x engine.Exchange, done engine.File, s engine.Status) {
	x.File(done)
	x.End(engine.Outcome{Status: s, Bytes: done.Bytes, Tag: done.Verb})
}
