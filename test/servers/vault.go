package servers

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// VaultServer is a running HashiCorp Vault, which keeps what it knows over
// Restart. Its root token and unseal key are for tests.
type VaultServer struct {
	Address   string
	RootToken string
	UnsealKey string
	CA        string // PEM file, of a server with TLS
	Dir       string
	Log       string

	binary string
	args   []string
	cmd    *exec.Cmd
	http   *http.Client
}

// VaultOptions shape a server.
type VaultOptions struct {
	TLS bool
	// Kept has it keep what it knows in a folder, for Restart.
	Kept bool
}

// Vault starts a server for one test, which fails when the program is missing.
func Vault(t testing.TB, o VaultOptions) *VaultServer {
	t.Helper()
	v, err := StartVault(t.TempDir(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.Stop)
	return v
}

// vaultBinary is in build/ of the tree that the test is in.
func vaultBinary() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "bpf")); err != nil {
			continue
		}
		at := filepath.Join(dir, "build", "vaultserver")
		if _, err := os.Stat(at); err != nil {
			return "", fmt.Errorf("%s is missing: run `make vault-server` first", at)
		}
		return at, nil
	}
	return "", errors.New("the test does not run inside of the tree")
}

// StartVault starts a server. The caller stops it.
func StartVault(dir string, o VaultOptions) (*VaultServer, error) {
	binary, err := vaultBinary()
	if err != nil {
		return nil, err
	}
	v := &VaultServer{Dir: dir, Log: filepath.Join(dir, "vault.log"), binary: binary, http: &http.Client{Timeout: patience}}
	port, err := FreePort()
	if err != nil {
		return nil, err
	}
	v.args = []string{"-listen", fmt.Sprintf("127.0.0.1:%d", port)}
	if o.Kept {
		v.args = append(v.args, "-storage", filepath.Join(dir, "storage"))
	}
	if o.TLS {
		v.CA = filepath.Join(dir, "server.crt")
		pool, err := selfSigned(v.CA, filepath.Join(dir, "server.key"))
		if err != nil {
			return nil, err
		}
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.Proxy, t.TLSClientConfig = nil, &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
		v.http.Transport = t
		v.args = append(v.args, "-tls-cert", v.CA, "-tls-key", filepath.Join(dir, "server.key"))
	}
	return v, v.start()
}

// start starts the program and waits for its line.
func (v *VaultServer) start() error {
	log, err := os.OpenFile(v.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	v.cmd = exec.Command(v.binary, v.args...)
	v.cmd.Env = []string{"PATH=/usr/bin:/bin", "HOME=" + v.Dir}
	v.cmd.Stderr = log
	v.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	out, err := v.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := v.cmd.Start(); err != nil {
		return err
	}
	var line struct {
		Address   string `json:"address"`
		RootToken string `json:"root_token"`
		UnsealKey string `json:"unseal_key"`
	}
	if err := json.NewDecoder(out).Decode(&line); err != nil {
		text, _ := os.ReadFile(v.Log)
		v.Stop()
		return fmt.Errorf("vault does not start: %w: %s", err, text)
	}
	v.Address = line.Address
	if line.RootToken != "" {
		v.RootToken, v.UnsealKey = line.RootToken, line.UnsealKey
	}
	if line.RootToken == "" {
		return nil // it is sealed
	}
	return v.ready()
}

// ready waits until it serves: unsealing goes on in the background.
func (v *VaultServer) ready() error {
	return await(func() error {
		_, err := v.Do(http.MethodGet, "sys/health", nil)
		return err
	})
}

// Stop kills the server.
func (v *VaultServer) Stop() {
	if v.cmd == nil {
		return
	}
	v.cmd.Process.Kill() //nolint:errcheck // it may have ended
	v.cmd.Wait()         //nolint:errcheck // it was killed
	v.cmd = nil
}

// Restart kills the server and starts it again, sealed.
func (v *VaultServer) Restart(t testing.TB) {
	t.Helper()
	v.Stop()
	if err := v.start(); err != nil {
		t.Fatal(err)
	}
}

// Seal seals it.
func (v *VaultServer) Seal(t testing.TB) { v.Must(t, http.MethodPut, "sys/seal", nil) }

// Unseal opens it again.
func (v *VaultServer) Unseal(t testing.TB) {
	t.Helper()
	v.Must(t, http.MethodPut, "sys/unseal", map[string]any{"key": v.UnsealKey})
	if err := v.ready(); err != nil {
		t.Fatal(err)
	}
}

// Must is Do for what has to work.
func (v *VaultServer) Must(t testing.TB, method, path string, body map[string]any) map[string]any {
	t.Helper()
	out, err := v.Do(method, path, body)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Put writes to a path as root.
func (v *VaultServer) Put(t testing.TB, path string, body map[string]any) map[string]any {
	t.Helper()
	return v.Must(t, http.MethodPut, path, body)
}

// Policy makes a policy, in Vault's own language.
func (v *VaultServer) Policy(t testing.TB, name, rules string) {
	t.Helper()
	v.Put(t, "sys/policies/acl/"+name, map[string]any{"policy": rules})
}

// Token makes one with policies; ttl empty: the server's default.
func (v *VaultServer) Token(t testing.TB, ttl string, policies ...string) string {
	t.Helper()
	body := map[string]any{"policies": policies}
	if ttl != "" {
		body["ttl"] = ttl
	}
	return v.Put(t, "auth/token/create", body)["auth"].(map[string]any)["client_token"].(string)
}

// Do makes a request as root and returns the answer.
func (v *VaultServer) Do(method, path string, body map[string]any) (map[string]any, error) {
	return v.DoWith(method, path, body, nil)
}

// DoWith is Do with more headers.
func (v *VaultServer) DoWith(method, path string, body map[string]any, header map[string]string) (map[string]any, error) {
	b, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, v.Address+"/v1/"+path, bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	req.Header.Set("X-Vault-Token", v.RootToken)
	for name, value := range header {
		req.Header.Set(name, value)
	}
	resp, err := v.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode >= 300 {
		return nil, fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, strings.TrimSpace(string(text)))
	}
	var out map[string]any
	if len(text) > 0 {
		err = json.Unmarshal(text, &out)
	}
	return out, err
}

// selfSigned makes a certificate for loopback that is its own authority.
func selfSigned(crt, keyFile string) (*x509.CertPool, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "vault.test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(48 * time.Hour),
		DNSNames: []string{"vault.test"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pool, errors.Join(writePEM(crt, "CERTIFICATE", der, 0o644), writePEM(keyFile, "PRIVATE KEY", pkcs8, 0o600))
}
