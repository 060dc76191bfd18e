package oidc

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// deviceWorld is a provider with a device flow, in a bubble: its clock is time's.
func deviceWorld(t *testing.T, device map[string]any) (*Provider, *idp) {
	i := newIDP()
	i.answer("/device", func(w http.ResponseWriter, r *http.Request) {
		answerForm(w, r, &[]request{}, func(q request) map[string]any {
			if q.form.Get("client_id") != "postern" || q.form.Get("scope") != "openid email offline_access" {
				t.Errorf("the device endpoint was asked %v", q.form)
			}
			return device
		})
	})
	return open(t, i.options(t, nil)), i
}

func fresh() map[string]any {
	return map[string]any{"iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix()}
}

// script answers the token endpoint word by word, and the last one for ever; it
// returns when it was asked.
func (p *idp) script(t *testing.T, words ...string) *[]time.Duration {
	var at []time.Duration
	began := time.Now()
	p.grant(func(r request) map[string]any {
		at = append(at, time.Since(began))
		if r.form.Get("device_code") != "device-"+canary || r.form.Get("grant_type") != "urn:ietf:params:oauth:grant-type:device_code" || r.form.Get("client_id") != "postern" {
			t.Errorf("the token endpoint was asked %v", r.form)
		}
		word := words[min(len(at), len(words))-1]
		if word == "ok" {
			return tokens(good(fresh()), "refresh-"+canary)
		}
		return map[string]any{"error": word, "error_description": canary}
	})
	return &at
}

func seconds(s ...int) (out []time.Duration) {
	for _, n := range s {
		out = append(out, time.Duration(n)*time.Second)
	}
	return out
}

func TestDeviceLogin(t *testing.T) {
	rsaKey()
	for name, c := range map[string]struct {
		words []string
		at    []time.Duration
		want  error
	}{
		"granted":       {[]string{"authorization_pending", "authorization_pending", "ok"}, seconds(5, 10, 15), nil},
		"slower":        {[]string{"slow_down", "authorization_pending", "slow_down", "ok"}, seconds(5, 15, 25, 40), nil},
		"denied":        {[]string{"authorization_pending", "access_denied"}, seconds(5, 10), ErrLoginDenied},
		"expired":       {[]string{"expired_token"}, seconds(5), ErrLoginExpired},
		"unknown code":  {[]string{"invalid_grant"}, seconds(5), ErrLoginExpired},
		"wrong client":  {[]string{"invalid_client"}, seconds(5), ErrProviderDown},
		"words made up": {[]string{canary}, seconds(5), ErrProviderDown},
	} {
		synctest.Test(t, func(t *testing.T) {
			p, i := deviceWorld(t, codes())
			l, err := p.StartDevice(context.Background(), "corp", alice)
			if err != nil {
				t.Fatal(err)
			}
			if l.UserCode != "WDJB-MJHT" || l.VerificationURI != testURL+"/go" || l.VerificationURIComplete != testURL+"/go?code=WDJB-MJHT" ||
				l.Interval != 5*time.Second || !l.Expires.Equal(time.Now().Add(10*time.Minute)) {
				t.Errorf("%s: %s", name, text(l))
			}
			at := i.script(t, c.words...)
			got, err := p.WaitDevice(context.Background(), l.ID)
			if !errors.Is(err, c.want) || (err == nil) != (got.Subject == "u-1") {
				t.Errorf("%s: %s, %v", name, text(got), err)
			}
			silent(t, i, good(fresh()), err)
			if !slices.Equal(*at, c.at) {
				t.Errorf("%s: asked at %v, want %v", name, *at, c.at)
			}
			if _, err := p.WaitDevice(context.Background(), l.ID); !errors.Is(err, ErrLoginExpired) {
				t.Errorf("%s: waited for again: %v", name, err)
			}
			if _, err := p.Login(context.Background(), alice, "corp"); (err == nil) != (c.want == nil) {
				t.Errorf("%s: logged in: %v", name, err)
			}
		})
	}
}

func TestDeviceLoginExpires(t *testing.T) {
	rsaKey()
	synctest.Test(t, func(t *testing.T) {
		p, i := deviceWorld(t, codes())
		l, err := p.StartDevice(context.Background(), "corp", alice)
		if err != nil {
			t.Fatal(err)
		}
		at := i.script(t, "authorization_pending")
		began := time.Now()
		if _, err := p.WaitDevice(context.Background(), l.ID); !errors.Is(err, ErrLoginExpired) {
			t.Errorf("got %v", err)
		}
		if since := time.Since(began); since > 10*time.Minute || len(*at) > 120 {
			t.Errorf("after %s and %d questions", since, len(*at))
		}
		if len(p.pending.logins) != 0 {
			t.Error("it is remembered")
		}
	})
}

// The provider may be gone for a while; it is asked again, less often.
func TestDeviceLoginWhileDown(t *testing.T) {
	rsaKey()
	synctest.Test(t, func(t *testing.T) {
		p, i := deviceWorld(t, codes())
		l, err := p.StartDevice(context.Background(), "corp", alice)
		if err != nil {
			t.Fatal(err)
		}
		at := i.script(t, "ok")
		i.setDown(true)
		time.AfterFunc(30*time.Second, func() { i.setDown(false) })
		if _, err := p.WaitDevice(context.Background(), l.ID); err != nil {
			t.Error(err)
		}
		if !slices.Equal(*at, seconds(35)) || i.count("/token") != 3 {
			t.Errorf("answered at %v, asked %d times", *at, i.count("/token"))
		}
	})
}

// Who gives up may come back; two do not wait at once.
func TestDeviceLoginIsWaitedForAgain(t *testing.T) {
	rsaKey()
	synctest.Test(t, func(t *testing.T) {
		p, i := deviceWorld(t, codes())
		l, err := p.StartDevice(context.Background(), "corp", alice)
		if err != nil {
			t.Fatal(err)
		}
		i.script(t, "authorization_pending", "authorization_pending", "ok")
		ctx, cancel := context.WithTimeout(context.Background(), 7*time.Second)
		defer cancel()
		first := make(chan error)
		go func() {
			_, err := p.WaitDevice(ctx, l.ID)
			first <- err
		}()
		synctest.Wait()
		if _, err := p.WaitDevice(context.Background(), l.ID); !errors.Is(err, ErrLoginPending) {
			t.Errorf("a second one: %v", err)
		}
		if err := <-first; !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the one who gives up: %v", err)
		}
		if got, err := p.WaitDevice(context.Background(), l.ID); err != nil || got.Subject != "u-1" {
			t.Errorf("once more: %v", err)
		}
	})
}

