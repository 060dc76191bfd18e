package ssh

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
	"golang.org/x/sys/unix"

	"github.com/postern/postern/internal/engine"
)

// verifier decides on the host key of one upstream. It fails closed: what is not
// known is refused.
type verifier struct {
	known  engine.KnownHosts
	lines  [][]byte
	verify ssh.HostKeyCallback

	denial *engine.Denial // after a key was refused
	proven bool           // the upstream has shown a key that is known for it
	cause  error
}

func newVerifier(known engine.KnownHosts) (*verifier, error) {
	verify, err := parseKnownHosts(known.Lines)
	if err != nil {
		return nil, fmt.Errorf("the known host keys: %w", err)
	}
	return &verifier{known: known, lines: bytes.Split(known.Lines, []byte("\n")), verify: verify}, nil
}

// parseKnownHosts gives the library, which reads files only, one that is nowhere
// on disk.
func parseKnownHosts(lines []byte) (ssh.HostKeyCallback, error) {
	fd, err := unix.MemfdCreate("known_hosts", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "known_hosts")
	defer f.Close()
	if _, err := f.Write(lines); err != nil {
		return nil, err
	}
	return knownhosts.New("/proc/self/fd/" + strconv.Itoa(fd))
}

func (v *verifier) address() string {
	return net.JoinHostPort(v.known.Host, strconv.Itoa(int(v.known.Port)))
}

// check is the ssh.HostKeyCallback. Where the upstream really is does not count:
// a host is known by the name that the agent has for it.
func (v *verifier) check(address string, _ net.Addr, key ssh.PublicKey) error {
	err := v.verify(address, &net.TCPAddr{IP: net.IPv4zero}, key)
	if err == nil {
		v.proven = true
		return nil
	}
	v.cause = fmt.Errorf("%s %s: %w", key.Type(), ssh.FingerprintSHA256(key), err)
	v.denial = &engine.Denial{
		Code: engine.Unavailable, Reason: "the upstream's host key is not one that is known for it: nothing was sent to it",
		Help: "an operator compares the fingerprint in the daemon's log with the host's own, and corrects ssh.known_hosts, host_keys or host_ca of the target",
	}
	var unknown *knownhosts.KeyError
	var revoked *knownhosts.RevokedError
	switch {
	case errors.As(err, &revoked):
		v.denial.Reason = "the upstream's host key is revoked: nothing was sent to it"
	case errors.As(err, &unknown) && len(unknown.Want) == 0:
		v.denial.Reason = "no host key is known for the upstream: nothing was sent to it"
	}
	return v.denial
}

// algorithms are those of the keys that are known for the host, so that it shows
// one of them where it has several. Nil, for all, where none is: then whichever
// it shows is refused.
func (v *verifier) algorithms() []string {
	var refused *knownhosts.KeyError
	if !errors.As(v.verify(v.address(), &net.TCPAddr{IP: net.IPv4zero}, nobodysKey{}), &refused) {
		return nil
	}
	var certificates, plain []string
	for _, k := range refused.Want {
		if v.authority(k) {
			certificates = []string{
				ssh.CertAlgoED25519v01, ssh.CertAlgoECDSA256v01, ssh.CertAlgoECDSA384v01, ssh.CertAlgoECDSA521v01,
				ssh.CertAlgoRSASHA512v01, ssh.CertAlgoRSASHA256v01,
			}
			continue
		}
		kinds := []string{k.Key.Type()}
		if k.Key.Type() == ssh.KeyAlgoRSA {
			kinds = []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}
		}
		for _, kind := range kinds {
			if !slices.Contains(plain, kind) {
				plain = append(plain, kind)
			}
		}
	}
	return append(certificates, plain...)
}

// authority says whether a key is one that signs others'.
func (v *verifier) authority(k knownhosts.KnownKey) bool {
	return k.Line >= 1 && k.Line <= len(v.lines) && bytes.HasPrefix(bytes.TrimSpace(v.lines[k.Line-1]), []byte("@cert-authority"))
}

// nobodysKey is a key that is in no file, to be told of those that are.
type nobodysKey struct{}

func (nobodysKey) Type() string                        { return "nobody" }
func (nobodysKey) Marshal() []byte                     { return []byte("nobody") }
func (nobodysKey) Verify([]byte, *ssh.Signature) error { return errors.New("no key") }
