package source

import (
	"context"
	"time"

	"github.com/postern/postern/internal/secret"
)

// Order says which credential is to be made, and for whom.
type Order struct {
	// Engine is what makes it: "database", "ssh" or "pki".
	Engine string
	// Mount is where the engine is mounted; empty: under its own name.
	Mount string
	// Role is the engine's own name for what is made.
	Role string
	// Name is the run or session that it is for, so that whoever looks at the
	// source's audit log finds it: letters, digits and dashes, at most 64.
	Name string
	// TTL is how long it is to live unless it is renewed; zero: as the role says.
	TTL time.Duration

	// For "ssh": the public key that is to be signed, in the format of
	// authorized_keys, and the principals. For "pki": the common name, and the
	// certificate's other names.
	PublicKey  string
	Principals []string
	CommonName string
	AltNames   []string
}

// Issued is a credential that was made to order.
type Issued struct {
	// Fields are the parts: "username" and "password" of a database, "certificate"
	// of ssh (a signed key, one line), "certificate", "private_key" and "ca_chain"
	// of pki, all in PEM form.
	Fields map[string]secret.Secret
	Lease  Lease
}

// Wipe overwrites every part.
func (i Issued) Wipe() {
	for _, s := range i.Fields {
		s.Wipe()
	}
}

// Issuer is a Source that also makes credentials which live only as long as
// somebody needs them. Its methods are called from any goroutine; what errors
// wrap is what those of Source do.
type Issuer interface {
	// Issue makes a credential. When it returns an error none is left behind, as
	// far as the source lets itself be asked.
	Issue(ctx context.Context, o Order) (Issued, error)
	// Renew prolongs a lease by extend, counted from now, and returns when it ends:
	// sooner than asked for where the source has a limit. ErrNotFound: the lease has
	// ended, or nobody knows it.
	Renew(ctx context.Context, id string, extend time.Duration) (Lease, error)
	// Revoke ends a lease, and what was issued under it. A lease that nobody knows
	// has ended already, which is no error.
	Revoke(ctx context.Context, id string) error
}
