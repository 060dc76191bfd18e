package file

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"os"
	"testing"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"golang.org/x/crypto/ssh"

	"github.com/postern/postern/internal/secret/source"
	"github.com/postern/postern/internal/secret/source/sourcetest"
)

// Two files of identities, one of them an SSH key, open what is encrypted to
// either; when one is exchanged, what is encrypted to the new one opens.
func TestSeveralIdentities(t *testing.T) {
	f, _ := newFolder(t)
	public, private, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	block, err := ssh.MarshalPrivateKey(private, "")
	must(t, err)
	f.raw(t, "ssh", pem.EncodeToMemory(block))
	sshPublic, err := ssh.NewPublicKey(public)
	must(t, err)
	recipient, err := agessh.NewEd25519Recipient(sshPublic)
	must(t, err)
	s := New(Options{Dir: f.dir, Identity: f.key(), Identities: []string{f.path("ssh")}})
	opens := func(path, want string) {
		t.Helper()
		got, _, err := s.Fetch(t.Context(), source.Ref{Path: path})
		if err != nil || string(got.Reveal()) != want {
			t.Errorf("%s is %q, %v", path, got.Reveal(), err)
		}
	}
	f.put(t, "a", "to age")
	f.raw(t, "b", sealed(t, recipient, "to SSH"))
	opens("a", "to age")
	opens("b", "to SSH")

	next, err := age.GenerateX25519Identity()
	must(t, err)
	f.raw(t, "c", sealed(t, next.Recipient(), sourcetest.Canary))
	got, _, err := s.Fetch(t.Context(), source.Ref{Path: "c"})
	sourcetest.Fails(t, got, err, source.ErrMalformed)
	f.raw(t, "identity", []byte(next.String()))
	opens("c", sourcetest.Canary)

	must(t, os.Chmod(f.path("ssh"), 0o640))
	f.raw(t, "d", sealed(t, next.Recipient(), sourcetest.Canary))
	got, _, err = s.Fetch(t.Context(), source.Ref{Path: "d"})
	sourcetest.Fails(t, got, err, source.ErrPermission)
	must(t, os.Chmod(f.path("ssh"), 0o600))

	locked, err := ssh.MarshalPrivateKeyWithPassphrase(private, "", []byte(sourcetest.Canary))
	must(t, err)
	f.raw(t, "ssh", pem.EncodeToMemory(locked))
	got, _, err = s.Fetch(t.Context(), source.Ref{Path: "d"})
	sourcetest.Fails(t, got, err, source.ErrMalformed)
}
