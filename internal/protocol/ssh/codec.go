package ssh

import (
	"net"
	"net/netip"
	"path"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/crypto/ssh"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/relay/channels"
)

// Requests of a connection (RFC 4254 and OpenSSH's PROTOCOL).
const (
	globalForward       = "tcpip-forward"
	globalCancel        = "cancel-tcpip-forward"
	globalForwardSocket = "streamlocal-forward@openssh.com"
	globalCancelSocket  = "cancel-streamlocal-forward@openssh.com"
	keepalive           = "keepalive@openssh.com"
	noMoreSessions      = "no-more-sessions@openssh.com"
)

// Kinds of channels.
const (
	channelSession         = "session"
	channelDirect          = "direct-tcpip"
	channelDirectSocket    = "direct-streamlocal@openssh.com"
	channelTunnel          = "tun@openssh.com"
	channelForwarded       = "forwarded-tcpip"
	channelForwardedSocket = "forwarded-streamlocal@openssh.com"
	channelX11             = "x11"
	channelAgent           = "auth-agent@openssh.com"
)

// codec implements channels.Codec: it says what the requests of one connection
// would do.
type codec struct {
	session string // its id, for denials

	mu   sync.Mutex
	back map[string]bool // what the upstream may open channels for: binds, paths, x11, agent
}

func newCodec(session string) *codec {
	return &codec{session: session, back: map[string]bool{}}
}

// may notes that the upstream may open channels of a kind, for a bind or a path.
func (c *codec) may(kind, what string, yes bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if yes {
		c.back[kind+" "+what] = true
	} else {
		delete(c.back, kind+" "+what)
	}
}

func (c *codec) mayOpen(kind, what string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.back[kind+" "+what]
}

// request makes a request with one effect. What is forwarded is of any protocol.
func (c *codec) request(kind, text, verb, object string) *engine.Request {
	return &engine.Request{
		Kind: kind, Text: text, Effects: []engine.Effect{{Verb: verb, Object: object}}, Facts: map[string]any{}, Raw: kind == "forward",
	}
}

// malformed is a request that is put on record and denied.
func (c *codec) malformed(kind, name string) *engine.Request {
	return &engine.Request{Kind: kind, Text: name, Refused: &engine.Denial{
		Code: engine.Malformed, Reason: strconv.Quote(name) + " does not have the form that SSH gives it",
	}}
}

// unknown is a request that nothing is known of.
func (c *codec) unknown(kind, name string) *engine.Request {
	return &engine.Request{Kind: kind, Text: name, Refused: &engine.Denial{
		Code: engine.ByPolicy, Reason: strconv.Quote(name) + " is not passed on: Postern does not know what it does",
	}}
}

// bind is where a forwarding listens, or a connection leads.
type bind struct {
	Host string
	Port uint32
}

func (b bind) String() string { return net.JoinHostPort(b.Host, strconv.Itoa(int(b.Port))) }

// valid says whether there can be such a port.
func (b bind) valid() bool { return b.Port < 1<<16 }

// socket is a path with a field that nothing is made of.
type socket struct {
	Path     string
	Reserved string
	Unused   uint32
}

// Global implements channels.Codec.
func (c *codec) Global(from channels.From, kind string, payload []byte) channels.Step {
	switch {
	case kind == keepalive, kind == noMoreSessions && from == channels.Agent:
		return channels.Step{Do: channels.Grant}
	case from == channels.Upstream:
		return channels.Step{Do: channels.Refuse}
	}
	switch kind {
	case globalForward:
		return c.listen(kind, payload)
	case globalCancel:
		var b bind
		if ssh.Unmarshal(payload, &b) != nil {
			return channels.Step{Request: c.malformed("global", kind)}
		}
		return channels.Step{Do: channels.Echo, Then: func(ok bool) {
			if ok {
				c.may(channelForwarded, b.String(), false)
			}
		}}
	case globalForwardSocket, globalCancelSocket:
		return c.listenSocket(kind, payload)
	}
	return channels.Step{Do: channels.Refuse}
}

// listen is ssh -R.
func (c *codec) listen(kind string, payload []byte) channels.Step {
	var b bind
	if ssh.Unmarshal(payload, &b) != nil || !b.valid() {
		return channels.Step{Request: c.malformed("global", kind)}
	}
	r := c.request("forward", "forward "+b.String()+" back", verbForwardBack, b.String())
	r.Facts[factHost], r.Facts[factPort] = b.Host, int64(b.Port)
	step := channels.Step{Do: channels.Forward, Request: r}
	got := b
	if b.Port == 0 { // the upstream picks one
		step.Answer = func(answer []byte) []byte {
			var port struct{ Port uint32 }
			if ssh.Unmarshal(answer, &port) != nil {
				return nil
			}
			got.Port = port.Port
			return ssh.Marshal(port)
		}
	}
	step.Then = func(ok bool) {
		if ok {
			c.may(channelForwarded, got.String(), true)
		}
	}
	return step
}

