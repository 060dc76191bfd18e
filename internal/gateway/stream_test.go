package gateway

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/postern/postern/internal/budget"
	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/mask"
	"github.com/postern/postern/internal/record"
	"github.com/postern/postern/internal/secret"
	"github.com/postern/postern/internal/wire"
	"github.com/postern/postern/pkg/recording"
)

// streams is a session with one allowed request, whose streams f uses. It is
// called with what the request is to be, and returns when the session has ended.
func (w *world) streams(session string, r engine.Request, f func(context.Context, *gate, engine.Exchange)) *client {
	w.t.Helper()
	w.lines.relay = func(ctx context.Context, _ *wire.Conn, _ engine.Upstream, eg engine.Gate) error {
		r.Kind, r.Text, r.Effects = "exec", "read a", []engine.Effect{{Verb: "read", Object: "a"}}
		x, err := eg.Submit(ctx, &r)
		if err != nil {
			return err
		}
		f(ctx, eg.(*gate), x)
		return nil
	}
	return w.login("planner", session)
}

// streamed is what is on record of the streams, by their names.
func (w *world) streamed(session string) map[string]string {
	w.t.Helper()
	synctest.Wait()
	out := map[string]string{}
	r, err := recording.Open(w.path(session))
	if err != nil {
		w.t.Fatal(err)
	}
	defer r.Close()
	for {
		e, err := r.Next()
		if err == io.EOF {
			return out
		}
		if err != nil {
			w.t.Fatal(err)
		}
		if s, ok := e.Body.(*recording.Stream); ok {
			out[s.Stream] += string(s.Bytes)
		}
	}
}

// through writes text in pieces of a size, and returns what went on.
func through(t *testing.T, s engine.Stream, text string, size int) string {
	var out strings.Builder
	for piece := range slices.Chunk([]byte(text), size) {
		b, d := s.Write(piece)
		out.Write(b)
		if d != nil {
			t.Error(d)
		}
	}
	b, d := s.Close()
	out.Write(b)
	if d != nil {
		t.Error(d)
	}
	return out.String()
}

// sshSecrets is a credential of SSH with everything that it may have.
func sshSecrets(t *testing.T) secret.Credential {
	key := func() secret.Secret {
		b := make([]byte, 400)
		rand.Read(b)
		return secret.New(pem.EncodeToMemory(&pem.Block{Type: "OPENSSH PRIVATE KEY", Bytes: b}))
	}
	return secret.Credential{User: "deploy", Password: secret.New([]byte(canary)), SSH: secret.SSH{
		Key: key(), Passphrase: secret.New([]byte("phrase-" + canary)), Authority: key(),
	}}
}

// However a stream is cut, what is to be masked in it is, for the agent and on
// record, also while streams of one exchange are used at the same time.
func TestStreamsAreMasked(t *testing.T) {
	const text = "mail somebody@corp.example\r\npass " + canary + " end\r\n\x1b[1msomebody\x1b[m@corp.example $ "
	for size := 1; size < len(text); size += 5 {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, masked, func(s *Setup) { s.Typed = true })
			w.streams("s1", engine.Request{}, func(_ context.Context, g *gate, x engine.Exchange) {
				g.know(sshSecrets(t))
				x.Terminal(engine.Terminal{Type: "xterm", Columns: 80, Rows: 24})
				var all sync.WaitGroup
				for _, kind := range []engine.StreamKind{engine.Stdin, engine.Stdout, engine.Stderr} {
					s := x.Stream(kind)
					all.Go(func() {
						want := "mail redacted-email\r\npass placeholder-orders end\r\n\x1b[1mredacted-email\x1b[m $ "
						if kind == engine.Stdin {
							want = text
						}
						if got := through(t, s, text, size); got != want {
							t.Errorf("%s in pieces of %d became %q", kind, size, got)
						}
					})
				}
				x.Terminal(engine.Terminal{Columns: 100, Rows: 30})
				all.Wait()
				x.End(engine.Outcome{Status: engine.Failed, Exit: &engine.Exit{Status: 3}})
			}).ends()
			for name, got := range w.streamed("s1") {
				if strings.Contains(got, "somebody") || strings.Contains(got, canary) || !strings.Contains(got, "pass placeholder-orders end\r\n") {
					t.Errorf("%s in pieces of %d is on record as %q", name, size, got)
				}
			}
			events := w.events("s1")
			without := slices.DeleteFunc(events, func(e string) bool { return e == "stream" })
			if got := strings.Join(without, ", "); got != "opened planner orders, intent app, request 1 read a, verdict 1 allow reads, terminal, terminal, exit, outcome 1 failed, end" {
				t.Error("on record:", got)
			}
			w.counted(`postern_masked_values_total{kind="secret"}`, "2")
			w.counted(`postern_masked_values_total{kind="detected"}`, "4")
		})
	}
}

