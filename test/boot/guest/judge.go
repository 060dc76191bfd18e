package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	// wantedRuns of each container have ended when the machine is judged.
	wantedRuns = 3
	// judgeAfter bounds the wait for them.
	judgeAfter = 40 * time.Second
	// probeWithin is ample: a busy emulated processor takes its time.
	probeWithin = 10 * time.Second
)

// judge waits for the containers that the kernel's arguments name, and tells
// the console what became of their attempts.
func judge(s *sniffer) {
	names := expected()
	for end := time.Now().Add(judgeAfter); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		if !slices.ContainsFunc(names, func(n string) bool { return tries(n)["end"] < wantedRuns }) {
			break
		}
	}
	say("check", "/usr/sbin/postern-guard", "check")
	say("guard", "systemctl", "is-active", "postern-guard.service")
	for _, kind := range []string{"required", "checked"} {
		say("state-"+kind, "systemctl", "show", "--property=ActiveState,Result,NRestarts,ExecMainStartTimestampMonotonic", kind+"@host.service")
		say("start-"+kind, "systemctl", "start", kind+"@host.service")
	}
	// By now the cable has to carry what no agent sends, or zero means nothing.
	fmt.Println("guest: probe tcp", try("tcp4", fmt.Sprint("203.0.113.2:", probePort), probeWithin))
	files, _ := filepath.Glob("/run/tries/*")
	for _, f := range files {
		for what, times := range tries(filepath.Base(f)) {
			fmt.Printf("guest: container %s times=%d %s\n", filepath.Base(f), times, what)
		}
	}
	s.report("judged")
	say("reboot", "systemctl", "reboot")
}

// say runs a command and puts how it ended, and what it said, on the console.
func say(what, command string, args ...string) {
	out, err := exec.Command(command, args...).CombinedOutput()
	fmt.Printf("guest: %s ok=%t %q\n", what, err == nil, bytes.TrimSpace(out))
}

// expected are the containers named by systemd.wants=KIND@NETWORK.service that
// start whether or not the programs are there.
func expected() (names []string) {
	line, _ := os.ReadFile("/proc/cmdline")
	for _, word := range strings.Fields(string(line)) {
		unit, ok := strings.CutPrefix(word, "systemd.wants=")
		if ok && (strings.HasPrefix(unit, "plain@") || strings.HasPrefix(unit, "ordered@")) {
			names = append(names, strings.Replace(strings.TrimSuffix(unit, ".service"), "@", "-", 1))
		}
	}
	return names
}

// tries counts the lines of a container's file.
func tries(name string) map[string]int {
	counts := map[string]int{}
	f, err := os.Open(filepath.Join("/run/tries", name))
	if err != nil {
		return counts
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		counts[lines.Text()]++
	}
	return counts
}
