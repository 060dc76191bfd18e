package redirect

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/bpf"
)

// Ask is something that the kernel asks the gateway for while a connection
// waits: a listener in the agent's network namespace, or whether the upstream
// answers.
type Ask struct {
	Listener bool
	Record   Record // Token is 0 when it is for a listener
}

// Asks calls f for every ask until ctx ends, then returns ctx.Err(). Like
// Events it may run once on a host, and f must not block.
func (k *Kernel) Asks(ctx context.Context, f func(Ask)) error {
	return k.follow(ctx, bpf.PosternMapAsks, func(raw []byte) error {
		a, err := decodeAsk(raw)
		if err == nil {
			f(a)
		}
		return err
	})
}

var errAskSize = errors.New("an ask of another size than expected: are guard and daemon of one version?")

func decodeAsk(raw []byte) (Ask, error) {
	var a bpf.PosternAsk
	if len(raw) != binary.Size(a) {
		return Ask{}, errAskSize
	}
	if _, err := binary.Decode(raw, binary.NativeEndian, &a); err != nil {
		return Ask{}, fmt.Errorf("decode an ask: %w", err)
	}
	return Ask{Listener: a.What == bpf.PosternWaitWAIT_LISTENER, Record: recordOf(a.Flow)}, nil
}

// Verdict is what a connection that waits is told.
type Verdict uint32

// The verdicts. Without any a connection goes on to the gateway after 200 ms.
const (
	Go     = Verdict(bpf.PosternVerdictVERDICT_GO)     // on to the gateway
	Refuse = Verdict(bpf.PosternVerdictVERDICT_REFUSE) // ECONNREFUSED
	Wait   = Verdict(bpf.PosternVerdictVERDICT_WAIT)   // for another verdict
)

// Answer tells a connection that waits. For Wait it says how long it is to wait
// for another answer, before it goes on to the gateway: who answers may die
// meanwhile. What does not wait any more is not affected.
func (k *Kernel) Answer(token uint64, verdict Verdict, wait time.Duration) error {
	answer := bpf.PosternAnswer{Verdict: bpf.PosternVerdict(verdict)}
	if verdict == Wait {
		var now unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
			return fmt.Errorf("answer a connection: %w", err)
		}
		answer.Until = uint64(now.Nano() + wait.Nanoseconds())
	}
	if err := k.maps[bpf.PosternMapVerdicts].Put(token, answer); err != nil {
		return fmt.Errorf("answer a connection: %w", err)
	}
	return nil
}

// Remember keeps what came of a destination: connections of the policy to it
// need not wait, and with an errno they fail at once with it (EPERM before
// kernel 5.18), for as long as it holds.
func (k *Kernel) Remember(policyID uint32, to netip.AddrPort, errno syscall.Errno, holds time.Duration) error {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return fmt.Errorf("remember a destination: %w", err)
	}
	key := bpf.PosternDestinationKey{Addr: words(to.Addr()), Policy: policyID, Port: to.Port()}
	value := bpf.PosternDestination{Until: uint64(now.Nano() + holds.Nanoseconds()), Error: uint32(errno)}
	if err := k.maps[bpf.PosternMapDestinations].Put(key, value); err != nil {
		return fmt.Errorf("remember a destination: %w", err)
	}
	return nil
}
