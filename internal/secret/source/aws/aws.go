// Package aws is the source of secrets in AWS: Secrets Manager, the Parameter
// Store of Systems Manager, and tokens for databases of RDS with IAM logins.
//
// A Ref's Path is the id or ARN of a secret or the name of a parameter, with
// "?version=" or "?stage=" (of a parameter: its label) behind it when not the
// current one is meant; Key is a field of a JSON map. For RDS it is
// host:port/user, and there are no keys.
//
// Credentials are those of the SDK's default chain, and with a Role those that
// STS gives for them. The services were run against stand-ins that verify
// signatures, never against the cloud itself; roles were not run at all. Start with New, then Source.Fetch.
package aws

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
	"github.com/aws/aws-sdk-go-v2/feature/rds/auth"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/ssm/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"

	"github.com/postern/postern/internal/secret"
	"github.com/postern/postern/internal/secret/source"
)

const (
	attempts = 3
	// maxBackoff is short: whoever waits is a session that begins, and the Set has
	// the last known value.
	maxBackoff = 300 * time.Millisecond
	// tokenLife is that of a token for RDS, by AWS.
	tokenLife = 15 * time.Minute
)

// Service is where the secrets are.
type Service string

const (
	SecretsManager Service = "secretsmanager"
	ParameterStore Service = "ssm"
	RDS            Service = "rds"
)

// Errors of New.
var (
	ErrService = errors.New("no such service of AWS")
	ErrRegion  = errors.New("no region is configured")
)

// errLogin marks errors of getting credentials.
var errLogin = errors.New("no credentials for AWS")

// Options of a Source.
type Options struct {
	Service  Service
	Region   string // empty: of the environment or the profile
	Profile  string // of the shared configuration; empty: the default
	Role     string // ARN of a role to assume; empty: none
	External string // external id that the role may want
	// WebIdentity is a file with a token by which Role is assumed, in place of
	// credentials.
	WebIdentity string
	// Metadata allows the instance's metadata service as a source of credentials.
	Metadata bool
	Endpoint string         // of the service; empty: AWS's
	STS      string         // endpoint of STS; empty: AWS's
	Roots    *x509.CertPool // who is trusted; nil: the host's
}

// Source reads secrets of one service.
type Source struct {
	service Service
	config  aws.Config
	manager *secretsmanager.Client
	store   *ssm.Client
}

// New returns a Source. It reads the SDK's configuration and asks nobody.
func New(ctx context.Context, o Options) (*Source, error) {
	if o.Service != SecretsManager && o.Service != ParameterStore && o.Service != RDS {
		return nil, fmt.Errorf("%w: %q", ErrService, o.Service)
	}
	state := imds.ClientDisabled
	if o.Metadata {
		state = imds.ClientEnabled
	}
	load := []func(*config.LoadOptions) error{
		config.WithHTTPClient(source.Client(o.Roots)), config.WithEC2IMDSClientEnableState(state),
		config.WithRetryer(func() aws.Retryer {
			return retry.NewStandard(func(r *retry.StandardOptions) { r.MaxAttempts, r.MaxBackoff = attempts, maxBackoff })
		}),
	}
	if o.Region != "" {
		load = append(load, config.WithRegion(o.Region))
	}
	if o.Profile != "" {
		load = append(load, config.WithSharedConfigProfile(o.Profile))
	}
	c, err := config.LoadDefaultConfig(ctx, load...)
	if err != nil {
		return nil, fmt.Errorf("%w: the SDK's configuration is damaged, has no such profile, or sets AWS_CA_BUNDLE, for which there is the option of roots", errLogin)
	}
	if c.Region == "" {
		return nil, ErrRegion
	}
	assume(&c, o)
	c.Credentials = aws.NewCredentialsCache(login{c.Credentials})
	s := &Source{service: o.Service, config: c}
	s.manager = secretsmanager.NewFromConfig(c, func(m *secretsmanager.Options) { m.BaseEndpoint = optional(o.Endpoint) })
	s.store = ssm.NewFromConfig(c, func(m *ssm.Options) { m.BaseEndpoint = optional(o.Endpoint) })
	return s, nil
}

func assume(c *aws.Config, o Options) {
	if o.Role == "" {
		return
	}
	client := sts.NewFromConfig(*c, func(m *sts.Options) { m.BaseEndpoint = optional(o.STS) })
	if o.WebIdentity != "" {
		c.Credentials = stscreds.NewWebIdentityRoleProvider(client, o.Role, stscreds.IdentityTokenFile(o.WebIdentity))
		return
	}
	c.Credentials = stscreds.NewAssumeRoleProvider(client, o.Role, func(a *stscreds.AssumeRoleOptions) { a.ExternalID = optional(o.External) })
}

func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// login marks the errors of getting credentials.
type login struct{ aws.CredentialsProvider }

func (l login) Retrieve(ctx context.Context) (aws.Credentials, error) {
	c, err := l.CredentialsProvider.Retrieve(ctx)
	if err != nil {
		return c, fmt.Errorf("%w: %w", errLogin, err)
	}
	return c, nil
}

