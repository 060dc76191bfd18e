package source

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// MaxContent bounds what a source takes for one secret, encrypted or not: a
// secret is small, and what is decrypted stays in memory.
const MaxContent = 1 << 20

// Pick returns a copy of the whole content of a file, less one newline at its
// end, or with a key that field of it.
func Pick(content []byte, key string) ([]byte, error) {
	if key != "" {
		return Field(content, key)
	}
	whole := bytes.TrimSuffix(bytes.TrimSuffix(content, []byte("\n")), []byte("\r"))
	if len(whole) == 0 {
		return nil, ErrEmpty
	}
	return bytes.Clone(whole), nil
}

// Field returns a scalar field of content, which is a map in JSON or YAML.
func Field(content []byte, key string) ([]byte, error) {
	// What is JSON is read as such: YAML has other escapes. JSON's decoder would
	// replace bytes that are not UTF-8, YAML's refuses them.
	if trimmed := bytes.TrimSpace(content); bytes.HasPrefix(trimmed, []byte("{")) && utf8.Valid(trimmed) && json.Valid(trimmed) {
		return fieldOfJSON(trimmed, key)
	}
	var fields map[string]yaml.Node
	if yaml.Unmarshal(content, &fields) != nil {
		return nil, fmt.Errorf("%w: not a YAML or JSON map, which key %q needs", ErrMalformed, key)
	}
	node, ok := fields[key]
	switch {
	case !ok:
		return nil, fmt.Errorf("%w: no field %q", ErrNotFound, key)
	case node.Kind != yaml.ScalarNode:
		return nil, fmt.Errorf("%w: field %q is not a single value", ErrMalformed, key)
	case node.Value == "" || node.Tag == "!!null":
		return nil, fmt.Errorf("%w: field %q", ErrEmpty, key)
	}
	return []byte(node.Value), nil
}

func fieldOfJSON(content []byte, key string) ([]byte, error) {
	var fields map[string]json.RawMessage
	if json.Unmarshal(content, &fields) != nil {
		return nil, fmt.Errorf("%w: not a YAML or JSON map, which key %q needs", ErrMalformed, key)
	}
	raw, ok := fields[key]
	switch {
	case !ok:
		return nil, fmt.Errorf("%w: no field %q", ErrNotFound, key)
	case raw[0] == '{' || raw[0] == '[':
		return nil, fmt.Errorf("%w: field %q is not a single value", ErrMalformed, key)
	case string(raw) == "null" || string(raw) == `""`:
		return nil, fmt.Errorf("%w: field %q", ErrEmpty, key)
	case raw[0] != '"':
		return bytes.Clone(raw), nil // numbers keep the digits that they are written with
	}
	var text string
	if json.Unmarshal(raw, &text) != nil {
		return nil, fmt.Errorf("%w: field %q is not a single value", ErrMalformed, key)
	}
	return []byte(text), nil
}

// Stamp tells one state of a file from another. The change time is in it
// because the others can be set at will.
type Stamp struct {
	Dev, Ino     uint64
	Size         int64
	Mtime, Ctime syscall.Timespec
}

// Version is a lease's, of a file that is exchanged when it changes.
func (s Stamp) Version() string {
	return fmt.Sprintf("%d-%d.%09d", s.Ino, s.Mtime.Sec, s.Mtime.Nsec)
}

// Open opens a regular file of at most MaxContent bytes.
func Open(path string) (*os.File, Stamp, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a FIFO must not hang the daemon
	if err != nil {
		return nil, Stamp{}, kind(err)
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%w: not a regular file", ErrMalformed)
	}
	if err == nil && st.Size() > MaxContent {
		err = fmt.Errorf("%w: longer than %d bytes", ErrMalformed, MaxContent)
	}
	if err != nil {
		f.Close()
		return nil, Stamp{}, err
	}
	sys := st.Sys().(*syscall.Stat_t)
	return f, Stamp{uint64(sys.Dev), sys.Ino, sys.Size, sys.Mtim, sys.Ctim}, nil
}

func kind(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: %w", ErrNotFound, err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: %w", ErrPermission, err)
	}
	return err
}
