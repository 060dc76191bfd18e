package bypass

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/internal/bypass/outside"
)

// Judge has a run make attempts and says what became of them.
type Judge struct {
	Tier     Tier
	UID, GID uint32 // of the run
	Outside  *outside.Outside
	Dir      string // its own, which agents can reach
	Given    Given  // without what is the judge's own
	// Unix are the only sockets of the host that the agent may reach, where the
	// kernel holds it to that; nil: any.
	Unix []string
	// Name is one that the agent's resolver has to know: who gets nothing at all
	// proves nothing. Empty: there is none.
	Name string
	// Gateways are the ports of the agent's gateways and of others'; they may
	// change while it runs.
	Gateways func() (own, others []Ports, err error)
	// Counts are those of the kernel programs, by kind.
	Counts func() (map[string]uint64, error)
	// Launch starts a run whose command is a program that calls Main, with the
	// argument InsideArg. Wait is called when its standard input is closed.
	Launch func(stdin, stdout, stderr *os.File) (wait func() error, err error)
	// Tell is told each verdict as it comes. It may be nil.
	Tell func(Verdict)

	far, host  *outside.Server
	accomplice *accomplice
	victim     *neighbourProcess
	terminal   *terminal
	toRun      *os.File
	fromRun    *os.File
	wait       func() error
	tried      int             // attempts
	flows      map[string]bool // those of TCP that earlier attempts had, and the judge's own
}

// Result is what became of an attempt.
type Result string

// The results.
const (
	Stopped Result = "stopped"
	Open    Result = "open"   // as this tier is known to be
	Absent  Result = "absent" // there was nothing to try
	Failed  Result = "FAILED" // it must be stopped and was not, or it could not be made
)

// Verdict is what became of one attempt by one family.
type Verdict struct {
	Attempt string   `json:"attempt"`
	Tries   string   `json:"tries"`
	Family  Family   `json:"family"`
	Tier    string   `json:"tier"`
	Result  Result   `json:"result"`
	By      []Hook   `json:"by,omitempty"`     // what stopped it
	Help    string   `json:"help,omitempty"`   // what to do about what is open
	Frames  []string `json:"frames,omitempty"` // that arrived outside
	Report
	// Unexplained: it was stopped, but not by what should.
	Unexplained bool `json:"unexplained,omitempty"`
}

// quietPause is how long a connection may be silent before it is over.
const quietPause = 50 * time.Millisecond

// lateAnswer is how long the judge waits for the process inside beyond the time
// that an attempt has.
const lateAnswer = 10 * time.Second

// Run judges the attempts, in their order. An error says that it could not.
func (j *Judge) Run(ctx context.Context, attempts []Attempt) (verdicts []Verdict, err error) {
	defer func() { err = errors.Join(err, j.end()) }()
	if err := j.begin(); err != nil {
		return nil, err
	}
	// Who waits for a run that does not answer is told by its end.
	defer context.AfterFunc(ctx, func() { j.fromRun.SetReadDeadline(time.Now()) })()
	if err := j.control(); err != nil {
		return nil, err
	}
	for _, a := range attempts {
		for _, f := range a.Families {
			v, err := j.try(a, f)
			if ctx.Err() != nil {
				return verdicts, ctx.Err()
			}
			if err != nil {
				return verdicts, fmt.Errorf("%s (%s): %w", a.Name, f, err)
			}
			verdicts = append(verdicts, v)
			if j.Tell != nil {
				j.Tell(v)
			}
		}
	}
	return verdicts, nil
}

