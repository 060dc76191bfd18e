package arena

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// childEnv makes the test binary the process whose memory is read; its value is
// the kind of arena.
const childEnv = "POSTERN_TEST_ARENA"

// canaryLength is that of the two random values a child is given.
const canaryLength = 48

func TestMain(m *testing.M) {
	if kind := os.Getenv(childEnv); kind != "" {
		if err := child(kind); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// child reads a canary and a control value, keeps the one in an arena and the
// other on its heap, writes both and waits until it is told to end. It reads
// and writes without a buffer, which would be one more copy.
func child(kind string) error {
	var all []way
	for _, w := range ways() {
		if w.kind.String() == kind {
			all = append(all, w)
		}
	}
	a, err := open(1, all)
	if err != nil {
		return err
	}
	both := make([]byte, 2*canaryLength)
	if _, err := io.ReadFull(os.Stdin, both); err != nil {
		return err
	}
	s, err := a.Put(both[:canaryLength])
	if err != nil {
		return err
	}
	if _, err := os.Stdout.Write(s.Reveal()); err != nil {
		return err
	}
	if _, err := os.Stdout.Write(both[canaryLength:]); err != nil {
		return err
	}
	_, err = os.Stdin.Read(both[:1])
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return err
}

// mapping is one line of /proc/PID/maps with what /proc/PID/mem has of it.
type mapping struct {
	line    string
	content []byte
	err     error
	flags   string // VmFlags of smaps
}

// memory reads everything of a child that holds the canary and the control in
// an arena of that kind. Who asks reads it as root or as the child's parent.
func memory(t *testing.T, kind Kind, canary, control []byte) []mapping {
	t.Helper()
	command := exec.Command(os.Args[0])
	command.Env = append(os.Environ(), childEnv+"="+kind.String())
	command.Stderr = os.Stderr
	in, err := command.StdinPipe()
	must(t, err)
	out, err := command.StdoutPipe()
	must(t, err)
	must(t, command.Start())
	defer func() {
		in.Close()
		if err := command.Wait(); err != nil {
			t.Error("the child:", err)
		}
	}()
	_, err = in.Write(append(bytes.Clone(canary), control...))
	must(t, err)
	// What was written from the arena arrives: system calls may read it.
	back := make([]byte, 2*canaryLength)
	if _, err := io.ReadFull(out, back); err != nil || !bytes.Equal(back, append(bytes.Clone(canary), control...)) {
		t.Fatalf("the child wrote something else: %v", err)
	}
	return mappings(t, command.Process.Pid)
}

func mappings(t *testing.T, pid int) (all []mapping) {
	t.Helper()
	maps, err := os.Open(fmt.Sprintf("/proc/%d/smaps", pid))
	must(t, err)
	defer maps.Close()
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	must(t, err)
	defer mem.Close()
	lines := bufio.NewScanner(maps)
	for lines.Scan() {
		if flags, ok := strings.CutPrefix(lines.Text(), "VmFlags:"); ok {
			all[len(all)-1].flags = flags + " "
			continue
		}
		var from, to int64
		var access string
		if n, _ := fmt.Sscanf(lines.Text(), "%x-%x %s", &from, &to, &access); n != 3 {
			continue
		}
		m := mapping{line: lines.Text()}
		if access[0] == 'r' {
			m.content, m.err = read(t, pid, mem, from, to)
		}
		all = append(all, m)
	}
	must(t, lines.Err())
	return all
}

// read reads the pages that are there, or all of a mapping that is small: the
// race detector maps gigabytes and touches little of them.
func read(t *testing.T, pid int, mem *os.File, from, to int64) (content []byte, err error) {
	t.Helper()
	page := int64(os.Getpagesize())
	present := make([]byte, (to-from)/page*8)
	if to-from > 1<<20 {
		pagemap, err := os.Open(fmt.Sprintf("/proc/%d/pagemap", pid))
		must(t, err)
		defer pagemap.Close()
		_, err = pagemap.ReadAt(present, from/page*8)
		must(t, err)
	}
	b := make([]byte, page)
	for at := from; at < to; at += page {
		// Bits 62 and 63 of an entry: swapped out, present (proc_pid_pagemap(5)).
		if to-from > 1<<20 && present[(at-from)/page*8+7]&0xc0 == 0 {
			continue
		}
		n, e := mem.ReadAt(b, at)
		content = append(content, b[:n]...)
		if e != nil {
			err = e
		}
	}
	return content, err
}

func random(t *testing.T) []byte {
	b := make([]byte, canaryLength)
	_, err := rand.Read(b)
	must(t, err)
	return b
}

func atLeast(t *testing.T, major, minor int) bool {
	t.Helper()
	var u unix.Utsname
	must(t, unix.Uname(&u))
	release := unix.ByteSliceToString(u.Release[:])
	var x, y int
	if _, err := fmt.Sscanf(release, "%d.%d", &x, &y); err != nil {
		t.Fatalf("what kernel %q is: %v", release, err)
	}
	return x > major || x == major && y >= minor
}

// A secret in the arena is nowhere in what root reads of the process, while a
// value on the heap is found.
func TestHiddenFromOutside(t *testing.T) {
	// Linux has it since 5.14, and since 6.5 without being told to.
	if _, err := hidden(1); errors.Is(err, unix.ENOSYS) && !atLeast(t, 6, 5) {
		t.Skip("the kernel has no memfd_secret:", err)
	}
	canary, control := random(t), random(t)
	arenas, controls := 0, 0
	for _, m := range memory(t, Hidden, canary, control) {
		if bytes.Contains(m.content, canary) {
			t.Error("the canary is readable in", m.line)
		}
		if bytes.Contains(m.content, control) {
			controls++
		}
		if strings.Contains(m.line, "secretmem") {
			arenas++
			if !errors.Is(m.err, unix.EIO) || len(m.content) > 0 {
				t.Errorf("%s gives %d bytes and %v, want EIO", m.line, len(m.content), m.err)
			}
		}
	}
	if arenas != 1 || controls == 0 {
		t.Errorf("%d arenas, the control value is in %d mappings: this test would find nothing", arenas, controls)
	}
}

// What the kernel does not hide is in one mapping, which is not dumped, wiped in
// a child, and locked where it says so; nowhere on the heap.
func TestLockedIsNotDumped(t *testing.T) {
	for kind, want := range map[Kind][]string{Locked: {"dd", "wf", "lo"}, Undumped: {"dd", "wf"}} {
		t.Run(kind.String(), func(t *testing.T) {
			canary, control := random(t), random(t)
			found := 0
			for _, m := range memory(t, kind, canary, control) {
				if !bytes.Contains(m.content, canary) {
					continue
				}
				found++
				for _, flag := range want {
					if !strings.Contains(m.flags, " "+flag+" ") {
						t.Errorf("%s has the flags%s, without %s", m.line, m.flags, flag)
					}
				}
				if bytes.Contains(m.content, control) {
					t.Error("it is on the heap:", m.line)
				}
			}
			if found != 1 {
				t.Errorf("it is in %d mappings", found)
			}
		})
	}
}
