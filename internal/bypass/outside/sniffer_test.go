package outside

import (
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// An answer to what a server sends twice may come long after its connection
// was over. Such a segment is bare; what opens or carries something is not.
func TestSegment(t *testing.T) {
	ipv4 := func(flags byte, data string, padding int) []byte {
		ip := []byte{0x45, 0, 0, byte(40 + len(data)), 0, 0, 0x40, 0, 64, unix.IPPROTO_TCP, 0, 0, 203, 0, 113, 1, 203, 0, 113, 2}
		tcp := []byte{0xb2, 0x96, 1, 0xbb, 0, 0, 0, 1, 0, 0, 0, 1, 5 << 4, flags, 1, 0, 0, 0, 0, 0}
		return append(slices.Concat(ip, tcp, []byte(data)), make([]byte, padding)...)
	}
	ipv6 := func(flags byte, data string) []byte {
		ip := append([]byte{0x60, 0, 0, 0, 0, byte(20 + len(data)), unix.IPPROTO_TCP, 64}, make([]byte, 32)...)
		return slices.Concat(ip, ipv4(flags, data, 0)[20:])
	}
	const ack, syn, fin, rst = 0x10, 0x02, 0x01, 0x04
	for name, tc := range map[string]struct {
		ethernet uint16
		packet   []byte
		bare     bool
	}{
		"ack":           {unix.ETH_P_IP, ipv4(ack, "", 0), true},
		"ack, padded":   {unix.ETH_P_IP, ipv4(ack, "", 6), true},
		"end":           {unix.ETH_P_IP, ipv4(ack|fin, "", 0), true},
		"reset":         {unix.ETH_P_IP, ipv4(rst, "", 0), true},
		"opens":         {unix.ETH_P_IP, ipv4(syn, "", 0), false},
		"carries":       {unix.ETH_P_IP, ipv4(ack, "x", 0), false},
		"IPv6, ack":     {unix.ETH_P_IPV6, ipv6(ack, ""), true},
		"IPv6, opens":   {unix.ETH_P_IPV6, ipv6(syn|ack, ""), false},
		"IPv6, carries": {unix.ETH_P_IPV6, ipv6(ack, "x"), false},
	} {
		flow, bare := segment(tc.ethernet, tc.packet)
		if flow == "" || bare != tc.bare {
			t.Errorf("%s: flow %q, bare %v", name, flow, bare)
		}
	}
	other := ipv4(ack, "", 0)
	other[21]++ // the source port
	first, _ := segment(unix.ETH_P_IP, ipv4(ack, "", 0))
	if second, _ := segment(unix.ETH_P_IP, other); first == second {
		t.Error("two ports are one flow")
	}
	for name, packet := range map[string][]byte{"cut": ipv4(ack, "", 0)[:39], "UDP": {0x45, 9: unix.IPPROTO_UDP, 40: 0}} {
		if flow, bare := segment(unix.ETH_P_IP, packet); flow != "" || bare {
			t.Errorf("%s: flow %q, bare %v", name, flow, bare)
		}
	}
}
