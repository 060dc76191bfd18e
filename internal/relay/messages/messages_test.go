package messages

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/wire"
	"github.com/postern/postern/internal/wiretest"
)

// person decides requests that begin with "wait", when the test says so.
type person struct {
	say  func() chan error // made in the bubble
	left error             // the cause with which a wait ended
}

func (p *person) decide(ctx context.Context, r *engine.Request) error {
	if strings.HasPrefix(r.Text, "deny") {
		return &engine.Denial{Rule: "no", Reason: "no " + r.Text}
	}
	if !strings.HasPrefix(r.Text, "wait") {
		return nil
	}
	r.Pending(engine.Pending{ID: "a1", Rule: "ask"})
	select {
	case err := <-p.say():
		return err
	case <-ctx.Done():
		p.left = context.Cause(ctx)
		return &engine.Denial{Code: engine.Cancelled, Reason: p.left.Error()}
	}
}

func asking() (*person, *wiretest.Gate) {
	p := &person{say: sync.OnceValue(func() chan error { return make(chan error) })}
	return p, &wiretest.Gate{Decide: p.decide, Waits: func(r *engine.Request) bool { return strings.HasPrefix(r.Text, "wait") }}
}

func TestAllowedRequestAndItsAnswer(t *testing.T) {
	_, gate := asking()
	play(t, gate, func(s *wiretest.Session, _ *Session, _ *toy) {
		s.Client.Trickle(line("ask one"))
		s.Upstream().Hear(line("ask one"))
		s.Upstream().Trickle(line("answer"))
		s.Client.Hear(line("answer"))
		gate.Saw(t, `submit ask "one"`, `end "one" ok "answer" rows=0`)
	})
}

func TestDeniedRequestStaysHere(t *testing.T) {
	_, gate := asking()
	play(t, gate, func(s *wiretest.Session, _ *Session, _ *toy) {
		s.Client.Say(line("ask deny it"))
		s.Client.Hear(line("denied: no deny it"))
		s.Upstream().HearNothing()
		s.Client.Say(line("ask two"))
		s.Upstream().Hear(line("ask two"))
		gate.Saw(t, `submit ask "deny it"`, "denied", `submit ask "two"`)
	})
}

// An error of the gate that is no denial is ours: nothing goes on after it.
func TestGateErrorEndsTheSession(t *testing.T) {
	broken := errors.New("disk full")
	gate := &wiretest.Gate{Decide: func(context.Context, *engine.Request) error { return broken }}
	play(t, gate, func(s *wiretest.Session, _ *Session, codec *toy) {
		s.Client.Say(line("ask one"), line("ask two"))
		s.Client.Gone()
		s.Upstream().HearNothing()
		s.Upstream().Gone()
		if _, err := s.End(); !errors.Is(err, broken) || !codec.broken {
			t.Errorf("%v, broken %t", err, codec.broken)
		}
		gate.Saw(t, `submit ask "one"`, "denied")
	})
}

func TestRequestThatIsNotUnderstoodIsRecordedAndRefused(t *testing.T) {
	_, gate := asking()
	play(t, gate, func(s *wiretest.Session, _ *Session, _ *toy) {
		s.Client.Say(line("ask riddle"))
		s.Client.Hear(line("denied: not understood"))
		s.Upstream().HearNothing()
		gate.Saw(t, `submit ask "riddle"`, "refused")
	})
}

func TestPrepareIsNotSubmitted(t *testing.T) {
	gate := &wiretest.Gate{Sure: func(r *engine.Request) *engine.Denial {
		if r.Text == "drop" {
			return &engine.Denial{Reason: "never"}
		}
		return nil
	}}
	play(t, gate, func(s *wiretest.Session, _ *Session, _ *toy) {
		s.Client.Say(line("prep one"), line("prep drop"))
		s.Upstream().Hear(line("prep one"))
		s.Client.Hear(line("denied: never"))
		gate.Saw(t, `would prep "one"`, `would prep "drop"`)
	})
}

