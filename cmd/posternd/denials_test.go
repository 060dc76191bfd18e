package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern/postern/internal/redirect"
)

// page is what a log is written to.
type page struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (p *page) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.Write(b)
}

// take returns what was written since the last call.
func (p *page) take() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	text := strings.TrimSpace(p.text.String())
	p.text.Reset()
	return text
}

// denialsLog is denials that run, in a bubble, and what they write.
func denialsLog(t *testing.T) (d *denials, lines func() []string) {
	t.Helper()
	var out page
	d = newDenials(slog.New(slog.NewTextHandler(&out, nil)), func(cgroup uint64) string { return fmt.Sprintf("agent-%d", cgroup) })
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		d.Run(ctx)
	}()
	t.Cleanup(func() { stop(); <-done })
	return d, func() []string {
		synctest.Wait()
		text := out.take()
		if text == "" {
			return nil
		}
		return strings.Split(text, "\n")
	}
}

func udpTo(agent uint64, to string) redirect.Event {
	return redirect.Event{Kind: redirect.UDP, PolicyCgroupID: agent, Remote: netip.MustParseAddrPort(to), TGID: 7, Comm: "x"}
}

// TestDenialsAreToldOncePerWindow: the first at once, the others as a number.
func TestDenialsAreToldOncePerWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, lines := denialsLog(t)
		for range 50 {
			d.hear(udpTo(1, "203.0.113.7:443"))
		}
		if got := lines(); len(got) != 1 || strings.Contains(got[0], "suppressed") || !strings.Contains(got[0], "kind=udp agent=agent-1 to=203.0.113.7:443") {
			t.Fatalf("%q", got)
		}
		time.Sleep(2 * denialWindow)
		if got := lines(); len(got) != 1 || !strings.Contains(got[0], "suppressed=49") || !strings.Contains(got[0], "agent=agent-1 to=203.0.113.7:443") {
			t.Fatalf("%q", got)
		}
		time.Sleep(2 * denialWindow)
		if got := lines(); got != nil {
			t.Errorf("told again: %q", got)
		}
		d.hear(udpTo(1, "203.0.113.7:443"))
		if got := lines(); len(got) != 1 || strings.Contains(got[0], "suppressed") {
			t.Errorf("a window later: %q", got)
		}
	})
}

// TestOtherDenialsAreTold: another agent, kind or destination is no repetition.
func TestOtherDenialsAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, lines := denialsLog(t)
		bind := udpTo(1, "203.0.113.7:443")
		bind.Kind = redirect.Bind
		for _, e := range []redirect.Event{udpTo(1, "203.0.113.7:443"), udpTo(2, "203.0.113.7:443"), udpTo(1, "203.0.113.7:444"), udpTo(1, "203.0.113.8:443"), bind} {
			d.hear(e)
		}
		if got := lines(); len(got) != 5 {
			t.Errorf("%q", got)
		}
		time.Sleep(2 * denialWindow)
		if got := lines(); got != nil {
			t.Errorf("nothing was suppressed: %q", got)
		}
	})
}

// TestDenialsAreBounded: who goes everywhere is told in full, and takes no more
// room than the limit.
func TestDenialsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, lines := denialsLog(t)
		const tries = 3 * maxDenials
		for i := range tries {
			d.hear(udpTo(1, netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, 113, 7}), uint16(i)).String()))
		}
		if n := len(lines()); n != tries || len(d.seen) > maxDenials {
			t.Errorf("%d lines, %d remembered", n, len(d.seen))
		}
	})
}

// TestEndTellsTheSuppressed: a daemon that stops keeps no number to itself.
func TestEndTellsTheSuppressed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		d := newDenials(slog.New(slog.NewTextHandler(&out, nil)), func(uint64) string { return "a" })
		d.hear(udpTo(1, "203.0.113.7:443"))
		d.hear(udpTo(1, "203.0.113.7:443"))
		ctx, stop := context.WithCancel(t.Context())
		stop()
		d.Run(ctx)
		if !strings.Contains(out.String(), "suppressed=1") {
			t.Errorf("%s", &out)
		}
	})
}

// TestBrokenGlassIsToldInFull: what went past the gateway is never a number.
func TestBrokenGlassIsToldInFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, lines := denialsLog(t)
		e := udpTo(1, "203.0.113.7:443")
		e.Kind = redirect.Glass
		d.hear(e)
		d.hear(e)
		if got := lines(); len(got) != 2 {
			t.Errorf("%q", got)
		}
	})
}
