package vault

import (
	"cmp"
	"context"
)

// JWT logs in with a token that somebody else signed: an identity provider, a
// SPIFFE agent, a CI system.
type JWT struct {
	always
	Mount string // empty: jwt
	Role  string
	Path  string // of the file with the token, read at each login
}

func (j JWT) String() string { return "JWT at auth/" + cmp.Or(j.Mount, "jwt") }

func (j JWT) login(ctx context.Context, s *Source) (*token, error) {
	return enterWithToken(ctx, s, cmp.Or(j.Mount, "jwt"), j.Role, j.Path)
}

// kubernetesToken is where a pod has the token of its service account.
const kubernetesToken = "/var/run/secrets/kubernetes.io/serviceaccount/token" //nolint:gosec // a path

// Kubernetes logs in with the token of a service account.
type Kubernetes struct {
	always
	Mount string // empty: kubernetes
	Role  string
	Path  string // empty: where a pod has it; read at each login
}

func (k Kubernetes) String() string { return "Kubernetes at auth/" + cmp.Or(k.Mount, "kubernetes") }

func (k Kubernetes) login(ctx context.Context, s *Source) (*token, error) {
	return enterWithToken(ctx, s, cmp.Or(k.Mount, "kubernetes"), k.Role, cmp.Or(k.Path, kubernetesToken))
}

func enterWithToken(ctx context.Context, s *Source, mount, role, path string) (*token, error) {
	signed, err := readSecret(path)
	if err != nil {
		return nil, err
	}
	defer signed.Wipe()
	return s.enter(ctx, "auth/"+mount+"/login", map[string]any{"role": role, "jwt": text{signed}})
}
