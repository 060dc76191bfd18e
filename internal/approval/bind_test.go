package approval

import (
	"errors"
	"reflect"
	"testing"
	"testing/synctest"

	"github.com/postern/postern/internal/engine"
)

// Whatever decides what would happen is bound: change it, and what was approved
// is not what is asked. The rest does not matter. Every field of an Ask is in
// one of the two lists.
func TestBinding(t *testing.T) {
	bound := map[string]func(*Ask){
		"Run":     func(a *Ask) { a.Run = "run-2" },
		"Agent":   func(a *Ask) { a.Agent = "coder" },
		"Target":  func(a *Ask) { a.Target = "billing" },
		"Form":    func(a *Ask) { a.Form = "execute" },
		"Text":    func(a *Ask) { a.Text += " " },
		"Params":  func(a *Ask) { a.Params = []Param{{Value: []byte("2")}} },
		"Context": func(a *Ask) { a.Context = "role=admin" },
		"Behalf":  func(a *Ask) { a.Behalf = &engine.Identity{Issuer: "corp", Subject: "1"} },

		"UIDs": func(a *Ask) { a.UIDs = []uint32{1000} },

		"Params: none":      func(a *Ask) { a.Params = nil },
		"Params: one more":  func(a *Ask) { a.Params = append(a.Params, Param{}) },
		"Params: binary":    func(a *Ask) { a.Params = []Param{{Value: []byte("1"), Binary: true}} },
		"Params: NULL":      func(a *Ask) { a.Params = []Param{{Value: []byte("1"), Null: true}} },
		"moved to the next": func(a *Ask) { a.Form, a.Text = a.Form+"D", a.Text[1:] },
		"moved to context":  func(a *Ask) { a.Params[0].Value, a.Context = nil, "1"+a.Context },

		// Not in the fingerprint, but an approval under another rule is none.
		"Rule":      func(a *Ask) { a.Rule = "other" },
		"Approvers": func(a *Ask) { a.Approvers = []string{"security"} },

		"SelfAllowed": func(a *Ask) { a.SelfAllowed = true },
	}
	free := map[string]func(*Ask){
		"Session":        func(a *Ask) { a.Session = "s2" },
		"Request":        func(a *Ask) { a.Request = 9 },
		"Effects":        func(a *Ask) { a.Effects = nil },
		"ReasonRequired": func(a *Ask) { a.ReasonRequired = true },
		"Within":         func(a *Ask) { a.Within++ },
		"ExecuteWithin":  func(a *Ask) { a.ExecuteWithin++ },
		"Notify":         func(*Ask) {},
		"Preview":        func(a *Ask) { a.Preview = &Preview{Rows: 3} }, // whoever shows one binds it by Context
	}
	fields := reflect.TypeFor[Ask]()
	for i := range fields.NumField() {
		name := fields.Field(i).Name
		if bound[name] == nil && free[name] == nil {
			t.Errorf("field %s: is it bound?", name)
		}
	}
	for name, change := range bound {
		synctest.Test(t, func(t *testing.T) { changed(t, name, change, false) })
	}
	for name, change := range free {
		synctest.Test(t, func(t *testing.T) { changed(t, name, change, true) })
	}
}

// changed approves one request and then sends another, which uses the approval
// or does not.
func changed(t *testing.T, name string, change func(*Ask), uses bool) {
	s := New(Options{})
	w := submit(t, s, anAsk())
	w.cancel(errors.New("reset"))
	w.ends()
	must(t, s.Approve(w.noticed.ID, yes))
	other := anAsk()
	change(&other)
	second := submit(t, s, other)
	select {
	case <-second.done:
		if !uses || second.err != nil {
			t.Errorf("%s changed: it went through, %v", name, second.err)
		}
	default:
		if uses {
			t.Errorf("%s changed: it waits", name)
		}
	}
}

// What people look at is what was asked, whatever the caller does to its slices
// afterwards.
func TestApprovalKeepsItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Options{})
		a := anAsk()
		submit(t, s, a)
		a.Params[0].Value[0], a.Effects[0], a.Approvers[0] = '9', "select", "nobody"
		seen := s.List()[0]
		if string(seen.Params[0].Value) != "1" || seen.Effects[0] != "delete public.orders" || seen.Approvers[0] != "dba" {
			t.Errorf("%+v", seen)
		}
	})
}
