package file

import (
	"errors"
	"fmt"
	"os"
	"time"

	"filippo.io/age"
)

// NewIdentity makes an age identity in a new file, which only its owner may
// read, and returns the public key, to which secrets are encrypted. The file is
// as age-keygen(1) writes it. One that is there is left alone: it opens secrets.
func NewIdentity(path string) (public string, err error) {
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		return "", fmt.Errorf("new identity: %w", err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", fmt.Errorf("new identity: %w", err)
	}
	public = identity.Recipient().String()
	_, err = fmt.Fprintf(f, "# created: %s\n# public key: %s\n%s\n", time.Now().Format(time.RFC3339), public, identity)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		os.Remove(path)
		return "", fmt.Errorf("new identity: %w", err)
	}
	return public, nil
}
