package wire_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"os"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern/postern/internal/wire"
	"github.com/postern/postern/internal/wiretest"
)

// echo reads as much as it was told to and writes it back.
func echo(c *wire.Conn, n int) error {
	b, err := c.Exactly(n)
	if err == nil {
		_, err = c.Write(b)
	}
	return err
}

func TestTLSInPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		serverTLS, clientTLS := wiretest.TLS("db.internal")
		a, b := wiretest.Pipe()
		client, server := wire.New(a), wire.New(b)
		served := make(chan error, 1)
		go func() {
			if err := echo(server, 5); err != nil {
				served <- err
				return
			}
			if err := server.StartTLSServer(t.Context(), serverTLS); err != nil {
				served <- err
				return
			}
			served <- echo(server, 6)
		}()
		client.Write([]byte("plain"))
		if got, err := client.Exactly(5); string(got) != "plain" || err != nil {
			t.Fatalf("%q, %v", got, err)
		}
		if client.TLS() != nil {
			t.Error("TLS before the handshake")
		}
		if err := client.StartTLSClient(t.Context(), clientTLS); err != nil {
			t.Fatal(err)
		}
		client.Write([]byte("secret"))
		if got, err := client.Exactly(6); string(got) != "secret" || err != nil {
			t.Fatalf("%q, %v", got, err)
		}
		if err := <-served; err != nil {
			t.Fatal(err)
		}
		if client.TLS() == nil || server.TLS() == nil {
			t.Error("no TLS after the handshake")
		}
		for _, c := range []*wire.Conn{client, server} {
			if in, out := c.Counters(); in != 11 || out != 11 {
				t.Errorf("counted %d in, %d out: the bytes inside of TLS are meant", in, out)
			}
		}
		if err := client.StartTLSClient(t.Context(), clientTLS); err == nil {
			t.Error("TLS in TLS")
		}
	})
}

// With direct TLS the server has peeked at the ClientHello to know it for one.
func TestPeekedClientHelloIsReplayed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		serverTLS, clientTLS := wiretest.TLS("db.internal")
		a, b := wiretest.Pipe()
		server := wire.New(b)
		served := make(chan error, 1)
		go func() {
			first, err := server.Peek(1)
			if err == nil && first[0] != 22 {
				err = errors.New("no handshake record")
			}
			if err == nil {
				err = server.StartTLSServer(t.Context(), serverTLS)
			}
			if err == nil {
				err = echo(server, 2)
			}
			served <- err
		}()
		client := tls.Client(a, clientTLS)
		client.Write([]byte("hi"))
		got := make([]byte, 2)
		if _, err := io.ReadFull(client, got); string(got) != "hi" || err != nil {
			t.Fatalf("%q, %v", got, err)
		}
		if err := <-served; err != nil {
			t.Fatal(err)
		}
	})
}

// CVE-2021-23222: what an upstream sends before the handshake could be a man in
// the middle's, and must not be read as if TLS had carried it.
func TestEarlyBytesBeforeClientHandshake(t *testing.T) {
	a, b := wiretest.Pipe()
	c := wire.New(b)
	a.Write([]byte("Sforged"))
	if _, err := c.Peek(1); err != nil {
		t.Fatal(err)
	}
	c.Discard(1)
	if err := c.NothingBuffered(); !errors.Is(err, wire.ErrEarlyBytes) {
		t.Errorf("NothingBuffered: %v", err)
	}
	_, clientTLS := wiretest.TLS("db.internal")
	if err := c.StartTLSClient(context.Background(), clientTLS); !errors.Is(err, wire.ErrEarlyBytes) {
		t.Errorf("StartTLSClient: %v", err)
	}
}

func TestHandshakeFollowsItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		serverTLS, _ := wiretest.TLS("db.internal")
		_, b := wiretest.Pipe()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := wire.New(b).StartTLSServer(ctx, serverTLS); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a silent client: %v", err)
		}
	})
}

// The relay ends a wait by moving the deadline to the past. TLS must survive
// that, even in the middle of a record.
func TestReadDeadlineInsideOfTLSIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		serverTLS, clientTLS := wiretest.TLS("db.internal")
		a, b := wiretest.Pipe()
		server := wire.New(b)
		ready := make(chan error, 1)
		go func() { ready <- server.StartTLSServer(t.Context(), serverTLS) }()
		torn := &tornWriter{End: a}
		client := tls.Client(torn, clientTLS)
		if err := client.Handshake(); err != nil {
			t.Fatal(err)
		}
		if err := <-ready; err != nil {
			t.Fatal(err)
		}
		torn.hold = 7
		client.Write([]byte("in two pieces"))
		server.SetReadDeadline(time.Now().Add(time.Second))
		if got, err := server.Fill(100); len(got) != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("%q, %v with half a record", got, err)
		}
		server.SetReadDeadline(time.Time{})
		torn.release()
		if got, err := server.Fill(100); string(got) != "in two pieces" || err != nil {
			t.Errorf("%q, %v", got, err)
		}
	})
}

// tornWriter keeps all but the first hold bytes of a write.
type tornWriter struct {
	*wiretest.End
	hold int
	kept []byte
}

func (w *tornWriter) Write(p []byte) (int, error) {
	if w.hold == 0 {
		return w.End.Write(p)
	}
	w.kept = append(w.kept, p[w.hold:]...)
	w.End.Write(p[:w.hold])
	return len(p), nil
}

func (w *tornWriter) release() { w.End.Write(w.kept) }

// The gateway closes a connection from another goroutine, perhaps just when a
// handshake ends; the race detector watches.
func TestCloseAsTheHandshakeEnds(t *testing.T) {
	serverTLS, clientTLS := wiretest.TLS("db.internal")
	for i := range 20 {
		a, b := wiretest.Pipe()
		server := wire.New(b)
		done := make(chan struct{})
		go func() {
			defer close(done)
			if server.StartTLSServer(context.Background(), serverTLS) == nil {
				io.Copy(io.Discard, server)
			}
		}()
		if err := tls.Client(a, clientTLS).Handshake(); err != nil {
			t.Fatal(err)
		}
		for range i * 10 {
			runtime.Gosched()
		}
		server.Close()
		<-done
	}
}
