package recording

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// castOf is a parser of the format as its page has it, strict where that is.
func castOf(b []byte) (head map[string]any, events []castEvent, err error) {
	lines := bufio.NewScanner(bytes.NewReader(b))
	lines.Buffer(nil, 64<<20)
	for n := 0; lines.Scan(); n++ {
		line := lines.Bytes()
		if !utf8.Valid(line) {
			return nil, nil, fmt.Errorf("line %d is no UTF-8", n)
		}
		if n == 0 {
			if err := json.Unmarshal(line, &head); err != nil {
				return nil, nil, fmt.Errorf("head: %w", err)
			}
			term, ok := head["term"].(map[string]any)
			if head["version"] != 3.0 || !ok || !size(term["cols"]) || !size(term["rows"]) {
				return nil, nil, fmt.Errorf("the head is %s", line)
			}
			continue
		}
		var e []any
		if err := json.Unmarshal(line, &e); err != nil {
			return nil, nil, fmt.Errorf("line %d: %w", n, err)
		}
		if len(e) != 3 {
			return nil, nil, fmt.Errorf("line %d has %d elements", n, len(e))
		}
		interval, isNumber := e[0].(float64)
		code, isText := e[1].(string)
		data, isData := e[2].(string)
		if !isNumber || !isText || !isData || interval < 0 || !strings.Contains("oirmx", code) || len(code) != 1 {
			return nil, nil, fmt.Errorf("line %d is %s", n, line)
		}
		if code == "r" && !regexp.MustCompile(`^[1-9]\d{0,4}x[1-9]\d{0,4}$`).MatchString(data) || code == "x" && !regexp.MustCompile(`^\d+$`).MatchString(data) {
			return nil, nil, fmt.Errorf("line %d is %s", n, line)
		}
		events = append(events, castEvent{interval, code, data})
	}
	return head, events, lines.Err()
}

type castEvent struct {
	interval   float64
	code, data string
}

func size(v any) bool {
	n, ok := v.(float64)
	return ok && n >= 1 && n < 1<<16 && n == float64(int(n))
}

func castFrom(t *testing.T, request uint64, bodies ...Body) (map[string]any, []castEvent, error) {
	t.Helper()
	var out bytes.Buffer
	if err := Asciicast(&out, reader(t, newChain(SessionFile, 1).add(bodies...).b), request); err != nil {
		return nil, nil, err
	}
	head, events, err := castOf(out.Bytes())
	must(t, err)
	return head, events, nil
}

func TestAsciicast(t *testing.T) {
	head, events, err := castFrom(
		t, 0,
		&Opened{Session: "s1", Agent: "planner", Target: "shop"},
		&Request{ID: 1, Form: "exec", Text: "uname"},
		&Request{ID: 2, Form: "shell", Text: "shell"},
		&Terminal{Request: 2, Type: "xterm", Columns: 100, Rows: 40},
		&Stream{Request: 2, Stream: Stdout, Bytes: []byte("$ \xc3")},
		&Stream{Request: 1, Stream: Stdout, Bytes: []byte("not of this")},
		&Stream{Request: 2, Stream: Stdin, Bytes: []byte("ls\r")},
		&Stream{Request: 2, Stream: Stdout, Bytes: []byte("\xa4\xff\x1b[1m<\r\n")},
		&Terminal{Request: 1, Type: "xterm", Columns: 9, Rows: 9},
		&Terminal{Request: 2, Columns: 1 << 31, Rows: 0},
		&Denial{Request: 3, Reason: "no"},
		&Exit{Request: 2, Signal: "KILL"},
		&Stream{Request: 2, Stream: Stdout, Bytes: []byte("late \xc3")},
	)
	must(t, err)
	want := []castEvent{
		{1, "o", "$ "},
		{2, "i", "ls\r"},
		{1, "o", "ä\ufffd\x1b[1m<\r\n"},
		{2, "r", "65535x24"},
		{1, "m", "#3 denied: no"},
		{2, "o", "late "},
		{0, "o", "\ufffd"},
		{0, "x", "137"},
	}
	if fmt.Sprint(events) != fmt.Sprint(want) {
		t.Errorf("%+v\ninstead of\n%+v", events, want)
	}
	began := moment.Add(3 * time.Second).Unix()
	if term := head["term"].(map[string]any); term["cols"] != 100.0 || term["rows"] != 40.0 || term["type"] != "xterm" || head["timestamp"] != float64(began) || head["title"] != "planner on shop, session s1" || head["command"] != nil {
		t.Errorf("%v", head)
	}
}

// A command without a terminal gets one, and its lines end there as on any.
func TestAsciicastOfACommand(t *testing.T) {
	head, events, err := castFrom(
		t, 1,
		&Request{ID: 1, Form: "exec", Text: "make \xff"},
		&Stream{Request: 1, Stream: Stdout, Bytes: []byte("a\nb\r\n")},
		&Stream{Request: 1, Stream: Stderr, Bytes: []byte("no\n")},
		&Exit{Request: 1, Status: 2},
	)
	must(t, err)
	if want := []castEvent{{0, "o", "a\r\nb\r\n"}, {1, "o", "no\r\n"}, {1, "x", "2"}}; fmt.Sprint(events) != fmt.Sprint(want) {
		t.Errorf("%+v", events)
	}
	if term := head["term"].(map[string]any); term["cols"] != 80.0 || term["rows"] != 24.0 || head["command"] != "make \ufffd" {
		t.Errorf("%v", head)
	}
}

func TestAsciicastOfNothing(t *testing.T) {
	for request, want := range map[uint64]string{0: "nothing in this session", 7: "request 7"} {
		if _, _, err := castFrom(t, request, sessionKinds()...); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%d: %v", request, err)
		}
	}
}

// Times of which each is rounded still add up.
func TestAsciicastTimesAddUp(t *testing.T) {
	c := &cast{w: new(bytes.Buffer), request: 1}
	must(t, c.event(Event{Time: moment, Body: &Terminal{Request: 1, Type: "xterm", Columns: 1, Rows: 1}}))
	for n := range 10_000 {
		must(t, c.event(Event{Time: moment.Add(time.Duration(n+1) * 333_333), Body: &Stream{Request: 1, Stream: Stdout, Bytes: []byte("x")}}))
	}
	_, events, err := castOf(c.w.(*bytes.Buffer).Bytes())
	must(t, err)
	total := 0.0
	for _, e := range events {
		total += e.interval
	}
	if total < 3.33332 || total > 3.33334 {
		t.Errorf("%f seconds", total)
	}
}

func FuzzAsciicast(f *testing.F) {
	f.Add([]byte("a\xc3"), []byte("\xa4\r\n"), "shell", uint32(1), false)
	f.Fuzz(func(t *testing.T, a, b []byte, text string, size uint32, terminal bool) {
		bodies := []Body{&Request{ID: 1, Form: "exec", Text: text}}
		if terminal {
			bodies = append(bodies, &Terminal{Request: 1, Type: text, Columns: size, Rows: size})
		}
		bodies = append(bodies, &Stream{Request: 1, Stream: Stdout, Bytes: a}, &Stream{Request: 1, Stream: Stdout, Bytes: b}, &Exit{Request: 1, Signal: text})
		_, events, err := castFrom(t, 0, bodies...)
		must(t, err)
		var out strings.Builder
		for _, e := range events {
			if e.code == "o" {
				out.WriteString(e.data)
			}
		}
		all := append(bytes.Clone(a), b...)
		if terminal && utf8.Valid(all) && out.String() != string(all) {
			t.Errorf("%q became %q", all, out.String())
		}
	})
}
