package bypass

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	helpFamilies = "close it with RestrictAddressFamilies=, or run the agent in the tier workspace or strict"
	// protocolRaw is what raw sockets of any protocol are made for.
	protocolRaw = unix.IPPROTO_RAW
)

// Sockets that are not for TCP and UDP.
var socketAttempts = []Attempt{
	{Name: "icmp-socket", Tries: "makes a socket for ping", Families: both, Must: everywhere(BySocket, ByKernel), do: icmp(unix.SOCK_DGRAM)},
	{Name: "raw-icmp", Tries: "makes a raw socket for ICMP", Families: both, Must: everywhere(ByKernel, BySocket), do: icmp(unix.SOCK_RAW)},
	{Name: "raw-ip", Tries: "makes a raw socket for whole packets", Families: both, Must: everywhere(ByKernel, BySocket), do: makes(unix.SOCK_RAW, protocolRaw)},
	{Name: "raw-tcp", Tries: "makes a raw socket for TCP segments of its own", Families: both, Must: everywhere(ByKernel, BySocket), do: makes(unix.SOCK_RAW, unix.IPPROTO_TCP)},
	{
		Name: "dccp", Tries: "makes a DCCP socket", Families: both, Needs: "DCCP in the kernel",
		Must: everywhere(BySocket), do: makes(unix.SOCK_DCCP, unix.IPPROTO_DCCP),
	},
	{
		Name: "l2tp", Tries: "makes a socket for tunnels", Families: both, Needs: "L2TP in the kernel",
		Must: everywhere(BySocket), do: makes(unix.SOCK_DGRAM, unix.IPPROTO_L2TP),
	},
	{
		Name: "raw-in-userns", Tries: "makes itself root of a user namespace, and a raw socket there", Families: both, clone: unix.CLONE_NEWUSER,
		Must: boxed(by(ByKernel, BySocket), BySeccomp), do: makes(unix.SOCK_RAW, protocolRaw),
	},
	{Name: "packet-socket", Tries: "makes a socket for frames", Families: neither, Must: boxed(by(ByKernel), BySeccomp), do: family(unix.AF_PACKET, unix.SOCK_RAW, unix.ETH_P_ALL<<8)},
	{
		Name: "packet-in-userns", Tries: "makes itself root of a user namespace, and a socket for frames there", Families: neither, clone: unix.CLONE_NEWUSER,
		Must: boxed(by(ByKernel), BySeccomp), do: family(unix.AF_PACKET, unix.SOCK_RAW, unix.ETH_P_ALL<<8),
	},
	{
		Name: "xdp-socket", Tries: "makes a socket that shares memory with the driver", Families: neither, Needs: "AF_XDP in the kernel",
		Must: boxed(by(ByKernel), BySeccomp), do: family(unix.AF_XDP, unix.SOCK_RAW, 0),
	},
	{
		Name: "vsock", Tries: "makes a socket to the machine that this one runs on", Families: neither, Needs: "AF_VSOCK in the kernel",
		Must: openUnlessBoxed(helpFamilies, BySeccomp), do: family(unix.AF_VSOCK, unix.SOCK_STREAM, 0),
	},
	{
		Name: "tipc", Tries: "makes a TIPC socket", Families: neither, Needs: "TIPC in the kernel",
		Must: openUnlessBoxed(helpFamilies, BySeccomp), do: family(unix.AF_TIPC, unix.SOCK_SEQPACKET, 0),
	},
	{
		Name: "rds", Tries: "makes an RDS socket, whose connections are the kernel's own", Families: neither, Needs: "RDS in the kernel",
		Must: openUnlessBoxed(helpFamilies, BySeccomp), do: family(unix.AF_RDS, unix.SOCK_SEQPACKET, 0),
	},
	{
		Name: "bluetooth", Tries: "makes a Bluetooth socket", Families: neither, Needs: "Bluetooth in the kernel",
		Must: openUnlessBoxed(helpFamilies, BySeccomp), do: family(unix.AF_BLUETOOTH, unix.SOCK_SEQPACKET, 0),
	},
	{
		Name: "netlink-route", Tries: "gives this host an address, by netlink", Families: both,
		Must: everywhere(ByKernel), do: addAddress,
	},
	{
		Name: "tun", Tries: "makes a network device of its own", Families: neither, Needs: "TUN in the kernel",
		Must: boxed(by(ByKernel), ByMounts), do: tun,
	},
}

func icmp(kind int) func(*try) error {
	return func(t *try) error {
		if t.family == V6 {
			return makes(kind, unix.IPPROTO_ICMPV6)(t)
		}
		return makes(kind, unix.IPPROTO_ICMP)(t)
	}
}

func family(domain, kind, protocol int) func(*try) error {
	return func(*try) error {
		fd, err := open(domain, kind, protocol, udpPatience)
		if err != nil {
			return err
		}
		return unix.Close(fd)
	}
}

// addAddress asks for an address on lo, by RTM_NEWADDR (rtnetlink(7)).
func addAddress(t *try) error {
	fd, err := open(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE, udpPatience)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	address := t.foreign().AsSlice()
	const headers = unix.SizeofNlMsghdr + unix.SizeofIfAddrmsg
	m := make([]byte, headers)
	binary.NativeEndian.PutUint16(m[4:], unix.RTM_NEWADDR)
	binary.NativeEndian.PutUint16(m[6:], unix.NLM_F_REQUEST|unix.NLM_F_ACK|unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	m[unix.SizeofNlMsghdr] = byte(domainOf(t.far()))
	m[unix.SizeofNlMsghdr+1] = byte(8 * len(address))
	binary.NativeEndian.PutUint32(m[unix.SizeofNlMsghdr+4:], 1) // lo
	m = binary.NativeEndian.AppendUint16(m, uint16(unix.SizeofRtAttr+len(address)))
	m = binary.NativeEndian.AppendUint16(m, unix.IFA_LOCAL)
	m = append(m, address...)
	binary.NativeEndian.PutUint32(m, uint32(len(m)))
	if err := unix.Sendto(fd, m, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return named("send by netlink", err)
	}
	answer := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, answer, 0)
	if err != nil {
		return named("answer by netlink", err)
	}
	if n < unix.SizeofNlMsghdr+4 {
		return errors.New("an answer that is none")
	}
	if code := int32(binary.NativeEndian.Uint32(answer[unix.SizeofNlMsghdr:])); code != 0 {
		return named("RTM_NEWADDR", unix.Errno(-code))
	}
	return nil
}

// tun makes a device by TUNSETIFF (Documentation/networking/tuntap.rst). It goes
// with the descriptor.
func tun(*try) error {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO) {
		return fmt.Errorf("open /dev/net/tun: %w: %w", errAbsent, err)
	}
	if err != nil {
		return named("open /dev/net/tun", err)
	}
	defer unix.Close(fd)
	request, err := unix.NewIfreq("postern-tun")
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TUNSETIFF, uintptr(unsafe.Pointer(request))); errno != 0 {
		return named("TUNSETIFF", errno)
	}
	return nil
}

// fileHolds says whether a file of /proc has a text in it.
func fileHolds(path, text string) (bool, error) {
	b, err := os.ReadFile(path)
	return strings.Contains(string(b), text), err
}
