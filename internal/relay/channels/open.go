package channels

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/postern/postern/internal/engine"
)

// lazy accepts a channel of the agent's whose other half is opened when
// something of it is allowed: a session. What is denied the upstream never hears
// of.
func (c *channel) lazy(ctx context.Context, n ssh.NewChannel, x engine.Exchange) {
	agent, requests, err := n.Accept()
	end(x, err == nil)
	if err != nil {
		return
	}
	c.session = true
	c.with(agent)
	c.asked(ctx, requests)
}

// whole joins both halves of a channel that has a meaning as it is opened, by
// either side: a forwarded connection.
func (c *channel) whole(ctx context.Context, from From, n ssh.NewChannel, x engine.Exchange) {
	far := &c.Agent
	if from == Agent {
		side, err := c.reach()
		if err != nil {
			n.Reject(ssh.ConnectionFailed, Line(unreachable(err), c.ID)) //nolint:errcheck // the connection is gone then
			end(x, false)
			return
		}
		far = side
	}
	other, otherRequests, err := far.Conn.OpenChannel(c.kind, c.extra)
	if err != nil {
		c.rejectAs(n, err)
		end(x, false)
		return
	}
	own, ownRequests, err := n.Accept()
	if err != nil {
		c.running.Go(func() { ssh.DiscardRequests(otherRequests) })
		other.Close()
		end(x, false)
		return
	}
	if from == Upstream {
		own, other, ownRequests, otherRequests = other, own, otherRequests, ownRequests
	}
	c.up, c.ended = other, &Ended{OK: true} // there is no exit status that it could lack
	c.with(own)
	c.begin(ctx, x, Step{})
	c.joined(otherRequests)
	c.asked(ctx, ownRequests)
}

// rejectAs refuses a channel as its other end did.
func (c *channel) rejectAs(n ssh.NewChannel, err error) {
	reason := ssh.ConnectionFailed
	var no *ssh.OpenChannelError
	if errors.As(err, &no) {
		reason = no.Reason
	}
	n.Reject(reason, Line(c.refusedBy(err), c.ID)) //nolint:errcheck // the connection is gone then
}

// lead takes a connection within the connection to the target that it leads to:
// it is served as one that the agent has made, and reaches the target by way of
// this upstream.
func (c *channel) lead(ctx context.Context, n ssh.NewChannel, x engine.Exchange, to *Destination) {
	serve, d := c.gate.Reenter(to.Host, to.Port)
	if d != nil {
		n.Reject(ssh.Prohibited, Line(d, c.ID)) //nolint:errcheck // the connection is gone then
		end(x, false)
		return
	}
	agent, requests, err := n.Accept()
	if err != nil {
		end(x, false)
		return
	}
	var moving sync.WaitGroup
	near := conn(&moving, agent, requests)
	serve(ctx, near, func(context.Context) (net.Conn, error) {
		up, err := c.reach()
		if err != nil {
			return nil, err
		}
		far, requests, err := up.Conn.OpenChannel(c.kind, c.extra)
		if err != nil {
			return nil, err
		}
		return conn(&moving, far, requests), nil
	})
	near.Close()
	end(x, true)
	moving.Wait() // an agent that does not end its half has one channel less to open
}

// conn makes a connection of a channel. Closing it closes the channel, which
// takes until the other end has closed it too. An end that says no more still
// hears what is said to it.
func conn(running *sync.WaitGroup, c ssh.Channel, requests <-chan *ssh.Request) net.Conn {
	in, heard := net.Pipe()
	out, said := net.Pipe()
	running.Go(func() { ssh.DiscardRequests(requests) })
	running.Go(func() {
		io.Copy(c, said) //nolint:errcheck // either end may close
		said.Close()
		c.CloseWrite() //nolint:errcheck // the channel is gone then
		c.Close()
	})
	running.Go(func() {
		io.Copy(heard, patient{c}) //nolint:errcheck // either end may close
		heard.Close()
	})
	return halves{in, out}
}

// halves is a connection of two pipes, each of which ends by itself.
type halves struct {
	net.Conn // that is read
	out      net.Conn
}

func (h halves) Write(b []byte) (int, error)        { return h.out.Write(b) }
func (h halves) Close() error                       { return errors.Join(h.Conn.Close(), h.out.Close()) }
func (h halves) SetWriteDeadline(t time.Time) error { return h.out.SetWriteDeadline(t) }
func (h halves) SetDeadline(t time.Time) error {
	return errors.Join(h.SetReadDeadline(t), h.SetWriteDeadline(t))
}

// patient reads what a channel has, though its connection has ended: Read returns
// an error with bytes when it cannot make room for more.
type patient struct{ io.Reader }

func (p patient) Read(b []byte) (int, error) {
	n, err := p.Reader.Read(b)
	if n > 0 {
		err = nil
	}
	return n, err
}
