package guard

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/internal/identity"
	"github.com/postern/postern/internal/redirect"
)

// What is spoken on the socket: a request, then replies, each a length in four
// bytes (big-endian) and that much JSON. Descriptors travel with the first byte.

const (
	opMaps   = "maps"       // the pinned maps; for the daemon
	opStatus = "status"     // what is attached
	opCgroup = "cgroup"     // make a policy cgroup
	opAttend = "attend"     // the daemon's life line, on which it is told of listeners
	opListen = "listen"     // open an agent's listener
	opKeep   = "keep"       // keep a listener that the daemon has
	opGlass  = "glass"      // let agents past the gateway for a while; for root
	opNamed  = "named"      // the container that a cgroup is of
	opRun    = "launch"     // launch an agent, whose standard descriptors the launcher takes
	opRunFor = "launch-for" // the same, for somebody or narrowed: a guard that does not know that refuses
	opBound  = "bound"      // for whom a run is that the daemon was told of
	opReload = "reload"     // become the program that lies where the guard's did

	// maxRequest is room for the arguments and environment that Linux lets a
	// process have on a default stack.
	maxRequest = 4 << 20
	// smallRequest is more than most of them have. Of larger ones, which anybody on
	// the host may send, a few are read at a time.
	smallRequest = 64 << 10
	maxLarge     = 32
	// maxLargeOfOne is how many of these are one user's.
	maxLargeOfOne = 4
	// maxError is more than any needs that quotes nothing.
	maxError = 4 << 10
	// maxSignal is more than a signal takes.
	maxSignal = 1 << 10
	// maxFiles is the most that one message carries.
	maxFiles = 16
)

// known says whether there is an operation of this name.
func known(op string) bool {
	return slices.Contains([]string{
		opMaps, opStatus, opCgroup, opAttend, opListen, opKeep, opGlass, opNamed, opRun, opRunFor, opBound, opReload,
	}, op)
}

type request struct {
	Op     string `json:"op"`
	Cgroup string `json:"cgroup,omitempty"`
	Run    *Run   `json:"run,omitempty"`
	// Of opListen: the agent, and a process of it that is somewhere else than the
	// guard; without one the listener is at home.
	Agent string `json:"agent,omitempty"`
	PID   int    `json:"pid,omitempty"`
	Netns uint64 `json:"netns,omitempty"` // as the kernel asked
	// Of opKeep; the sockets travel with it.
	Door  *redirect.Door `json:"door,omitempty"`
	Glass *Glass         `json:"glass,omitempty"`
	Bound *Bound         `json:"bound,omitempty"`
}

// Run is what is to be launched. Its standard input, output and error are sent when
// they are asked for.
type Run struct {
	Agent string   `json:"agent"`
	Args  []string `json:"args"`
	Env   []string `json:"env"`
	Dir   string   `json:"dir"`
	// User is who it runs as; only root may name one, everybody else is
	// themselves.
	User string `json:"user,omitempty"`
	// Sudoer is who became root to ask, and is who it runs as where nobody is named
	// and the tier is not strict.
	Sudoer string `json:"sudoer,omitempty"`
	// Tier is redirected, workspace or strict; empty: by Terminal and the agent.
	Tier       string   `json:"tier,omitempty"`
	Terminal   bool     `json:"terminal,omitempty"` // a person is at a terminal
	Binds      []string `json:"binds,omitempty"`    // PATH or PATH:ro, in the tier workspace
	Publish    []int    `json:"publish,omitempty"`  // ports of the run that the host reaches
	AllowHooks bool     `json:"allow_hooks,omitempty"`
	// Ticket is what the daemon gave out for whom the run is; empty: for nobody, and
	// not narrowed.
	Ticket string `json:"ticket,omitempty"`
	// TokenFile is where the token comes from, which the run is not to see.
	TokenFile string `json:"token_file,omitempty"`
}

type reply struct {
	Error    string           `json:"error,omitempty"`
	Maps     []string         `json:"maps,omitempty"` // names of the descriptors
	Status   *redirect.Status `json:"status,omitempty"`
	CgroupID uint64           `json:"cgroup_id,omitempty"`
	// With Status: for whom the glass is broken, by agent, "*" for all.
	Glass   map[string]time.Time `json:"glass,omitempty"`
	Started string               `json:"started,omitempty"` // the run's name
	Exit    *Exit                `json:"exit,omitempty"`
	Door    *redirect.Door       `json:"door,omitempty"`   // a listener; its sockets travel with it
	Closed  *redirect.Door       `json:"closed,omitempty"` // a listener that is no longer
	// Container is what a cgroup is of; nil: of none.
	Container *identity.Container `json:"container,omitempty"`
	Again     bool                `json:"again,omitempty"` // cgroups of agents were made anew
	Launch    *Launch             `json:"launch,omitempty"`
	Ended     string              `json:"ended,omitempty"` // a run of which nothing is left
	Retry     bool                `json:"retry,omitempty"` // nothing was launched: another guard takes over
	Stdio     bool                `json:"stdio,omitempty"` // the launcher waits for the run's standard descriptors
}

// signal is what a client of a run sends while it runs.
type signal struct {
	Number int `json:"signal"`
}

// Exit is how a run ended.
type Exit struct {
	Code   int `json:"code"`             // as shells have it: 128 and the signal when one ended it
	Signal int `json:"signal,omitempty"` // which ended it
}

