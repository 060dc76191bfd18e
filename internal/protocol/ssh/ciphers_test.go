package ssh

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"slices"
	"testing"

	"golang.org/x/crypto/ssh"
)

// TestCipherIsFast: a client gets the fastest cipher that it has, however it
// ranks them, and one that has no other the one it has.
func TestCipherIsFast(t *testing.T) {
	openSSH := []string{ssh.CipherChaCha20Poly1305, ssh.CipherAES128CTR, ssh.CipherAES192CTR, ssh.CipherAES256CTR, ssh.CipherAES128GCM, ssh.CipherAES256GCM}
	for name, c := range map[string]struct {
		has  []string
		want string
	}{
		"OpenSSH's":           {openSSH, ssh.CipherAES128GCM},
		"a longer key":        {[]string{ssh.CipherChaCha20Poly1305, ssh.CipherAES256GCM, ssh.CipherAES128GCM}, ssh.CipherAES256GCM},
		"without GCM":         {[]string{ssh.CipherChaCha20Poly1305, ssh.CipherAES256CTR}, ssh.CipherAES256CTR},
		"ChaCha20 only":       {[]string{ssh.CipherChaCha20Poly1305}, ssh.CipherChaCha20Poly1305},
		"with one unheard of": {[]string{"fast@example.org", ssh.CipherChaCha20Poly1305}, ssh.CipherChaCha20Poly1305},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			conn, opened, requests, err := ssh.NewClientConn(w.start(), hostName+":22", &ssh.ClientConfig{
				User: "agent", HostKeyCallback: ssh.InsecureIgnoreHostKey(), Config: ssh.Config{Ciphers: c.has},
			})
			if err != nil {
				t.Fatal(err)
			}
			defer ssh.NewClient(conn, opened, requests).Close()
			got := conn.(ssh.AlgorithmsConnMetadata).Algorithms()
			if got.Read.Cipher != c.want || got.Write.Cipher != c.want {
				t.Errorf("%s and %s, want %s", got.Read.Cipher, got.Write.Cipher, c.want)
			}
		})
	}
}

// waits is a client that says nothing but its version before the server's
// algorithms are there.
type waits struct {
	net.Conn
	seen *bytes.Buffer
}

func (c waits) Read(b []byte) (int, error) {
	if c.seen.Len() > 0 {
		return c.seen.Read(b)
	}
	return c.Conn.Read(b)
}

// TestCipherOfWhoWaits: a client that speaks second is served.
func TestCipherOfWhoWaits(t *testing.T) {
	w := newWorld(t)
	c := w.start()
	seen := &bytes.Buffer{}
	piece := make([]byte, 1)
	line := func() {
		for n := 0; n == 0 || piece[0] != '\n'; n++ {
			if _, err := io.ReadFull(c, piece); err != nil {
				t.Fatal(err)
			}
			seen.Write(piece)
		}
	}
	line()
	// The version is said in pieces, as if by a slow network.
	const said = "SSH-2.0-Go\r\n"
	for i := range said[:5] {
		if _, err := c.Write([]byte{said[i]}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Write([]byte(said[5:])); err != nil {
		t.Fatal(err)
	}
	var size [4]byte
	if _, err := io.ReadFull(c, size[:]); err != nil { // after peekTime
		t.Fatal(err)
	}
	seen.Write(size[:])
	conn, opened, requests, err := ssh.NewClientConn(&unsaid{Conn: waits{c, seen}, line: said}, hostName+":22", &ssh.ClientConfig{
		User: "agent", HostKeyCallback: ssh.InsecureIgnoreHostKey(),
	})
	if err != nil {
		t.Fatal(err)
	}
	client := ssh.NewClient(conn, opened, requests)
	defer client.Close()
	if out, _, status := exec(t, client, "true", ""); out != "ran true\n" || status != 0 {
		t.Errorf("%q, status %d", out, status)
	}
}

// unsaid leaves out a line that was said.
type unsaid struct {
	net.Conn
	line string
}

func (c *unsaid) Write(b []byte) (int, error) {
	if c.line != "" && string(b) == c.line {
		c.line = ""
		return len(b), nil
	}
	return c.Conn.Write(b)
}

// TestFastestOfAnything: what is no list of algorithms changes nothing.
func TestFastestOfAnything(t *testing.T) {
	packet := func(up, down []string) []byte {
		k := ssh.Marshal(kexInit{Exchanges: []string{"x"}, HostKeys: []string{"y"}, Up: up, Down: down, Rest: make([]byte, 20)})
		return slices.Concat([]byte{4}, k, make([]byte, 4))
	}
	gcm, ctr := []string{ssh.CipherAES128GCM}, []string{ssh.CipherAES128CTR}
	if got := fastest(packet(gcm, gcm)); !slices.Equal(got, families[0]) {
		t.Error("the packet of this test is wrong:", got)
	}
	for name, p := range map[string][]byte{
		"nothing": nil, "a byte": {4}, "padding beyond its end": {200, 20, 0, 0}, "another message": {0, 21, 0, 0},
		"one direction only": packet(gcm, ctr), "cut off": packet(gcm, gcm)[:40], "a length beyond all": binary.BigEndian.AppendUint32(append([]byte{0, 20}, make([]byte, 16)...), 1<<31),
	} {
		if got := fastest(p); got != nil {
			t.Errorf("%s: %v", name, got)
		}
	}
}
