package main

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// probePort is where the judge tries the cable.
const probePort = 7

// sniffer counts the IPv4 frames that arrive outside, whoever listens there.
type sniffer struct {
	mu       sync.Mutex
	strange  int // not of a probe
	probes   int
	examples []string
}

// listen opens servers and the sniffer's socket in the namespace outside. A
// socket stays where its thread was when it was made, so that the rest of the
// program is the host's.
func (s *sniffer) listen() error {
	failed := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		failed <- s.listenThere()
	}()
	return <-failed
}

func (s *sniffer) listenThere() error {
	netns, err := os.Open("/run/netns/outside")
	if err != nil {
		return err
	}
	defer netns.Close()
	if err := unix.Setns(int(netns.Fd()), unix.CLONE_NEWNET); err != nil {
		return err
	}
	for _, port := range []int{443, 53, probePort} {
		l, err := net.ListenTCP("tcp4", &net.TCPAddr{Port: port})
		if err != nil {
			return err
		}
		go serve(l)
		if _, err := net.ListenUDP("udp4", &net.UDPAddr{Port: port}); err != nil {
			return err
		}
	}
	const ip = unix.ETH_P_IP<<8&0xff00 | unix.ETH_P_IP>>8 // in network order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, ip)
	if err != nil {
		return err
	}
	go s.sniff(fd)
	return nil
}

func serve(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			fmt.Println("guest: FAIL accept:", err)
			return
		}
		c.Close()
	}
}

func (s *sniffer) sniff(fd int) {
	frame := make([]byte, 2048)
	for {
		n, _, err := unix.Recvfrom(fd, frame, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			fmt.Println("guest: FAIL sniff:", err)
			return
		}
		s.count(frame[:n])
	}
}

func (s *sniffer) count(ip []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(ip) >= 20 {
		if head := int(ip[0]&15) * 4; len(ip) >= head+4 && binary.BigEndian.Uint16(ip[head+2:]) == probePort {
			s.probes++
			return
		}
	}
	s.strange++
	if len(s.examples) < 3 {
		s.examples = append(s.examples, fmt.Sprintf("%x", ip[:min(len(ip), 24)]))
	}
}

func (s *sniffer) report(when string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Printf("guest: frames when=%s strange=%d probes=%d examples=%v\n", when, s.strange, s.probes, s.examples)
}
