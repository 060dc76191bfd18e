// Package servers starts the real servers that tests, benchmarks and the demo
// run against, each in a directory of its own and on loopback only. It installs
// nothing; what is missing is an error that names the package. Start with
// StartPostgres.
package servers

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// PostgresOptions shape a server.
type PostgresOptions struct {
	Dir      string   // made if missing; every path component is traversable by the server's user
	Host     string   // the name in the server's certificate
	Password string   // of the superuser postgres
	HBA      []string // lines of pg_hba.conf; default: scram-sha-256 over TLS for everybody
	Settings []string // further lines of postgresql.conf
	Init     string   // SQL run as postgres
}

// Postgres is a running server.
type Postgres struct {
	Port int
	CA   string // PEM file of the authority that signed the server's certificate
	Dir  string
	Log  string

	caCert *x509.Certificate
	caKey  *ecdsa.PrivateKey
	cmd    *exec.Cmd
	user   *syscall.Credential
	socket string
}

// postgresBin is where Debian's postgresql-15 puts the server.
const postgresBin = "/usr/lib/postgresql/15/bin"

// StartPostgres makes a cluster and starts it. The caller stops it.
func StartPostgres(o PostgresOptions) (*Postgres, error) {
	if _, err := os.Stat(filepath.Join(postgresBin, "initdb")); err != nil {
		return nil, errors.New("PostgreSQL 15 is missing: apt-get install postgresql-15")
	}
	p := &Postgres{Dir: o.Dir, Log: filepath.Join(o.Dir, "server.log"), socket: filepath.Join(o.Dir, "socket")}
	if err := p.prepare(o); err != nil {
		return nil, fmt.Errorf("prepare PostgreSQL: %w", err)
	}
	if err := p.start(); err != nil {
		return nil, fmt.Errorf("start PostgreSQL: %w", err)
	}
	if o.Init != "" {
		if err := p.SQL("postgres", o.Init); err != nil {
			p.Stop()
			return nil, err
		}
	}
	return p, nil
}

// serverUser is whom the server runs as: PostgreSQL refuses root.
func serverUser() (*syscall.Credential, error) {
	if os.Getuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return nil, err
	}
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

func (p *Postgres) prepare(o PostgresOptions) (err error) {
	if p.user, err = serverUser(); err != nil {
		return err
	}
	data := filepath.Join(p.Dir, "data")
	for _, d := range []string{p.Dir, p.socket} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	if err := p.certificates(o.Host); err != nil {
		return err
	}
	pw := filepath.Join(p.Dir, "pw")
	if err := os.WriteFile(pw, []byte(o.Password), 0o600); err != nil {
		return err
	}
	if err := p.own(); err != nil {
		return err
	}
	out, err := p.command(filepath.Join(postgresBin, "initdb"), "-D", data, "-A", "scram-sha-256", "--pwfile="+pw,
		"-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8", "-N").CombinedOutput()
	if err != nil {
		return fmt.Errorf("initdb: %w: %s", err, out)
	}
	if p.Port, err = FreePort(); err != nil {
		return err
	}
	conf := fmt.Sprintf("listen_addresses='127.0.0.1'\nport=%d\nunix_socket_directories='%s'\nssl=on\n"+
		"ssl_cert_file='%[3]s/server.crt'\nssl_key_file='%[3]s/server.key'\nssl_ca_file='%[3]s/ca.crt'\n"+
		"fsync=off\nshared_buffers=64MB\nmax_connections=200\nlog_statement=all\n", p.Port, p.socket, p.Dir)
	for _, s := range o.Settings {
		conf += s + "\n"
	}
	hba := "local all postgres trust\n"
	if len(o.HBA) == 0 {
		o.HBA = []string{"hostssl all all 127.0.0.1/32 scram-sha-256"}
	}
	for _, line := range o.HBA {
		hba += line + "\n"
	}
	if err := appendFile(filepath.Join(data, "postgresql.conf"), conf); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(data, "pg_hba.conf"), []byte(hba), 0o600)
}

