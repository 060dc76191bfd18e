package bypass

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const helpUnix = "list what the agent may reach in agents.unix (Linux 6.7), or run it in the tier workspace or strict"

// Services of a host that do for others what an agent may not do itself. They
// are dialled, and told nothing.
var serviceAttempts = []Attempt{
	service("docker", "/run/docker.sock"),
	service("containerd", "/run/containerd/containerd.sock"),
	service("podman", "/run/podman/podman.sock"),
	service("dbus-system", "/run/dbus/system_bus_socket"),
	service("dbus-session", "/run/user/%d/bus"),
	service("systemd-private", "/run/systemd/private"),
	service("systemd-user", "/run/user/%d/systemd/private"),
	service("snapd", "/run/snapd.socket"),
	service("x11", "/tmp/.X11-unix/X0"),
	service("tmux", "/tmp/tmux-%d/default"),
	sealed("resolved", "/run/systemd/resolve/io.systemd.Resolve"),
	sealed("nscd", "/run/nscd/socket"),
	{
		Name: "unix-ssh-agent", Unix: true, Tries: "dials the ssh-agent that SSH_AUTH_SOCK names", Families: neither, Needs: "SSH_AUTH_SOCK in its environment",
		Must: openUnlessBoxed(helpUnix, ByMounts), do: func(*try) error {
			path := os.Getenv("SSH_AUTH_SOCK")
			if path == "" {
				return fmt.Errorf("%w: no SSH_AUTH_SOCK", errAbsent)
			}
			return dialUnix(path)
		},
	},
	{
		Name: "unix-path", Unix: true, Tries: "dials a socket that anybody on this host may dial", Families: neither,
		Must: openUnlessBoxed(helpUnix, ByMounts), do: func(t *try) error { return dialUnix(t.Accomplice) },
	},
	{
		Name: "unix-relative", Unix: true, Tries: "dials it by another spelling of its path", Families: neither,
		Must: openUnlessBoxed(helpUnix, ByMounts), do: func(t *try) error {
			dir, base := filepath.Split(t.Accomplice)
			if err := os.Chdir(dir); err != nil {
				return err
			}
			return dialUnix("./././" + base)
		},
	},
	{
		Name: "unix-abstract", Unix: true, Tries: "dials a socket without a path", Families: neither,
		Must: openUnlessBoxed(helpUnix, ByNamespace), do: func(t *try) error { return dialUnix("@" + t.AbstractAccomplice) },
	},
	{
		Name: "unix-in-own-netns", Unix: true, Tries: "makes a network namespace of its own, and dials from there a socket that anybody may dial", Families: neither,
		clone: unix.CLONE_NEWUSER | unix.CLONE_NEWNET, Must: openUnlessBoxed(helpUnix, BySeccomp),
		do: func(t *try) error { return dialUnix(t.Accomplice) },
	},
	{
		Name: "unix-datagram", Unix: true, Tries: "sends a datagram to a socket of this host", Families: neither,
		Must: openUnlessBoxed(helpUnix, ByMounts), do: unixDatagram,
	},
	{
		Name: "control-socket", Unix: true, Tries: "asks the daemon over its control socket", Families: neither,
		Must: everywhere(ByMounts, ByDaemon), do: func(t *try) error { return t.askControl("") },
	},
	{
		Name: "control-socket-by-another-root", Unix: true, Tries: "asks it by way of another process's root directory", Families: neither,
		Must: boxed(by(ByDaemon), ByNamespace), do: func(t *try) error {
			return t.askControl(fmt.Sprintf("/proc/%d/root", t.Victim.PID))
		},
	},
	{
		Name: "guard-socket", Unix: true, Tries: "asks the guard for the kernel's maps", Families: neither,
		Must: everywhere(ByMounts, ByDaemon), do: (*try).askGuard,
	},
	spool("cron-spool", "/var/spool/cron/crontabs"),
	spool("cron-d", "/etc/cron.d"),
	spool("at-spool", "/var/spool/cron/atjobs"),
	spool("systemd-units", "/etc/systemd/system"),
}

