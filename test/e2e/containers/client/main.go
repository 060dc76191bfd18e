// Client is what an agent in a container does in these tests: it asks the
// database, measures its first lookup, and tries the ways out. It is static, for
// the container has nothing but it and busybox.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sys/unix"
)

// patience is for one attempt; what is closed is closed at once, or silent.
const patience = 1500 * time.Millisecond

func main() {
	if err := run(os.Args[1], os.Args[2:]); err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
}

func run(verb string, args []string) error {
	switch verb {
	case "query":
		return query(args[0], args[1])
	case "lookup":
		return lookup(args[0])
	case "out":
		for _, at := range args {
			network, address, _ := strings.Cut(at, "/")
			fmt.Println(at, try(network, address))
		}
		return nil
	case "listen":
		return listen(args[0])
	}
	return fmt.Errorf("%q is nothing that the client does", verb)
}

// query prints the one value that a statement answers.
func query(dsn, statement string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	var value string
	if err := conn.QueryRow(ctx, statement).Scan(&value); err != nil {
		return err
	}
	fmt.Println(value)
	return nil
}

// lookup is the first thing that the container does: one datagram, no second.
func lookup(name string) error {
	began := time.Now()
	addresses, err := net.DefaultResolver.LookupNetIP(context.Background(), "ip4", name)
	if err != nil {
		return fmt.Errorf("after %s: %w", time.Since(began), err)
	}
	fmt.Println(addresses[0], time.Since(began).Round(100*time.Microsecond))
	return nil
}

// try says what came of an attempt: "closed: why" or what a server said.
func try(network, address string) string {
	var said string
	var err error
	switch network {
	case "tcp", "udp":
		said, err = speak(network, address)
	case "socket":
		err = socket(address)
	case "frame":
		err = frame(address)
	default:
		err = errors.New("no such attempt")
	}
	if err != nil {
		return "closed: " + err.Error()
	}
	return "OPEN " + said
}

// speak sends a line and returns what comes.
func speak(network, address string) (string, error) {
	conn, err := net.DialTimeout(network, address, patience)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	if _, err := conn.Write([]byte("carried out\n")); err != nil {
		return "", err
	}
	buf := make([]byte, 512)
	n, err := conn.Read(buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

// socket makes one of a kind that agents may not have.
func socket(kind string) error {
	k, ok := map[string][3]int{
		"raw": {unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW}, "icmp": {unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP},
		"raw6": {unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_ICMPV6}, "ping": {unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_ICMP},
		"udplite": {unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_UDPLITE}, "packet": {unix.AF_PACKET, unix.SOCK_RAW, 0},
	}[kind]
	if !ok {
		return errors.New("no such socket")
	}
	fd, err := unix.Socket(k[0], k[1], k[2])
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// frame sends an Ethernet broadcast by a device, past the whole of IP.
func frame(device string) error {
	link, err := net.InterfaceByName(device)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	to := unix.SockaddrLinklayer{Ifindex: link.Index, Halen: 6, Addr: [8]byte{255, 255, 255, 255, 255, 255}}
	data := append([]byte{255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 1, 0x88, 0xb5}, strings.Repeat("carried out by a frame ", 3)...)
	return unix.Sendto(fd, data, 0, &to)
}

// listen serves on all addresses and says so to whoever comes.
func listen(port string) error {
	l, err := net.Listen("tcp", ":"+port)
	if err != nil {
		return err
	}
	fmt.Println("listening")
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		conn.Write([]byte("a container serves"))
		conn.Close()
	}
}
