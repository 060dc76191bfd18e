package postgres

import (
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgproto3/v2"

	"github.com/postern/postern/internal/engine"
)

// sqlstate picks PostgreSQL's own code for a denial (Appendix A).
func sqlstate(d *engine.Denial) string {
	switch d.Code {
	case engine.Cancelled:
		return "57014" // query_canceled
	case engine.Limit:
		return "54000" // program_limit_exceeded
	case engine.Exhausted:
		return "53400" // configuration_limit_exceeded
	case engine.Unavailable:
		return "57P03" // cannot_connect_now
	case engine.Malformed:
		return "08P01" // protocol_violation
	case engine.Misuse:
		return "28P01" // invalid_password
	case engine.Ended:
		return "57P01" // admin_shutdown: pools know to connect again
	}
	return "42501" // insufficient_privilege
}

// denial is d as an ErrorResponse.
func denial(severity string, d *engine.Denial, session string) *pgproto3.ErrorResponse {
	var detail []string
	if d.Rule != "" {
		detail = append(detail, fmt.Sprintf("Decided by rule %q of the policy.", d.Rule))
	}
	if session != "" {
		detail = append(detail, "Postern session "+session+".")
	}
	return &pgproto3.ErrorResponse{
		Severity:            severity,
		SeverityUnlocalized: severity,
		Code:                sqlstate(d),
		Message:             clean("postern: " + d.Reason),
		Detail:              clean(strings.Join(detail, " ")),
		Hint:                clean(d.Help),
	}
}

// clean keeps a NUL from ending a field early.
func clean(s string) string { return strings.ReplaceAll(s, "\x00", " ") }

func appendDenial(dst []byte, d *engine.Denial, session string) []byte {
	return encode(dst, denial("ERROR", d, session))
}

func appendFatal(dst []byte, d *engine.Denial, session string) []byte {
	e := denial("FATAL", d, session)
	if d.Code == engine.ByPolicy {
		e.Code = "28000" // invalid_authorization_specification: pools know not to try again
	}
	return encode(dst, e)
}

func appendPending(dst []byte, p engine.Pending, now time.Time) []byte {
	return encode(dst, &pgproto3.NoticeResponse{
		Severity:            "NOTICE",
		SeverityUnlocalized: "NOTICE",
		Code:                "00000",
		Message:             fmt.Sprintf("postern: waiting for approval %s", p.ID),
		Detail:              fmt.Sprintf("Rule %q asks a person. It expires in %s.", p.Rule, p.DecideBy.Sub(now).Round(time.Second)),
		Hint:                clean(strings.TrimSpace(fmt.Sprintf("An operator decides with: postern approve %s\n%s", p.ID, p.Help))),
	})
}
