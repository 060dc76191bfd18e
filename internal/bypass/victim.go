package bypass

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// VictimState is a process outside of the policy cgroup that has the agent's
// user, as a person's own processes have who runs an agent.
type VictimState struct {
	PID int
	FD  int    // its connection to a server of this host
	Key string // the name of a key in its user's keyring; empty: there are no keyrings
}

// victimLife is the descriptor whose end is the victim's.
const victimLife = 3

// neighbourProcess is the judge's handle on it.
type neighbourProcess struct {
	VictimState
	process *os.Process
	life    *os.File
}

// startVictim starts one with the terminal as its own.
func startVictim(uid, gid uint32, terminal *os.File, port uint16) (*neighbourProcess, error) {
	lifeRead, lifeWrite, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer lifeRead.Close()
	outRead, outWrite, err := os.Pipe()
	if err != nil {
		lifeWrite.Close()
		return nil, err
	}
	defer outRead.Close()
	n := &neighbourProcess{life: lifeWrite}
	n.process, err = os.StartProcess("/proc/self/exe", []string{"postern", victimArg, strconv.Itoa(int(port))}, &os.ProcAttr{
		Files: []*os.File{terminal, outWrite, os.Stderr, lifeRead},
		Env:   []string{"SECRET=of-a-person"},
		Dir:   "/",
		Sys: &syscall.SysProcAttr{
			Setsid: true, Setctty: true, Ctty: 0,
			Credential: &syscall.Credential{Uid: uid, Gid: gid, NoSetGroups: os.Getuid() != 0},
		},
	})
	outWrite.Close()
	if err == nil {
		if err = json.NewDecoder(outRead).Decode(&n.VictimState); err != nil {
			err = fmt.Errorf("it said nothing: %w", err)
		}
	}
	if err != nil {
		n.stop()
		return nil, fmt.Errorf("start a process of the agent's user: %w", err)
	}
	return n, nil
}

func (n *neighbourProcess) stop() {
	n.life.Close()
	if n.process != nil {
		n.process.Wait() //nolint:errcheck // it has nothing to say
	}
}

// victim is the process itself.
func victim() int {
	if len(os.Args) != 3 {
		return 1
	}
	port, err := strconv.ParseUint(os.Args[2], 10, 16)
	if err != nil {
		return 1
	}
	v := VictimState{PID: os.Getpid()}
	v.FD, err = open(unix.AF_INET, unix.SOCK_STREAM, 0, tcpPatience)
	if err == nil {
		err = unix.Connect(v.FD, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: int(port)})
	}
	if err == nil {
		_, err = unix.Read(v.FD, make([]byte, 64)) // from here on the server has seen it
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bypass victim:", err)
		return 1
	}
	name := fmt.Sprintf("postern-bypass-%d", v.PID)
	if key, err := unix.AddKey("user", name, []byte("of a person"), unix.KEY_SPEC_USER_KEYRING); err == nil {
		v.Key = name
		defer unix.KeyctlInt(unix.KEYCTL_INVALIDATE, key, 0, 0, 0) //nolint:errcheck // it goes with the keyring
	}
	if err := json.NewEncoder(os.Stdout).Encode(v); err != nil {
		return 1
	}
	io.Copy(io.Discard, os.NewFile(victimLife, "life")) //nolint:errcheck // the judge has ended
	return 0
}
