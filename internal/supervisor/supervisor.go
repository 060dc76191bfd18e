// Package supervisor tells systemd, where it started the process, that it serves,
// that it ends, and for as long as it is well that it lives (sd_notify(3)).
// Without systemd it does nothing.
package supervisor

import (
	"context"
	"fmt"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// Ready says that the process serves, with a line for `systemctl status`.
func Ready(status string) error { return tell(daemon.SdNotifyReady + "\nSTATUS=" + status) }

// Status is another line for `systemctl status`.
func Status(line string) error { return tell("STATUS=" + line) }

// Stopping says that the process has begun to end.
func Stopping() error { return tell(daemon.SdNotifyStopping) }

func tell(state string) error {
	if _, err := daemon.SdNotify(false, state); err != nil {
		return fmt.Errorf("tell systemd: %w", err)
	}
	return nil
}

// Watch tells, four times per the unit's WatchdogSec, that the process lives, after
// alive has said so in time: it may fail thrice. Systemd restarts what is silent. It
// returns with ctx, and at once where nobody watches.
func Watch(ctx context.Context, alive func(context.Context) error, failed func(error)) {
	every, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		failed(fmt.Errorf("watchdog: %w", err))
	}
	if every == 0 {
		return
	}
	tick := time.NewTicker(every / 4)
	defer tick.Stop()
	for {
		within, cancel := context.WithTimeout(ctx, every/4)
		err := alive(within)
		cancel()
		if err == nil {
			err = tell(daemon.SdNotifyWatchdog)
		}
		if err != nil && ctx.Err() == nil {
			failed(err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
