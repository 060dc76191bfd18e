package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strings"

	"golang.org/x/sys/unix"
)

// The outside is a network namespace with two cables: to the host, and to a
// network namespace that containers may have of their own.
const setUp = `
busybox insmod /usr/lib/postern-test/veth.ko
mkdir -p /run/tries
ip netns add outside
ip netns add box
ip link add out0 type veth peer name host0 netns outside
ip -n outside link add box0 type veth peer name eth0 netns box
ip addr add 203.0.113.1/24 dev out0
ip link set out0 up
ip -n outside addr add 203.0.113.2/24 dev host0
ip -n outside addr add 198.51.100.2/24 dev box0
ip -n outside link set host0 up
ip -n outside link set box0 up
ip -n box addr add 198.51.100.1/24 dev eth0
ip -n box link set lo up
ip -n box link set eth0 up
`

// outside makes the world outside, counts, judges, and asks for the reboot.
// The last count is made when it is stopped, after the containers were.
func outside() error {
	for _, line := range strings.Split(strings.TrimSpace(setUp), "\n") {
		words := strings.Fields(line)
		if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", line, err, out)
		}
	}
	fmt.Println("guest: boot")
	s := &sniffer{}
	if err := s.listen(); err != nil {
		return err
	}
	if err := ready(); err != nil {
		return err
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, unix.SIGTERM)
	go judge(s)
	<-stop
	s.report("final")
	return nil
}

// ready tells systemd (sd_notify(3)) that what waits for this unit may start.
func ready() error {
	c, err := net.Dial("unixgram", os.Getenv("NOTIFY_SOCKET"))
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Write([]byte("READY=1"))
	return err
}
