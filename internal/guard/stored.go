package guard

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/postern/postern/internal/redirect"
)

// Store keeps files beyond the end of the process, under a name: systemd. Should guard
// and daemon both be killed, what agents have sent meanwhile waits for the next ones.
type Store interface {
	Store(name string, files ...*os.File) error // copies; they remain the caller's
	Unstore(name string) error
}

// noStore is a host without.
type noStore struct{}

func (noStore) Store(string, ...*os.File) error { return nil }
func (noStore) Unstore(string) error            { return nil }

// maxStored bounds the names of what is stored, in bytes. Systemd has the next guard
// told of them in one variable, in which the name of each descriptor is followed by
// another byte, and of which Linux lets a program have 128 KiB.
const maxStored = 100 << 10

// storedName is short for that reason. The ports are the kernel's to know.
func storedName(key doorKey) string {
	return strconv.FormatUint(uint64(key.policy), 36) + "." + strconv.FormatUint(key.netns, 36)
}

func storedKey(name string) (doorKey, bool) {
	policy, netns, _ := strings.Cut(name, ".")
	p, err1 := strconv.ParseUint(policy, 36, 32)
	n, err2 := strconv.ParseUint(netns, 36, 64)
	key := doorKey{uint32(p), n}
	return key, err1 == nil && err2 == nil && storedName(key) == name
}

// putInStore is called with mu held.
func (d *doors) putInStore(l *redirect.Listener) {
	at := l.Door()
	name := storedName(doorKey{at.PolicyID, at.Netns})
	files, err := l.Files()
	if err == nil {
		defer closeAll(files)
		if d.stored += len(files) * (len(name) + 1); d.stored > maxStored {
			err = errors.New("there are too many")
		} else {
			err = d.store.Store(name, files...)
		}
	}
	if err != nil {
		d.log.Warn("a listener will not outlive guard and daemon", "error", err)
	}
}

// takeFromStore is called with mu held.
func (d *doors) takeFromStore(l *redirect.Listener) {
	at := l.Door()
	name := storedName(doorKey{at.PolicyID, at.Netns})
	d.stored -= l.Sockets() * (len(name) + 1)
	d.unstore(name)
}

func (d *doors) unstore(name string) {
	if err := d.store.Unstore(name); err != nil {
		d.log.Warn("systemd keeps a listener that is closed", "error", err)
	}
}

// giveUp is for a listener that was kept and cannot be: who connects is refused.
func (d *doors) giveUp(at redirect.Door) {
	d.unstore(storedName(doorKey{at.PolicyID, at.Netns}))
	if at.Netns != 0 {
		if err := d.kernel.Forget(at.PolicyID, at.Netns); err != nil {
			d.log.Error("close a listener", "error", err)
		}
	}
}

// restore takes up what a guard before has stored, and closes the files. The kernel
// programs may be others by now, which do not know the sockets.
func (d *doors) restore(stored map[string][]*os.File) {
	known := map[doorKey]redirect.Door{}
	gateways, err := d.kernel.Gateways()
	if err != nil {
		d.log.Error("take up listeners", "error", err)
	}
	for _, g := range gateways {
		known[doorKey{g.PolicyID, g.Netns}] = redirect.Door{PolicyID: g.PolicyID, Netns: g.Netns, TCP: g.TCP, DNSTCP: g.DNSTCP, DNSUDP: g.DNSUDP}
	}
	for name, files := range stored {
		key, ok := storedKey(name)
		at, there := known[key]
		switch {
		case !ok:
			err = fmt.Errorf("%q is no name of a listener", name)
		case !there:
			err = fmt.Errorf("the kernel programs do not know %s", name)
		default:
			err = d.keep(at, files)
		}
		closeAll(files)
		if err != nil {
			d.log.Warn("a stored listener is given up", "error", err)
			d.unstore(name)
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.kept) > 0 {
		d.log.Info("listeners of a guard before taken up", "listeners", len(d.kept))
		d.awaitDaemon()
	}
}
