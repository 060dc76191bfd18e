package messages

import "fmt"

// responses copies from the upstream until it ends.
func (s *Session) responses() error {
	if err := s.Client.Flush(); err != nil {
		return fmt.Errorf("write to the client: %w", err)
	}
	for first := true; ; first = false {
		need, injected, err := s.give()
		if err != nil {
			return err
		}
		if injected {
			s.injections.Go(s.inject)
		}
		if err := s.flushDown(); err != nil {
			return err
		}
		if !first && s.rest() { // it left the loop for a reason, which an answer may have ended
			return errRest
		}
		if _, err := s.Upstream.Fill(max(need, flushBytes)); err != nil {
			return fmt.Errorf("read from the upstream: %w", err)
		}
	}
}

// inject writes what the codec asks of the upstream on its own account.
func (s *Session) inject() {
	if s.flushUp() != nil {
		s.Upstream.Close() // which ends responses, and so the session
	}
}

// give hands every whole message that is buffered to the codec. It returns how
// many bytes the next one needs, and whether the codec has something to say to
// the upstream.
func (s *Session) give() (need int, injected bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.left.response(); err != nil {
		return 0, false, err
	}
	buf, up := s.Upstream.Buffered(), len(s.out.Up)
	used := 0
	for {
		n, need, err := s.Codec.SplitResponse(buf[used:])
		if err == nil {
			err = s.within(n, need)
		}
		if err == nil && n > 0 {
			err = s.Codec.Response(&s.out, buf[used:used+n])
		}
		if n == 0 || err != nil {
			s.Upstream.Discard(used)
			return need, len(s.out.Up) > up, err
		}
		used += n
	}
}

// flush writes what is due on both sides. With nothing due it does not wait for
// a write of the other goroutine.
func (s *Session) flush() error {
	s.mu.Lock()
	up, down := len(s.out.Up) > 0, len(s.out.Down) > 0
	s.mu.Unlock()
	if up {
		if err := s.flushUp(); err != nil {
			return err
		}
	}
	if down {
		return s.flushDown()
	}
	return nil
}

// flushUp writes what is due to the upstream, in the order it became due.
func (s *Session) flushUp() error {
	s.writeUp.Lock()
	defer s.writeUp.Unlock()
	s.mu.Lock()
	up := s.out.Up
	s.out.Up, s.spare.Up = s.spare.Up[:0], nil
	s.mu.Unlock()
	var err error
	if len(up) > 0 {
		if _, err = s.Upstream.Write(up); err != nil {
			err = fmt.Errorf("write to the upstream: %w", err)
		}
	}
	s.spare.Up = shrunk(up)
	return err
}

// flushDown writes what is due to the client, in the order it became due.
func (s *Session) flushDown() error {
	s.writeDown.Lock()
	defer s.writeDown.Unlock()
	s.mu.Lock()
	down := s.out.Down
	s.out.Down, s.spare.Down = s.spare.Down[:0], nil
	s.mu.Unlock()
	var err error
	if len(down) > 0 {
		if _, err = s.Client.Write(down); err != nil {
			err = fmt.Errorf("write to the client: %w", err)
		}
	}
	s.spare.Down = shrunk(down)
	return err
}

// shrunk gives a large buffer back when little of it was needed, so that idle
// sessions stay small and streaming ones do not allocate.
func shrunk(b []byte) []byte {
	if cap(b) > 4<<10 && len(b) < cap(b)/4 {
		return nil
	}
	return b[:0]
}
