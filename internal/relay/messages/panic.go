package messages

import (
	"fmt"
	"runtime/debug"
)

// Panic is what Run panics with when one of its goroutines did: the value, and
// the stack of where it happened. Whoever recovers it ends the session and
// nothing else.
type Panic struct {
	Value any
	stack []byte
}

func (p *Panic) Error() string { return fmt.Sprint(p.Value) }

// Stack is the stack of the goroutine that panicked, as text.
func (p *Panic) Stack() []byte { return p.stack }

// protected runs one direction of the session and returns its panic as an
// error, so that the other direction can be ended before Run panics with it.
func (s *Session) protected(f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &Panic{Value: v, stack: debug.Stack()}
		}
	}()
	return f()
}

// broken ends the exchanges that are still open. A codec that has panicked may
// panic again, and then the first panic is the one to be heard of.
func (s *Session) broken(cause *Panic) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if cause == nil {
		s.Codec.Broken()
		return
	}
	s.protected(func() error { s.Codec.Broken(); return nil }) //nolint:errcheck // cause comes first
}
