package bypass

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Arguments that make a program one of the processes of this package, see Main.
const (
	// InsideArg is the first process of a run: it makes the attempts it is told to
	// on its standard input.
	InsideArg  = "bypass-inside"
	attemptArg = "bypass-attempt"
	victimArg  = "bypass-victim"
)

// Main is to be called by a program before it looks at its own arguments. It
// does not return when they are this package's.
func Main() {
	if len(os.Args) < 2 {
		return
	}
	switch os.Args[1] {
	case InsideArg:
		os.Exit(inside())
	case attemptArg:
		os.Exit(attemptMain())
	case victimArg:
		os.Exit(victim())
	}
}

// Given is what an attempt knows. Everything that it sends goes to these
// addresses.
type Given struct {
	Far4, Far6, Near4, Near6 netip.Addr
	Device                   string // that leads outside
	Everything               bool   // all other addresses lead outside too
	Banner                   string // what the server outside says
	HostBanner               string // what one on this host says
	HostPort                 uint16 // where, on all addresses of this host

	Gateway, OtherGateway []Ports // of the agent, and of other agents

	CgroupMount  string // of cgroup v2
	OtherCgroups []string
	Pins         string   // folder of the pinned programs
	Links        []uint32 // their ids

	Daemon int // its process
	Victim VictimState

	Accomplice, AbstractAccomplice string // Unix sockets of the judge, by path and by name
	Control, Guard                 string // Postern's own
}

// Ports are those at which a gateway listens on loopback.
type Ports struct{ TCP, DNSTCP, DNSUDP uint16 }

// order is one attempt to be made.
type order struct {
	Attempt string
	Family  Family
	Given   Given
}

// Report is what an attempt says of itself.
type Report struct {
	Open   bool   `json:"open"`             // it got what it wanted
	Errno  string `json:"errno,omitempty"`  // such as EPERM; SIGSYS when its process was killed by that
	Detail string `json:"detail"`           // the call that ended it, and how
	Absent bool   `json:"absent,omitempty"` // there is nothing to try on this host
	Broken bool   `json:"broken,omitempty"` // it could not be made: it says nothing
}

// said is one line of the process inside.
type said struct {
	Dial   *dialRequest `json:",omitempty"`
	Report *Report      `json:",omitempty"`
}

// dialRequest asks the judge to call from outside.
type dialRequest struct {
	Network string
	At      netip.AddrPort
}

type dialAnswer struct{ Answered bool }

// try is one attempt that is being made.
type try struct {
	Given
	family Family
}

// errAbsent is wrapped when a host has nothing to try.
var errAbsent = errors.New("not on this host")

// attemptTimeout bounds one attempt. An emulated machine is slow.
const attemptTimeout = 20 * time.Second

// inside makes one attempt after the other, each in a process of its own, so
// that what one does to its process is not the next one's matter.
func inside() int {
	for {
		line, err := readLine(os.Stdin)
		if err != nil {
			return 0
		}
		var o order
		if err := json.Unmarshal(line, &o); err != nil {
			fmt.Fprintln(os.Stderr, "bypass:", err)
			return 1
		}
		a, ok := find(o.Attempt)
		if !ok {
			say(said{Report: &Report{Broken: true, Detail: "there is no such attempt: are both programs of one version?"}})
			continue
		}
		if a.first {
			r := report(a.do(&try{o.Given, o.Family}))
			say(said{Report: &r})
			continue
		}
		if r := startAttempt(a, string(line)); r != nil {
			say(said{Report: r})
		}
	}
}

// controlAttempt and a name are what is no attempt, but must work.
const controlAttempt = "control:"

func find(name string) (Attempt, bool) {
	if known, ok := strings.CutPrefix(name, controlAttempt); ok {
		return Attempt{Name: name, do: func(t *try) error { return t.resolves(known) }}, true
	}
	for _, a := range All() {
		if a.Name == name {
			return a, true
		}
	}
	return Attempt{}, false
}

// startAttempt runs an attempt in its own process, which reports for itself;
// the report returned is for one that could not.
func startAttempt(a Attempt, line string) *Report {
	attributes := &syscall.SysProcAttr{Cloneflags: a.clone}
	if a.clone&unix.CLONE_NEWUSER != 0 {
		attributes.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		attributes.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	process, err := os.StartProcess("/proc/self/exe", []string{"postern", attemptArg, line}, &os.ProcAttr{
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}, Env: os.Environ(), Sys: attributes,
	})
	if err != nil {
		r := report(fmt.Errorf("clone: %w", err))
		r.Broken = a.clone == 0
		return &r
	}
	stop := time.AfterFunc(attemptTimeout, func() { process.Kill() }) //nolint:errcheck // it has ended by itself
	defer stop.Stop()
	state, err := process.Wait()
	if err != nil {
		return &Report{Broken: true, Detail: err.Error()}
	}
	status := state.Sys().(syscall.WaitStatus)
	switch {
	case status.Exited() && status.ExitStatus() == 0:
		return nil
	case status.Signaled() && status.Signal() == unix.SIGSYS:
		return &Report{Errno: "SIGSYS", Detail: "killed by the filter of system calls"}
	}
	return &Report{Broken: true, Detail: "its process ended with " + state.String()}
}

// attemptMain is the process of one attempt.
func attemptMain() int {
	var o order
	if len(os.Args) != 3 || json.Unmarshal([]byte(os.Args[2]), &o) != nil {
		return 1
	}
	a, ok := find(o.Attempt)
	if !ok {
		return 1
	}
	r := report(a.do(&try{o.Given, o.Family}))
	say(said{Report: &r})
	return 0
}

// report makes a report of what an attempt returned.
func report(err error) Report {
	if err == nil {
		return Report{Open: true, Detail: "it got what it wanted"}
	}
	r := Report{Detail: err.Error(), Absent: errors.Is(err, errAbsent)}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		r.Errno = unix.ErrnoName(errno)
	}
	return r
}

// say writes one line to the judge; an attempt's process ends with the judge.
func say(s said) {
	line, err := json.Marshal(s)
	if err == nil {
		_, err = os.Stdout.Write(append(line, '\n'))
	}
	if err != nil {
		os.Exit(1)
	}
}

// dial asks the judge to call this process from outside.
func (t *try) dial(network string, at netip.AddrPort) (answered bool, err error) {
	say(said{Dial: &dialRequest{network, at}})
	line, err := readLine(os.Stdin)
	if err != nil {
		return false, fmt.Errorf("hear from the judge: %w", err)
	}
	var a dialAnswer
	return a.Answered, json.Unmarshal(line, &a)
}

// maxLine bounds what the judge says at once.
const maxLine = 64 << 10

// readLine reads no further than the line: what follows is another process's.
func readLine(f *os.File) ([]byte, error) {
	var line bytes.Buffer
	b := make([]byte, 1)
	for line.Len() < maxLine {
		if _, err := f.Read(b); err != nil {
			return nil, err
		}
		if b[0] == '\n' {
			return line.Bytes(), nil
		}
		line.WriteByte(b[0])
	}
	return nil, errors.New("a line without an end")
}