func (p *Postgres) own() error {
	if p.user == nil {
		return nil
	}
	return filepath.WalkDir(p.Dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Chown(path, int(p.user.Uid), int(p.user.Gid))
	})
}

func appendFile(path, text string) error {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

func (p *Postgres) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Dir = p.Dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: p.user, Setsid: true}
	return cmd
}

func (p *Postgres) start() error {
	log, err := os.OpenFile(p.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	p.cmd = p.command(filepath.Join(postgresBin, "postgres"), "-D", filepath.Join(p.Dir, "data"))
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if err := p.cmd.Start(); err != nil {
		return err
	}
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := p.SQL("postgres", "SELECT 1")
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			p.Stop()
			return fmt.Errorf("not ready after 30 s: %w", err)
		}
		time.Sleep(50 * time.Millisecond) // a server of its own clock: there is nothing to wait on
	}
}

// SQL runs statements as the superuser, over the server's Unix socket.
func (p *Postgres) SQL(database, text string) error {
	_, err := p.Query(database, text)
	return err
}

// Query is SQL with psql's unaligned output.
func (p *Postgres) Query(database, text string) (string, error) {
	return p.client(text, "psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", database, "-f", "-")
}

// Batch sends each text as it is, in one message, with psql's unaligned output.
func (p *Postgres) Batch(database string, texts ...string) (string, error) {
	args := []string{"-X", "-q", "-A", "-t", "-v", "VERBOSITY=verbose", "-d", database}
	for _, text := range texts {
		args = append(args, "-c", text)
	}
	return p.client("", "psql", args...)
}

// Socket is the folder of the server's Unix socket.
func (p *Postgres) Socket() string { return p.socket }

// Dump is pg_dump's.
func (p *Postgres) Dump(database string) (string, error) {
	return p.client("", "pg_dump", "-d", database)
}

// client runs one of PostgreSQL's own as the superuser.
func (p *Postgres) client(in, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(postgresBin, name), append(args, "-h", p.socket, "-p", strconv.Itoa(p.Port), "-U", "postgres")...)
	cmd.Stdin = strings.NewReader(in)
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C.UTF-8"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%s: %w: %s", name, err, out)
	}
	return string(out), nil
}

// Stop ends the server at once and waits for it.
func (p *Postgres) Stop() {
	if p.cmd == nil || p.cmd.Process == nil {
		return
	}
	p.cmd.Process.Signal(syscall.SIGQUIT)
	p.cmd.Wait()
}

// FreePort is a port on 127.0.0.1 that nobody has at the moment.
func FreePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// certificates makes an authority and the server's certificate.
func (p *Postgres) certificates(host string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test server authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(48 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return err
	}
	if p.caCert, err = x509.ParseCertificate(der); err != nil {
		return err
	}
	p.caKey = key
	p.CA = filepath.Join(p.Dir, "ca.crt")
	if err := writePEM(p.CA, "CERTIFICATE", der, 0o644); err != nil {
		return err
	}
	return p.Issue(host, filepath.Join(p.Dir, "server"), true)
}

// Issue writes base.crt and base.key for a server's host name or a client's
// user name.
func (p *Postgres) Issue(name, base string, server bool) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(48 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if server {
		template.DNSNames = []string{name}
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, p.caCert, &key.PublicKey, p.caKey)
	if err != nil {
		return err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return errors.Join(writePEM(base+".crt", "CERTIFICATE", der, 0o644), writePEM(base+".key", "PRIVATE KEY", pkcs8, 0o600))
}

func writePEM(path, kind string, der []byte, mode os.FileMode) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), mode)
}

// PSQL runs a statement by a connection string, as anybody would.
func PSQL(conninfo, statement string) (string, error) {
	out, err := exec.Command("psql", "-X", "-A", "-t", "-c", statement, conninfo).CombinedOutput()
	return string(out), err
}
