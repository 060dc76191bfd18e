// Command guest is the init process of the virtual machines that test/kernel
// boots: it attaches the programs with internal/redirect, lets agents try the
// network, and says on the console what held. It needs nothing but a kernel.
//
// Start reading at checks. Run with the argument "agent" it is an agent, see
// agent.go.
package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/postern/postern/internal/bypass"
	"github.com/postern/postern/internal/redirect"
)

// checks run in this order; each builds on those before it.
var checks = []struct {
	name string
	run  func(*guest) error
}{
	{"loopback_up", (*guest).loopbackUp},
	{"attach", (*guest).attach},
	{"listen", (*guest).listen},
	{"connect_v4", func(g *guest) error { return g.redirected("203.0.113.7:5432") }},
	{"connect_v6", func(g *guest) error { return g.redirected("[2001:db8:7::7]:5432") }},
	{"connect_loopback", func(g *guest) error { return g.redirected("127.0.0.1:5432") }},
	{"resolve_v4", func(g *guest) error { return g.resolved("203.0.113.53:53", 0) }},
	{"resolve_v6", func(g *guest) error { return g.resolved("[2001:db8:7::53]:53", 1) }},
	{"raw_denied", func(g *guest) error { return g.denied("raw", "203.0.113.7:0") }},
	{"raw_v6_denied", func(g *guest) error { return g.denied("raw", "[2001:db8:7::7]:0") }},
	{"outside_untouched", func(*guest) error { return expect(cgroupMount, "raw", "203.0.113.7:0", "opened") }},
	{"no_policy_denied", (*guest).noPolicyDenied},
	{"gateway_port_denied", (*guest).gatewayPortDenied},
	{"modules", loadModules},
	{"instructions", (*guest).instructions},
	{"bypass", (*guest).bypass},
	{"denials_told", (*guest).denialsTold},
	{"reattach", (*guest).reattach},
	{"gateway_gone_refused", (*guest).gatewayGone},
}

// standInArg makes this program wait until it is killed.
const standInArg = "stand-in"

func main() {
	bypass.Main()
	switch {
	case len(os.Args) > 1 && os.Args[1] == standInArg:
		select {}
	case len(os.Args) > 1 && os.Args[1] == "agent":
		os.Exit(runAgent(os.Args[2:]))
	case len(os.Args) > 1 && os.Args[1] == "check":
		run()
	default:
		// Packages look at /proc before main starts, so start again with it.
		err := mountAll()
		if err == nil {
			err = unix.Exec("/proc/self/exe", []string{"init", "check"}, nil)
		}
		fmt.Printf("guest: FAIL boot %q\n", err)
	}
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		fmt.Println("power off:", err)
	}
	select {} // init must not return
}

func mountAll() error {
	for _, m := range []struct{ kind, at string }{
		{"proc", "/proc"},
		{"sysfs", "/sys"},
		{"devtmpfs", "/dev"},
		{"devpts", "/dev/pts"},
		{"tmpfs", "/tmp"},
		{"cgroup2", cgroupMount},
	} {
		if err := os.MkdirAll(m.at, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.kind, m.at, m.kind, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.at, err)
		}
	}
	return nil
}

// run prints one line for each check; after one that fails the rest would say
// nothing new.
func run() {
	var g guest
	for _, c := range checks {
		if err := c.run(&g); err != nil {
			fmt.Printf("guest: FAIL %s %q\n", c.name, err)
			return
		}
		fmt.Printf("guest: ok %s\n", c.name)
	}
	fmt.Println("guest: done")
}

const (
	cgroupMount = "/sys/fs/cgroup"
	policyID    = 7
)

// guest is what the checks share.
type guest struct {
	options  redirect.Options
	kernel   *redirect.Kernel
	listener *redirect.Listener
	other    *redirect.Listener // another agent's
	unix     []string           // sockets that the agent may reach; nil: any
}

func (g *guest) loopbackUp() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("lo: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	return nil
}

func (g *guest) attach() error {
	g.options = redirect.Options{Cgroup: cgroupMount + "/agents", MountBPFFS: true, Create: true}
	report, err := redirect.Attach(g.options)
	if err != nil {
		return err
	}
	if len(report.Optional) > 0 {
		g.unix = []string{} // none, where the kernel can hold an agent to that
	}
	if problems := redirect.Check(g.options); len(problems) > 0 || len(report.Attached) == 0 {
		return fmt.Errorf("attached %v, problems %v", report.Attached, problems)
	}
	return nil
}

func (g *guest) reattach() error {
	report, err := redirect.Attach(g.options)
	if err != nil {
		return err
	}
	if len(report.Attached) > 0 || len(report.Updated) > 0 || len(report.Kept) == 0 {
		return fmt.Errorf("attaching again is not idle: %+v", report)
	}
	return nil
}

func (g *guest) noPolicyDenied() error {
	stranger := cgroupMount + "/agents/stranger"
	if err := os.Mkdir(stranger, 0o755); err != nil {
		return err
	}
	return expect(stranger, "tcp", "203.0.113.7:5432", "EPERM")
}

func (g *guest) gatewayPortDenied() error {
	port, _, _ := g.listener.Ports()
	return g.denied("tcp", fmt.Sprintf("127.0.0.1:%d", port))
}

func (g *guest) gatewayGone() error {
	if err := g.listener.Close(); err != nil {
		return err
	}
	return expect(agentCgroup, "tcp", "203.0.113.7:5432", "ECONNREFUSED")
}

func (g *guest) denied(op, address string) error {
	return expect(agentCgroup, op, address, "EPERM")
}

// expect lets an agent try, and wants this answer.
func expect(cgroup, op, address, want string) error {
	answer, err := ask(cgroup, op, address)
	if err != nil {
		return err
	}
	if answer != want {
		return fmt.Errorf("%s %s in %s: the agent got %q, want %q", op, address, cgroup, answer, want)
	}
	return nil
}

func (g *guest) denialsTold() error {
	stats, err := g.kernel.Stats()
	if err != nil {
		return err
	}
	var missing []string
	for _, kind := range []redirect.Kind{redirect.UDP, redirect.Bind, redirect.Socket} {
		if stats[kind] == 0 {
			missing = append(missing, kind.String())
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("not counted: %s", strings.Join(missing, ", "))
	}
	return nil
}