// No secret of a credential comes back by a stream, whole or a line of it, with
// the line ends of a terminal or without.
func TestStreamsHideCredentials(t *testing.T) {
	for _, tt := range []struct {
		raw, terminal bool
	}{{false, false}, {false, true}, {true, false}} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			c := sshSecrets(t)
			w.streams("s1", engine.Request{Raw: tt.raw}, func(_ context.Context, g *gate, x engine.Exchange) {
				g.know(c)
				if tt.terminal {
					x.Terminal(engine.Terminal{})
				}
				for _, s := range []secret.Secret{c.Password, c.SSH.Key, c.SSH.Passphrase, c.SSH.Authority} {
					text := string(s.Reveal())
					if tt.terminal {
						text = strings.ReplaceAll(text, "\n", "\r\n")
					}
					lines := strings.Split(strings.TrimSpace(text), "\n")
					for _, text := range append(lines, text) {
						if strings.HasPrefix(text, "-----") && !strings.Contains(text, "\n") || strings.Contains(lines[len(lines)-2:][0], text) && len(lines) > 1 {
							continue // the first and last line are no secret, the one before the last is short
						}
						got := through(t, x.Stream(engine.Stdout), "before "+text+" after", 7)
						if !strings.HasPrefix(got, "before ") || !strings.HasSuffix(got, " after") || strings.Contains(got, text[:len(text)/2]) {
							t.Errorf("%+v: %q became %q", tt, text, got)
						}
					}
				}
				x.End(engine.Outcome{})
			}).ends()
		})
	}
}

// A binary conversation is searched for the session's own secret only, and its
// size is on record, not what is in it.
func TestStreamsThatAreNoText(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, masked)
		const text = "0042 somebody@corp.example " + canary + "\x00"
		w.streams("s1", engine.Request{Raw: true}, func(_ context.Context, g *gate, x engine.Exchange) {
			g.know(sshSecrets(t))
			if got := through(t, x.Stream(engine.Stdin), text, 9); got != text {
				t.Errorf("up: %q", got)
			}
			if got := through(t, x.Stream(engine.Stdout), text, 9); got != "0042 somebody@corp.example placeholder-orders\x00" {
				t.Errorf("down: %q", got)
			}
			if got := through(t, x.Stream(engine.Stderr), text, 9); got != "0042 redacted-email placeholder-orders\x00" {
				t.Errorf("errors: %q", got)
			}
			x.End(engine.Outcome{})
		}).ends()
		if got := w.streamed("s1"); len(got) != 1 || got["stderr"] != "0042 redacted-email placeholder-orders\x00" {
			t.Errorf("on record: %q", got)
		}
		r, err := recording.Open(w.path("s1"))
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		for {
			e, err := r.Next()
			if err != nil {
				t.Fatal("no outcome: ", err)
			}
			if o, ok := e.Body.(*recording.Outcome); ok {
				if want := len("0042 somebody@corp.example placeholder-orders\x00") + len("0042 redacted-email placeholder-orders\x00"); o.Bytes != int64(want) {
					t.Errorf("%d bytes are on record instead of %d", o.Bytes, want)
				}
				return
			}
		}
	})
}

// What may be the beginning of a find waits until more comes, or half a second
// has gone, and then goes on.
func TestStreamsHoldBack(t *testing.T) {
	if engine.HoldBack != mask.HoldBack {
		t.Errorf("%s and %s", engine.HoldBack, mask.HoldBack)
	}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, masked)
		w.streams("s1", engine.Request{}, func(_ context.Context, _ *gate, x engine.Exchange) {
			s := x.Stream(engine.Stdout)
			got, _ := s.Write([]byte("to somebody@co"))
			if len(got) > 0 || !s.Held() {
				t.Errorf("%q goes on at once", got)
			}
			if got, _ := s.Flush(); string(got) != "to " || !s.Held() {
				t.Errorf("%q goes on when nothing follows", got)
			}
			flushes := 0
			for ; s.Held() && flushes < 1000; flushes++ {
				got, _ = s.Flush()
			}
			if string(got) != "somebody@co" || flushes < 10 || flushes > 50 {
				t.Errorf("%q goes on after %d more", got, flushes)
			}
			x.End(engine.Outcome{})
		}).ends()
		if got := w.streamed("s1"); got["stdout"] != "to somebody@co" {
			t.Errorf("on record: %q", got)
		}
	})
}

