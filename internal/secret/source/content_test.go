package source

import (
	"errors"
	"strings"
	"testing"
)

func TestPick(t *testing.T) {
	for _, c := range []struct {
		content, key, want string
		err                error
	}{
		{"whole\n", "", "whole", nil},
		{"whole\r\n", "", "whole", nil},
		{"kept\n\n", "", "kept\n", nil},
		{"\n", "", "", ErrEmpty},
		{"", "", "", ErrEmpty},
		{`{"p": "in JSON"}`, "p", "in JSON", nil},
		{"\n {\"p\": \"a\\/\\ud83d\\ude00\\u00e9\"} \n", "p", "a/\U0001F600é", nil},
		{`{"p": 0012}`, "p", "0012", nil}, // no JSON, and YAML
		{`{"p": 1e400}`, "p", "1e400", nil},
		{`{"p": 12345678901234567890123}`, "p", "12345678901234567890123", nil},
		{`{"p": true}`, "p", "true", nil},
		{`{"p": null}`, "p", "", ErrEmpty},
		{`{"p": ""}`, "p", "", ErrEmpty},
		{`{"p": "x"}`, "q", "", ErrNotFound},
		{`{"p": ["canary"]}`, "p", "", ErrMalformed},
		{`{"p": {"canary": 1}}`, "p", "", ErrMalformed},
		{"{\"p\": \"canary\xff\"}", "p", "", ErrMalformed},
		{`["canary"]`, "p", "", ErrMalformed},
		{`{"p": "canary"`, "p", "", ErrMalformed},
		{"{p: flow}", "p", "flow", nil},
		{"p: |\n  two\n  lines\n", "p", "two\nlines\n", nil},
		{"p: ~", "p", "", ErrEmpty},
	} {
		got, err := Pick([]byte(c.content), c.key)
		if string(got) != c.want || !errors.Is(err, c.err) || (err != nil && strings.Contains(err.Error(), "canary")) {
			t.Errorf("%q of %q is %q, %v, want %q, %v", c.key, c.content, got, err, c.want, c.err)
		}
	}
}
