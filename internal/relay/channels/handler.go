package channels

import (
	"context"
	"errors"
	"io"

	"github.com/postern/postern/internal/engine"
)

// Handler moves the bytes of a channel whose meaning the protocol knows, such as
// SFTP's, in place of the pumps. It runs once the request with Step.Main, which
// named it, was allowed and the upstream has agreed; standard error it is spared.
//
// It returns when both directions have ended. When an end's Read returns io.EOF
// that end says no more, which the handler passes on by CloseWrite of the other
// when it has written all that it has to. Reads and writes fail when the channel
// is gone. A *engine.Denial among its errors is told to the agent. It starts
// whatever goroutines it needs, and waits for them.
type Handler func(ctx context.Context, s *Streams) error

// Streams are what a Handler works between. Reads of one end, and writes to it,
// are one goroutine's at a time.
type Streams struct {
	Agent    End
	Upstream End
	// Exchange is that of the request which began the channel; the relay ends it.
	Exchange engine.Exchange
	// Gate decides what the bytes ask for. It is used by one goroutine at a time;
	// Gate.Beside makes others.
	Gate   engine.Gate
	Limits engine.Limits
	// Say shows the agent's user a line, on standard error.
	Say func(text string)
	// Go runs what may outlast the handler: nothing but the end of the channel ends
	// a Read of the agent's, and that comes when the handler has returned.
	Go func(func())
	// Hangup ends the upstream's half, whereupon reads from it and writes to it fail.
	Hangup func()
}

// End is one half of a channel, without its standard error.
type End interface {
	io.ReadWriter
	CloseWrite() error
}

// agentEnd writes between what the gateway has to say.
type agentEnd struct{ *channel }

func (e agentEnd) Read(b []byte) (int, error)  { return e.agent.Read(b) }
func (e agentEnd) Write(b []byte) (int, error) { return e.out.Write(b) }
func (e agentEnd) CloseWrite() error           { return nil } // comes with the end of standard error

func (c *channel) handle(ctx context.Context, x engine.Exchange, gate engine.Gate, handler Handler) {
	err := handler(ctx, &Streams{
		Agent: agentEnd{c}, Upstream: c.up, Exchange: x, Gate: gate, Limits: c.Limits, Say: c.say,
		Go: func(f func()) { c.running.Go(f) }, Hangup: func() { c.up.Close() },
	})
	var d *engine.Denial
	switch {
	case errors.As(err, &d):
		c.up.Close()
		c.tell(d, statusDenied)
	case err != nil:
		c.Log.Info("a channel ended", "error", string(gate.Scrub([]byte(err.Error()))))
		c.up.Close()
	}
}