// Which input is on record is configured. A line is there before it goes on, and
// the beginning of one when nothing follows for half a second, or in the end.
func TestStreamsOfInput(t *testing.T) {
	for _, tt := range []struct{ input, typed, terminal, want bool }{
		{true, false, false, true},
		{true, false, true, false},
		{true, true, true, true},
		{false, false, false, false},
		{false, false, true, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, masked, func(s *Setup) { s.Input, s.Typed, s.Results = tt.input, tt.typed, false })
			end := "\n"
			if tt.terminal {
				end = "\r"
			}
			w.streams("s1", engine.Request{}, func(_ context.Context, _ *gate, x engine.Exchange) {
				if tt.terminal {
					x.Terminal(engine.Terminal{})
				}
				s, out := x.Stream(engine.Stdin), x.Stream(engine.Stdout)
				out.Write([]byte("not on record\n"))
				on := func(when, want string) {
					t.Helper()
					if got := w.streamed("s1")["stdin"]; tt.want && got != want {
						t.Errorf("%+v: %s on record: %q", tt, when, got)
					}
				}
				for key := range slices.Chunk([]byte("mail somebody@corp.example"+end+"ls"), 1) {
					if got, d := s.Write(key); !bytes.Equal(got, key) || d != nil {
						t.Errorf("%q, %v", got, d)
					}
					if bytes.Equal(key, []byte(end)) {
						on("the line is not", "mail redacted-email"+end)
					}
				}
				on("half a line is", "mail redacted-email"+end)
				for range patience {
					s.Flush()
				}
				on("half a line is after a while not", "mail redacted-email"+end+"ls")
				s.Write([]byte(" a"))
				x.End(engine.Outcome{})
			}).ends()
			got := w.streamed("s1")
			if tt.want && (len(got) != 1 || got["stdin"] != "mail redacted-email"+end+"ls a") || !tt.want && len(got) != 0 {
				t.Errorf("%+v: on record is %q", tt, got)
			}
		})
	}
}

// Not a byte of a piece that is over the budget goes on, nor anything after it.
func TestStreamsBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, budgeted(hourly(budget.Amounts{budget.Bytes: 25}, nil)))
		w.streams("s1", engine.Request{}, func(_ context.Context, _ *gate, x engine.Exchange) {
			out, errs := x.Stream(engine.Stdout), x.Stream(engine.Stderr)
			for i, s := range []engine.Stream{out, errs, out} {
				if got, d := s.Write([]byte("ten bytes\n")); d == nil != (i < 2) || d == nil != (string(got) == "ten bytes\n") {
					t.Errorf("piece %d: %q, %v", i, got, d)
				}
			}
			for name, f := range map[string]func() ([]byte, *engine.Denial){
				"write": func() ([]byte, *engine.Denial) { return out.Write([]byte("x\n")) }, "flush": out.Flush, "close": out.Close,
			} {
				if got, d := f(); len(got) > 0 || d == nil || d.Code != engine.Exhausted {
					t.Errorf("%s after a denial: %q, %v", name, got, d)
				}
			}
			if out.Held() {
				t.Error("something is held after a denial")
			}
			x.End(engine.Outcome{Status: engine.Failed})
		}).ends()
		if got := w.streamed("s1"); got["stdout"] != "ten bytes\n" || got["stderr"] != "ten bytes\n" {
			t.Errorf("on record: %q", got)
		}
		if !slices.Contains(w.events("s1"), "denial 1 budget budget hourly") {
			t.Error("the denial is not on record")
		}
	})
}

// What cannot be put on record goes nowhere, up or down, and ends the session.
func TestStreamsUnrecorded(t *testing.T) {
	for _, kind := range []engine.StreamKind{engine.Stdin, engine.Stdout} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorldWith(t, record.Options{AgentBytes: 128 << 10}, func(s *Setup) { s.Input = true })
			passed := 0
			c := w.streams("s1", engine.Request{}, func(ctx context.Context, _ *gate, x engine.Exchange) {
				s := x.Stream(kind)
				for range 1000 {
					got, d := s.Write(bytes.Repeat([]byte("v"), 1000))
					if d == nil {
						passed += len(got)
						continue
					}
					if d.Code != engine.Unavailable || len(got) > 0 {
						t.Errorf("%q, %v", got, d)
					}
					break
				}
				if got, d := s.Write([]byte("x")); len(got) > 0 || d == nil {
					t.Errorf("after it: %q, %v", got, d)
				}
				if d := new(engine.Denial); !errors.As(context.Cause(ctx), &d) || d.Code != engine.Unavailable {
					t.Error("the session goes on:", context.Cause(ctx))
				}
				x.End(engine.Outcome{Status: engine.Broken})
			})
			c.hears("bye unavailable the request cannot be put on record, so it was not sent")
			c.ends()
			if got := len(w.streamed("s1")[kind.String()]); got != passed || passed == 0 {
				t.Errorf("%s: %d bytes went on, %d are on record", kind, passed, got)
			}
		})
	}
}

// What is done to files is on record without what is to be masked in their names.
func TestFilesOnRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, masked)
		w.streams("s1", engine.Request{}, func(_ context.Context, _ *gate, x engine.Exchange) {
			x.File(engine.File{Verb: "file-rename", Path: "/home/somebody@corp.example", To: "/srv/b", Bytes: 7, Error: "no somebody@corp.example"})
			x.End(engine.Outcome{})
		}).ends()
		r, err := recording.Open(w.path("s1"))
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		for {
			e, err := r.Next()
			if err != nil {
				t.Fatal("no file: ", err)
			}
			if f, ok := e.Body.(*recording.File); ok {
				if got := fmt.Sprint(f.Request, f.Verb, f.Path, f.To, f.Bytes, f.Error); got != "1file-rename/home/redacted-email/srv/b7no redacted-email" {
					t.Error(got)
				}
				return
			}
		}
	})
}
