// Postern-sqlparse is the worker that has PostgreSQL's grammar: it reads texts
// of SQL and says what they would do. The grammar is C and the texts come from
// agents, so the process has nothing: no privileges to gain, no descriptors but
// two pipes, no files to write, and limits on memory and time. It is started by
// internal/sql, whose frame.go documents what is spoken over the pipes; what
// the answers mean is in internal/sql/analyze.
//
// Start with main, which runs twice: limits that hold for all threads of a
// process are set before there are any, so the first run sets them and executes
// the second.
package main

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/internal/sql"
	"github.com/postern/postern/internal/sql/analyze"
)

const (
	// maxAddresses bounds the address space. Go reserves far more than it uses.
	maxAddresses = 4 << 30
	// maxData bounds memory that is really there, the grammar's included: a
	// statement of 1 MiB takes up to 300 MiB.
	maxData = 768 << 20
	// heapTarget is where the Go heap is collected harder.
	heapTarget = 128 << 20
	// maxCPU is the processor time of one statement, in seconds. It ends a
	// worker whose parent is gone.
	maxCPU = 5
	// marker is the argument of the second run.
	marker = "limited"
)

func main() {
	run := enter
	if len(os.Args) == 2 && os.Args[1] == marker {
		run = serve
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "postern-sqlparse:", err)
		os.Exit(1)
	}
}

// enter gives up what a parser does not need and executes itself.
func enter() error {
	runtime.LockOSThread() // no_new_privs is of the thread that executes
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no_new_privs: %w", err)
	}
	if err := dropCapabilities(); err != nil {
		return fmt.Errorf("capabilities: %w", err)
	}
	if err := unix.CloseRange(3, ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil {
		if err := closeOnExec(); err != nil {
			return fmt.Errorf("descriptors: %w", err)
		}
	}
	for _, l := range []struct {
		resource int
		max      uint64
	}{{unix.RLIMIT_AS, maxAddresses}, {unix.RLIMIT_DATA, maxData}, {unix.RLIMIT_CORE, 0}, {unix.RLIMIT_FSIZE, 0}} {
		if err := unix.Setrlimit(l.resource, &unix.Rlimit{Cur: l.max, Max: l.max}); err != nil {
			return fmt.Errorf("limit %d: %w", l.resource, err)
		}
	}
	return fmt.Errorf("execute itself: %w", unix.Exec("/proc/self/exe", []string{os.Args[0], marker}, nil))
}

// closeOnExec is for Linux before 5.11, whose close_range(2) has not the flag.
func closeOnExec() error {
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, e := range open {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd > 2 {
			unix.CloseOnExec(fd)
		}
	}
	return nil
}

// dropCapabilities gives up what the daemon's own may have handed down: an
// ambient capability outlives executing another program.
func dropCapabilities() error {
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return err
	}
	var none [2]unix.CapUserData // version 3 has two words of each set
	return unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &none[0])
}

func serve() error {
	runtime.GOMAXPROCS(1)
	debug.SetMemoryLimit(heapTarget)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("limit of files: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("dumpable: %w", err)
	}
	return sql.Serve(os.Stdin, os.Stdout, allowTime, analyze.Analyze, analyze.Sample)
}

// allowTime moves the limit of processor time ahead of what has been used, so
// that it bounds each statement and not the life of the worker.
func allowTime() {
	var used unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &used) != nil {
		return
	}
	seconds := uint64(used.Utime.Sec + used.Stime.Sec + maxCPU)
	unix.Setrlimit(unix.RLIMIT_CPU, &unix.Rlimit{Cur: seconds, Max: unix.RLIM_INFINITY}) //nolint:errcheck // below the hard limit it cannot fail
}
