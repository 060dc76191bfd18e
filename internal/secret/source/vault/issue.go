package vault

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/postern/postern/internal/secret"
	"github.com/postern/postern/internal/secret/source"
)

const (
	// maxNames bounds the principals of a key and the names of a certificate.
	maxNames = 64
	maxName  = 64 // of an Order
	// pkiMark begins the ID of a certificate: "pki:MOUNT:SERIAL".
	pkiMark = "pki:"
)

// Issue makes a credential. An answer that never comes may leave one behind on
// the server, which ends it at the end of its lease: it cannot be asked for by
// any name.
func (s *Source) Issue(ctx context.Context, o source.Order) (source.Issued, error) {
	out, err := s.issue(ctx, o)
	if err != nil {
		out.Wipe()
		return source.Issued{}, fmt.Errorf("vault %s %s: %w", cmp.Or(o.Mount, o.Engine), o.Role, err)
	}
	return out, nil
}

func (s *Source) issue(ctx context.Context, o source.Order) (source.Issued, error) {
	if ctx.Err() != nil {
		return source.Issued{}, context.Cause(ctx)
	}
	o.Mount = cmp.Or(o.Mount, o.Engine)
	if err := checkOrder(o); err != nil {
		return source.Issued{}, err
	}
	switch o.Engine {
	case "database":
		return s.issueAccount(ctx, o)
	case "ssh":
		return s.issueSSH(ctx, o)
	case "pki":
		return s.issueCertificate(ctx, o)
	}
	return source.Issued{}, fmt.Errorf("%w: there is no engine %q", source.ErrMalformed, o.Engine)
}

func checkOrder(o source.Order) error {
	if err := checkName("role", o.Role); err != nil {
		return err
	}
	if err := checkPath(o.Mount); err != nil {
		return fmt.Errorf("mount: %w", err)
	}
	odd := func(r rune) bool {
		return r != '-' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	}
	switch {
	case len(o.Name) > maxName, strings.ContainsFunc(o.Name, odd):
		return fmt.Errorf("%w: the name is not of up to %d letters, digits and dashes", source.ErrMalformed, maxName)
	case o.TTL < 0, o.TTL > 0 && o.TTL < time.Second:
		return fmt.Errorf("%w: a time to live of %v", source.ErrMalformed, o.TTL)
	case len(o.Principals) > maxNames, len(o.AltNames) > maxNames:
		return fmt.Errorf("%w: more than %d names", source.ErrMalformed, maxNames)
	}
	// A comma would make two names of one on the server.
	for _, n := range append(append([]string{o.CommonName}, o.Principals...), o.AltNames...) {
		if strings.ContainsFunc(n, func(r rune) bool { return r == ',' || r <= ' ' || r == 0x7f }) {
			return fmt.Errorf("%w: the name %q", source.ErrMalformed, n)
		}
	}
	return nil
}

// issueAccount makes an account in a database. Its engine takes no time to
// live, so a shorter one is had by renewing at once.
func (s *Source) issueAccount(ctx context.Context, o source.Order) (source.Issued, error) {
	r := get(o.Mount + "/creds/" + o.Role)
	r.repeat, r.name = false, o.Name
	from := s.opts.Now()
	a, err := s.do(ctx, r)
	if err != nil {
		return source.Issued{}, err
	}
	defer a.wipe()
	lease := source.Lease{ID: a.LeaseID, Expires: from.Add(seconds(a.LeaseDuration)), Renewable: a.Renewable}
	fields, err := a.parts("username", "password")
	if err == nil && lease.ID == "" {
		err = fmt.Errorf("%w: the account has no lease", source.ErrMalformed)
	}
	if err == nil && o.TTL > 0 && o.TTL < seconds(a.LeaseDuration) && lease.Renewable {
		lease, err = s.Renew(ctx, lease.ID, o.TTL)
	}
	out := source.Issued{Fields: fields, Lease: lease}
	if err != nil {
		return out, s.undo(ctx, a.LeaseID, err)
	}
	return out, nil
}

// undo ends what was made and is not used, also when the caller is gone.
func (s *Source) undo(ctx context.Context, id string, why error) error {
	if id == "" {
		return why
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.opts.Timeout)
	defer cancel()
	if err := s.Revoke(ctx, id); err != nil {
		return fmt.Errorf("%w (and it could not be revoked: %w)", why, err)
	}
	return why
}

