package sql

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unicode/utf8"
)

const (
	// DefaultDeadline is how long one statement may take. A usual one takes
	// 50 µs, a statement of 1 MiB half a second.
	DefaultDeadline = 2 * time.Second
	// queueFactor times the deadline is how long a statement waits for a free
	// worker.
	queueFactor = 2
	// poisoned is how long a text that killed or stalled a worker is refused
	// without another try.
	poisoned = time.Minute
	// recycle is how many statements one worker process answers, so that what a
	// hostile one may have left behind does not stay.
	recycle = 10_000
	// restartPause is between tries to start a worker that does not start.
	restartPause = time.Second
)

// Options of a Classifier. Path is required.
type Options struct {
	Path       string        // of postern-sqlparse
	Workers    int           // processes; default 1
	Deadline   time.Duration // for one statement; default DefaultDeadline
	CacheBytes int           // default DefaultCacheBytes
	// User is who the workers run as; nil: who we are. It needs CAP_SETUID.
	User *syscall.Credential
	Log  *slog.Logger // default: none
}

// Stats counts since the start.
type Stats struct {
	Hits    uint64 // answered from the cache
	Misses  uint64 // given to a worker
	Killed  uint64 // workers stopped because a statement took too long
	Died    uint64 // workers that ended by themselves
	Refused uint64 // texts not tried again because they had cost a worker
	Starts  uint64 // worker processes started
}

// Classifier says what statements do. It is safe for concurrent use.
type Classifier struct {
	o     Options
	cache *cache
	idle  chan *process
	now   func() time.Time

	hits, misses, killed, died, refused, starts atomic.Uint64
}

type result struct {
	statement *Statement
	sample    *Sample
	size      int // of the encoded answer
	err       error
}

// New checks the options and starts nothing: Run does.
func New(o Options) (*Classifier, error) {
	info, err := os.Stat(o.Path)
	if err != nil {
		return nil, fmt.Errorf("SQL worker: %w", err)
	}
	if info.IsDir() || info.Mode()&0o111 == 0 {
		return nil, fmt.Errorf("SQL worker: %s is not executable", o.Path)
	}
	if o.Workers <= 0 {
		o.Workers = 1
	}
	if o.Deadline <= 0 {
		o.Deadline = DefaultDeadline
	}
	if o.CacheBytes <= 0 {
		o.CacheBytes = DefaultCacheBytes
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Classifier{o: o, cache: newCache(o.CacheBytes), idle: make(chan *process, o.Workers), now: time.Now}, nil
}

// Run runs the workers until ctx ends, and returns when all have ended.
func (c *Classifier) Run(ctx context.Context) error {
	var all sync.WaitGroup
	for range c.o.Workers {
		all.Go(func() { c.work(ctx) })
	}
	all.Wait()
	return nil
}

// Stats returns the counters.
func (c *Classifier) Stats() Stats {
	return Stats{c.hits.Load(), c.misses.Load(), c.killed.Load(), c.died.Load(), c.refused.Load(), c.starts.Load()}
}

// Known answers from memory, without waiting for anything.
func (c *Classifier) Known(text string) (*Statement, bool) {
	s, _ := c.cache.get(text, c.now)
	if s != nil {
		c.hits.Add(1)
	}
	return s, s != nil
}

// Classify says what a text does. It may wait for a worker. Its errors are
// *ErrSyntax and ErrWorker, or that of ctx.
func (c *Classifier) Classify(ctx context.Context, text string) (*Statement, error) {
	s, bad := c.cache.get(text, c.now)
	switch {
	case s != nil:
		c.hits.Add(1)
		return s, nil
	case bad:
		c.refused.Add(1)
		return nil, ErrWorker
	}
	if err := legible(text); err != nil {
		return nil, err
	}
	r := c.submit(ctx, text)
	if r.err != nil {
		return nil, r.err
	}
	return c.cache.put(text, r.statement, r.size), nil
}

// legible refuses what is not to be given to a worker.
func legible(text string) error {
	switch {
	case len(text) > MaxText:
		return &ErrSyntax{Message: fmt.Sprintf("the statement is longer than %d bytes", MaxText)}
	case strings.IndexByte(text, 0) >= 0:
		return &ErrSyntax{Message: "the statement holds a NUL byte"}
	case !utf8.ValidString(text):
		return &ErrSyntax{Message: "the statement is not valid UTF-8"}
	}
	return nil
}

// submit has a worker answer, when one is free. It speaks with the process itself:
// handing the text to a goroutine of the worker's, and the answer back, took longer
// than most parses.
func (c *Classifier) submit(ctx context.Context, text string) result {
	c.misses.Add(1)
	queue := time.NewTimer(queueFactor * c.o.Deadline)
	defer queue.Stop()
	for {
		select {
		case p := <-c.idle:
			if r, asked := c.ask(p, text); asked {
				return r
			}
		case <-queue.C:
			return result{err: fmt.Errorf("%w: no worker was free", ErrWorker)}
		case <-ctx.Done():
			return result{err: ctx.Err()}
		}
	}
}

// work runs one worker process after the other.
func (c *Classifier) work(ctx context.Context) {
	for ctx.Err() == nil {
		p, err := c.start()
		if err == nil && c.offer(ctx, p) {
			continue
		}
		if err != nil {
			c.o.Log.Error("SQL worker does not start", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(restartPause):
		}
	}
}

// offer lets statements have a process until it is of no more use, and stops it.
// It is false when the process ended before it was asked anything, as one does
// that cannot run here: the next is not to be started at once.
func (c *Classifier) offer(ctx context.Context, p *process) bool {
	c.idle <- p
	select {
	case <-ctx.Done():
	case <-p.spent:
	case <-p.ended:
	}
	p.mu.Lock() // not in the middle of an answer
	defer p.mu.Unlock()
	p.stop()
	c.withdraw(p)
	if p.lost || p.asked == recycle || ctx.Err() != nil {
		return true
	}
	c.died.Add(1)
	if p.asked == 0 {
		c.o.Log.Error("SQL worker ended before it was asked anything")
	}
	return p.asked > 0
}

// withdraw takes a process that was stopped out of idle, where it is unless a
// statement has just taken it.
func (c *Classifier) withdraw(p *process) {
	for range c.o.Workers {
		select {
		case q := <-c.idle:
			if q == p {
				return
			}
			c.idle <- q
		default:
			return
		}
	}
}

// ask has a process answer, and makes it free again. It has not been asked when
// the process has just ended by itself.
func (c *Classifier) ask(p *process, text string) (r result, asked bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.ended:
		return r, false
	default:
	}
	p.asked++
	r, p.lost = c.exchange(p, text)
	if p.lost || p.asked == recycle {
		close(p.spent)
	} else {
		c.idle <- p
	}
	return r, true
}

// exchange says what the process makes of a text, and whether it is lost.
func (c *Classifier) exchange(p *process, text string) (r result, lost bool) {
	b, err := p.exchange(text, time.Now().Add(c.o.Deadline))
	if err == nil {
		r = parseAnswer(b, text[:min(1, len(text))] == string(sampleMark))
		var syntax *ErrSyntax
		if r.err == nil || errors.As(r.err, &syntax) || errors.Is(r.err, ErrWorker) {
			return r, false
		}
		err = r.err
	}
	c.cache.poison(text, c.now().Add(poisoned))
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.killed.Add(1)
	} else {
		c.died.Add(1)
	}
	c.o.Log.Warn("SQL worker lost", "error", err, "bytes", len(text))
	return result{err: fmt.Errorf("%w: the worker was lost", ErrWorker)}, true
}