func (j *Judge) begin() (err error) {
	banner := rand.Text()
	g := &j.Given
	g.Near4, g.Near6 = outside.Near4, outside.Near6
	g.Device, g.Banner, g.HostBanner = outside.Device, "outside "+banner, "host "+banner
	g.Everything = j.Outside.Everything()
	if j.far, err = j.Outside.Serve(g.Banner); err != nil {
		return err
	}
	if j.host, g.HostPort, err = j.Outside.ServeNear(g.HostBanner); err != nil {
		return err
	}
	if err := j.answers(); err != nil {
		return err
	}
	if j.accomplice, err = newAccomplice(j.Outside, j.Dir); err != nil {
		return err
	}
	g.Accomplice, g.AbstractAccomplice = j.accomplice.path, j.accomplice.abstract
	if j.terminal, err = openTerminal(j.UID); err != nil {
		return err
	}
	err = j.Outside.InNear(func() (err error) {
		j.victim, err = startVictim(j.UID, j.GID, j.terminal.slave, g.HostPort)
		return err
	})
	if err != nil {
		return err
	}
	g.Victim = j.victim.VictimState
	if err := j.launch(); err != nil {
		return fmt.Errorf("launch a run: %w", err)
	}
	_, err = j.arrived() // of what the judge itself did
	return err
}

// answers makes sure of the judge's own instruments: who is not held reaches
// the servers, and the sniffer hears him. Otherwise all would be well when
// nothing works.
func (j *Judge) answers() error {
	for server, to := range map[*outside.Server][]netip.AddrPort{
		j.far:  {at(outside.Far4, 443), at(outside.Far6, 443)},
		j.host: {at(netip.AddrFrom4([4]byte{127, 0, 0, 1}), j.Given.HostPort), at(netip.IPv6Loopback(), j.Given.HostPort)},
	} {
		for _, to := range to {
			err := j.Outside.InNear(func() error {
				conn, err := net.DialTimeout("tcp", to.String(), tcpPatience)
				if err != nil {
					return err
				}
				defer conn.Close()
				conn.SetDeadline(time.Now().Add(tcpPatience))
				got := make([]byte, len(server.Banner))
				if _, err := conn.Read(got); err != nil || string(got) != server.Banner {
					return fmt.Errorf("it says %q, %w", got, err)
				}
				return nil
			})
			if err != nil {
				return fmt.Errorf("the server at %s does not answer this host, so that nothing would be proved: %w", to, err)
			}
		}
	}
	frames, err := j.Outside.Frames()
	j.over(frames)
	if err == nil && len(frames) == 0 {
		err = errors.New("the sniffer did not hear a connection of this host, so that nothing would be proved")
	}
	return err
}

// control makes sure that the run works, and that what the agent may have it
// gets.
func (j *Judge) control() error {
	if j.Name == "" {
		return nil
	}
	g := j.Given
	g.Far4, g.Far6 = outside.Far4, outside.Far6
	r, err := j.ask(order{controlAttempt + j.Name, V4, g})
	if err != nil {
		return err
	}
	if !r.Open {
		return fmt.Errorf("the agent is not told the address of %s, its own target, so that nothing would be proved: %s", j.Name, r.Detail)
	}
	_, err = j.arrived()
	return err
}

func (j *Judge) launch() error {
	stdin, toRun, err := os.Pipe()
	if err != nil {
		return err
	}
	defer stdin.Close()
	fromRun, stdout, err := os.Pipe()
	if err != nil {
		toRun.Close()
		return err
	}
	defer stdout.Close()
	j.toRun, j.fromRun = toRun, fromRun
	j.wait, err = j.Launch(stdin, stdout, j.terminal.slave)
	return err
}

// end takes down what begin has made, as far as it came.
func (j *Judge) end() error {
	var errs []error
	if j.toRun != nil {
		j.toRun.Close()
	}
	if j.wait != nil {
		if err := j.wait(); err != nil {
			errs = append(errs, fmt.Errorf("the run: %w; it said: %s", err, j.terminal.said()))
		}
	}
	if j.fromRun != nil {
		j.fromRun.Close()
	}
	if j.victim != nil {
		j.victim.stop()
	}
	if j.accomplice != nil {
		j.accomplice.close()
	}
	if j.terminal != nil {
		j.terminal.close()
	}
	for _, s := range []*outside.Server{j.far, j.host} {
		if s != nil {
			s.Close()
		}
	}
	return errors.Join(errs...)
}