// parts takes fields out of an answer.
func (a *answer) parts(names ...string) (map[string]secret.Secret, error) {
	out := map[string]secret.Secret{}
	for _, name := range names {
		value, err := pick(a.Data, name)
		if err != nil {
			return out, fmt.Errorf("%w: the answer has no good %s", source.ErrMalformed, name)
		}
		out[name] = value
	}
	return out, nil
}

// issueSSH has a public key signed. Certificates of SSH are not revoked: they
// have no ID, and end by themselves.
func (s *Source) issueSSH(ctx context.Context, o source.Order) (source.Issued, error) {
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(o.PublicKey))
	if err != nil || len(o.Principals) == 0 {
		return source.Issued{}, fmt.Errorf("%w: an order for ssh has a public key and principals", source.ErrMalformed)
	}
	body := map[string]any{"public_key": o.PublicKey, "valid_principals": strings.Join(o.Principals, ","), "cert_type": "user"}
	if o.TTL > 0 {
		body["ttl"] = int(o.TTL.Seconds())
	}
	r := post(o.Mount+"/sign/"+o.Role, body)
	r.name = o.Name
	a, err := s.do(ctx, r)
	if err != nil {
		return source.Issued{}, err
	}
	defer a.wipe()
	fields, err := a.parts("signed_key")
	if err != nil {
		return source.Issued{}, err
	}
	line := bytes.TrimSpace(fields["signed_key"].Reveal())
	signed, _, _, _, err := ssh.ParseAuthorizedKey(line)
	c, ok := signed.(*ssh.Certificate)
	if err != nil || !ok || !bytes.Equal(c.Key.Marshal(), key.Marshal()) || c.CertType != ssh.UserCert {
		return source.Issued{}, fmt.Errorf("%w: the answer is not a user's certificate of the key", source.ErrMalformed)
	}
	lease := source.Lease{}
	if c.ValidBefore < 1<<62 { // else for ever
		lease.Expires = time.Unix(int64(c.ValidBefore), 0)
	}
	return source.Issued{Fields: map[string]secret.Secret{"certificate": secret.New(line)}, Lease: lease}, nil
}

// issueCertificate makes a key and a certificate.
func (s *Source) issueCertificate(ctx context.Context, o source.Order) (source.Issued, error) {
	body := map[string]any{"common_name": o.CommonName, "format": "pem"}
	var names, addresses, uris []string
	for _, n := range o.AltNames {
		if _, err := netip.ParseAddr(n); err == nil {
			addresses = append(addresses, n)
		} else if strings.Contains(n, "://") {
			uris = append(uris, n)
		} else {
			names = append(names, n)
		}
	}
	for field, list := range map[string][]string{"alt_names": names, "ip_sans": addresses, "uri_sans": uris} {
		if len(list) > 0 {
			body[field] = strings.Join(list, ",")
		}
	}
	if o.TTL > 0 {
		body["ttl"] = int(o.TTL.Seconds())
	}
	r := post(o.Mount+"/issue/"+o.Role, body)
	r.name = o.Name
	a, err := s.do(ctx, r)
	if err != nil {
		return source.Issued{}, err
	}
	defer a.wipe()
	var serial string
	var ends int64
	if json.Unmarshal(a.Data["serial_number"], &serial) != nil || checkName("serial number", serial) != nil {
		return source.Issued{}, fmt.Errorf("%w: the answer has no serial number", source.ErrMalformed)
	}
	id := pkiMark + o.Mount + ":" + serial
	fields, err := a.parts("certificate", "private_key")
	if err == nil && json.Unmarshal(a.Data["expiration"], &ends) != nil {
		err = fmt.Errorf("%w: the answer has no end of the certificate", source.ErrMalformed)
	}
	if err == nil {
		fields["ca_chain"], err = chain(a)
	}
	out := source.Issued{Fields: fields, Lease: source.Lease{ID: id, Expires: time.Unix(ends, 0), Version: serial}}
	if err != nil {
		return out, s.undo(ctx, id, err)
	}
	return out, nil
}

