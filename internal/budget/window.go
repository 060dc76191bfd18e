package budget

import "time"

// slots is how many parts a window has. What was taken leaves the window by
// parts, at most one part late and never early.
const slots = 60

// window is the counts of one budget of one agent.
type window struct {
	width   time.Duration // of a part
	latest  int64         // number of the part that is being filled
	parts   [slots + 1]Amounts
	sum     Amounts
	unsaved bool
}

func newWindow(per time.Duration) *window { return &window{width: per / slots} }

// advance drops what has left the window. A clock that goes back changes nothing.
func (w *window) advance(now time.Time) {
	number := now.UnixNano() / int64(w.width)
	if number <= w.latest {
		return
	}
	for range min(number-w.latest, int64(len(w.parts))) {
		w.latest++
		part := w.part(w.latest)
		for k, n := range part {
			w.sum[k] -= n
		}
		*part = Amounts{}
	}
	w.latest = number
}

func (w *window) part(number int64) *Amounts { return &w.parts[number%int64(len(w.parts))] }

func (w *window) add(a Amounts) {
	part := w.part(w.latest)
	for k, n := range a {
		part[k] += n
		w.sum[k] += n
	}
	w.unsaved = true
}

// frees is how long it takes until the oldest count leaves the window.
func (w *window) frees(now time.Time) time.Duration {
	for number := max(w.latest-slots, 0); number <= w.latest; number++ {
		if *w.part(number) != (Amounts{}) {
			return time.Unix(0, (number+slots+1)*int64(w.width)).Sub(now)
		}
	}
	return 0
}

// resized is w for a window of another length. What is in both is kept, and
// counts from the part on in which it was taken.
func (w *window) resized(per time.Duration, now time.Time) *window {
	out := newWindow(per)
	if out.width == w.width {
		return w
	}
	w.advance(now)
	out.advance(now)
	for number := max(w.latest-slots, 0); number <= w.latest; number++ {
		end := (number+1)*int64(w.width) - 1 // as late as it can have been
		at := min(end/int64(out.width), out.latest)
		if at < out.latest-slots {
			continue
		}
		part := out.part(at)
		for k, n := range *w.part(number) {
			part[k] += n
			out.sum[k] += n
		}
	}
	out.unsaved = true
	return out
}
