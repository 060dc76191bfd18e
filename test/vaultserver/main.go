// Command vaultserver is HashiCorp Vault, with what the tests of the source
// vault ask it for, and nothing that reaches beyond this machine. It says how to
// get in as a line of JSON on its standard output; it is for tests alone, since
// it prints its root token.
//
// With -storage it keeps what it knows, and so comes back sealed when it is
// started again, as a real one does. Start with run.
package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"

	"github.com/hashicorp/go-hclog"
	credJWT "github.com/hashicorp/vault-plugin-auth-jwt"
	kv "github.com/hashicorp/vault-plugin-secrets-kv"
	"github.com/hashicorp/vault/builtin/credential/approle"
	"github.com/hashicorp/vault/builtin/credential/cert"
	"github.com/hashicorp/vault/builtin/logical/database"
	"github.com/hashicorp/vault/builtin/logical/pki"
	"github.com/hashicorp/vault/builtin/logical/ssh"
	"github.com/hashicorp/vault/builtin/logical/transit"
	"github.com/hashicorp/vault/command/server"
	vaulthttp "github.com/hashicorp/vault/http"
	"github.com/hashicorp/vault/internalshared/configutil"
	"github.com/hashicorp/vault/plugins/database/postgresql"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/physical"
	"github.com/hashicorp/vault/sdk/physical/file"
	"github.com/hashicorp/vault/sdk/physical/inmem"
	"github.com/hashicorp/vault/vault"
)

// options are the flags.
type options struct {
	listen, storage, cert, key string
}

// opened is what the program prints once it listens. A server that was
// initialized by an earlier run has only the address, and is sealed.
type opened struct {
	Address   string `json:"address"`
	RootToken string `json:"root_token,omitempty"`
	UnsealKey string `json:"unseal_key,omitempty"`
}

func main() {
	var o options
	flag.StringVar(&o.listen, "listen", "127.0.0.1:0", "address")
	flag.StringVar(&o.storage, "storage", "", "folder; empty: memory")
	flag.StringVar(&o.cert, "tls-cert", "", "PEM file; with it the server speaks TLS, and asks for client certificates")
	flag.StringVar(&o.key, "tls-key", "", "PEM file")
	flag.Parse()
	if err := run(o); err != nil {
		fmt.Fprintln(os.Stderr, "vaultserver:", err)
		os.Exit(1)
	}
}

func run(o options) error {
	core, err := newCore(o)
	if err != nil {
		return fmt.Errorf("core: %w", err)
	}
	out, err := initialize(core)
	if err != nil {
		return fmt.Errorf("initialize: %w", err)
	}
	l, err := net.Listen("tcp", o.listen)
	if err != nil {
		return err
	}
	out.Address = "http://" + l.Addr().String()
	if o.cert != "" {
		pair, err := tls.LoadX509KeyPair(o.cert, o.key)
		if err != nil {
			return err
		}
		out.Address = "https://" + l.Addr().String()
		// The method cert judges the certificates, so all are let in here.
		l = tls.NewListener(l, &tls.Config{
			Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequestClientCert, MinVersion: tls.VersionTLS12,
			NextProtos: []string{"h2", "http/1.1"},
		})
	}
	if err := json.NewEncoder(os.Stdout).Encode(out); err != nil {
		return err
	}
	serve := vaulthttp.Handler.Handler(&vault.HandlerProperties{Core: core, ListenerConfig: &configutil.Listener{}})
	return http.Serve(l, serve) //nolint:gosec // it is for tests
}

func newCore(o options) (*vault.Core, error) {
	log := hclog.New(&hclog.LoggerOptions{Level: hclog.Warn})
	var store physical.Backend
	var err error
	if o.storage == "" {
		store, err = inmem.NewInmem(nil, log)
	} else {
		store, err = file.NewFileBackend(map[string]string{"path": o.storage}, log)
	}
	if err != nil {
		return nil, err
	}
	return vault.NewCore(&vault.CoreConfig{
		Physical: store, Logger: log, DisableMlock: true, BuiltinRegistry: plugins{},
		// Without one, a login that fails is an error of the server's.
		RawConfig: &server.Config{SharedConfig: &configutil.SharedConfig{}},
		LogicalBackends: map[string]logical.Factory{
			"kv": kv.Factory, "database": database.Factory, "ssh": ssh.Factory, "pki": pki.Factory, "transit": transit.Factory,
		},
		CredentialBackends: map[string]logical.Factory{"approle": approle.Factory, "jwt": credJWT.Factory, "cert": cert.Factory},
	})
}

// initialize makes a new server's keys and opens it with them.
func initialize(core *vault.Core) (opened, error) {
	ctx := context.Background()
	was, err := core.Initialized(ctx)
	if err != nil || was {
		return opened{}, err
	}
	one := &vault.SealConfig{SecretShares: 1, SecretThreshold: 1}
	res, err := core.Initialize(ctx, &vault.InitParams{BarrierConfig: one, RecoveryConfig: one})
	if err != nil {
		return opened{}, err
	}
	if _, err := core.Unseal(bytes.Clone(res.SecretShares[0])); err != nil {
		return opened{}, err
	}
	return opened{RootToken: res.RootToken, UnsealKey: hex.EncodeToString(res.SecretShares[0])}, nil
}

// plugins is Vault's registry of what is built in, for one database.
type plugins struct{}

const postgresPlugin = "postgresql-database-plugin"

func (p plugins) Contains(name string, t consts.PluginType) bool {
	_, ok := p.Get(name, t)
	return ok
}

func (plugins) Get(name string, t consts.PluginType) (func() (any, error), bool) {
	if t == consts.PluginTypeDatabase && name == postgresPlugin {
		return postgresql.New, true
	}
	return nil, false
}

func (plugins) Keys(t consts.PluginType) []string {
	if t == consts.PluginTypeDatabase {
		return []string{postgresPlugin}
	}
	return nil
}

func (plugins) DeprecationStatus(string, consts.PluginType) (consts.DeprecationStatus, bool) {
	return consts.Supported, true
}

func (plugins) IsBuiltinEntPlugin(string, consts.PluginType) bool { return false }
