package guard

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"

	"github.com/postern/postern/internal/config"
)

// maxPublished bounds the connections to one published port at once.
const maxPublished = 128

// publish lets the host reach ports on a run's loopback, at the same ports on
// the host's. The end of the run ends it.
func (s *Server) publish(ctx context.Context, a *config.Agent, r *Run, pid int) (stop func(), err error) {
	if len(r.Publish) == 0 {
		return func() {}, nil
	}
	ns, err := os.Open(filepath.Join("/proc", strconv.Itoa(pid), "ns/net"))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	stop = func() {
		cancel()
		running.Wait()
		ns.Close()
	}
	for _, port := range r.Publish {
		if !slices.Contains(a.Publish, port) {
			stop()
			return nil, fmt.Errorf("port %d is not among agents.publish of %s", port, a.Name)
		}
		for _, at := range []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()} {
			l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(at, uint16(port))))
			if err != nil && at.Is6() {
				continue // a host without IPv6
			}
			if err != nil {
				stop()
				return nil, fmt.Errorf("publish port %d: %w", port, err)
			}
			running.Go(func() { forward(ctx, l, ns) })
		}
	}
	return stop, nil
}

// forward carries connections to the same port on loopback inside.
func forward(ctx context.Context, l *net.TCPListener, ns *os.File) {
	defer context.AfterFunc(ctx, func() { l.Close() })()
	var running sync.WaitGroup
	defer running.Wait()
	slots := make(chan struct{}, maxPublished)
	for {
		outside, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		select {
		case slots <- struct{}{}:
		default:
			outside.Close()
			continue
		}
		running.Go(func() {
			defer func() { outside.Close(); <-slots }()
			var conn net.Conn
			err := inside(ns, func() (err error) {
				conn, err = net.Dial("tcp", l.Addr().String())
				return err
			})
			if err != nil {
				return
			}
			defer conn.Close()
			defer context.AfterFunc(ctx, func() { conn.Close(); outside.Close() })()
			both(outside.(*net.TCPConn), conn.(*net.TCPConn))
		})
	}
}

// both copies until both directions have ended.
func both(a, b *net.TCPConn) {
	var running sync.WaitGroup
	for _, pair := range [][2]*net.TCPConn{{a, b}, {b, a}} {
		running.Go(func() {
			io.Copy(pair[0], pair[1]) //nolint:errcheck // the other side has gone
			pair[0].CloseWrite()      //nolint:errcheck // it has gone
		})
	}
	running.Wait()
}
