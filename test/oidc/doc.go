// Package oidc runs internal/identity/oidc against providers that others have
// written: npm's oidc-provider, which is certified, in node/ (make
// oidc-modules), and zitadel's, in this process. Start reading at TestDevice.
package oidc
