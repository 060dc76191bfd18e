package vault

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/postern/postern/internal/secret/source"
)

// maxPath bounds what of a server is named: Vault's storage takes no longer keys.
const maxPath = 512

// kvPath is a parsed Ref.Path of KV.
type kvPath struct {
	path    string // mount and path
	version int    // 0: the newest
}

const versionMark = "?version="

func parsePath(p string) (kvPath, error) {
	path, v, versioned := strings.Cut(p, versionMark)
	out := kvPath{path: path}
	if versioned {
		n, err := strconv.ParseUint(v, 10, 31)
		if err != nil || n == 0 || v[0] == '+' {
			return kvPath{}, fmt.Errorf("%w: the version is not a number from 1", source.ErrMalformed)
		}
		out.version = int(n)
	}
	return out, checkPath(path)
}

// checkPath refuses what could be another path for the server, or for a proxy
// before it, than it looks: nothing of it is asked for.
func checkPath(p string) error {
	bad := func(why string) error { return fmt.Errorf("%w: the path %s", source.ErrMalformed, why) }
	switch {
	case p == "":
		return bad("is empty")
	case len(p) > maxPath:
		return bad(fmt.Sprintf("is longer than %d bytes", maxPath))
	case !utf8.ValidString(p):
		return bad("is not UTF-8")
	case strings.ContainsAny(p, `%?#\*+`):
		return bad(`has one of % ? # \ * + in it`)
	case strings.ContainsFunc(p, func(r rune) bool { return !unicode.IsPrint(r) }):
		return bad("has characters in it that do not show")
	}
	for part := range strings.SplitSeq(p, "/") {
		switch part {
		case "":
			return bad("has an empty part")
		case ".", "..":
			return bad("has a part that means another folder")
		}
	}
	return nil
}

// checkName is checkPath for one part.
func checkName(what, name string) error {
	if err := checkPath(name); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if strings.Contains(name, "/") {
		return fmt.Errorf("%w: the %s has a slash in it", source.ErrMalformed, what)
	}
	return nil
}

// sealed is a parsed Ref.Path of a file that transit sealed.
type sealed struct {
	mount, key, file string
}

const sealedMark = "transit:"

// parseSealed reports whether the path is of that kind. The key may have its
// mount before it, and a slash between them.
func parseSealed(p string) (sealed, bool, error) {
	rest, is := strings.CutPrefix(p, sealedMark)
	if !is {
		return sealed{}, false, nil
	}
	key, file, ok := strings.Cut(rest, ":")
	if !ok || file == "" || strings.ContainsRune(file, 0) {
		return sealed{}, true, fmt.Errorf("%w: not of the form transit:KEY:FILE", source.ErrMalformed)
	}
	if err := checkPath(key); err != nil {
		return sealed{}, true, fmt.Errorf("key: %w", err)
	}
	out := sealed{mount: "transit", key: key, file: file}
	if i := strings.LastIndexByte(key, '/'); i >= 0 {
		out.mount, out.key = key[:i], key[i+1:]
	}
	return out, true, nil
}