func TestDenialsComeInOrder(t *testing.T) {
	_, gate := asking()
	play(t, gate, func(s *wiretest.Session, _ *Session, codec *toy) {
		s.Client.Say(line("ask deny 1"), line("ask 2"), line("ask deny 3"), line("ask deny 4"))
		s.Client.Hear(line("denied: no deny 1"), line("denied: no deny 3"), line("denied: no deny 4"))
		s.Upstream().Hear(line("ask 2"))
		if got := strings.Join(codec.denied, ""); got != "ask deny 1\nask deny 3\nask deny 4\n" {
			t.Errorf("%q", got)
		}
	})
}

func TestHeldRequestIsForwardedWhenAllowed(t *testing.T) {
	p, gate := asking()
	play(t, gate, func(s *wiretest.Session, relay *Session, _ *toy) {
		s.Client.Say(line("ask 1"), line("ask wait"), line("ask 3"))
		s.Upstream().Hear(line("ask 1")) // what came before is not held up
		s.Client.Hear(line("waiting for a1"))
		s.Upstream().Say(line("answer 1"))
		s.Client.Hear(line("answer 1")) // nor is its answer
		s.Client.Say(line("ask 4"))
		s.Upstream().HearNothing()
		p.say() <- nil
		s.Upstream().Hear(line("ask wait"), line("ask 3"), line("ask 4"))
		s.Client.HearNothing()
		if relay.Withdraw() {
			t.Error("there was something to withdraw")
		}
	})
}

func TestHeldRequestDenied(t *testing.T) {
	p, gate := asking()
	play(t, gate, func(s *wiretest.Session, _ *Session, _ *toy) {
		s.Client.Say(line("ask wait"), line("ask 2"))
		s.Client.Hear(line("waiting for a1"))
		p.say() <- &engine.Denial{Code: engine.ByPerson, Reason: "denied by eve"}
		s.Client.Hear(line("denied: denied by eve"))
		s.Upstream().Hear(line("ask 2"))
	})
}

func TestHeldRequestWithdrawn(t *testing.T) {
	p, gate := asking()
	play(t, gate, func(s *wiretest.Session, relay *Session, _ *toy) {
		s.Client.Say(line("ask wait"))
		s.Client.Hear(line("waiting for a1"))
		if !relay.Withdraw() {
			t.Fatal("there was nothing to withdraw")
		}
		s.Client.Hear(line("denied: " + engine.ErrWithdrawn.Error()))
		if p.left != engine.ErrWithdrawn {
			t.Errorf("the wait ended with %v", p.left)
		}
		s.Client.Say(line("ask 2"))
		s.Upstream().Hear(line("ask 2"))
	})
}

func TestClientGoneEndsTheWait(t *testing.T) {
	p, gate := asking()
	play(t, gate, func(s *wiretest.Session, _ *Session, codec *toy) {
		s.Client.Say(line("ask wait"), line("ask 2"))
		s.Client.Hear(line("waiting for a1"))
		s.Client.HangUp()
		if p.left != engine.ErrGone {
			t.Errorf("the wait ended with %v", p.left)
		}
		if driver == wiretest.Looping { // where nothing has to be found out before it goes on
			s.Upstream().Hear(line("ask 2"))
		}
		s.Upstream().Gone()
		s.End()
		if !codec.broken {
			t.Error("the codec was not told")
		}
	})
}

func TestUpstreamGoneEndsTheWait(t *testing.T) {
	p, gate := asking()
	play(t, gate, func(s *wiretest.Session, _ *Session, _ *toy) {
		s.Client.Say(line("ask wait"))
		s.Client.Hear(line("waiting for a1"))
		s.Upstream().HangUp()
		if p.left != engine.ErrGone {
			t.Errorf("the wait ended with %v", p.left)
		}
		s.Client.Gone()
		if _, err := s.End(); err != nil {
			t.Errorf("an upstream that hung up is no error: %v", err)
		}
	})
}

