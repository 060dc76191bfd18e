package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/internal/record"
	"github.com/postern/postern/pkg/recording"
)

// A session from the greeting to the goodbye: what the client hears, what goes
// upstream and what is on record, and nothing else.
func TestSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.login("planner", "s1")
		c.asks("read a", "ok read a")
		c.asks("drop a", "denied policy nothing is dropped here (drop on a)")
		c.asks("mystery", "denied policy it cannot be told what the request would do")
		c.asks("garbled read", "denied malformed cannot be read")
		c.asks("read a", "ok read a")
		c.conn.Close()
		w.recorded("s1", "opened planner orders", "intent app",
			"request 1 read a", "verdict 1 allow reads", "outcome 1 ok",
			"request 2 drop a", "verdict 2 deny no-drops", "denial 2 policy no-drops",
			"request 3 mystery", "verdict 3 deny ", "denial 3 policy ",
			"request 4 garbled read", "verdict 4 deny ", "denial 4 malformed ",
			"request 5 read a", "verdict 5 allow reads", "outcome 5 ok",
			"end relay: the client left")
		if got := fmt.Sprint(w.lines.sent()); got != "[read a read a]" {
			t.Error("forwarded", got)
		}
	})
}

// Whoever dials the gateway without the kernel's record hears nothing, and is
// on no record.
func TestUnclaimed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.connectWith(&claimed{err: errors.New("no such flow")})
		c.ends()
		for s := range recording.Sessions(w.dir, recording.Filter{}) {
			t.Error("on record:", s)
		}
		w.counted("postern_connections_unclaimed_total", "1")
		if len(w.lines.sent()) > 0 || !strings.Contains(w.log.String(), "without a record") {
			t.Error("not said in the log:", w.log)
		}
	})
}

func TestUnknownAgentAndTarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.connect("stranger", "s1").ends()
		c := w.connectWith(&claimed{flow: engine.Flow{
			Session: "s2", Agent: "planner", Name: "elsewhere", Original: netip.MustParseAddrPort("198.18.0.9:5432"),
		}})
		c.ends()
		w.recorded("s2", "opened planner ", "denial 0 policy ", "end no target is configured for elsewhere:5432")
		// An address is a target only where the target lists it.
		w.connectWith(&claimed{flow: engine.Flow{Session: "s3", Agent: "planner", Original: netip.MustParseAddrPort("10.0.0.1:5432")}}).ends()
		w.recorded("s3", "opened planner ", "denial 0 policy ", "end no target is configured for 10.0.0.1:5432")
		w.counted("postern_connections_refused_total", "1")
	})
}

// A hundred clients that say nothing, half of them after their greeting, do not
// delay the one that does: it is served before a moment has passed.
func TestSilentClientsDelayNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		for i := range 100 {
			c := w.connect("planner", fmt.Sprint("silent-", i))
			if i%2 == 0 {
				c.says("hello app") // and does not read the answer
			}
		}
		began := time.Now()
		for _, agent := range []string{"coder", "planner"} {
			c := w.login(agent, "quick-"+agent)
			c.asks("read a", "ok read a")
		}
		if took := time.Since(began); took != 0 {
			t.Error("the quick client waited", took)
		}
	})
}

func TestHandshakeTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		began := time.Now()
		silent := w.connect("planner", "silent")
		slow := w.connect("planner", "slow")
		slow.conn.Write([]byte("hel"))
		silent.ends()
		slow.ends()
		if took := time.Since(began); took != 10*time.Second {
			t.Error("closed after", took)
		}
		w.recorded("silent", "opened planner orders", "end greet: ")
		w.recorded("slow", "opened planner orders", "end greet: ")
		// The limit is the greeting's: a session may think for longer.
		c := w.login("planner", "s3")
		time.Sleep(time.Minute)
		c.asks("read a", "ok read a")
	})
}

func TestLimitOfSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(s *Setup) { s.Limits.Sessions, s.Limits.SessionsPerAgent = 3, 2 })
		first := w.login("planner", "s1")
		w.login("planner", "s2")
		w.connect("planner", "s3").ends()
		w.login("coder", "s4")
		w.connect("coder", "s5").ends() // the host's limit
		first.conn.Close()
		synctest.Wait()
		c := w.login("planner", "s6")
		c.asks("read a", "ok read a")
		w.counted("postern_connections_refused_total", "2")
		w.counted(`postern_sessions_active{agent="planner",protocol="lines",target="orders"}`, "2")
	})
}

// A panic ends its session, on record, and no other.
func TestPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		other := w.login("planner", "other")
		greeting := w.connect("planner", "s1")
		greeting.says("panic")
		greeting.ends()
		relay := w.login("planner", "s2")
		relay.says("panic")
		relay.ends()
		w.recorded("s1", "opened planner orders", "end panic: in the greeting")
		w.recorded("s2", "opened planner orders", "intent app", "end panic: in the relay")
		other.asks("read a", "ok read a")
		w.counted(`postern_sessions_active{agent="planner",protocol="lines",target="orders"}`, "1")
		if !strings.Contains(w.log.String(), "serve_test") && !strings.Contains(w.log.String(), "goroutine") {
			t.Error("no stack in the log")
		}
	})
}

