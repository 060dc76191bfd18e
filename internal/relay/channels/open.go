package channels

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"

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
	c.with(agent)
	c.asked(ctx, requests)
}

// whole joins both halves of a channel that has a meaning as it is opened, by
// either side: a forwarded connection.
func (c *channel) whole(ctx context.Context, from From, n ssh.NewChannel, x engine.Exchange) {
	far := &c.Agent
	if from == Agent {
		side, err := c.reach(ctx)
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
		other.Close()
		go ssh.DiscardRequests(otherRequests) // ends with the channel
		end(x, false)
		return
	}
	if from == Upstream {
		own, other, ownRequests, otherRequests = other, own, otherRequests, ownRequests
	}
	c.with(own)
	c.start(true)
	c.joined(other, otherRequests)
	c.mu.Lock()
	c.ended = &Ended{OK: true} // there is no exit status that it could lack
	c.mu.Unlock()
	c.begin(ctx, x, nil)
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
func (s *Session) lead(ctx context.Context, gate engine.Gate, n ssh.NewChannel, x engine.Exchange, to *Destination) {
	serve, d := gate.Reenter(to.Host, to.Port)
	if d != nil {
		n.Reject(ssh.Prohibited, Line(d, s.ID)) //nolint:errcheck // the connection is gone then
		end(x, false)
		return
	}
	kind, extra := n.ChannelType(), n.ExtraData()
	agent, requests, err := n.Accept()
	if err != nil {
		end(x, false)
		return
	}
	s.running.Go(func() { ssh.DiscardRequests(requests) })
	serve(ctx, s.conn(agent), func(ctx context.Context) (net.Conn, error) {
		up, err := s.reach(ctx)
		if err != nil {
			return nil, err
		}
		far, requests, err := up.Conn.OpenChannel(kind, extra)
		if err != nil {
			return nil, err
		}
		s.running.Go(func() { ssh.DiscardRequests(requests) })
		return s.conn(far), nil
	})
	end(x, true)
}

// conn makes a connection of a channel. Closing it closes the channel.
func (s *Session) conn(c ssh.Channel) net.Conn {
	near, far := net.Pipe()
	s.running.Go(func() {
		defer c.Close()
		defer far.Close()
		var both sync.WaitGroup
		both.Go(func() {
			io.Copy(c, far) //nolint:errcheck // either end may close
			c.CloseWrite()  //nolint:errcheck // the channel is gone then
			c.Close()
		})
		both.Go(func() {
			io.Copy(far, c) //nolint:errcheck // either end may close
			far.Close()
		})
		both.Wait()
	})
	return near
}