// What a client sends while its request is held is read up to a limit, and
// left to its socket beyond it.
func TestReadAheadOfHeldRequestIsLimited(t *testing.T) {
	p, gate := asking()
	play(t, gate, func(s *wiretest.Session, relay *Session, _ *toy) {
		s.Client.Say(line("ask wait"))
		s.Client.Hear(line("waiting for a1"))
		much := bytes.Repeat(line("x"), wiretest.Limits.HeldBytes)
		s.Client.Say(much)
		if in, _ := relay.Client.Counters(); in > int64(wiretest.Limits.HeldBytes+len("ask wait\n")) {
			t.Errorf("read %d bytes ahead", in)
		}
		s.Upstream().HearNothing()
		p.say() <- nil
		s.Upstream().Hear(line("ask wait"), much)
	})
}

func TestInterruptedWhileHeld(t *testing.T) {
	p, gate := asking()
	play(t, gate, func(s *wiretest.Session, _ *Session, _ *toy) {
		s.Client.Say(line("ask wait"))
		s.Client.Hear(line("waiting for a1"))
		s.Interrupt(&engine.Denial{Code: engine.Ended, Reason: "reload"})
		heard := string(s.Client.Take()) // the request's own denial may come first
		if strings.ReplaceAll(heard, "denied: reload\n", "") != "goodbye: reload\n" {
			t.Errorf("%q", heard)
		}
		s.Client.Gone()
		s.Upstream().Gone()
		if p.left == nil {
			t.Error("the wait goes on")
		}
		s.End()
	})
}