// try has one attempt made and judges it.
func (j *Judge) try(a Attempt, f Family) (Verdict, error) {
	v := Verdict{Attempt: a.Name, Tries: a.Tries, Family: f, Tier: j.Tier.String()}
	own, others, err := j.Gateways()
	if err != nil {
		return v, err
	}
	g := j.Given
	g.Far4, g.Far6 = outside.Address(j.tried)
	j.tried++
	g.Gateway, g.OtherGateway = own, others
	before, err := j.Counts()
	if err != nil {
		return v, err
	}
	if v.Report, err = j.ask(order{a.Name, f, g}); err != nil {
		return v, err
	}
	after, err := j.Counts()
	if err != nil {
		return v, err
	}
	arrived, err := j.arrived()
	if err != nil {
		return v, err
	}
	v.Frames = arrived
	j.decide(&v, a, counted(before, after))
	return v, nil
}

// arrived is what reached the outside, or a server of the host, since the last
// call. On a host whose programs greet every new device, what is sent to groups
// counts where an attempt's words are in it.
func (j *Judge) arrived() (arrived []string, err error) {
	var all []outside.Frame
	for quiet := false; !quiet; {
		frames, err := j.Outside.Frames()
		if err != nil {
			return nil, err
		}
		quiet = true
		all = append(all, frames...)
		for _, f := range frames {
			if f.Group && !j.Given.Everything && !bytes.Contains(f.Bytes, payload) {
				continue
			}
			if f.Bare && j.flows[f.Flow] {
				continue // an answer to what the far end sent twice, of a connection that is over
			}
			arrived = append(arrived, f.String())
			quiet = false
		}
		if !quiet {
			// A connection has an end, which is not to be heard with the next one.
			time.Sleep(quietPause)
		}
	}
	j.over(all)
	for _, visit := range j.far.Visits() {
		arrived = append(arrived, "visit outside: "+visit)
	}
	for _, visit := range j.host.Visits() {
		arrived = append(arrived, "visit to a server of this host: "+visit)
	}
	return arrived, nil
}

// over remembers the connections that these frames are of, for what may still
// come of them.
func (j *Judge) over(frames []outside.Frame) {
	if j.flows == nil {
		j.flows = map[string]bool{}
	}
	for _, f := range frames {
		if f.Flow != "" {
			j.flows[f.Flow] = true
		}
	}
}

// counted are the hooks that counted something.
func counted(before, after map[string]uint64) (hooks []Hook) {
	for kind, n := range after {
		if n > before[kind] && !slices.Contains(Silent, kind) {
			hooks = append(hooks, Hook(kind))
		}
	}
	slices.Sort(hooks)
	return hooks
}

// Silent are counters that say nothing about who stopped what.
var Silent = []string{"loopback", "asked", "held", "token_sent", "token_failed", "events_lost", "events_limited", "udp_probe"}

// must is what has to become of an attempt: what its tier says, and of what goes
// by Unix sockets, what the agent's list says.
func (j *Judge) must(a Attempt) Must {
	must := a.Must[j.Tier]
	if !a.Unix || j.Tier != Redirected || j.Unix == nil {
		return must
	}
	if a.path != nil && slices.Contains(j.Unix, a.path(int(j.UID))) {
		return Must{Open: "agents.unix lists it"}
	}
	return Must{By: append([]Hook{ByUnix}, must.By...)}
}