func (c *codec) listenSocket(kind string, payload []byte) channels.Step {
	var s struct{ Path string }
	if ssh.Unmarshal(payload, &s) != nil {
		return channels.Step{Request: c.malformed("global", kind)}
	}
	if !exactPath(s.Path) {
		return channels.Step{Request: c.malformed("global", kind)}
	}
	forward := kind == globalForwardSocket
	step := channels.Step{Do: channels.Echo, Then: func(ok bool) {
		if ok {
			c.may(channelForwardedSocket, s.Path, forward)
		}
	}}
	if forward {
		step.Do = channels.Forward
		step.Request = c.request("forward", "forward "+s.Path+" back", verbForwardPath, s.Path)
	}
	return step
}

// Open implements channels.Codec.
func (c *codec) Open(from channels.From, kind string, extra []byte) (channels.Step, channels.ChannelCodec) {
	if from == channels.Upstream {
		return c.opened(kind, extra), plain{}
	}
	switch kind {
	case channelSession:
		r := c.request("open", "session", verbSession, "")
		r.Upkeep = true
		return channels.Step{Do: channels.Forward, Request: r}, &session{codec: c}
	case channelDirect:
		return c.direct(kind, extra), plain{}
	case channelDirectSocket:
		var s socket
		if ssh.Unmarshal(extra, &s) != nil || !exactPath(s.Path) {
			return channels.Step{Request: c.malformed("open", kind)}, plain{}
		}
		return channels.Step{Do: channels.Forward, Main: true, Request: c.request("forward", "connect to "+s.Path, verbForwardPath, s.Path)}, plain{}
	case channelTunnel:
		return channels.Step{Do: channels.Forward, Main: true, Request: c.request("forward", "tunnel", verbTunnel, "")}, plain{}
	}
	return channels.Step{Request: c.unknown("open", kind)}, plain{}
}

// exactPath says that a path is the only way to write it, so that the one which a
// rule names is the one that the server opens, but for links.
func exactPath(p string) bool { return path.IsAbs(p) && path.Clean(p) == p }

// direct is a connection from the upstream's side to somewhere: ssh -L, -D, -W,
// and -J, which is -W for another ssh.
func (c *codec) direct(kind string, extra []byte) channels.Step {
	var d connection
	if ssh.Unmarshal(extra, &d) != nil || !d.to().valid() {
		return channels.Step{Request: c.malformed("open", kind)}
	}
	// As the host is looked up: a rule for it is not passed by another way to write it.
	named := bind{strings.ToLower(strings.TrimSuffix(d.Host, ".")), d.Port}
	r := c.request("forward", "connect to "+d.to().String(), verbForwardLocal, named.String())
	r.Facts[factHost], r.Facts[factPort] = d.Host, int64(d.Port)
	return channels.Step{Do: channels.Forward, Request: r, Forward: &channels.Destination{Host: d.Host, Port: uint16(d.Port)}}
}

// opened is a channel that the upstream opens, for what the agent asked for
// before and was allowed. It is decided again: the policy may have changed. The
// agent is given of it what has a meaning.
func (c *codec) opened(kind string, extra []byte) channels.Step {
	refused := channels.Step{Request: c.unknown("open", kind)}
	step := channels.Step{Do: channels.Forward, Main: true}
	switch kind {
	case channelForwarded:
		var f connection
		if ssh.Unmarshal(extra, &f) != nil || !c.mayOpen(kind, f.to().String()) {
			return refused
		}
		step.Request = c.request("forward", "connection to "+f.to().String(), verbForwardBack, f.to().String())
		step.Request.Facts[factHost], step.Request.Facts[factPort] = f.Host, int64(f.Port)
		f.FromHost = addressOrNone(f.FromHost)
		step.Payload = ssh.Marshal(f)
	case channelForwardedSocket:
		var s struct{ Path, Reserved string }
		if ssh.Unmarshal(extra, &s) != nil || !c.mayOpen(kind, s.Path) {
			return refused
		}
		step.Request = c.request("forward", "connection to "+s.Path, verbForwardPath, s.Path)
		s.Reserved = ""
		step.Payload = ssh.Marshal(s)
	case channelX11:
		var from struct {
			Host string
			Port uint32
		}
		if ssh.Unmarshal(extra, &from) != nil || !c.mayOpen(kind, "") {
			return refused
		}
		step.Request = c.request("forward", kind, verbForwardX11, "")
		from.Host = addressOrNone(from.Host)
		step.Payload = ssh.Marshal(from)
	case channelAgent:
		if !c.mayOpen(kind, "") {
			return refused
		}
		step.Request, step.Payload = c.request("forward", kind, verbForwardAgent, ""), []byte{}
	default:
		return refused
	}
	return step
}

// addressOrNone is what an upstream says of where a connection comes from, where
// that is an address: it could say anything.
func addressOrNone(s string) string {
	if _, err := netip.ParseAddr(s); err != nil {
		return ""
	}
	return s
}

// connection is what direct-tcpip and forwarded-tcpip are opened with.
type connection struct {
	Host     string
	Port     uint32
	FromHost string
	FromPort uint32
}

func (c connection) to() bind { return bind{c.Host, c.Port} }

// plain is the codec of channels on which only bytes matter.
type plain struct{}

func (plain) Request(string, []byte) channels.Step { return channels.Step{Do: channels.Refuse} }
func (plain) Answer(string, []byte, func([]byte) []byte) (out []byte, send bool, ended *channels.Ended) {
	return nil, false, nil
}