// In real time: a bubble does not see through the mutex that the goodbye waits
// for, behind the write that its deadline ends.
func TestGoodbyeToClientThatDoesNotRead(t *testing.T) {
	t.Parallel()
	client, clientEnd := wiretest.Pipe()
	upstream, upstreamEnd := wiretest.Pipe()
	client.Stall(true)
	s := &Session{
		Client: wire.New(clientEnd), Upstream: wire.New(upstreamEnd), Codec: &toy{},
		Gate: &wiretest.Gate{}, Resolver: &slow{map[string]bool{}}, Limits: wiretest.Limits,
		Loop: looping(t),
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	upstream.Write(line("news"))
	cancel(&engine.Denial{Code: engine.Ended, Reason: "reload"})
	began := time.Now()
	<-done
	if took := time.Since(began); took > 2*goodbyeTimeout {
		t.Errorf("it took %s", took)
	}
}

func TestDenialOfTheProtocolIsToldAndEndsTheSession(t *testing.T) {
	_, gate := asking()
	play(t, gate, func(s *wiretest.Session, _ *Session, _ *toy) {
		s.Client.Say(line("ask 1"), line("bad"), line("ask 2"))
		s.Client.Hear(line("goodbye: bad line"))
		s.Client.Gone()
		s.Upstream().Gone()
		if d := s.Denied(); d.Code != engine.Malformed {
			t.Errorf("%v", d)
		}
		s.Upstream().HearNothing() // the unit that it was in is not sent either
	})
}

func TestClientsGoodbyeLetsLastWordsPass(t *testing.T) {
	_, gate := asking()
	play(t, gate, func(s *wiretest.Session, _ *Session, _ *toy) {
		s.Client.Say(line("bye"), line("ask not"))
		s.Upstream().Hear(line("bye"))
		s.Upstream().Say(line("farewell"))
		s.Client.Hear(line("farewell"))
		s.Upstream().HangUp()
		s.Client.Gone()
		if _, err := s.End(); err != nil {
			t.Error(err)
		}
	})
}

func TestClientsGoodbyeEndsASilentUpstream(t *testing.T) {
	_, gate := asking()
	play(t, gate, func(s *wiretest.Session, _ *Session, _ *toy) {
		s.Client.Say(line("bye"))
		s.Upstream().Hear(line("bye"))
		time.Sleep(goodbyeTimeout)
		s.Upstream().Gone()
		s.Client.Gone()
		s.End()
	})
}

// A client that says goodbye and then does not read must not hold its session.
func TestClientsGoodbyeEndsAClientThatDoesNotRead(t *testing.T) {
	_, gate := asking()
	play(t, gate, func(s *wiretest.Session, _ *Session, _ *toy) {
		s.Client.Stall(true)
		s.Upstream().Say(line("news"))
		s.Client.Say(line("bye"))
		s.Upstream().Hear(line("bye"))
		time.Sleep(goodbyeTimeout)
		s.End()
	})
}

func TestMessageLimits(t *testing.T) {
	limit := wiretest.Limits.MessageBytes
	whole := append(bytes.Repeat([]byte("x"), limit), '\n')
	for name, tt := range map[string]struct {
		message []byte
		from    func(*wiretest.Session) *wiretest.Peer
	}{
		"whole":                  {whole, func(s *wiretest.Session) *wiretest.Peer { return s.Client }},
		"announced":              {[]byte("#2000000000"), func(s *wiretest.Session) *wiretest.Peer { return s.Client }},
		"announced, by upstream": {[]byte("#2000000000"), (*wiretest.Session).Upstream},
	} {
		t.Run(name, func(t *testing.T) {
			_, gate := asking()
			play(t, gate, func(s *wiretest.Session, relay *Session, _ *toy) {
				tt.from(s).Say(tt.message)
				if got := s.Client.Take(); !bytes.HasPrefix(got, []byte("goodbye: a message of 2000000000 bytes is longer")) &&
					!bytes.HasPrefix(got, []byte("goodbye: a message of 105")) {
					t.Errorf("the client heard %q", got)
				}
				s.Upstream().HearNothing()
				if d := s.Denied(); d.Code != engine.Limit {
					t.Errorf("%v", d)
				}
			})
		})
	}
}

// A limit below what one read brings holds too.
func TestMessageLimitBelowOneRead(t *testing.T) {
	s := &Session{Codec: &toy{}, Gate: &wiretest.Gate{}, Resolver: &slow{map[string]bool{}}}
	s.Limits.MessageBytes = 10
	s.Client, _ = wiretest.Preloaded(line("0123456789"))
	if _, err := s.Client.Fill(100); err != nil {
		t.Fatal(err)
	}
	var d *engine.Denial
	if _, err := s.take(t.Context()); !errors.As(err, &d) || d.Code != engine.Limit || len(s.out.Up) > 0 {
		t.Errorf("%v, and upstream went %q", err, s.out.Up)
	}
}

// An upstream that is answering may not be reading: what the codec injects must
// not keep its answers from being read, or both sides wait for ever.
func TestInjectionDoesNotBlockAnswers(t *testing.T) {
	_, gate := asking()
	play(t, gate, func(s *wiretest.Session, _ *Session, _ *toy) {
		s.Upstream().Stall(true)
		s.Upstream().Say(line("inject"))
		s.Upstream().Say(line("answer"))
		s.Client.Hear(line("answer"))
		s.Upstream().Stall(false)
		s.Upstream().Hear(line("injected"))
	})
}

// The same with a client's request that the upstream does not read yet.
func TestStalledRequestDoesNotBlockAnswers(t *testing.T) {
	t.Parallel()
	client, upstream, done := realTime(t)
	upstream.Stall(true)
	client.Write(line("pass 1"))
	upstream.Write(line("inject"))
	upstream.Write(line("answer"))
	expect(t, client, "answer\n")
	upstream.Stall(false)
	got := make([]byte, len("pass 1\ninjected\n"))
	upstream.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.ReadFull(upstream, got); err != nil || !bytes.Contains(got, line("pass 1")) || !bytes.Contains(got, line("injected")) {
		t.Errorf("%q, %v", got, err)
	}
	client.Close()
	<-done
}

// patience is how long a test in real time waits for what should come at once.
const patience = 10 * time.Second

// realTime relays outside of a bubble, which does not see through the mutexes
// that order writes.
func realTime(t *testing.T) (client, upstream *wiretest.End, done chan error) {
	client, clientEnd := wiretest.Pipe()
	upstream, upstreamEnd := wiretest.Pipe()
	s := &Session{
		Client: wire.New(clientEnd), Upstream: wire.New(upstreamEnd), Codec: &toy{},
		Gate: &wiretest.Gate{}, Resolver: &slow{map[string]bool{}}, Limits: wiretest.Limits,
		Loop: looping(t),
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	t.Cleanup(func() { cancel(nil) })
	done = make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	return client, upstream, done
}

func expect(t *testing.T, from *wiretest.End, want string) {
	t.Helper()
	from.SetReadDeadline(time.Now().Add(patience))
	got := make([]byte, len(want))
	if _, err := io.ReadFull(from, got); string(got) != want {
		t.Fatalf("heard %q, %v", got, err)
	}
}

// A client that does not read its answers may still send: its requests do not
// wait for its answers.
func TestStalledAnswersDoNotBlockRequests(t *testing.T) {
	_, gate := asking()
	play(t, gate, func(s *wiretest.Session, _ *Session, _ *toy) {
		s.Client.Stall(true)
		s.Upstream().Say(line("answer"))
		s.Client.Say(line("pass 1"))
		s.Upstream().Hear(line("pass 1"))
		s.Client.Stall(false)
		s.Client.Hear(line("answer"))
	})
}

// What was read with the last bytes of a login is not forgotten.
func TestBufferedBytesAreTakenFirst(t *testing.T) {
	wiretest.Play(t, func(t *testing.T) {
		_, theirs := wiretest.Pipe()
		s := &Session{Codec: &toy{}, Gate: &wiretest.Gate{}, Resolver: &slow{map[string]bool{}}, Limits: wiretest.Limits, Upstream: wire.New(theirs)}
		var answered func() []byte
		s.Client, answered = wiretest.Preloaded(line("bad"))
		if _, err := s.Client.Fill(100); err != nil {
			t.Fatal(err)
		}
		var d *engine.Denial
		if err := s.Run(t.Context()); !errors.As(err, &d) {
			t.Errorf("%v", err)
		}
		if got := answered(); string(got) != "goodbye: bad line\n" {
			t.Errorf("%q", got)
		}
	})
}

// TestQuiesce: a session on which nothing is under way takes no further request.
// One whose upstream owes an answer, that waits for a person, or with an open
// transaction is not told so, and goes on.
func TestQuiesce(t *testing.T) {
	p, gate := asking()
	play(t, gate, func(s *wiretest.Session, relay *Session, _ *toy) {
		not := func(why string) {
			t.Helper()
			synctest.Wait()
			if relay.Quiesce() {
				t.Error("quiescent: " + why)
			}
		}
		s.Client.Say(line("ask one"))
		s.Upstream().Hear(line("ask one"))
		not("an answer is owed")
		s.Upstream().Say(line("answer"))
		s.Client.Hear(line("answer"))
		s.Client.Say(line("ask wait"))
		s.Client.Hear(line("waiting for a1"))
		not("a person is asked")
		p.say() <- &engine.Denial{Reason: "no"}
		s.Client.Hear(line("denied: no"))
		s.Client.Say(line("begin"))
		s.Upstream().Hear(line("begin"))
		not("a transaction is open")
		s.Client.Say(line("commit"))
		s.Upstream().Hear(line("commit"))
		synctest.Wait()
		for range 2 {
			if !relay.Quiesce() {
				t.Error("not quiescent, though nothing is under way")
			}
		}
		s.Client.Say(line("ask two"))
		s.Upstream().HearNothing()
	})
}
