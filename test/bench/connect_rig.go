package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/postern/postern/internal/identity"
	"github.com/postern/postern/internal/redirect"
	"github.com/postern/postern/test/servers"
)

// destination is where agents want to go when they are led elsewhere: an
// address of documentation (RFC 5737), of which only loopback knows.
const destination = "203.0.113.9:7"

// scene is one way to the echo server.
type scene struct {
	agent   *process
	between *process // nil when there is nothing
	to      string   // what the agent dials
	cgroups []string // of the agents; empty where no program sees them
	options redirect.Options
}

// stage is all scenes, side by side.
type stage struct {
	scenes     map[peer]*scene
	noRedirect error // why there is no scene with iptables
	processes  []*process
	cleanup    []func() error
}

func (s *stage) close() {
	for _, p := range s.processes {
		p.in.Close()
		p.cmd.Wait() //nolint:errcheck // it said on stderr what went wrong
	}
	for i := len(s.cleanup) - 1; i >= 0; i-- {
		if err := s.cleanup[i](); err != nil {
			fmt.Fprintln(os.Stderr, "bench: clean up:", err)
		}
	}
}

// setStage makes the scenes, in the network namespace that the caller has for
// itself; iptables gets another, for its connection tracking would cost all.
func setStage() (s *stage, err error) {
	s = &stage{scenes: map[peer]*scene{}}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if err := loopbackOnly(); err != nil {
		return s, err
	}
	_, at, err := s.start(role{Name: roleEcho})
	if err != nil {
		return s, err
	}
	agent, _, err := s.start(role{Name: roleAgent})
	if err != nil {
		return s, err
	}
	s.scenes[direct] = &scene{agent: agent, to: at}
	if err := s.proxied(viaProxy, role{Name: roleProxy, Upstream: at}); err != nil {
		return s, err
	}
	for p, agents := range map[peer]int{postern: 1, postern200: manyAgents} {
		if err := s.redirected(p, at, agents); err != nil {
			return s, fmt.Errorf("%s: %w", p, err)
		}
	}
	s.noRedirect = onOwnThread(s.iptables)
	return s, nil
}

func (s *stage) proxied(p peer, r role) error {
	between, at, err := s.start(r)
	if err != nil {
		return err
	}
	agent, _, err := s.start(role{Name: roleAgent})
	s.scenes[p] = &scene{agent: agent, between: between, to: at}
	return err
}

// redirected attaches the programs to a policy root with so many agents, each
// with a policy and a listener of its own.
func (s *stage) redirected(p peer, upstream string, agents int) error {
	mount, err := identity.CgroupMount()
	if err != nil {
		return err
	}
	root, err := os.MkdirTemp(mount, "postern-bench-")
	if err != nil {
		return err
	}
	s.cleanup = append(s.cleanup, func() error { servers.RemoveCgroups(root); return nil })
	bpffs, err := os.MkdirTemp("", "postern-bench-")
	if err != nil {
		return err
	}
	o := redirect.Options{Cgroup: root, BPFFS: bpffs, MountBPFFS: true, Foretell: true}
	s.cleanup = append(s.cleanup, func() error {
		return errors.Join(redirect.Detach(o), unix.Unmount(bpffs, unix.MNT_DETACH), os.Remove(bpffs))
	})
	if _, err := redirect.Attach(o); err != nil {
		return err
	}
	sc := &scene{to: destination, options: o}
	policies, err := sc.policies(agents)
	if err != nil {
		return err
	}
	if sc.between, _, err = s.start(role{Name: roleGateway, Upstream: upstream, Options: o, Policies: policies}); err != nil {
		return err
	}
	if sc.agent, _, err = s.start(role{Name: roleAgent}); err != nil {
		return err
	}
	s.scenes[p] = sc
	return nil
}

