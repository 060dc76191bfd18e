// Package budget counts what each agent takes of its targets within a sliding
// window, and says how much of its budgets is left. It is pure but for its
// clock, which is passed in: who is asked or denied, and in which words, is
// internal/gateway's.
//
// A Ledger holds the counts of all agents. An Account is one agent's view of it
// for one target, with the limits that hold there. Start with Account.Take.
package budget

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Kind is what is counted.
type Kind uint8

const (
	Statements Kind = iota
	Rows
	Bytes
	Writes
	kinds
)

func (k Kind) String() string { return [...]string{"statements", "rows", "bytes", "writes"}[k] }

// Amounts are counts by Kind.
type Amounts [kinds]int64

// Limit is one budget of a policy.
type Limit struct {
	Name   string
	Target string // "*": all of them together
	Per    time.Duration
	Most   Amounts // 0: as much as one likes
	AskAt  int     // percent of any amount from which on a person is asked; 0: nobody is
}

// State of a limit, or of the worst of several.
type State uint8

const (
	Free  State = iota
	Asks        // so much is used that a person decides
	Spent       // nothing is left of one amount
)

func (s State) String() string { return [...]string{"free", "ask", "deny"}[s] }

// Standing is how an agent stands with one limit.
type Standing struct {
	Limit Limit
	Index int // of Limit in those that the Account was made of
	Used  Amounts
	State State
	Kind  Kind          // that State is due to
	Frees time.Duration // until some of what is used is free again; 0 when nothing is used
}

// Left is what may still be taken of a kind.
func (s *Standing) Left(k Kind) int64 { return max(s.Limit.Most[k]-s.Used[k], 0) }

// String is for hints: what is left, of what, and when there is more.
func (s *Standing) String() string {
	var left []string
	for k := range kinds {
		if most := s.Limit.Most[k]; most > 0 {
			left = append(left, fmt.Sprintf("%s of %s %s", shown(k, s.Left(k)), shown(k, most), k))
		}
	}
	text := fmt.Sprintf("budget %s has %s left within %s", s.Limit.Name, strings.Join(left, ", "), Span(s.Limit.Per))
	if s.Frees > 0 {
		step := time.Second
		if s.Frees > 10*time.Minute {
			step = time.Minute
		}
		text += "; some of it is free again in " + Span(max(s.Frees.Round(step), step))
	}
	return text
}

// Span is d without the zeros that Go writes.
func Span(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// shown is a count as people read it; bytes in the largest unit in which it has
// two digits.
func shown(k Kind, n int64) string {
	if k != Bytes {
		return strconv.FormatInt(n, 10)
	}
	for _, u := range []struct {
		bytes int64
		name  string
	}{{1 << 30, "GiB"}, {1 << 20, "MiB"}, {1 << 10, "KiB"}} {
		if n >= u.bytes {
			return strconv.FormatFloat(float64(n)/float64(u.bytes), 'f', 1, 64) + " " + u.name
		}
	}
	return strconv.FormatInt(n, 10)
}

// state says what taking add would mean, given what is used.
func (l *Limit) state(used, add Amounts) (State, Kind) {
	worst, of := Free, Statements
	for k, most := range l.Most {
		after := used[k] + add[k]
		switch {
		case most == 0 || add[k] == 0:
		case after > most:
			return Spent, Kind(k)
		case l.AskAt > 0 && worst == Free && float64(after)*100 > float64(most)*float64(l.AskAt):
			worst, of = Asks, Kind(k)
		}
	}
	return worst, of
}