// Fetch returns the secret as it is now.
func (s *Source) Fetch(ctx context.Context, ref source.Ref) (secret.Secret, source.Lease, error) {
	fetch := map[Service]func(context.Context, source.Ref) ([]byte, source.Lease, error){
		SecretsManager: s.secret, ParameterStore: s.parameter, RDS: s.token,
	}[s.service]
	return source.Ask(ctx, "aws "+string(s.service), ref, fetch)
}

func (s *Source) secret(ctx context.Context, ref source.Ref) ([]byte, source.Lease, error) {
	id, version, stage, err := split(ref.Path)
	if err != nil {
		return nil, source.Lease{}, err
	}
	in := &secretsmanager.GetSecretValueInput{SecretId: &id, VersionId: optional(version), VersionStage: optional(stage)}
	out, err := s.manager.GetSecretValue(ctx, in)
	if err != nil {
		return nil, source.Lease{}, meaning(err)
	}
	value := out.SecretBinary
	if out.SecretString != nil {
		value = []byte(*out.SecretString)
	}
	return value, source.Lease{Version: aws.ToString(out.VersionId)}, nil
}

func (s *Source) parameter(ctx context.Context, ref source.Ref) ([]byte, source.Lease, error) {
	name, version, label, err := split(ref.Path)
	if err != nil {
		return nil, source.Lease{}, err
	}
	if selector := version + label; selector != "" {
		name += ":" + selector
	}
	out, err := s.store.GetParameter(ctx, &ssm.GetParameterInput{Name: &name, WithDecryption: aws.Bool(true)})
	if err != nil {
		return nil, source.Lease{}, meaning(err)
	}
	if out.Parameter == nil || out.Parameter.Type == types.ParameterTypeStringList {
		return nil, source.Lease{}, fmt.Errorf("%w: not a single value", source.ErrMalformed)
	}
	return []byte(aws.ToString(out.Parameter.Value)), source.Lease{Version: strconv.FormatInt(out.Parameter.Version, 10)}, nil
}

// token signs a token, which takes no request but those for credentials.
func (s *Source) token(ctx context.Context, ref source.Ref) ([]byte, source.Lease, error) {
	endpoint, user, ok := strings.Cut(ref.Path, "/")
	if host, port, err := net.SplitHostPort(endpoint); !ok || err != nil || host == "" || port == "" || user == "" {
		return nil, source.Lease{}, fmt.Errorf("%w: the path is to be host:port/user", source.ErrNotFound)
	}
	if ref.Key != "" {
		return nil, source.Lease{}, fmt.Errorf("%w: a token has no fields", source.ErrMalformed)
	}
	began := time.Now()
	credentials, err := s.config.Credentials.Retrieve(ctx)
	if err != nil {
		return nil, source.Lease{}, meaning(err)
	}
	text, err := auth.BuildAuthToken(ctx, endpoint, s.config.Region, user, aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
		return credentials, nil
	}))
	if err != nil {
		return nil, source.Lease{}, fmt.Errorf("%w: no token can be made of it", source.ErrNotFound)
	}
	lease := source.Lease{Expires: began.Add(tokenLife)}
	if credentials.CanExpire && credentials.Expires.Before(lease.Expires) {
		lease.Expires = credentials.Expires
	}
	return []byte(text), lease, nil
}

// split takes a path apart; not both of version and stage are set.
func split(path string) (id, version, stage string, err error) {
	id, query, _ := strings.Cut(path, "?")
	values, err := url.ParseQuery(query)
	version, stage = values.Get("version"), values.Get("stage")
	values.Del("version")
	values.Del("stage")
	if err != nil || id == "" || len(values) > 0 || version != "" && stage != "" {
		return "", "", "", fmt.Errorf("%w: the path is to be an id, and ?version= or ?stage= if need be", source.ErrNotFound)
	}
	return id, version, stage, nil
}

// meaning says what an error of the SDK means, in words of our own.
func meaning(err error) error {
	var said smithy.APIError
	if errors.As(err, &said) {
		switch code := said.ErrorCode(); code {
		case "ResourceNotFoundException", "ParameterNotFound", "ParameterVersionNotFound", "ValidationException",
			"InvalidRequestException": // of a secret that is marked for deletion
			return fmt.Errorf("%w: %s", source.ErrNotFound, code)
		case "AccessDeniedException", "AccessDenied", "UnrecognizedClientException", "InvalidClientTokenId", "InvalidSignatureException",
			"SignatureDoesNotMatch", "ExpiredTokenException", "ExpiredToken", "InvalidIdentityToken", "DecryptionFailure", "InvalidKeyId":
			return fmt.Errorf("%w: %s", source.ErrPermission, code)
		}
		return fmt.Errorf("%w: it answered with an error", source.ErrUnavailable)
	}
	if errors.Is(err, source.ErrMalformed) {
		return fmt.Errorf("%w: the answer is too long", source.ErrMalformed)
	}
	if errors.Is(err, errLogin) {
		return fmt.Errorf("%w: %w", source.ErrUnavailable, errLogin)
	}
	return source.ErrUnavailable
}
