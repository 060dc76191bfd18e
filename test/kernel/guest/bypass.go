package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/internal/bypass"
	"github.com/postern/postern/internal/bypass/outside"
	"github.com/postern/postern/internal/identity"
	"github.com/postern/postern/internal/redirect"
)

// modulesDir is where the initrd has the modules of this kernel.
const modulesDir = "/modules"

// otherPolicy is another agent's, for whoever wants what is not his.
const otherPolicy = 8

// loadModules loads what this kernel has of the list that fetch knows, in
// rounds, because some need others. Without a cable there is no outside.
func loadModules(*guest) error {
	files, err := filepath.Glob(modulesDir + "/*.ko")
	if err != nil {
		return err
	}
	for again := true; again; {
		again = false
		for i, file := range files {
			if file != "" && load(file) == nil {
				files[i], again = "", true
			}
		}
	}
	if slices.Contains(files, modulesDir+"/veth.ko") || len(files) == 0 {
		return errors.New("this kernel's module veth cannot be loaded")
	}
	return nil
}

func load(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.FinitModule(int(f.Fd()), "", 0)
}

// instructions prints how much of each program the verifier of this kernel
// looked at; the test compares it with what is on record.
func (g *guest) instructions() error {
	counts, err := redirect.Instructions()
	if err != nil {
		return err
	}
	for program, n := range counts {
		fmt.Printf("guest: instructions %s %d\n", program, n)
	}
	return nil
}

// absentHere are attempts at what only a whole installation has.
var absentHere = []string{"control-socket", "control-socket-by-another-root", "guard-socket"}

// bypass makes the list, and prints one line for each attempt.
func (g *guest) bypass() error {
	out, err := outside.Connect(outside.Options{Everything: true})
	if err != nil {
		return err
	}
	defer out.Close()
	if err := g.refuseAll(); err != nil {
		return err
	}
	judge, err := g.judge(out)
	if err != nil {
		return err
	}
	list := bypass.All()
	verdicts, err := judge.Run(context.Background(), list)
	for _, v := range verdicts {
		name := fmt.Sprintf("bypass/%s/%s", v.Attempt, v.Family)
		a := list[slices.IndexFunc(list, func(a bypass.Attempt) bool { return a.Name == v.Attempt })]
		wrong := ""
		switch {
		case v.Result == bypass.Failed:
			wrong = "not stopped, " + strings.Join(v.Frames, ", ")
		case v.Unexplained:
			wrong = fmt.Sprintf("stopped by %v, not by %v", v.By, a.Must[bypass.Redirected].By)
		case v.Result == bypass.Absent && a.Needs == "" && !slices.Contains(absentHere, a.Name):
			wrong = "not there to be tried"
		}
		if wrong != "" {
			fmt.Printf("guest: FAIL %s %q\n", name, fmt.Sprintf("it %s: %s: %s", v.Tries, wrong, v.Detail))
			continue
		}
		fmt.Printf("guest: ok %s\n", name)
	}
	return err
}

// refuseAll is a gateway that knows no target: it closes every connection and
// answers every lookup that there is no such name. The daemon's own does as
// much, for what agents are not allowed.
func (g *guest) refuseAll() error {
	if err := os.MkdirAll(cgroupMount+"/agents/other", 0o755); err != nil {
		return err
	}
	id, err := identity.CgroupID(cgroupMount + "/agents/other")
	if err != nil {
		return err
	}
	if err := g.kernel.SetPolicy(id, otherPolicy, nil); err != nil {
		return err
	}
	if g.other, err = g.kernel.Listen(otherPolicy); err != nil {
		return err
	}
	for _, l := range []*redirect.Listener{g.listener, g.other} {
		for _, tcp := range slices.Concat(l.TCP, l.DNS.TCP) {
			go hangUp(tcp)
		}
		for _, udp := range l.DNS.UDP {
			go noSuchName(udp)
		}
	}
	return nil
}

func hangUp(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		conn.Close()
	}
}

func noSuchName(resolver net.PacketConn) {
	buf := make([]byte, 512)
	for {
		n, from, err := resolver.ReadFrom(buf)
		if err != nil {
			return
		}
		if n > 4 {
			buf[2], buf[3] = 0x81, 0x83 // an answer: NXDOMAIN (RFC 1035, section 4.1.1)
			resolver.WriteTo(buf[:n], from)
		}
	}
}

func (g *guest) judge(out *outside.Outside) (*bypass.Judge, error) {
	dir := "/tmp/bypass"
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	daemon, err := standIn()
	if err != nil {
		return nil, err
	}
	status := redirect.StatusOf(g.options)
	j := &bypass.Judge{
		Tier: bypass.Redirected, UID: nobody, GID: nobody, Outside: out, Dir: dir, Unix: g.unix,
		Given: bypass.Given{
			CgroupMount: cgroupMount, OtherCgroups: []string{cgroupMount + "/agents/other"}, Pins: status.Pins, Daemon: daemon,
		},
		Gateways: func() (own, others []bypass.Ports, err error) {
			return []bypass.Ports{portsOf(g.listener)}, []bypass.Ports{portsOf(g.other)}, nil
		},
		Counts: g.kernel.Counts,
		Launch: launch,
	}
	for _, l := range status.Links {
		j.Given.Links = append(j.Given.Links, l.LinkID)
	}
	return j, nil
}

func portsOf(l *redirect.Listener) bypass.Ports {
	tcp, dnsUDP, dnsTCP := l.Ports()
	return bypass.Ports{TCP: tcp, DNSUDP: dnsUDP, DNSTCP: dnsTCP}
}

// launch starts a run as the guard does, but for its mounts.
func launch(stdin, stdout, stderr *os.File) (func() error, error) {
	cgroup, err := os.Open(agentCgroup)
	if err != nil {
		return nil, err
	}
	defer cgroup.Close()
	process, err := os.StartProcess("/proc/self/exe", []string{"agent", bypass.InsideArg}, &os.ProcAttr{
		Dir: "/", Files: []*os.File{stdin, stdout, stderr},
		Sys: &syscall.SysProcAttr{
			UseCgroupFD: true, CgroupFD: int(cgroup.Fd()), Setsid: true, Credential: &syscall.Credential{Uid: nobody, Gid: nobody},
		},
	})
	if err != nil {
		return nil, err
	}
	return func() error {
		_, err := process.Wait()
		return err
	}, nil
}

// standIn is a process of root's that goes by the daemon's name.
func standIn() (pid int, err error) {
	process, err := os.StartProcess("/proc/self/exe", []string{"posternd", standInArg}, &os.ProcAttr{
		Dir: "/", Env: []string{"SECRET=of-the-daemon"}, Files: []*os.File{nil, nil, nil},
	})
	if err != nil {
		return 0, err
	}
	return process.Pid, nil
}
