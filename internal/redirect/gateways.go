package redirect

import (
	"fmt"

	"github.com/postern/postern/bpf"
)

// Gateway is where the connections of one policy go, in one network namespace.
type Gateway struct {
	Netns    uint64 // its cookie; 0 is the initial one on kernels before 5.14
	PolicyID uint32
	// Ports on loopback.
	TCP, DNSTCP, DNSUDP uint16
}

// Gateways lists those of all policies.
func (k *Kernel) Gateways() ([]Gateway, error) {
	var found []Gateway
	var key bpf.PosternListenerKey
	var ports bpf.PosternListener
	entries := k.maps[bpf.PosternMapListeners].Iterate()
	for entries.Next(&key, &ports) {
		found = append(found, Gateway{
			Netns: key.Netns, PolicyID: key.Policy, TCP: ports.TcpPort, DNSTCP: ports.DnsTcpPort, DNSUDP: ports.DnsUdpPort,
		})
	}
	if err := entries.Err(); err != nil {
		return nil, fmt.Errorf("list the gateways: %w", err)
	}
	return found, nil
}
