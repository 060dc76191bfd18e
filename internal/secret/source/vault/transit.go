package vault

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"

	"github.com/postern/postern/internal/secret"
	"github.com/postern/postern/internal/secret/source"
)

// sealedPrefix is how what transit/encrypt answers begins.
const sealedPrefix = "vault:v"

// open has the server decrypt a file. The key never leaves the server, so the
// file is no secret, and its digest is the version.
func (s *Source) open(ctx context.Context, f sealed, key string) (secret.Secret, source.Lease, error) {
	b, err := readFile(f.file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = fmt.Errorf("%w: %w", source.ErrNotFound, err)
	case errors.Is(err, fs.ErrPermission):
		err = fmt.Errorf("%w: %w", source.ErrPermission, err)
	case err != nil:
		err = fmt.Errorf("%w: %w", source.ErrMalformed, err)
	}
	if err != nil {
		return secret.Secret{}, source.Lease{}, err
	}
	b = bytes.TrimSpace(b)
	if len(b) == 0 {
		return secret.Secret{}, source.Lease{}, source.ErrEmpty
	}
	if !bytes.HasPrefix(b, []byte(sealedPrefix)) || bytes.ContainsFunc(b, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return secret.Secret{}, source.Lease{}, fmt.Errorf("%w: the file does not hold what transit encrypts to", source.ErrMalformed)
	}
	r := post(f.mount+"/decrypt/"+f.key, map[string]any{"ciphertext": string(b)})
	r.repeat = true
	a, err := s.do(ctx, r)
	if status(err) == http.StatusBadRequest {
		err = fmt.Errorf("%w: the key does not open the file", err)
	}
	if err != nil {
		return secret.Secret{}, source.Lease{}, err
	}
	defer a.wipe()
	value, err := plain(a, key)
	if err != nil {
		return secret.Secret{}, source.Lease{}, err
	}
	digest := sha256.Sum256(b)
	return value, source.Lease{Version: hex.EncodeToString(digest[:16])}, nil
}

// plain is the whole text, less one newline at its end, or one field of it.
func plain(a *answer, key string) (secret.Secret, error) {
	var encoded []byte // the decoder of JSON takes the base64 off
	raw := a.Data["plaintext"]
	if len(raw) == 0 || raw[0] != '"' || json.Unmarshal(raw, &encoded) != nil {
		return secret.Secret{}, fmt.Errorf("%w: the answer is not that of transit", source.ErrMalformed)
	}
	if key != "" {
		defer clear(encoded)
		var fields map[string]json.RawMessage
		if json.Unmarshal(encoded, &fields) != nil {
			return secret.Secret{}, fmt.Errorf("%w: not a JSON map, which key %q needs", source.ErrMalformed, key)
		}
		return pick(fields, key)
	}
	value := bytes.TrimSuffix(encoded, []byte("\n"))
	if len(value) == 0 {
		return secret.Secret{}, source.ErrEmpty
	}
	return secret.New(value), nil
}
