package redirect

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"

	"github.com/postern/postern/bpf"
)

// Kind says why something was denied, or, in Stats only, what was let through.
type Kind uint32

// The kinds, as bpf/postern.h explains them.
const (
	NoPolicy      = Kind(bpf.PosternKindKIND_NO_POLICY)
	Socket        = Kind(bpf.PosternKindKIND_SOCKET)
	ForeignSocket = Kind(bpf.PosternKindKIND_FOREIGN_SOCKET)
	UDP           = Kind(bpf.PosternKindKIND_UDP)
	Protocol      = Kind(bpf.PosternKindKIND_PROTOCOL)
	Bind          = Kind(bpf.PosternKindKIND_BIND)
	GatewayPort   = Kind(bpf.PosternKindKIND_GATEWAY_PORT)
	Squatted      = Kind(bpf.PosternKindKIND_SQUATTED)
	NoListener    = Kind(bpf.PosternKindKIND_NO_LISTENER)
	Device        = Kind(bpf.PosternKindKIND_DEVICE)
	Egress        = Kind(bpf.PosternKindKIND_EGRESS)
	Ingress       = Kind(bpf.PosternKindKIND_INGRESS)
	Internal      = Kind(bpf.PosternKindKIND_INTERNAL)
	Flood         = Kind(bpf.PosternKindKIND_FLOOD)
	Unix          = Kind(bpf.PosternKindKIND_UNIX)
	Redirected    = Kind(bpf.PosternKindKIND_REDIRECTED)
	Resolved      = Kind(bpf.PosternKindKIND_RESOLVED)
	Loopback      = Kind(bpf.PosternKindKIND_LOOPBACK)
	TokenSent     = Kind(bpf.PosternKindKIND_TOKEN_SENT)
	TokenFailed   = Kind(bpf.PosternKindKIND_TOKEN_FAILED)
	EventsLost    = Kind(bpf.PosternKindKIND_EVENTS_LOST)
	EventsLimited = Kind(bpf.PosternKindKIND_EVENTS_LIMITED)
	UDPProbe      = Kind(bpf.PosternKindKIND_UDP_PROBE)
	Asked         = Kind(bpf.PosternKindKIND_ASKED)
	Held          = Kind(bpf.PosternKindKIND_HELD)
	Unreachable   = Kind(bpf.PosternKindKIND_UNREACHABLE)
	Glass         = Kind(bpf.PosternKindKIND_GLASS)
)

var kindNames = map[Kind]string{
	NoPolicy:      "no_policy",
	Socket:        "socket",
	ForeignSocket: "foreign_socket",
	UDP:           "udp",
	Protocol:      "protocol",
	Bind:          "bind",
	GatewayPort:   "gateway_port",
	Squatted:      "squatted",
	NoListener:    "no_listener",
	Device:        "device",
	Egress:        "egress",
	Ingress:       "ingress",
	Internal:      "internal",
	Flood:         "flood",
	Unix:          "unix",
	Redirected:    "redirected",
	Resolved:      "resolved",
	Loopback:      "loopback",
	TokenSent:     "token_sent",
	TokenFailed:   "token_failed",
	EventsLost:    "events_lost",
	EventsLimited: "events_limited",
	UDPProbe:      "udp_probe",
	Asked:         "asked",
	Held:          "held",
	Unreachable:   "unreachable",
	Glass:         "glass",
}

// String is a word fit for a metric label; the set of them is closed.
func (k Kind) String() string {
	if name, ok := kindNames[k]; ok {
		return name
	}
	return "unknown"
}

// Denied says whether the kind is a denial.
func (k Kind) Denied() bool { return k >= NoPolicy && k < Redirected }

// Event is one denial. A denied packet (Egress, Ingress) has no task: its PID
// is 0, and UID, GID and Comm say nothing.
type Event struct {
	Kind           Kind
	Time           time.Time
	CgroupID       uint64
	PolicyCgroupID uint64 // 0: none
	PolicyID       uint32 // 0: none
	Netns          uint64 // cookie; 0 for packets
	PID, TGID      uint32
	UID, GID       uint32
	Comm           string // chosen by the agent: not to be trusted
	Protocol       int    // IPPROTO_*
	Remote         netip.AddrPort
	Family         int // AF_*
}

// Events calls f for every denial, and for what broken glass let through, until
// ctx ends, then returns ctx.Err(). Only one call may run at a time on one
// host: the ring has one reader. f is called from this goroutine; while it
// works, events pile up and are then lost, which Stats counts.
func (k *Kernel) Events(ctx context.Context, f func(Event)) error {
	return k.follow(ctx, bpf.PosternMapEvents, func(raw []byte) error {
		e, err := decodeEvent(raw)
		if err == nil {
			f(e)
		}
		return err
	})
}

// follow hands every sample of a ring to f until ctx ends or f fails.
func (k *Kernel) follow(ctx context.Context, ring string, f func(raw []byte) error) error {
	reader, err := ringbuf.NewReader(k.maps[ring])
	if err != nil {
		return fmt.Errorf("read %s: %w", ring, err)
	}
	// Close is what interrupts a Read; a deadline waits for it to end.
	defer reader.Close()
	defer context.AfterFunc(ctx, func() { reader.Close() })()
	var record ringbuf.Record
	for {
		if err := reader.ReadInto(&record); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("read %s: %w", ring, err)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := f(record.RawSample); err != nil {
			return err
		}
	}
}

var errEventSize = errors.New("an event of another size than expected: are guard and daemon of one version?")

func decodeEvent(raw []byte) (Event, error) {
	var e bpf.PosternEvent
	if len(raw) != binary.Size(e) {
		return Event{}, errEventSize
	}
	if _, err := binary.Decode(raw, binary.NativeEndian, &e); err != nil {
		return Event{}, fmt.Errorf("decode an event: %w", err)
	}
	return Event{
		Kind:           Kind(e.Kind),
		Time:           monotonic(e.Time),
		CgroupID:       e.Cgroup,
		PolicyCgroupID: e.PolicyCgroup,
		PolicyID:       e.Policy,
		Netns:          e.Netns,
		PID:            e.Pid,
		TGID:           e.Tgid,
		UID:            e.Uid,
		GID:            e.Gid,
		Comm:           text(e.Comm[:]),
		Protocol:       int(e.Protocol),
		Remote:         netip.AddrPortFrom(address(e.Addr), e.Port),
		Family:         int(e.Family),
	}, nil
}

// address undoes the kernel's form: 16 bytes in network order, v4 as mapped.
func address(words [4]uint32) netip.Addr {
	var b [16]byte
	for i, w := range words {
		binary.NativeEndian.PutUint32(b[4*i:], w)
	}
	return netip.AddrFrom16(b).Unmap()
}

func words(a netip.Addr) (w [4]uint32) {
	b := a.As16()
	for i := range w {
		w[i] = binary.NativeEndian.Uint32(b[4*i:])
	}
	return w
}

func text(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}

// monotonic turns a reading of CLOCK_MONOTONIC into the time of day.
func monotonic(ns uint64) time.Time {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return time.Now()
	}
	return time.Now().Add(time.Duration(int64(ns) - now.Nano()))
}
