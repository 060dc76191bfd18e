package oidc

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strconv"
	"unicode/utf8"
)

const (
	// maxDepth bounds how deep claims are nested: real ones are four deep.
	maxDepth = 16
	// maxMembers bounds members and elements in all; a token of maxToken bytes
	// cannot have more that mean anything.
	maxMembers = 4096
)

var errJSON = errors.New("not a JSON object, or one with a name twice")

// object reads a JSON object. encoding/json takes the last of two members with
// one name, takes names in another case for the same, and replaces what is not
// UTF-8; parsers that disagree about a token are how checks are evaded, so here
// the first is refused, the second is another name, and the third is refused.
// Whole numbers are int64, others float64.
func object(text []byte) (map[string]any, error) {
	if !utf8.Valid(text) {
		return nil, errJSON
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	r := reader{d, 0}
	value, err := r.value(0)
	if err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errJSON
	}
	m, ok := value.(map[string]any)
	if !ok {
		return nil, errJSON
	}
	return m, nil
}

type reader struct {
	*json.Decoder
	members int
}

func (r *reader) value(depth int) (any, error) {
	r.members++
	t, err := r.Token()
	if err != nil || depth > maxDepth || r.members > maxMembers {
		return nil, errJSON
	}
	switch t := t.(type) {
	case json.Delim:
		if t == '{' {
			return r.object(depth)
		}
		return r.list(depth)
	case json.Number:
		return number(t)
	default:
		return t, nil
	}
}

func (r *reader) object(depth int) (any, error) {
	out := map[string]any{}
	for r.More() {
		t, err := r.Token()
		name, ok := t.(string)
		if err != nil || !ok {
			return nil, errJSON
		}
		if _, twice := out[name]; twice {
			return nil, errJSON
		}
		if out[name], err = r.value(depth + 1); err != nil {
			return nil, err
		}
	}
	return out, r.end()
}

func (r *reader) list(depth int) (any, error) {
	out := []any{}
	for r.More() {
		v, err := r.value(depth + 1)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, r.end()
}

// end takes the bracket that More has seen.
func (r *reader) end() error {
	if _, err := r.Token(); err != nil {
		return errJSON
	}
	return nil
}

func number(n json.Number) (any, error) {
	if i, err := strconv.ParseInt(n.String(), 10, 64); err == nil {
		return i, nil
	}
	f, err := n.Float64()
	if err != nil {
		return nil, errJSON
	}
	return f, nil
}
