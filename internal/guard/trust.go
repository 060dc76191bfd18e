package guard

import (
	"bytes"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/internal/config"
	"github.com/postern/postern/internal/sandbox"
)

const (
	// RootFile is where the daemon puts the certificate of the host's authority,
	// below its state directory.
	RootFile = "trust/root.pem"

	// RunDir is a file system of the run's own, mounted where the host has
	// Postern's sockets, which an agent has no business with.
	RunDir     = sandbox.FilesAt
	rootPath   = RunDir + "/root.pem"
	bundlePath = RunDir + "/bundle.pem"

	// maxTrustFile bounds a file of authorities; the system's has 200 KiB.
	maxTrustFile = 4 << 20
)

// Variables by which runtimes are told where authorities are. Some replace the
// built-in list and want all of them, some add to it.
var (
	bundleVariables = []string{
		"SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT", "GIT_SSL_CAINFO", "CARGO_HTTP_CAINFO",
		"AWS_CA_BUNDLE", "NIX_SSL_CERT_FILE", "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE",
	}
	rootVariables = []string{"NODE_EXTRA_CA_CERTS", "DENO_CERT"}
)

// bundles are where distributions keep the system's authorities in one file.
var bundles = []string{
	"/etc/ssl/certs/ca-certificates.crt",                // Debian, Arch, Gentoo
	"/etc/pki/tls/certs/ca-bundle.crt",                  // Fedora, RHEL
	"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", // their source of it
	"/etc/ssl/ca-bundle.pem",                            // SUSE
	"/etc/ssl/cert.pem",                                 // Alpine
}

// hidden are sockets of resolvers that would answer names without asking the
// gateway's.
var hidden = []string{
	"/run/nscd/socket", "/var/run/nscd/socket", "/var/lib/sss/pipes/nss", "/run/systemd/resolve/io.systemd.Resolve",
}

// file is one that a run sees in place of the host's.
type file = sandbox.File

// trustFiles makes what a run needs to trust the gateway and to ask its
// resolver. A configured file that is not there is left out: the agent that
// names it had no use for it either.
func trustFiles(cfg *config.Config) ([]file, error) {
	root, err := certificates(filepath.Join(cfg.StateDir, RootFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errors.New("the host's certificate authority is missing: start posternd once, it makes one")
	}
	if err != nil {
		return nil, fmt.Errorf("the host's certificate authority: %w", err)
	}
	files := []file{{Name: filepath.Base(rootPath), Content: root}}
	var system []byte
	for _, path := range append(slices.Clone(bundles), cfg.Trust.Files...) {
		b, err := regular(path, 0)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("trust: %w", err)
		}
		b = onlyCertificates(b)
		if system == nil && slices.Contains(bundles, path) {
			system = b
		}
		files = append(files, file{Name: fmt.Sprintf("trust-%d.pem", len(files)), Over: path, Content: joined(b, root)})
	}
	hosts, err := regular("/etc/hosts", 0)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	ssh, err := sshFiles(cfg)
	if err != nil {
		return nil, err
	}
	return append(append(files, ssh...),
		file{Name: filepath.Base(bundlePath), Content: joined(system, root)},
		file{Name: "hosts", Over: "/etc/hosts", Content: withoutTargets(hosts, cfg)},
		file{Name: "nsswitch.conf", Over: "/etc/nsswitch.conf", Content: []byte(nsswitch)},
	), nil
}

// nsswitch makes glibc look names up in the hosts file and then by DNS, which
// is where the gateway answers.
const nsswitch = "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nnetworks: files\nprotocols: files\n" +
	"services: files\nethers: files\nrpc: files\n"

// resolvConf is for a sandbox, where what the host's names or leads to may not
// be. Whatever server it names, the gateway's resolver answers.
func resolvConf() file {
	text := "nameserver 127.0.0.1\n"
	if b, err := regular("/etc/resolv.conf", 0); err == nil {
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); len(f) > 1 && (f[0] == "search" || f[0] == "domain" || f[0] == "options") {
				text += strings.TrimSpace(line) + "\n"
			}
		}
	}
	return file{Name: "resolv.conf", Over: "/etc/resolv.conf", Content: []byte(text)}
}

// joined appends the root to a file's own certificates.
func joined(own, root []byte) []byte {
	out := bytes.TrimRight(own, "\n")
	if len(out) > 0 {
		out = append(slices.Clip(out), '\n')
	}
	return append(out, root...)
}

// withoutTargets drops the names of targets from a hosts file: they are the
// resolver's, which knows by the address it gives which one was meant.
func withoutTargets(hosts []byte, cfg *config.Config) []byte {
	target := func(name string) bool {
		name = strings.ToLower(strings.TrimSuffix(name, "."))
		return slices.ContainsFunc(cfg.Targets, func(t config.Target) bool {
			return slices.ContainsFunc(t.Hosts, func(h config.HostPort) bool { return h.Covers(name) })
		})
	}
	var out strings.Builder
	for line := range strings.Lines(string(hosts)) {
		text, _, _ := strings.Cut(line, "#")
		fields := strings.Fields(text)
		if len(fields) < 2 {
			continue
		}
		keep := slices.DeleteFunc(fields[1:], target)
		if len(keep) > 0 {
			fmt.Fprintf(&out, "%s\t%s\n", fields[0], strings.Join(keep, " "))
		}
	}
	return []byte(out.String())
}

// onlyCertificates leaves out all else: a run shows these files to whoever is in
// it, and root read them, where a person may own the folder and have put a link
// in place of the file.
func onlyCertificates(b []byte) (out []byte) {
	for {
		var block *pem.Block
		if block, b = pem.Decode(b); block == nil {
			return out
		}
		if block.Type == "CERTIFICATE" || block.Type == "TRUSTED CERTIFICATE" || block.Type == "X509 CERTIFICATE" {
			out = append(out, pem.EncodeToMemory(block)...)
		}
	}
}

// certificates reads a file of the daemon's and makes sure that certificates
// are all there is in it: the guard can read what neither the daemon nor the
// agent may, and must not be made to hand it over.
func certificates(path string) ([]byte, error) {
	b, err := regular(path, unix.O_NOFOLLOW)
	if err != nil {
		return nil, err
	}
	var out []byte
	for rest := b; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("%s holds something that is no certificate", path)
		}
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes})...)
	}
	if out == nil {
		return nil, fmt.Errorf("%s holds no certificate", path)
	}
	return out, nil
}

// regular reads a regular file of bounded size.
func regular(path string, flags int) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|flags, 0) // a FIFO must not hang the guard
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() || st.Size() > maxTrustFile {
		return nil, fmt.Errorf("%s is not a regular file of at most %d bytes", path, maxTrustFile)
	}
	return io.ReadAll(io.LimitReader(f, maxTrustFile))
}
