package source

import (
	"context"
	"fmt"
	"time"

	"github.com/postern/postern/internal/secret"
)

// askTimeout bounds one Ask, with its logins and what is tried again.
const askTimeout = 15 * time.Second

// Ask is the Fetch of a place on the network: what fetch returns, or the field of
// it that ref wants, within 15 s. What fetch returned is wiped where only a field
// of it is kept. Errors begin with what, which says what was asked.
func Ask(ctx context.Context, what string, ref Ref, fetch func(context.Context, Ref) ([]byte, Lease, error)) (secret.Secret, Lease, error) {
	if ctx.Err() != nil {
		return secret.Secret{}, Lease{}, context.Cause(ctx)
	}
	timed, stop := context.WithTimeout(ctx, askTimeout)
	defer stop()
	value, lease, err := fetch(timed, ref)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err == nil && len(value) == 0 {
		err = ErrEmpty
	}
	if err == nil && ref.Key != "" {
		whole := value
		value, err = Field(whole, ref.Key)
		clear(whole)
	}
	if err != nil {
		return secret.Secret{}, Lease{}, fmt.Errorf("%s %q: %w", what, ref.Path, err)
	}
	return secret.New(value), lease, nil
}