// process is one worker process.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{} // closed when the process has been waited for
	spent chan struct{} // closed when it is of no more use

	mu    sync.Mutex // held while it answers; guards what follows
	in    *os.File
	out   *os.File
	r     *bufio.Reader
	asked int
	lost  bool
}

// start starts a process with nothing but its two pipes: no environment, no
// other descriptors, and / as its directory. It limits itself further.
func (c *Classifier) start() (*process, error) {
	childIn, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	out, childOut, err := os.Pipe()
	if err != nil {
		childIn.Close()
		in.Close()
		return nil, err
	}
	cmd := exec.Command(c.o.Path)
	cmd.Env, cmd.Dir = []string{}, "/"
	cmd.Stdin, cmd.Stdout = childIn, childOut
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: c.o.User}
	err = cmd.Start()
	childIn.Close()
	childOut.Close()
	if err != nil {
		in.Close()
		out.Close()
		return nil, err
	}
	c.starts.Add(1)
	p := &process{cmd: cmd, in: in, out: out, r: bufio.NewReader(out), ended: make(chan struct{}), spent: make(chan struct{})}
	go func() { // ends with the process, which stop sees to and waits for
		cmd.Wait() //nolint:errcheck // how it ended does not matter
		close(p.ended)
	}()
	return p, nil
}

// exchange sends a text and reads the answer.
func (p *process) exchange(text string, deadline time.Time) ([]byte, error) {
	for _, f := range []*os.File{p.in, p.out} {
		if err := f.SetDeadline(deadline); err != nil {
			return nil, err
		}
	}
	if err := writeFrame(p.in, []byte(text)); err != nil {
		return nil, err
	}
	b, err := readFrame(p.r, maxAnswer)
	if err == nil && p.r.Buffered() > 0 {
		err = errEncoding // it speaks without being asked
	}
	if errors.Is(err, io.EOF) {
		err = errors.New("the worker ended")
	}
	return b, err
}

func (p *process) stop() {
	p.in.Close()
	p.out.Close()
	p.cmd.Process.Kill()
	<-p.ended
}
