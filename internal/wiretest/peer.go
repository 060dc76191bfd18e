package wiretest

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
)

// script is what the peers of one transcript have in common.
type script struct {
	t    testing.TB
	show func([]byte) string

	mu    sync.Mutex
	peers []*Peer
}

func (s *script) peer(name string, end *End) *Peer {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := &Peer{script: s, name: name, end: end, conn: end}
	s.peers = append(s.peers, p)
	return p
}

// settled fails the test when somebody heard what the test did not expect.
func (s *script) settled(when string) {
	s.t.Helper()
	synctest.Wait()
	s.mu.Lock()
	peers := s.peers
	s.mu.Unlock()
	for _, p := range peers {
		if p.drain(); len(p.heard) > 0 {
			s.t.Errorf("%s, and the %s had also heard:\n%s", when, p.name, s.show(p.heard))
			p.heard = nil
		}
	}
}

// Peer is a scripted end of a connection. Its methods belong to the test's
// goroutine.
type Peer struct {
	script *script
	name   string
	end    *End
	conn   net.Conn // end, or TLS over it
	heard  []byte   // and not yet expected
	all    []byte   // ever heard
	gone   bool     // the engine closed the connection
}

// Say sends messages, in one piece, and waits until all is quiet.
func (p *Peer) Say(messages ...[]byte) {
	p.script.t.Helper()
	p.script.settled("the " + p.name + " was about to speak")
	p.Send(messages...)
}

// Send is Say for a peer that does not wait for what others have to say.
func (p *Peer) Send(messages ...[]byte) {
	p.script.t.Helper()
	p.conn.Write(bytes.Join(messages, nil)) //nolint:errcheck // an engine that has hung up hears nothing
	synctest.Wait()
}

// Trickle is Say one byte at a time.
func (p *Peer) Trickle(messages ...[]byte) {
	p.script.t.Helper()
	for _, b := range bytes.Join(messages, nil) {
		p.Send([]byte{b})
	}
}

// Hear fails the test unless the peer has heard exactly these messages, and
// nothing else, since it was last asked.
func (p *Peer) Hear(messages ...[]byte) {
	p.script.t.Helper()
	want := bytes.Join(messages, nil)
	if got := p.Take(); !bytes.Equal(got, want) {
		p.script.t.Fatalf("the %s heard:\n%s\nwant:\n%s", p.name, p.script.show(got), p.script.show(want))
	}
}

// HearNothing fails the test when the peer has heard anything.
func (p *Peer) HearNothing() { p.script.t.Helper(); p.Hear() }

// Take returns all that the peer has heard since it was last asked.
func (p *Peer) Take() []byte {
	synctest.Wait()
	p.drain()
	b := p.heard
	p.heard = nil
	return b
}

// Gone fails the test unless the engine has closed the connection.
func (p *Peer) Gone() {
	p.script.t.Helper()
	synctest.Wait()
	if p.drain(); !p.gone {
		p.script.t.Fatalf("the connection to the %s is still open", p.name)
	}
}

// Close hangs up.
func (p *Peer) Close() { p.end.Close() }

// HangUp hangs up and waits until all is quiet.
func (p *Peer) HangUp() { p.Close(); synctest.Wait() }

// Stall makes the engine's writes to this peer block, as when it does not read.
func (p *Peer) Stall(on bool) {
	p.end.Stall(on)
	synctest.Wait()
}

// Secure does the client's side of a TLS handshake and speaks TLS from then on.
func (p *Peer) Secure(cfg *tls.Config) (tls.ConnectionState, error) {
	c := tls.Client(p.end, cfg)
	err := c.Handshake()
	p.conn = c
	synctest.Wait()
	return c.ConnectionState(), err
}

// Accept does the server's side.
func (p *Peer) Accept(cfg *tls.Config) error {
	c := tls.Server(p.end, cfg)
	err := c.Handshake()
	p.conn = c
	synctest.Wait()
	return err
}

func (p *Peer) drain() {
	p.end.poll(true)
	defer p.end.poll(false)
	buf := make([]byte, 16<<10)
	for {
		n, err := p.conn.Read(buf)
		p.heard = append(p.heard, buf[:n]...)
		p.all = append(p.all, buf[:n]...)
		if err != nil {
			var timeout net.Error
			p.gone = p.gone || !asTimeout(err, &timeout)
			return
		}
	}
}

func quoted(b []byte) string {
	if len(b) == 0 {
		return "\t(nothing)"
	}
	return "\t" + strings.TrimSuffix(strings.ReplaceAll(fmt.Sprintf("%q", b), `\n`, "\\n\n\t"), "\n\t")
}

func contains(b []byte, text string) bool { return text != "" && bytes.Contains(b, []byte(text)) }