func (j *Judge) decide(v *Verdict, a Attempt, counted []Hook) {
	must := j.must(a)
	got := v.Report.Open || len(v.Frames) > 0
	missing := a.path != nil && !exists(a.path(int(j.UID)))
	switch {
	case v.Broken:
		v.Result = Failed
	case got && must.Open != "":
		v.Result, v.Help = Open, must.Open
	case got:
		v.Result = Failed
	case v.Absent && v.Errno == "EAFNOSUPPORT" && slices.Contains(must.By, BySeccomp):
		v.Result, v.By, v.Absent = Stopped, []Hook{BySeccomp}, false // it is what the filter says
	case v.Absent || missing:
		v.Result, v.Absent = Absent, true
	default:
		v.Result = Stopped
		v.By = stoppedBy(must.By, counted, v.Report)
		v.Unexplained = must.Open == "" && !slices.ContainsFunc(v.By, func(h Hook) bool { return slices.Contains(must.By, h) })
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// stoppedBy names what stopped an attempt: what counted it, or what of the
// expected does not count and fits how it ended. The kernel's own checks come
// last, as they do in the kernel.
func stoppedBy(expected, counted []Hook, r Report) []Hook {
	if len(counted) > 0 {
		return counted
	}
	for _, uncounted := range []struct {
		hook   Hook
		errnos []string // empty: any end
	}{
		{BySeccomp, []string{"EPERM", "ENOSYS", "EAFNOSUPPORT", "SIGSYS"}},
		{ByMounts, []string{"ENOENT", "EROFS", "ENOTDIR", "ECONNREFUSED", "EACCES"}},
		{ByNamespace, []string{"", "ENOENT", "ESRCH", "ENODEV", "EADDRNOTAVAIL", "ECONNREFUSED", "EINVAL", "ENETUNREACH", "EAGAIN"}},
		{ByDaemon, []string{"", "ECONNRESET"}},
		{ByLauncher, nil},
		{ByKernel, nil},
	} {
		if slices.Contains(expected, uncounted.hook) && (uncounted.errnos == nil || slices.Contains(uncounted.errnos, r.Errno)) {
			return []Hook{uncounted.hook}
		}
	}
	return nil
}

// ask has the run make one attempt, and dials in where it asks for that.
func (j *Judge) ask(o order) (Report, error) {
	if err := j.tell(o); err != nil {
		return Report{}, err
	}
	j.fromRun.SetReadDeadline(time.Now().Add(attemptTimeout + lateAnswer))
	for {
		line, err := readLine(j.fromRun)
		if err != nil {
			return Report{}, fmt.Errorf("the run does not answer: %w; it said: %s", err, j.terminal.said())
		}
		var s said
		if err := json.Unmarshal(line, &s); err != nil {
			return Report{}, fmt.Errorf("the run says %.80q: %w", line, err)
		}
		switch {
		case s.Report != nil:
			return *s.Report, nil
		case s.Dial == nil:
			return Report{}, fmt.Errorf("the run says %.80q", line)
		case s.Dial.At.Addr() != outside.Near4 && s.Dial.At.Addr() != outside.Near6:
			return Report{}, fmt.Errorf("the run wants %s to be called", s.Dial.At)
		}
		if err := j.tell(dialAnswer{j.Outside.Dial(s.Dial.Network, s.Dial.At)}); err != nil {
			return Report{}, err
		}
	}
}

func (j *Judge) tell(v any) error {
	line, err := json.Marshal(v)
	if err == nil {
		_, err = j.toRun.Write(append(line, '\n'))
	}
	return err
}

// terminal is one that the victim has for its own, and the run for its standard
// error.
type terminal struct{ master, slave *os.File }

func openTerminal(uid uint32) (*terminal, error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open a terminal: %w", err)
	}
	t := &terminal{master: os.NewFile(uintptr(fd), "terminal")}
	number, err := unix.IoctlGetUint32(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	path := fmt.Sprintf("/dev/pts/%d", number)
	if err == nil {
		t.slave, err = os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err == nil {
		err = os.Chown(path, int(uid), -1) // as login does
	}
	if err != nil {
		t.close()
		return nil, fmt.Errorf("open a terminal: %w", err)
	}
	return t, nil
}

// said is what was written to it and not read.
func (t *terminal) said() string {
	buf := make([]byte, 4096)
	t.master.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	n, _ := t.master.Read(buf)
	return strings.TrimSpace(string(buf[:max(0, n)]))
}

func (t *terminal) close() {
	if t.slave != nil {
		t.slave.Close()
	}
	t.master.Close()
}
