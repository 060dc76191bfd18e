package postgres

import (
	"errors"
	"io"
	"testing"

	"github.com/postern/postern/internal/engine"
)

// TestRefusedIsADenial: a session whose upstream cannot be had ends with a
// denial, for its record and the metrics, and with the reason, for the log.
func TestRefusedIsADenial(t *testing.T) {
	var d *engine.Denial
	err := refusal(io.ErrUnexpectedEOF)
	if !errors.As(err, &d) || d.Code != engine.Unavailable || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
	limit := &engine.Denial{Code: engine.Limit, Reason: "too many"}
	if err := refusal(limit); err != error(limit) {
		t.Error(err)
	}
}
