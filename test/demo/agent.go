package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/internal/bypass/outside"
)

// agent is psql, launched by `postern run` with a placeholder and told what to
// do line by line.
type agent struct {
	demo *demo
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
	n    int
}

func startAgent(d *demo, corpCA string) (*agent, error) {
	dsn := "host=orders-db.internal port=5432 user=app dbname=orders sslmode=verify-full sslrootcert=" + corpCA
	a := &agent{demo: d, cmd: d.postern.RunIn("strict", "planner", nil, "psql", "-X", "-q", "-A", "-P", "footer=off", dsn)}
	a.cmd.Env = append(a.cmd.Env, "PGPASSWORD="+placeholder)
	var err error
	if a.in, err = a.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, in, err := os.Pipe() // one pipe for both, so that errors come in their place
	if err != nil {
		return nil, err
	}
	a.cmd.Stdout, a.cmd.Stderr = in, in
	a.out = bufio.NewReader(out)
	if err := a.cmd.Start(); err != nil {
		return nil, err
	}
	in.Close()
	return a, nil
}

// send gives psql a line; until reads its answer.
func (a *agent) send(line string) error {
	a.n++
	_, err := fmt.Fprintf(a.in, "%s\n\\echo done-%d\n", line, a.n)
	return err
}

func (a *agent) answer() (string, error) {
	end := fmt.Sprintf("done-%d", a.n)
	var text strings.Builder
	for {
		line, err := a.out.ReadString('\n')
		a.demo.heard.WriteString(line)
		if strings.TrimSpace(line) == end {
			return text.String(), nil
		}
		text.WriteString(line)
		if err != nil {
			return text.String(), fmt.Errorf("psql ended: %w", err)
		}
	}
}

// line reads one line of an answer that is not complete yet.
func (a *agent) line() (string, error) {
	line, err := a.out.ReadString('\n')
	a.demo.heard.WriteString(line)
	return line, err
}

func (a *agent) do(line string) (string, error) {
	if err := a.send(line); err != nil {
		return "", err
	}
	return a.answer()
}

func (a *agent) close() {
	a.in.Close()
	io.Copy(io.Discard, a.out) //nolint:errcheck // it ends
	a.cmd.Wait()               //nolint:errcheck // it was told to
}

// processes are those of the agent's runs.
func (d *demo) processes() ([]int, error) {
	mount, err := cgroupMount()
	if err != nil {
		return nil, err
	}
	files, err := filepath.Glob(filepath.Join(mount, d.postern.Root, "planner", "run-*", "cgroup.procs"))
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			return nil, err
		}
		for _, word := range strings.Fields(string(text)) {
			pid, err := strconv.Atoi(word)
			if err != nil {
				return nil, err
			}
			pids = append(pids, pid)
		}
	}
	if len(pids) == 0 {
		return nil, errors.New("no process of the agent was found")
	}
	return pids, nil
}

// memoryHolds says whether a process's environment or memory holds a text.
func memoryHolds(pid int, text string) (where string, err error) {
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		return "", err
	}
	if strings.Contains(string(env), text) {
		return "environ", nil
	}
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return "", err
	}
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		return "", err
	}
	defer mem.Close()
	for line := range strings.Lines(string(maps)) {
		var from, to int64
		var mode string
		if _, err := fmt.Sscanf(line, "%x-%x %s", &from, &to, &mode); err != nil || mode[0] != 'r' || strings.Contains(line, "[v") {
			continue
		}
		b := make([]byte, to-from)
		n, _ := mem.ReadAt(b, from) // a page that is gone is read as far as it goes
		if strings.Contains(string(b[:n]), text) {
			return strings.TrimSpace(line), nil
		}
	}
	return "", nil
}

// attempt is what a curious agent tries; it prints one line per attempt.
func attempt(args []string) {
	there := netip.AddrPortFrom(outside.Far4, 443).String()
	try := func(name string, f func() error) {
		err := f()
		if err == nil {
			fmt.Println(name + ": OPEN")
			return
		}
		fmt.Printf("%s: %v\n", name, errors.Unwrap(err))
	}
	for _, at := range append([]string{there}, args...) {
		try("tcp "+at, func() error { return exchange("tcp", at) })
	}
	try("udp "+there, func() error { return exchange("udp", there) })
	try("raw socket", func() error { return socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP) })
	try("packet socket", func() error { return socket(unix.AF_PACKET, unix.SOCK_RAW, 0) })
	try("icmp socket", func() error { return socket(unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_ICMP) })
}

func socket(domain, kind, protocol int) error {
	fd, err := unix.Socket(domain, kind, protocol)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	return unix.Close(fd)
}

// exchange sends a byte and wants one back.
func exchange(network, at string) error {
	conn, err := net.Dial(network, at)
	if err != nil {
		return fmt.Errorf("dial: %w", err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("x")); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	if network == "udp" {
		return nil // it left
	}
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		return fmt.Errorf("closed by the gateway: %w", err)
	}
	return nil
}