func writeFrame(conn *net.UnixConn, v any, files ...*os.File) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	frame := binary.BigEndian.AppendUint32(nil, uint32(len(body)))
	frame = append(frame, body...)
	var rights []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			if fds[i], err = number(f); err != nil {
				return err
			}
		}
		rights = unix.UnixRights(fds...)
	}
	n, _, err := conn.WriteMsgUnix(frame, rights, nil)
	if err == nil && n < len(frame) {
		_, err = conn.Write(frame[n:])
	}
	return err
}

// number is the descriptor of a file that stays open. (Fd would make a socket
// block, in every process that has it.)
func number(f *os.File) (fd int, err error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	err = raw.Control(func(n uintptr) { fd = int(n) })
	return fd, err
}

// brief cuts an error short that quotes what somebody sent.
func brief(text string) string {
	if len(text) <= maxError {
		return text
	}
	return strings.ToValidUTF8(text[:maxError], "") + "…"
}

// writeReply answers a peer, which may read nothing: it is not waited for.
func writeReply(conn *net.UnixConn, r reply, files ...*os.File) error {
	r.Error = brief(r.Error)
	conn.SetWriteDeadline(time.Now().Add(pushTimeout))
	return writeFrame(conn, r, files...)
}

// copyOf is another descriptor of a connection or file. (One that package net makes of a
// connection turns that into one that blocks when it is given to a program.)
func copyOf(c syscall.Conn) (f *os.File, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	var inner error
	err = raw.Control(func(fd uintptr) {
		var n int
		if n, inner = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0); inner == nil {
			f = os.NewFile(uintptr(n), "copy")
		}
	})
	return f, errors.Join(err, inner)
}

// readFrame reads one message and the sockets, maps and pidfds that came with it,
// which are the caller's also after an error. Only from peers that are trusted.
func readFrame(conn *net.UnixConn, v any) (files []*os.File, err error) {
	var head [4]byte
	rights := make([]byte, unix.CmsgSpace(maxFiles*4))
	n, oobn, flags, _, err := conn.ReadMsgUnix(head[:], rights)
	if err != nil {
		return nil, err
	}
	if files, err = filesIn(rights[:oobn]); err != nil {
		return files, err
	}
	if n == 0 {
		return files, io.EOF
	}
	if flags&unix.MSG_CTRUNC != 0 {
		return files, errors.New("too many descriptors")
	}
	if _, err := io.ReadFull(conn, head[n:]); err != nil {
		return files, err
	}
	size, err := sizeOf(head, maxRequest)
	if err != nil {
		return files, err
	}
	return files, readBody(conn, size, v)
}

// readPlain reads one message of at most so many bytes. The kernel drops descriptors
// that came with it.
func readPlain(conn *net.UnixConn, v any, most int) error {
	var head [4]byte
	if _, err := io.ReadFull(conn, head[:]); err != nil {
		return err
	}
	size, err := sizeOf(head, most)
	if err != nil {
		return err
	}
	return readBody(conn, size, v)
}

func sizeOf(head [4]byte, most int) (int, error) {
	size := binary.BigEndian.Uint32(head[:])
	if uint64(size) > uint64(most) {
		return 0, fmt.Errorf("a message of %d bytes is longer than the limit of %d", size, most)
	}
	return int(size), nil
}

func readBody(conn *net.UnixConn, size int, v any) error {
	body := make([]byte, size)
	if _, err := io.ReadFull(conn, body); err != nil {
		return err
	}
	return json.Unmarshal(body, v)
}

// largeRequests are those of strangers that are being read.
type largeRequests struct {
	mu  sync.Mutex
	all int
	of  map[uint32]int // by uid
}

// read is readPlain, which waits with a large one until there is room for it.
func (l *largeRequests) read(conn *net.UnixConn, uid uint32, v any) error {
	late := time.Now().Add(requestTimeout)
	var head [4]byte
	if _, err := io.ReadFull(conn, head[:]); err != nil {
		return err
	}
	size, err := sizeOf(head, maxRequest)
	if err != nil {
		return err
	}
	if size > smallRequest {
		for !l.enter(uid) {
			if time.Now().After(late) {
				return errors.New("too many large requests at a time: try again")
			}
			time.Sleep(killPause)
		}
		defer l.leave(uid)
	}
	return readBody(conn, size, v)
}

func (l *largeRequests) enter(uid uint32) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.all >= maxLarge || l.of[uid] >= maxLargeOfOne {
		return false
	}
	if l.of == nil {
		l.of = map[uint32]int{}
	}
	l.all++
	l.of[uid]++
	return true
}

func (l *largeRequests) leave(uid uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all--
	if l.of[uid]--; l.of[uid] == 0 {
		delete(l.of, uid)
	}
}

// credentials are those of who made a connection, as the kernel attests them.
func credentials(conn *net.UnixConn) (peer *unix.Ucred, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	var inner error
	err = raw.Control(func(fd uintptr) { peer, inner = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	return peer, errors.Join(err, inner)
}

func filesIn(rights []byte) (files []*os.File, err error) {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil {
		return nil, fmt.Errorf("descriptors: %w", err)
	}
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			return files, fmt.Errorf("descriptors: %w", err)
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), "passed"))
		}
	}
	return files, nil
}
