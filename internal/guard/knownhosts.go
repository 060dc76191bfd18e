package guard

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/internal/config"
)

const (
	// KnownHostsFile is where the daemon puts what agents trust of SSH, below its
	// state directory.
	KnownHostsFile = "trust/known_hosts"

	knownHostsPath = RunDir + "/known_hosts"
	sshConfig      = "/etc/ssh/ssh_config"
)

// knownHostLine is what the daemon writes: an authority or a key, for hosts.
var knownHostLine = regexp.MustCompile(`^(@cert-authority )?[a-z0-9_.*:,\[\]-]+ (ssh-ed25519|ecdsa-sha2-nistp256) [A-Za-z0-9+/]+={0,2} postern\n$`)

// sshFiles make a run's OpenSSH trust the gateway's host keys for the hosts of
// targets. The file of that name in /etc is not there on most hosts, so that
// nothing can be put over it; the client's configuration is.
func sshFiles(cfg *config.Config) ([]file, error) {
	known, err := knownHosts(filepath.Join(cfg.StateDir, KnownHostsFile))
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(known) == 0 {
		return nil, nil // nothing speaks SSH
	}
	if err != nil {
		return nil, fmt.Errorf("what agents trust of SSH: %w", err)
	}
	files := []file{{Name: filepath.Base(knownHostsPath), Content: known}}
	own, err := regular(sshConfig, 0)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err == nil {
		files = append(files, file{Name: filepath.Base(sshConfig), Over: sshConfig, Content: bytes.Join([][]byte{
			[]byte("GlobalKnownHostsFile " + knownHostsPath + " /etc/ssh/ssh_known_hosts /etc/ssh/ssh_known_hosts2\n"), own,
		}, nil)})
	}
	return files, nil
}

// knownHosts reads a file of the daemon's and makes sure that public keys are all
// there is in it, as certificates does.
func knownHosts(path string) ([]byte, error) {
	b, err := regular(path, unix.O_NOFOLLOW)
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(b)) {
		if !knownHostLine.MatchString(line) {
			return nil, fmt.Errorf("%s holds something that is no host key", path)
		}
	}
	return b, nil
}
