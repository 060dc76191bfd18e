package recording

import (
	"encoding/hex"
	"encoding/json"
	"time"
	"unicode/utf8"
)

// Bytes marshals as a JSON string when it is UTF-8, and as {"base64": "…"}
// when it is not.
type Bytes []byte

func (b Bytes) MarshalJSON() ([]byte, error) {
	if utf8.Valid(b) {
		return json.Marshal(string(b))
	}
	return json.Marshal(map[string][]byte{"base64": b})
}

// MarshalText writes the hash in hex.
func (h Hash) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// MarshalJSON writes a parameter as its value, null for NULL.
func (p Param) MarshalJSON() ([]byte, error) {
	if p.Null {
		return []byte("null"), nil
	}
	return Bytes(p.Value).MarshalJSON()
}

// MarshalJSON writes rows as lists of values.
func (r *Rows) MarshalJSON() ([]byte, error) {
	rows := [][]*Bytes{}
	for values := range r.All() {
		row := make([]*Bytes, len(values))
		for i, v := range values {
			if v != nil {
				row[i] = (*Bytes)(&v)
			}
		}
		rows = append(rows, row)
	}
	return json.Marshal(struct {
		Request uint64     `json:"request"`
		Rows    [][]*Bytes `json:"rows"`
	}{r.Request, rows})
}

// MarshalJSON writes the event as one object: seq, time and event, which is the
// name of its kind, then the fields of its body.
func (e Event) MarshalJSON() ([]byte, error) {
	head, err := json.Marshal(struct {
		Seq  uint64    `json:"seq"`
		Time time.Time `json:"time"`
		Kind string    `json:"event"`
	}{e.Seq, e.Time, e.Body.Kind().String()})
	if err != nil {
		return nil, err
	}
	body, err := json.Marshal(e.Body)
	if err != nil || len(body) <= 2 {
		return head, err
	}
	return append(append(head[:len(head)-1], ','), body[1:]...), nil
}
