package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/wire"
	"github.com/postern/postern/pkg/recording"
)

// eventsNow is events without waiting for anything: for use in the middle of a
// session's own goroutine.
func (w *world) eventsNow(session string) (out []string) {
	r, err := recording.Open(w.path(session))
	if err != nil {
		w.t.Error(err)
		return nil
	}
	defer r.Close()
	for {
		ev, err := r.Next()
		if err == io.EOF {
			return out
		}
		if err != nil {
			w.t.Error(err)
			return out
		}
		out = append(out, describe(ev.Body))
	}
}

// flood is one request with an answer that does not end.
func flood(ctx context.Context, _ *wire.Conn, _ engine.Upstream, gate engine.Gate) error {
	x, err := gate.Submit(ctx, &engine.Request{Kind: "line", Text: "read all", Effects: []engine.Effect{{Verb: "read", Object: "all"}}})
	if err != nil {
		return err
	}
	row := rowOf(bytes.Repeat([]byte("v"), 1000))
	for i := 0; ctx.Err() == nil; i++ {
		if i > 100_000 {
			return errors.New("the session was not ended")
		}
		x.Row(row)
	}
	x.End(engine.Outcome{Status: engine.Broken})
	return ctx.Err()
}

// rowOf is a row of one value.
func rowOf(v []byte) []byte {
	row := []byte{0, 1, byte(len(v) >> 24), byte(len(v) >> 16), byte(len(v) >> 8), byte(len(v))}
	return append(row, v...)
}

// would asks about a request of each kind.
func would(_ context.Context, c *wire.Conn, _ engine.Upstream, gate engine.Gate) error {
	for _, verb := range []string{"read", "write", "drop", engine.Unknown, "refused"} {
		r := &engine.Request{Kind: "line", Text: verb + " a", Effects: []engine.Effect{{Verb: verb, Object: "a"}}}
		if verb == "refused" {
			r.Refused = &engine.Denial{Code: engine.Malformed, Reason: "cannot be read"}
		}
		answer := "nothing"
		if d := gate.Would(r); d != nil {
			answer = d.Reason
		}
		fmt.Fprintf(c, "%s: %s\n", verb, answer)
	}
	return nil
}