// chain is the authority's certificates, or its one.
func chain(a *answer) (secret.Secret, error) {
	var list []text
	if raw := a.Data["ca_chain"]; len(raw) == 0 || json.Unmarshal(raw, &list) != nil || len(list) == 0 {
		list = make([]text, 1)
		if json.Unmarshal(a.Data["issuing_ca"], &list[0]) != nil || list[0].Empty() {
			return secret.Secret{}, fmt.Errorf("%w: the answer has no authority", source.ErrMalformed)
		}
	}
	var out []byte
	for _, c := range list {
		out = append(append(out, bytes.TrimSpace(c.Reveal())...), '\n')
	}
	return secret.New(out), nil
}

// checkID refuses what no lease of ours looks like.
func checkID(id string) error {
	if err := checkPath(id); err != nil {
		return fmt.Errorf("%w: not the ID of a lease", source.ErrMalformed)
	}
	return nil
}

// Renew prolongs a lease.
func (s *Source) Renew(ctx context.Context, id string, extend time.Duration) (source.Lease, error) {
	lease, err := s.renew(ctx, id, extend)
	if err != nil {
		return source.Lease{}, fmt.Errorf("vault: renew %q: %w", id, err)
	}
	return lease, nil
}

func (s *Source) renew(ctx context.Context, id string, extend time.Duration) (source.Lease, error) {
	if ctx.Err() != nil {
		return source.Lease{}, context.Cause(ctx)
	}
	if err := checkID(id); err != nil {
		return source.Lease{}, err
	}
	if strings.HasPrefix(id, pkiMark) {
		return source.Lease{}, fmt.Errorf("%w: a certificate is not renewed, another one is made", source.ErrMalformed)
	}
	if extend < time.Second {
		return source.Lease{}, fmt.Errorf("%w: to renew by %v", source.ErrMalformed, extend)
	}
	from := s.opts.Now()
	a, err := s.do(ctx, post("sys/leases/renew", map[string]any{"lease_id": id, "increment": int(extend.Seconds())}))
	if status(err) == http.StatusBadRequest {
		// The server says so for a lease that it does not know and for one that it
		// does not renew alike.
		if _, look := s.do(ctx, post("sys/leases/lookup", map[string]any{"lease_id": id})); look == nil {
			return source.Lease{}, fmt.Errorf("%w: the server does not renew this lease", err)
		} else if ctx.Err() != nil {
			return source.Lease{}, context.Cause(ctx)
		}
		return source.Lease{}, fmt.Errorf("%w: the lease has ended, or was never there", source.ErrNotFound)
	}
	if err != nil {
		return source.Lease{}, err
	}
	return source.Lease{ID: cmp.Or(a.LeaseID, id), Expires: from.Add(seconds(a.LeaseDuration)), Renewable: a.Renewable}, nil
}

// Revoke ends a lease, and returns when what was issued under it is gone.
func (s *Source) Revoke(ctx context.Context, id string) error {
	if err := s.revoke(ctx, id); err != nil {
		return fmt.Errorf("vault: revoke %q: %w", id, err)
	}
	return nil
}

func (s *Source) revoke(ctx context.Context, id string) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := checkID(id); err != nil {
		return err
	}
	if rest, is := strings.CutPrefix(id, pkiMark); is {
		mount, serial, ok := strings.Cut(rest, ":")
		if !ok {
			return fmt.Errorf("%w: not the ID of a certificate", source.ErrMalformed)
		}
		return s.revokeCertificate(ctx, mount, serial)
	}
	r := post("sys/leases/revoke", map[string]any{"lease_id": id, "sync": true})
	r.repeat = true
	_, err := s.do(ctx, r)
	if status(err) == http.StatusBadRequest || status(err) == http.StatusInternalServerError {
		// It is what holds the credential that did not let go of it, such as a
		// database in which the account owns something.
		return fmt.Errorf("%w: the server could not end what was issued, and keeps the lease", source.ErrUnavailable)
	}
	return err
}

func (s *Source) revokeCertificate(ctx context.Context, mount, serial string) error {
	r := post(mount+"/revoke", map[string]any{"serial_number": serial})
	r.repeat = true
	_, err := s.do(ctx, r)
	if code := status(err); code == http.StatusBadRequest || code == http.StatusNotFound {
		_, look := s.do(ctx, get(mount+"/cert/"+serial))
		if errors.Is(look, source.ErrNotFound) {
			return nil // nobody knows it
		}
	}
	return err
}
