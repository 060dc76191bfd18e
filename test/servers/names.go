package servers

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"

	"github.com/miekg/dns"
)

// Names is a name server: what the host's resolver asks.
type Names struct {
	server *dns.Server
	done   chan struct{}

	mu    sync.Mutex
	zone  map[string][]netip.Addr
	asked map[string]int
}

// StartNames serves a zone, of names without a final dot, at an address. The
// caller stops it.
func StartNames(at string, zone map[string][]netip.Addr) (*Names, error) {
	c, err := net.ListenPacket("udp", at)
	if err != nil {
		return nil, fmt.Errorf("name server: %w", err)
	}
	n := &Names{done: make(chan struct{}), zone: zone, asked: map[string]int{}}
	n.server = &dns.Server{PacketConn: c, Handler: dns.HandlerFunc(n.answer)}
	go func() {
		defer close(n.done)
		n.server.ActivateAndServe() //nolint:errcheck // it ends by Stop
	}()
	return n, nil
}

// Stop ends it.
func (n *Names) Stop() {
	n.server.PacketConn.Close()
	<-n.done
}

// Asked returns how often each name was asked for.
func (n *Names) Asked() map[string]int {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := map[string]int{}
	for name, count := range n.asked {
		out[name] = count
	}
	return out
}

// Set changes what a name is answered with.
func (n *Names) Set(name string, addresses ...netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.zone[name] = addresses
}

func (n *Names) answer(w dns.ResponseWriter, q *dns.Msg) {
	a := new(dns.Msg)
	a.SetReply(q)
	question := q.Question[0]
	n.mu.Lock()
	name := dns.CanonicalName(question.Name)
	name = name[:len(name)-1]
	n.asked[name]++
	addresses, found := n.zone[name]
	n.mu.Unlock()
	if !found {
		a.Rcode = dns.RcodeNameError
	}
	for _, ip := range addresses {
		h := dns.RR_Header{Name: question.Name, Rrtype: question.Qtype, Class: dns.ClassINET, Ttl: 1}
		switch {
		case question.Qtype == dns.TypeA && ip.Is4():
			a.Answer = append(a.Answer, &dns.A{Hdr: h, A: ip.AsSlice()})
		case question.Qtype == dns.TypeAAAA && ip.Is6():
			a.Answer = append(a.Answer, &dns.AAAA{Hdr: h, AAAA: ip.AsSlice()})
		}
	}
	w.WriteMsg(a) //nolint:errcheck // the client asks again
}

// UseNames has everything that is started from here on ask the name server at
// an address, by a file in place of /etc/resolv.conf. It wants mounts of its
// own. The file may be written anew.
func UseNames(file, server string) error {
	if err := os.WriteFile(file, []byte("nameserver "+server+"\n"), 0o644); err != nil {
		return err
	}
	// Where it is a link, what it leads to may not be there, and the mount needs
	// something to be on.
	at := "/etc/resolv.conf"
	if st, err := os.Stat(at); err != nil || !st.Mode().IsRegular() {
		return fmt.Errorf("%s is no regular file to mount another one on: %w", at, err)
	}
	if err := syscall.Mount(file, at, "", syscall.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount %s on %s: %w", file, at, err)
	}
	return nil
}
