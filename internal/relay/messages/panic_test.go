package messages

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/wire"
	"github.com/postern/postern/internal/wiretest"
)

// clumsy panics where a line says so; its Broken does too once it has.
type clumsy struct {
	toy
	broke bool
}

func (c *clumsy) Request(out *Out, msg []byte) (Step, error) {
	if string(msg) == "panic\n" {
		c.broke = true
		panic("clumsy request")
	}
	return c.toy.Request(out, msg)
}

func (c *clumsy) Response(out *Out, msg []byte) error {
	if string(msg) == "panic\n" {
		c.broke = true
		panic("clumsy response")
	}
	return c.toy.Response(out, msg)
}

func (c *clumsy) Broken() {
	c.toy.Broken()
	if c.broke {
		panic("clumsy to the end")
	}
}

// A panic on either goroutine is Run's, after both connections are closed, so
// that whoever recovers it has caught all of it.
func TestPanicIsThatOfRun(t *testing.T) {
	waits := func(_ context.Context, r *engine.Request) error {
		r.Pending(engine.Pending{ID: "a1"})
		panic("clumsy gate")
	}
	for name, tt := range map[string]struct {
		client, upstream string
		want             string
		decide           func(context.Context, *engine.Request) error
	}{
		"request":              {client: "ask 1\npanic\n", want: "clumsy request"},
		"response":             {client: "ask 1\n", upstream: "panic\n", want: "clumsy response"},
		"gate, while it waits": {client: "ask 1\n", want: "clumsy gate", decide: waits},
	} {
		t.Run(name, func(t *testing.T) {
			wiretest.Play(t, func(t *testing.T) {
				client, clientEnd := wiretest.Pipe()
				upstream, upstreamEnd := wiretest.Pipe()
				gate := &wiretest.Gate{Decide: tt.decide}
				s := &Session{
					Client: wire.New(clientEnd), Upstream: wire.New(upstreamEnd), Codec: &clumsy{},
					Gate: gate, Resolver: &slow{map[string]bool{}}, Limits: wiretest.Limits,
					Loop: looping(t),
				}
				caught := make(chan any)
				go func() {
					defer func() { caught <- recover() }()
					s.Run(t.Context()) //nolint:errcheck // it panics
				}()
				client.Write([]byte(tt.client))
				upstream.Write([]byte(tt.upstream))
				err, _ := (<-caught).(error)
				var p *Panic
				if !errors.As(err, &p) || p.Error() != tt.want || !strings.Contains(string(p.Stack()), "panic_test.go") {
					t.Fatalf("recovered %v", err)
				}
				if _, err := client.Write(line("x")); err == nil {
					t.Error("the client's connection is open")
				}
				if _, err := upstream.Write(line("x")); err == nil {
					t.Error("the upstream's connection is open")
				}
				if tt.decide == nil && gate.Unended() != 0 {
					t.Error("an exchange is open")
				}
			})
		})
	}
}