// Places are the sockets and folders that attempts go for by their path, where
// an agent has that uid.
func Places(uid int) (sockets, folders []string) {
	for _, a := range All() {
		switch {
		case a.path == nil:
		case a.folder:
			folders = append(folders, a.path(uid))
		default:
			sockets = append(sockets, a.path(uid))
		}
	}
	return sockets, folders
}

// service is open in the tier redirected: its hooks are those of the network.
func service(name, path string) Attempt {
	a := sealed(name, path)
	a.Must = openUnlessBoxed(helpUnix, ByMounts)
	return a
}

// sealed is one that every run has hidden from it.
func sealed(name, path string) Attempt {
	shown := strings.ReplaceAll(path, "%d", "UID")
	return Attempt{
		Name: "unix-" + name, Unix: true, Tries: "dials " + shown, Families: neither, Needs: shown, Must: everywhere(ByMounts),
		path: ofUser(path), do: func(*try) error { return dialUnix(ofUser(path)(os.Getuid())) },
	}
}

// spool is a folder from which others take what they run.
func spool(name, path string) Attempt {
	return Attempt{
		Name: name, Tries: "puts a file into " + path, Families: neither, Needs: path, Must: boxed(by(ByKernel), ByMounts),
		path: ofUser(path), folder: true, do: func(*try) error {
			f, err := os.CreateTemp(path, ".bypass-")
			if err != nil {
				return err
			}
			f.Close()
			return os.Remove(f.Name())
		},
	}
}

func ofUser(path string) func(uid int) string {
	return func(uid int) string { return strings.ReplaceAll(path, "%d", fmt.Sprint(uid)) }
}

func dialUnix(path string) error {
	conn, err := net.DialTimeout("unix", path, tcpPatience)
	if err != nil {
		return err
	}
	return conn.Close()
}

func unixDatagram(t *try) error {
	fd, err := open(unix.AF_UNIX, unix.SOCK_DGRAM, 0, udpPatience)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return named("sendto", unix.Sendto(fd, payload, 0, &unix.SockaddrUnix{Name: t.Accomplice + datagramSuffix}))
}

// askControl is open when the daemon says more than no. The question is that of
// `postern status`.
func (t *try) askControl(root string) error {
	if t.Control == "" {
		return fmt.Errorf("%w: there is no daemon", errAbsent)
	}
	path := root + t.Control
	conn, err := net.DialTimeout("unix", path, tcpPatience)
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(tcpPatience))
	if _, err := io.WriteString(conn, "GET /v1/status HTTP/1.0\r\n\r\n"); err != nil {
		return err
	}
	answer := make([]byte, 64)
	n, err := conn.Read(answer)
	if err != nil {
		return fmt.Errorf("the daemon says nothing: %w", err)
	}
	if line, _, _ := strings.Cut(string(answer[:n]), "\r\n"); !strings.Contains(line, " 200 ") {
		return fmt.Errorf("the daemon says %q", line)
	}
	return nil
}

// askGuard is open when the guard hands anything over. The question is that of
// the daemon (internal/guard/wire.go).
func (t *try) askGuard() error {
	if t.Guard == "" {
		return fmt.Errorf("%w: there is no guard", errAbsent)
	}
	conn, err := net.DialTimeout("unix", t.Guard, tcpPatience)
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(tcpPatience))
	question := []byte(`{"op":"maps"}`)
	if _, err := conn.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(question))), question...)); err != nil {
		return err
	}
	text, fds, err := receive(conn.(*net.UnixConn))
	switch {
	case err != nil:
		return fmt.Errorf("the guard says nothing: %w", err)
	case len(fds) > 0:
		return nil
	case text == "":
		return errors.New("the guard hangs up")
	}
	return errors.New("the guard hands nothing over")
}
