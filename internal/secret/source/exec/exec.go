// Package exec is the source of secrets that a command prints: the command line
// of a password manager, a script.
//
// The command is configured, with "{path}" and "{key}" where the Ref's go; no
// shell sees it. What it prints, less one newline at its end, is the secret.
// When no argument has "{key}", a Ref's Key is a field of the YAML or JSON map
// that is printed. The exit status says what went wrong, as in sysexits.h: 66,
// there is no such secret; 77, no permission; any other, the source does not
// answer. What the command printed is in no error.
//
// A command ends with its first process: what that leaves behind in its process
// group is killed. Who may configure a command is left to the configuration.
// Start with New, then Source.Fetch.
package exec

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/postern/postern/internal/secret"
	"github.com/postern/postern/internal/secret/source"
)

const (
	// DefaultTimeout is how long a command may take, with a login somewhere in it.
	DefaultTimeout = 10 * time.Second
	// maxOutput is far above any password or key.
	maxOutput = 64 << 10
	// maxAtOnce bounds the processes of one source; who comes later waits.
	maxAtOnce = 4
	// maxName bounds a path or key, which becomes part of an argument.
	maxName = 4096

	notFound   = 66 // EX_NOINPUT of sysexits.h
	permission = 77 // EX_NOPERM
)

// ErrOptions is what errors of New wrap.
var ErrOptions = errors.New("exec source")

// Options of a Source.
type Options struct {
	// Command is the program, by its absolute path, and its arguments, in which
	// "{path}" and "{key}" are replaced.
	Command []string
	Timeout time.Duration // zero: DefaultTimeout
	// Env names the variables of the daemon that the command gets besides PATH and
	// HOME.
	Env []string
}

// Source runs a command for each secret.
type Source struct {
	opts    Options
	withKey bool          // an argument has "{key}"
	running chan struct{} // as many as maxAtOnce
}

// New returns a Source, unless the options make no sense.
func New(o Options) (*Source, error) {
	if len(o.Command) == 0 || !filepath.IsAbs(o.Command[0]) {
		return nil, fmt.Errorf("%w: command: the program's absolute path comes first", ErrOptions)
	}
	if strings.ContainsAny(o.Command[0], "{}") {
		return nil, fmt.Errorf("%w: command: a secret's name does not choose the program", ErrOptions)
	}
	if o.Timeout < 0 {
		return nil, fmt.Errorf("%w: timeout %s", ErrOptions, o.Timeout)
	}
	if o.Timeout == 0 {
		o.Timeout = DefaultTimeout
	}
	o.Command = slices.Clone(o.Command)
	o.Env = append([]string{"PATH", "HOME"}, o.Env...)
	s := &Source{opts: o, running: make(chan struct{}, maxAtOnce)}
	s.withKey = slices.ContainsFunc(o.Command, func(a string) bool { return strings.Contains(a, "{key}") })
	return s, nil
}

// Fetch runs the command.
func (s *Source) Fetch(ctx context.Context, ref source.Ref) (secret.Secret, source.Lease, error) {
	if ctx.Err() != nil {
		return secret.Secret{}, source.Lease{}, context.Cause(ctx)
	}
	value, err := s.fetch(ctx, ref)
	if err != nil {
		return secret.Secret{}, source.Lease{}, fmt.Errorf("exec %q: %w", ref.Path, err)
	}
	return secret.New(value), source.Lease{}, nil
}

func (s *Source) fetch(ctx context.Context, ref source.Ref) ([]byte, error) {
	if !plain(ref.Path) || ref.Path == "" || !plain(ref.Key) {
		return nil, fmt.Errorf("%w: a path or key neither begins with - nor has control characters, nor more than %d bytes", source.ErrNotFound, maxName)
	}
	if s.withKey && ref.Key == "" {
		return nil, fmt.Errorf("%w: the command wants a key", source.ErrNotFound)
	}
	select {
	case s.running <- struct{}{}:
		defer func() { <-s.running }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	output := make([]byte, maxOutput+1)
	defer clear(output)
	n, err := s.run(ctx, ref, output)
	if err != nil {
		return nil, err
	}
	if n > maxOutput {
		return nil, fmt.Errorf("%w: command %s printed more than %d bytes", source.ErrMalformed, s.opts.Command[0], maxOutput)
	}
	key := ref.Key
	if s.withKey {
		key = ""
	}
	return source.Pick(output[:n], key)
}

// plain says that a name can be part of an argument. One that begins with -
// would be an option to many a program; a control character is a line or an
// escape in what logs arguments.
func plain(name string) bool {
	return len(name) <= maxName && utf8.ValidString(name) && !strings.HasPrefix(name, "-") && !strings.ContainsFunc(name, unicode.IsControl)
}

// arguments replaces both in one pass: a path that holds "{key}" stays one.
func (s *Source) arguments(ref source.Ref) []string {
	in := strings.NewReplacer("{path}", ref.Path, "{key}", ref.Key)
	arguments := make([]string, 0, len(s.opts.Command)-1)
	for _, a := range s.opts.Command[1:] {
		arguments = append(arguments, in.Replace(a))
	}
	return arguments
}

func (s *Source) environment() []string {
	env := []string{} // not nil, which would be all of the daemon's
	for _, name := range s.opts.Env {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return env
}
