package control

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/postern/postern/pkg/control"
)

// people notes what is asked, and by whom.
func (d *daemon) people() People {
	return People{
		Issuers: func() []control.Issuer { d.call("issuers"); return []control.Issuer{{Name: "corp", Login: true}} },
		StartLogin: func(_ context.Context, by Peer, s control.LoginStart) (control.Login, error) {
			return control.Login{ID: "l1", Code: "AB-CD"}, d.call(fmt.Sprintf("login of %d at %s by %s", by.UID, s.Issuer, s.By))
		},
		WaitLogin: func(ctx context.Context, by Peer, id string) (control.Identity, error) {
			return control.Identity{Name: "alice"}, d.call(fmt.Sprintf("wait of %d for %s", by.UID, id))
		},
		FinishLogin: func(_ context.Context, by Peer, id string, a control.LoginAnswer) (control.Identity, error) {
			return control.Identity{Name: "alice"}, d.call(fmt.Sprintf("finish of %d for %s: %s %s", by.UID, id, a.State, a.Code))
		},
		Logins: func(_ context.Context, by Peer) ([]control.Identity, error) {
			return []control.Identity{{Name: "alice"}}, d.call(fmt.Sprintf("logins of %d", by.UID))
		},
		Logout: func(by Peer, issuer string) error { return d.call(fmt.Sprintf("logout of %d at %s", by.UID, issuer)) },
		AnnounceRun: func(_ context.Context, by Peer, r control.RunStart) (control.RunTicket, error) {
			return control.RunTicket{Ticket: "t"}, d.call(fmt.Sprintf("run of %d: %s %s %v", by.UID, r.Agent, r.Token, r.Allow))
		},
		RenewRun: func(_ context.Context, by Peer, run string, t control.RunToken) (control.Identity, error) {
			return control.Identity{Name: "alice"}, d.call(fmt.Sprintf("renew of %d: %s %s", by.UID, run, t.Token))
		},
		Runs: func(by Peer) []control.Run {
			d.call(fmt.Sprintf("runs of %d", by.UID))
			return []control.Run{{Name: "run-1"}}
		},
	}
}

// ofPeople asks what every user may.
func (d *daemon) ofPeople() map[string]error {
	ctx, c := d.t.Context(), d.client
	errs := map[string]error{}
	_, errs["issuers"] = c.Issuers(ctx)
	_, errs["start login"] = c.StartLogin(ctx, control.LoginStart{Issuer: "corp", By: control.LoginByDevice})
	_, errs["wait login"] = c.WaitLogin(ctx, "l/1")
	_, errs["finish login"] = c.FinishLogin(ctx, "l1", control.LoginAnswer{State: "s", Code: "c"})
	_, errs["logins"] = c.Logins(ctx)
	errs["logout"] = c.Logout(ctx, "a b")
	_, errs["announce"] = c.AnnounceRun(ctx, control.RunStart{Agent: "planner", Token: "tok", Allow: []string{"orders:select"}})
	_, errs["renew"] = c.RenewRun(ctx, "run-1", control.RunToken{Token: "tok"})
	_, errs["runs"] = c.Runs(ctx)
	return errs
}

func (d *daemon) forget() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.called = nil
}

// TestEverybodyAsksOfTheirOwn: a user who is not root is asked for by uid.
func TestEverybodyAsksOfTheirOwn(t *testing.T) {
	d := newDaemon(t)
	d.asks(Peer{PID: 7, UID: 1000, Name: "ada"}, nil)
	for what, err := range d.ofPeople() {
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	want := []string{
		"issuers", "login of 1000 at corp by device", "wait of 1000 for l/1", "finish of 1000 for l1: s c", "logins of 1000", "logout of 1000 at a b",
		"run of 1000: planner tok [orders:select]", "renew of 1000: run-1 tok", "runs of 1000",
	}
	if got := d.calls(); !slices.Equal(got, want) {
		t.Errorf("called %q", got)
	}
}

// TestTokensAreNotQuoted: what brings a token and is not understood is refused in
// words that have nothing of it.
func TestTokensAreNotQuoted(t *testing.T) {
	d := newDaemon(t)
	for _, body := range []string{`{"token":"canary-9","canary-9":1}`, `canary-9`, `{"token":canary-9}`, `{"token":"` + strings.Repeat("canary-9", maxToken) + `"}`} {
		status, answer := d.post("POST", "/v1/runs/run-1/token", body)
		if status != http.StatusBadRequest || strings.Contains(answer, "canary") {
			t.Errorf("%d %s", status, answer)
		}
	}
	if called := d.calls(); len(called) > 0 {
		t.Error("called", called)
	}
}

// TestWaitingForALogin: whoever waits asks again, however long it takes, and
// hears at once when it has failed.
func TestWaitingForALogin(t *testing.T) {
	d := newDaemon(t)
	var asked atomic.Int32
	d.server.WaitLogin = func(context.Context, Peer, string) (control.Identity, error) {
		switch asked.Add(1) {
		case 1, 2:
			return control.Identity{}, fmt.Errorf("nobody yet: %w", context.DeadlineExceeded)
		case 3:
			return control.Identity{Name: "alice"}, nil
		}
		return control.Identity{}, errors.New("it was denied")
	}
	i, err := d.client.WaitLogin(t.Context(), "l1")
	if err != nil || i.Name != "alice" {
		t.Errorf("%+v, %v", i, err)
	}
	var refused *control.Error
	if _, err := d.client.WaitLogin(t.Context(), "l1"); !errors.As(err, &refused) || refused.Detail != "it was denied" {
		t.Error(err)
	}
}