func TestPlaceholderMisuse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.connect("planner", "s1")
		c.says("hello root")
		c.hears("who?")
		c.ends()
		w.recorded("s1", "opened planner orders", "denial 0 misuse ", "end greet: not the placeholder")
		w.counted(`postern_placeholder_misuse_total{target="orders"}`, "1")
		if len(w.lines.sent()) > 0 {
			t.Error("forwarded", w.lines.sent())
		}
	})
}

// A target for which the policy has nothing is refused in the protocol's own
// words, before anything is dialled.
func TestRefusedSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.gateway.Reload(w.setup(func(s *Setup) {
			other := rules()
			for i := range other {
				other[i].Target = "other"
			}
			s.Agents["planner"].Policy = w.policy(other...)
		}))
		c := w.connect("planner", "s1")
		c.says("hello app")
		c.hears("refused policy policy p allows nothing on target orders")
		c.ends()
		w.recorded("s1", "opened planner orders", "intent app", "denial 0 policy ", "end policy p allows nothing")
		// One that does not read the refusal is not waited for.
		began := time.Now()
		w.connect("planner", "s2").says("hello app")
		w.drained()
		if took := time.Since(began); took != 10*time.Second {
			t.Error("the session ended after", took)
		}
	})
}

// No record, no session: the connection is closed without a word.
func TestNoRecordNoSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorldWith(t, record.Options{AgentBytes: 1})
		w.connect("planner", "s1").ends()
		w.counted("postern_connections_refused_total", "1")
		if w.gateway.Running() != nil && len(w.gateway.Running()) > 0 {
			t.Error("running:", w.gateway.Running())
		}
	})
}

func TestReap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go w.gateway.Reap(ctx)
		idle, busy := w.login("planner", "idle"), w.login("planner", "busy")
		began := time.Now()
		for range 3 {
			time.Sleep(25 * time.Minute)
			busy.asks("read a", "ok read a")
			if time.Since(began) < time.Hour {
				continue
			}
			idle.hears("bye ended the session was idle for 1h0m0s")
			idle.ends()
		}
		w.recorded("idle", "opened planner orders", "intent app", "denial 0 ended ", "end relay: the session was idle")
		busy.asks("read a", "ok read a")
	})
}

// A session that waits for a person is not idle, however long that takes.
func TestReapLeavesWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(s *Setup) { s.Limits.Idle = time.Minute })
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go w.gateway.Reap(ctx)
		c := w.login("planner", "s1")
		c.asks("write a", "pending writes")
		time.Sleep(9 * time.Minute)
		w.approve("ada", "")
		c.hears("ok write a")
		c.hears("bye ended the session was idle for 1m0s")
	})
}

// Drain waits for what ends by itself, and ends the rest with a word when its
// time is over; then it takes nobody new.
func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		leaves, stays, greets := w.login("planner", "leaves"), w.login("planner", "stays"), w.connect("planner", "greets")
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		began := time.Now()
		done := make(chan struct{})
		go func() { w.gateway.Drain(ctx); close(done) }()
		synctest.Wait()
		leaves.asks("read a", "ok read a")
		leaves.conn.Close()
		stays.hears("bye ended the gateway is stopping")
		stays.ends()
		greets.ends()
		<-done
		w.connect("planner", "late").ends()
		if took := time.Since(began); took != 5*time.Second {
			t.Error("drained after", took)
		}
		w.recorded("leaves", "opened planner orders", "intent app", "request 1 read a", "verdict 1 allow reads", "outcome 1 ok", "end relay: the client left")
		w.recorded("stays", "opened planner orders", "intent app", "denial 0 ended ", "end relay: the gateway is stopping")
		w.recorded("greets", "opened planner orders", "denial 0 ended ", "end greet: the gateway is stopping")
	})
}

// TestDrainEndsWhatIsQuiescent: a session on which nothing is under way is not waited
// for, unless something just was.
func TestDrainEndsWhatIsQuiescent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var quiet atomic.Bool
		w.lines.quiesces = quiet.Load
		c := w.login("planner", "s1")
		synctest.Wait()
		began := time.Now()
		done := make(chan struct{})
		go func() { w.drained(); close(done) }()
		time.Sleep(4 * time.Second)
		c.asks("read a", "ok read a") // something is under way, and goes on
		quiet.Store(true)
		c.hears("bye ended the gateway is stopping")
		c.ends()
		<-done
		if took := time.Since(began).Round(time.Second); took != 4*time.Second+quietAfter {
			t.Error("drained after", took)
		}
	})
}

func TestDrainWithoutSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.login("planner", "s1")
		c.conn.Close()
		began := time.Now()
		w.drained()
		if took := time.Since(began); took != 0 {
			t.Error("drained after", took)
		}
	})
}

func (w *world) drained() {
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Hour)
	defer cancel()
	w.gateway.Drain(ctx)
}

// counted compares one line of what the registry exports.
func (w *world) counted(series, want string) {
	w.t.Helper()
	synctest.Wait()
	for line := range strings.Lines(w.exported()) {
		if got, ok := strings.CutPrefix(line, series+" "); ok {
			if strings.TrimSpace(got) != want {
				w.t.Errorf("%s is %swant %s", series, got, want)
			}
			return
		}
	}
	w.t.Errorf("%s is not exported", series)
}