// What a provider has people see and open is checked.
func TestDeviceAnswers(t *testing.T) {
	rsaKey()
	for name, c := range map[string]struct {
		field string
		value any
	}{
		"a page over HTTP":          {"verification_uri", "http://idp.example.test/go"},
		"a script":                  {"verification_uri_complete", "javascript:alert(1)"},
		"a page with control codes": {"verification_uri", testURL + "/\x1b[2J"},
		"no page":                   {"verification_uri", ""},
		"a code with control codes": {"user_code", "\x1b[2J"},
		"a long code":               {"user_code", string(make([]byte, maxUserCode+1))},
		"no code":                   {"user_code", ""},
		"no device code":            {"device_code", ""},
		"no end":                    {"expires_in", 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			device := codes()
			device[c.field] = c.value
			p, _ := deviceWorld(t, device)
			if _, err := p.StartDevice(context.Background(), "corp", alice); !errors.Is(err, ErrProviderDown) {
				t.Errorf("%s: %v", name, err)
			}
			if len(p.pending.logins) != 0 {
				t.Errorf("%s: it is pending", name)
			}
		})
	}
	for name, c := range map[string]struct {
		seconds any
		want    time.Duration
	}{"none": {nil, defaultInterval}, "negative": {-1, defaultInterval}, "an hour": {3600, maxInterval}, "seven": {7, 7 * time.Second}} {
		synctest.Test(t, func(t *testing.T) {
			device := codes()
			device["interval"], device["expires_in"] = c.seconds, 365*24*3600
			p, _ := deviceWorld(t, device)
			l, err := p.StartDevice(context.Background(), "corp", alice)
			if err != nil || l.Interval != c.want || l.Expires.After(time.Now().Add(maxDeviceTime)) {
				t.Errorf("interval %s: %s, %v", name, text(l), err)
			}
		})
	}
}

// Device logins count as pending from the first moment on.
func TestDeviceLimits(t *testing.T) {
	rsaKey()
	synctest.Test(t, func(t *testing.T) {
		p, i := deviceWorld(t, codes())
		for range maxPendingPerUID {
			if _, err := p.StartDevice(context.Background(), "corp", alice); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := p.StartDevice(context.Background(), "corp", alice); !errors.Is(err, ErrTooMany) {
			t.Errorf("one more: %v", err)
		}
		if n := i.count("/device"); n != maxPendingPerUID {
			t.Errorf("the provider was asked %d times", n)
		}
	})
}
