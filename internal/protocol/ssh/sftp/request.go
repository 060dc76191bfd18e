package sftp

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/relay/channels"
)

// The facts of a request, for rules.
const (
	FactPath  = "ssh.path"
	FactPaths = "ssh.paths"
)

// Facts is every fact that a request may carry, for engine.Protocol.
var Facts = []engine.Fact{
	{Name: FactPath, Type: engine.Text, Help: "the file of a file operation, as the server resolves it; of two the first"},
	{Name: FactPaths, Type: engine.TextSet, Help: "all files of it"},
}

// Verbs are those of this package.
var Verbs = []string{VerbList, VerbRead, VerbWrite, VerbRemove, VerbRename, VerbMkdir, VerbAttributes, VerbLink}

// parked is a request that waits, and which others wait for that are about the
// same files.
type parked struct {
	paths []string
	done  chan struct{}
}

// decisions goes through the requests that name files. Those that have to wait
// for people do so beside the others.
func (r *relay) decisions(ctx context.Context) {
	for {
		select {
		case q, ok := <-r.queue:
			if !ok {
				return
			}
			if err := r.decide(ctx, q); err != nil {
				r.cancel(err)
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// decide resolves what a request names, asks the gate and sends it on.
func (r *relay) decide(ctx context.Context, q *Request) error {
	request, status, err := r.request(ctx, q)
	if err != nil {
		return err
	}
	p := &pending{id: q.ID, request: q, record: record(request, q)}
	if q.asksForPath() && p.record.Path == r.home { // where the session begins is its own to know
		return r.tellPath(q, status)
	}
	paths := request.Facts[FactPaths].([]string)
	if q.Handle != "" {
		paths = append(slices.Clone(paths), "handle:"+q.Handle)
	}
	before := r.conflicting(paths)
	if len(before) == 0 {
		x, now, err := r.Gate.SubmitNow(request)
		if now {
			return r.decided(p, status, x, err)
		}
	}
	return r.park(ctx, p, request, status, paths, before)
}

// park lets a request wait in a goroutine of its own.
func (r *relay) park(ctx context.Context, p *pending, request *engine.Request, status Status, paths []string, before []*parked) error {
	here := &parked{paths: paths, done: make(chan struct{})}
	r.mu.Lock()
	full := len(r.parked) >= maxWaiting
	if !full {
		r.parked = append(r.parked, here)
	}
	r.mu.Unlock()
	if full {
		return r.deny(p.id, &engine.Denial{Code: engine.Limit, Reason: "too many file operations wait for a person", Help: "wait until some are decided"})
	}
	gate := r.Gate.Beside()
	request.Pending = r.pendingLine
	r.deciding.Go(func() {
		defer r.unpark(here)
		for _, other := range before {
			select {
			case <-other.done:
			case <-ctx.Done():
				return
			}
		}
		x, err := gate.Submit(ctx, request)
		if err := r.decided(p, status, x, err); err != nil {
			r.cancel(err)
		}
	})
	return nil
}

func (r *relay) pendingLine(p engine.Pending) { r.Say(channels.Pending(p)) }

func (r *relay) unpark(p *parked) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.parked = slices.DeleteFunc(r.parked, func(other *parked) bool { return other == p })
	close(p.done)
}

// conflicting are the requests that wait and are about the same files, or about
// directories above or below.
func (r *relay) conflicting(paths []string) (out []*parked) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.parked {
		if slices.ContainsFunc(p.paths, func(a string) bool {
			return slices.ContainsFunc(paths, func(b string) bool { return a == b || below(a, b) || below(b, a) })
		}) {
			out = append(out, p)
		}
	}
	return out
}

func below(p, directory string) bool {
	return strings.HasPrefix(p, strings.TrimSuffix(directory, "/")+"/")
}

// decided sends a request on that was allowed, and answers one that was not.
func (r *relay) decided(p *pending, status Status, x engine.Exchange, err error) error {
	var d *engine.Denial
	switch {
	case errors.As(err, &d):
		return r.deny(p.id, d)
	case err != nil:
		return r.deny(p.id, &engine.Denial{Code: engine.Unavailable, Reason: "the request could not be decided"})
	case status != StatusOK || p.request.asksForPath(): // the upstream has answered when it was asked for the path
		if status != StatusOK {
			p.record.Error = status.String()
		}
		finish(x, p.record, outcome(p.record.Error))
		return r.tellPath(p.request, status)
	}
	p.exchange = x
	q := *p.request
	// What is sent for a handle is sent before that is closed, or not at all: the
	// upstream may give it away again.
	r.upstreamMu.Lock()
	defer r.upstreamMu.Unlock()
	failed := ""
	if q.Handle != "" {
		if p.file = r.file(q.Handle); p.file == nil || p.file != q.opened {
			failed = "the file is not open any more"
		}
	}
	ok := false
	if failed == "" {
		if q.ID, ok = r.enter(p); !ok {
			failed = "too many files are open"
		}
	}
	if failed != "" {
		p.record.Error = failed
		finish(x, p.record, engine.Failed)
		return r.refuse(p.id, StatusFailure, "postern: "+failed)
	}
	_, err = r.Upstream.Write(q.encode())
	return err
}

// tellPath answers with what the upstream said when the gateway asked.
func (r *relay) tellPath(q *Request, s Status) error {
	if s != StatusOK {
		return r.refuse(q.ID, s, s.String())
	}
	<-r.room
	return r.toAgent(newPacket(typeName, q.ID).uint32(1).text(q.answer).text(q.answer).uint32(0).done())
}

// request makes what the gate is asked, with every path resolved, and puts the
// resolved ones in place of those that came. Where the upstream cannot resolve
// one, its status is kept until it was decided whether the agent may know.
func (r *relay) request(ctx context.Context, q *Request) (*engine.Request, Status, error) {
	if q.Handle != "" { // FSETSTAT: the path was resolved when the file was opened
		q.Path = q.opened.path
		var effects []engine.Effect
		for _, verb := range q.changes() {
			effects = append(effects, engine.Effect{Verb: verb, Object: q.Path})
		}
		return r.describe(q.words(), []string{q.Path}, effects), StatusOK, nil
	}
	if q.asksForPath() {
		return r.requestForPath(ctx, q)
	}
	status := StatusOK
	var paths []string
	var effects []engine.Effect
	resolved := map[string]string{}
	for _, o := range q.operands() {
		at, s, err := r.place(ctx, o, resolved)
		if err != nil {
			return nil, 0, err
		}
		if s != StatusOK {
			status = s
		}
		resolved[o.path] = at
		paths = append(paths, at)
		for _, verb := range o.verbs {
			effects = append(effects, engine.Effect{Verb: verb, Object: at})
		}
		if elsewhere := lexical(r.home, o.path); o.relative != "" && elsewhere != at {
			effects = append(effects, engine.Effect{Verb: VerbLink, Object: elsewhere})
		}
	}
	if q.Type != typeSymlink { // whose first path is the text of the link
		q.Path = resolved[q.Path]
	}
	if q.Other != "" {
		q.Other = resolved[q.Other]
	}
	return r.describe(q.words(), paths, effects), status, nil
}

// requestForPath asks the upstream; where it leads is what is decided.
func (r *relay) requestForPath(ctx context.Context, q *Request) (*engine.Request, Status, error) {
	at, status, err := r.resolveBy(ctx, q)
	if err != nil {
		return nil, 0, err
	}
	if q.answer = at; status != StatusOK {
		at = lexical(r.home, q.Path)
	}
	return r.describe(fmt.Sprintf("realpath %q", at), []string{at}, []engine.Effect{{Verb: VerbList, Object: at}}), status, nil
}

// place is what a path is, as far as the request follows links.
func (r *relay) place(ctx context.Context, o operand, resolved map[string]string) (string, Status, error) {
	if o.relative != "" {
		if strings.HasPrefix(o.path, "/") {
			return path.Clean(o.path), StatusOK, nil
		}
		return path.Join(path.Dir(resolved[o.relative]), o.path), StatusOK, nil
	}
	directory, name, named := o.path, "", false
	if o.follow == toParent {
		directory, name, named = split(o.path)
	}
	at, status, err := r.resolve(ctx, directory)
	switch {
	case err != nil:
		return "", 0, err
	case status != StatusOK:
		return lexical(r.home, o.path), status, nil
	case named:
		at = strings.TrimSuffix(at, "/") + "/" + name
	}
	return at, StatusOK, nil
}

// describe is a request for the gate.
func (r *relay) describe(words string, paths []string, effects []engine.Effect) *engine.Request {
	out := &engine.Request{
		Kind: "sftp", Text: words, Effects: effects,
		Facts: map[string]any{FactPaths: paths}, Memo: memo{words},
	}
	if len(paths) > 0 {
		out.Facts[FactPath] = paths[0]
	}
	if slices.ContainsFunc(effects, func(e engine.Effect) bool { return e.Verb != VerbList && e.Verb != VerbRead }) {
		out.Writes = 1
	}
	return out
}

// memo makes requests with the same words the same: verbs and paths are in them.
type memo struct{ words string }

// record is what the exchange's end will say of the file.
func record(request *engine.Request, q *Request) engine.File {
	paths := request.Facts[FactPaths].([]string)
	f := engine.File{Verb: request.Effects[0].Verb, Path: paths[0]}
	if len(paths) > 1 {
		f.To = paths[1]
	}
	if q.Type == typeSymlink {
		f.To = q.Path
	}
	return f
}