func (sc *scene) policies(agents int) ([]uint32, error) {
	kernel, err := redirect.OpenPinned(sc.options)
	if err != nil {
		return nil, err
	}
	defer kernel.Close()
	var policies []uint32
	for i := range agents {
		name := fmt.Sprintf("agent-%d", i)
		cgroup := filepath.Join(sc.options.Cgroup, name)
		if err := os.Mkdir(cgroup, 0o755); err != nil {
			return nil, err
		}
		id, err := identity.CgroupID(cgroup)
		if err != nil {
			return nil, err
		}
		policy := redirect.PolicyID(name)
		if err := kernel.SetPolicy(id, policy, nil); err != nil {
			return nil, err
		}
		sc.cgroups, policies = append(sc.cgroups, cgroup), append(policies, policy)
	}
	return policies, nil
}

// iptables makes the scene with REDIRECT, on a thread whose network namespace
// it changes.
func (s *stage) iptables() error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("make a network namespace: %w", err)
	}
	if err := loopbackOnly(); err != nil {
		return err
	}
	_, echo, err := s.start(role{Name: roleEcho})
	if err != nil {
		return err
	}
	between, at, err := s.start(role{Name: roleRedirect, Upstream: echo})
	if err != nil {
		return err
	}
	agent, _, err := s.start(role{Name: roleAgent})
	if err != nil {
		return err
	}
	host, port, _ := strings.Cut(destination, ":")
	_, proxy, _ := strings.Cut(at, ":")
	rule := exec.Command("iptables", "-w", "-t", "nat", "-A", "OUTPUT", "-p", "tcp", "-d", host, "--dport", port, "-j", "REDIRECT", "--to-ports", proxy)
	if out, err := rule.CombinedOutput(); err != nil {
		return fmt.Errorf("iptables REDIRECT (package iptables, kernel with nf_nat): %w: %s", err, out)
	}
	sc := &scene{agent: agent, between: between, to: destination}
	if _, err := sc.connect(work{Count: 1, Parallel: 1}); err != nil {
		return fmt.Errorf("iptables REDIRECT: %w", err)
	}
	s.scenes[viaRedirect] = sc
	return nil
}

// loopbackOnly gives the thread's network namespace loopback, with a route for
// the destination that nothing leads out of, and enough ports.
func loopbackOnly() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("start loopback: %w", err)
	}
	to := &net.IPNet{IP: net.IPv4(203, 0, 113, 0), Mask: net.CIDRMask(24, 32)}
	if err := netlink.RouteAdd(&netlink.Route{Dst: to, LinkIndex: lo.Attrs().Index, Src: net.IPv4(127, 0, 0, 1)}); err != nil {
		return fmt.Errorf("route %s to loopback: %w", to, err)
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte("10000 65000"), 0); err != nil {
		return fmt.Errorf("have enough ports: %w", err)
	}
	return nil
}

// onOwnThread runs f on a thread that ends with it.
func onOwnThread(f func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread()
		result <- f()
	}()
	return <-result
}

// process is one of this program with a role.
type process struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// start starts one in the thread's network namespace. It ends with its standard
// input; a parent-death signal would come when the thread ends already.
func (s *stage) start(r role) (p *process, address string, err error) {
	text, err := json.Marshal(r)
	if err != nil {
		return nil, "", err
	}
	p = &process{cmd: exec.Command("/proc/self/exe")}
	// The runtime's signals would interrupt an agent's system calls.
	p.cmd.Env = []string{roleEnv + "=" + string(text), "GODEBUG=asyncpreemptoff=1"}
	p.cmd.Stderr = os.Stderr
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, "", err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, "", err
	}
	p.out = bufio.NewReader(out)
	if err := p.cmd.Start(); err != nil {
		return nil, "", fmt.Errorf("start the %s: %w", r.Name, err)
	}
	s.processes = append(s.processes, p)
	if r.Name == roleAgent {
		return p, "", nil
	}
	var serving ready
	if err := p.hear(&serving); err != nil {
		return nil, "", fmt.Errorf("start the %s: %w", r.Name, err)
	}
	return p, serving.Address, nil
}

func (p *process) ask(question, answer any) error {
	text, err := json.Marshal(question)
	if err != nil {
		return err
	}
	if _, err := p.in.Write(append(text, '\n')); err != nil {
		return err
	}
	return p.hear(answer)
}

func (p *process) hear(answer any) error {
	text, err := p.out.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("a process of the benchmark ended: %w", err)
	}
	return json.Unmarshal(text, answer)
}
