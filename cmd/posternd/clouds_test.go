package main

import (
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postern/postern/internal/config"
	"github.com/postern/postern/internal/secret/source"
)

// What is configured to log in to a cloud is what is used for it. The files are
// not there, so that nothing is sent.
func TestCloudsAreWired(t *testing.T) {
	nowhere := filepath.Join(t.TempDir(), "credential")
	azure := func(set func(a *config.AzureSource)) config.Source {
		a := &config.AzureSource{Vault: "https://x.vault.test.example", Tenant: "t", ClientID: "c"}
		set(a)
		return config.Source{Azure: a}
	}
	for said, c := range map[string]config.Source{
		"credentials file": {GCP: &config.GCPSource{Project: "p", Credentials: nowhere}},
		"client secret":    azure(func(a *config.AzureSource) { a.Secret = nowhere }),
		"certificate":      azure(func(a *config.AzureSource) { a.Certificate = nowhere }),
		"federated token":  azure(func(a *config.AzureSource) { a.Token = nowhere }),
	} {
		s, err := sourceOf(&c, "/", slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = s.Fetch(t.Context(), source.Ref{Path: "x"})
		if !errors.Is(err, source.ErrNotFound) || !strings.Contains(err.Error(), said) || !strings.Contains(err.Error(), nowhere) {
			t.Errorf("%s: %v", said, err)
		}
	}
	for _, c := range []config.Source{
		{GCP: &config.GCPSource{}},
		{GCP: &config.GCPSource{Metadata: true, CA: nowhere}},
		azure(func(*config.AzureSource) {}),
		azure(func(a *config.AzureSource) { a.Secret, a.CA = nowhere, nowhere }),
		{},
	} {
		if s, err := sourceOf(&c, "/", slog.New(slog.DiscardHandler)); err == nil {
			t.Errorf("%+v makes %T", c, s)
		}
	}
}
