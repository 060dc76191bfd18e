package ssh

import (
	"bytes"
	"encoding/binary"
	"slices"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/postern/postern/internal/wire"
)

// The client picks the cipher (RFC 4253, 7.1): the first of its list that the
// server has too. OpenSSH's first is ChaCha20, for which Go has no assembly on
// amd64; AES-GCM is eight times as fast. So the agent's list is looked at before
// the gateway's own goes out, which then has the fast ones only, if they are in it.

const (
	// peekTime is how long it is waited for the agent's list. Clients send it at
	// once; one that waits for the server's first is offered everything.
	peekTime = 200 * time.Millisecond
	// maxLine and maxPacket bound what is looked at (RFC 4253, 4.2 and 6.1).
	maxLine   = 255
	maxPacket = 35000
)

// families are ciphers of about one speed, the fastest first.
var families = [][]string{
	{ssh.CipherAES128GCM, ssh.CipherAES256GCM},
	{ssh.CipherAES128CTR, ssh.CipherAES192CTR, ssh.CipherAES256CTR},
}

// kexInit is SSH_MSG_KEXINIT (RFC 4253, 7.1) as far as it matters here.
type kexInit struct {
	Cookie    [16]byte `sshtype:"20"`
	Exchanges []string
	HostKeys  []string
	Up, Down  []string // ciphers
	Rest      []byte   `ssh:"rest"`
}

// fastest returns the ciphers to offer to who sent this; none, all of them.
func fastest(packet []byte) []string {
	var k kexInit
	if len(packet) < 2 || len(packet) < 1+int(packet[0]) || ssh.Unmarshal(packet[1:len(packet)-int(packet[0])], &k) != nil {
		return nil
	}
	for _, family := range families {
		has := func(c string) bool { return slices.Contains(family, c) }
		if slices.ContainsFunc(k.Up, has) && slices.ContainsFunc(k.Down, has) {
			return family
		}
	}
	return nil
}

// greeted is an agent's connection on which both version lines have been said.
type greeted struct {
	*wire.Conn
	line   []byte        // the agent's, as far as it is to be read
	peeked chan struct{} // closed when nobody else reads
	said   bool
}

// greet exchanges version lines and returns the ciphers to offer.
func greet(client *wire.Conn) (*greeted, []string, error) {
	if _, err := client.Write([]byte(version + "\r\n")); err != nil {
		return nil, nil, err
	}
	line, err := firstLine(client)
	if err != nil {
		return nil, nil, err
	}
	g := &greeted{Conn: client, line: line, peeked: make(chan struct{})}
	ciphers := make(chan []string, 1)
	go func() { // ends with the connection at the latest
		defer close(g.peeked)
		ciphers <- fastest(firstPacket(client))
	}()
	late := time.NewTimer(peekTime)
	defer late.Stop()
	select {
	case c := <-ciphers:
		return g, c, nil
	case <-late.C:
		return g, nil, nil
	}
}

// firstLine reads the version line. What is none is left to the library to refuse.
func firstLine(client *wire.Conn) ([]byte, error) {
	for b := client.Buffered(); ; {
		end := bytes.IndexByte(b, '\n') + 1
		if end == 0 && len(b) >= maxLine {
			end = len(b)
		}
		if end > 0 {
			line := bytes.Clone(b[:end])
			client.Discard(end)
			return line, nil
		}
		var err error
		if b, err = client.Fill(maxLine); err != nil {
			return nil, err
		}
	}
}

// firstPacket is the packet behind it, without its length, or nil. It stays to be
// read.
func firstPacket(client *wire.Conn) []byte {
	for b := client.Buffered(); ; {
		if len(b) >= 4 {
			size := binary.BigEndian.Uint32(b)
			if size > maxPacket {
				return nil
			}
			if packet := b[4:]; len(packet) >= int(size) {
				return packet[:size]
			}
		}
		var err error
		if b, err = client.Fill(4 + maxPacket); err != nil {
			return nil
		}
	}
}

// Read waits until the first packet was looked at.
func (g *greeted) Read(b []byte) (int, error) {
	if len(g.line) > 0 {
		n := copy(b, g.line)
		g.line = g.line[n:]
		return n, nil
	}
	<-g.peeked
	return g.Conn.Read(b)
}

// Write leaves out the version line that was said.
func (g *greeted) Write(b []byte) (int, error) {
	if !g.said {
		g.said = true
		if string(b) == version+"\r\n" {
			return len(b), nil
		}
	}
	return g.Conn.Write(b)
}
