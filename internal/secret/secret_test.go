package secret

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// A Secret, alone or inside a struct, shows its value through no formatter.
func TestSecretNeverPrints(t *testing.T) {
	const canary = "canary-7d1f0c"
	s := New([]byte(canary))
	holder := struct {
		Credential Credential
		Pointer    *Secret
		Any        any
		hidden     Secret
		deep       []map[string]Secret
	}{Credential{User: "u", Password: s}, &s, s, s, []map[string]Secret{{"k": s}}}

	var shown []string
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t", "%c"} {
		shown = append(shown, fmt.Sprintf(verb, s), fmt.Sprintf(verb, &s), fmt.Sprintf(verb, holder))
	}
	asJSON, err := json.Marshal(holder)
	if err != nil {
		t.Fatal(err)
	}
	asYAML, err := yaml.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("m", "secret", s, "holder", holder)
	slog.New(slog.NewJSONHandler(&log, nil)).Info("m", "secret", s, "holder", holder)
	shown = append(shown, string(asJSON), string(asYAML), log.String(), errors.Join(fmt.Errorf("x: %v", s)).Error())

	hex := fmt.Sprintf("%x", canary)
	decimal := strings.Trim(fmt.Sprint([]byte(canary)), "[]")
	for _, text := range shown {
		for _, form := range []string{canary, hex, strings.ToUpper(hex), decimal} {
			if strings.Contains(text, form) {
				t.Errorf("the secret shows as %q in %q", form, text)
			}
		}
	}
	if string(s.Reveal()) != canary {
		t.Error("Reveal lost the value")
	}
}

func TestEqualAndWipe(t *testing.T) {
	s := New([]byte("abc"))
	if !s.Equal([]byte("abc")) || s.Equal([]byte("abd")) || s.Equal([]byte("ab")) || s.Equal(nil) {
		t.Error("Equal is wrong")
	}
	s.Wipe()
	if !s.Equal([]byte{0, 0, 0}) {
		t.Error("Wipe left bytes behind")
	}
}

// What is lent is not overwritten here: its owner does that, however often it
// is asked, and it prints no more than any other.
func TestLent(t *testing.T) {
	bytes, wiped := []byte("canary-lent"), 0
	s := Lent(func() []byte {
		if wiped > 0 {
			return nil
		}
		return bytes
	}, func() { wiped++ })
	if string(s.Reveal()) != "canary-lent" || fmt.Sprintf("%v %x", s, s) != mask+" "+mask {
		t.Error("it shows as", fmt.Sprintf("%v", s))
	}
	s.Wipe()
	s.Wipe()
	if wiped != 2 || !s.Empty() || string(bytes) != "canary-lent" {
		t.Errorf("wiped %d times, %q", wiped, bytes)
	}
}
