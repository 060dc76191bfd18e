package guard

import (
	"fmt"
	"os"
	"slices"

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

// storedAs has all of a Door but the sockets.
const storedAs = "door-%d-%d-%d-%d-%d"

func storedName(d redirect.Door) string {
	return fmt.Sprintf(storedAs, d.PolicyID, d.Netns, d.TCP, d.DNSTCP, d.DNSUDP)
}

// store is called with mu held.
func (d *doors) putInStore(l *redirect.Listener) {
	files, err := l.Files()
	if err == nil {
		err = d.store.Store(storedName(l.Door()), files...)
		closeAll(files)
	}
	if err != nil {
		d.log.Warn("a listener will not outlive guard and daemon", "error", err)
	}
}

func (d *doors) takeFromStore(at redirect.Door) {
	if err := d.store.Unstore(storedName(at)); err != nil {
		d.log.Warn("systemd keeps a listener that is closed", "error", err)
	}
}

// restore takes up what a guard before has stored, and closes the files. The kernel
// programs may be others by now, which do not know the sockets.
func (d *doors) restore(stored map[string][]*os.File) {
	known, err := d.kernel.Gateways()
	if err != nil {
		d.log.Error("take up listeners", "error", err)
	}
	for name, files := range stored {
		var at redirect.Door
		_, err := fmt.Sscanf(name, storedAs, &at.PolicyID, &at.Netns, &at.TCP, &at.DNSTCP, &at.DNSUDP)
		switch {
		case err != nil || storedName(at) != name:
			err = fmt.Errorf("%q is no name of a listener", name)
		case !slices.ContainsFunc(known, func(g redirect.Gateway) bool {
			return redirect.Door{PolicyID: g.PolicyID, Netns: g.Netns, TCP: g.TCP, DNSTCP: g.DNSTCP, DNSUDP: g.DNSUDP} == at
		}):
			err = fmt.Errorf("the kernel programs do not know %s", name)
		default:
			err = d.keep(at, files)
		}
		closeAll(files)
		if err != nil {
			d.log.Warn("a stored listener is given up", "error", err)
			if err := d.store.Unstore(name); err != nil {
				d.log.Warn("systemd keeps a listener that is closed", "error", err)
			}
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.kept) > 0 {
		d.log.Info("listeners of a guard before taken up", "listeners", len(d.kept))
		d.awaitDaemon()
	}
}
