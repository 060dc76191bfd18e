// Package control is the client of posternd's control socket: what the CLI and
// other programs on the host use to look at the daemon and to decide approvals.
//
// The protocol is HTTP with JSON bodies over a Unix socket, one path per method
// of Client, all below /v1. A daemon of version n answers every path that a
// client of an older version knows. Who may ask is decided by the socket's peer
// credentials: root, and never a process inside a policy cgroup. Errors are application/problem+json
// (RFC 9457), and come back as *Error.
package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"syscall"
	"time"
)

// DefaultSocket is where the daemon listens unless its configuration says
// otherwise.
const DefaultSocket = "/run/postern/control.sock"

// maxAnswer bounds an answer of the daemon, in bytes.
const maxAnswer = 16 << 20

// Status is how the daemon is doing.
type Status struct {
	Version    string    `json:"version"`
	Started    time.Time `json:"started"`
	Config     string    `json:"config"`     // path
	Generation uint64    `json:"generation"` // counts reloads, from 1
	Recordings string    `json:"recordings"` // directory
	Root       string    `json:"root"`       // policy root cgroup
	Metrics    string    `json:"metrics"`    // listen address
	Agents     []Agent   `json:"agents"`
	Targets    []Target  `json:"targets"`
	Kernel     []Check   `json:"kernel"`
	Secrets    Check     `json:"secrets"` // how those that are kept lie in memory
	Sessions   int       `json:"sessions"`
	Pending    int       `json:"pending_approvals"`
}

// Agent is a configured agent.
type Agent struct {
	Name     string    `json:"name"`
	Cgroup   string    `json:"cgroup"`
	Policy   string    `json:"policy"`
	Mode     string    `json:"mode"` // "enforce" or "observe"
	Until    time.Time `json:"until,omitzero"`
	Tier     string    `json:"tier"`
	Open     string    `json:"open"` // what the tier leaves open, in a line, for people
	Sessions int       `json:"sessions"`
}

// Target is a configured upstream.
type Target struct {
	Name     string   `json:"name"`
	Protocol string   `json:"protocol"`
	Hosts    []string `json:"hosts"`
}

// Check is one thing that was looked at.
type Check struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail,omitempty"`
	Help   string `json:"help,omitempty"`
}

// Session is a session that is running.
type Session struct {
	ID        string    `json:"id"`
	Agent     string    `json:"agent"`
	Target    string    `json:"target"`
	Began     time.Time `json:"began"`
	PID       uint32    `json:"pid"`
	UID       uint32    `json:"uid"`
	Comm      string    `json:"comm"`
	Identity  string    `json:"identity,omitempty"` // for whom
	FromAgent int64     `json:"bytes_from_agent"`
	ToAgent   int64     `json:"bytes_to_agent"`
}

// Activity is what agents have done since the daemon started: two of them, less
// each other, are what they do.
type Activity struct {
	At      time.Time         `json:"at"`
	Started time.Time         `json:"started"`
	Traffic []Traffic         `json:"traffic"`         // by agent and target, each pair once
	Bypass  map[string]uint64 `json:"bypass_attempts"` // what the kernel denied, by kind
}

// Traffic is what one agent has done with one target. There is one with the target
// "" for each agent that is configured: what was meant for no target, and what its
// agent was denied by the kernel.
type Traffic struct {
	Agent     string `json:"agent"`
	Target    string `json:"target"`
	Sessions  int    `json:"sessions"`          // that are running
	Pending   int    `json:"pending_approvals"` // that wait now
	Allowed   uint64 `json:"requests_allowed"`
	Denied    uint64 `json:"requests_denied"` // sessions that were denied as a whole included
	FromAgent int64  `json:"bytes_from_agent"`
	ToAgent   int64  `json:"bytes_to_agent"`
	Bypass    uint64 `json:"bypass_attempts,omitempty"` // of the agent, as far as the kernel told of each
}

// Approval is a request that waits, or waited, for a person. Text, Params and
// Context come from the agent: show them as untrusted.
type Approval struct {
	ID             string    `json:"id"`
	State          string    `json:"state"`
	Agent          string    `json:"agent"`
	Run            string    `json:"run,omitempty"`
	Identity       *Identity `json:"identity,omitempty"` // for whom it runs
	Target         string    `json:"target"`
	Session        string    `json:"session"`
	Rule           string    `json:"rule"`
	Text           string    `json:"text"`
	Params         []string  `json:"params,omitempty"`
	Effects        []string  `json:"effects"`
	Approvers      []string  `json:"approvers,omitempty"`
	ReasonRequired bool      `json:"reason_required"`
	Preview        *Preview  `json:"preview,omitempty"`
	Waiting        int       `json:"waiting"`
	Created        time.Time `json:"created"`
	DecideBy       time.Time `json:"decide_by"`
	DecidedBy      string    `json:"decided_by,omitempty"`
	Reason         string    `json:"reason,omitempty"`
}

// Preview is what a request has done that was run in a transaction which waits to
// be committed or rolled back.
type Preview struct {
	Ran     bool       `json:"ran"`
	Why     string     `json:"why_not,omitempty"` // it was not run: why
	Rows    int64      `json:"rows"`              // that it changed
	Error   string     `json:"error,omitempty"`   // it failed with this
	Columns []string   `json:"columns,omitempty"`
	Sample  [][]string `json:"sample,omitempty"` // some of the rows before it, masked
}

// Budget is how an agent stands with one budget of its policy.
type Budget struct {
	Agent   string            `json:"agent"`
	Name    string            `json:"name"`
	Target  string            `json:"target"` // "*": all of them together
	Window  float64           `json:"window_seconds"`
	Amounts map[string]Amount `json:"amounts"` // by "statements", "rows", "bytes", "writes"; those that are limited
	State   string            `json:"state"`   // "free", "ask", "deny": what the next statement meets
	AskAt   int               `json:"ask_at_percent,omitempty"`
	Frees   float64           `json:"frees_in_seconds,omitempty"` // until some of what is used is free again
}

// Amount is how much of one thing is used.
type Amount struct {
	Used int64 `json:"used"`
	Most int64 `json:"most"`
	Left int64 `json:"left"`
}

// Decision is the body of approve and deny.
type Decision struct {
	Reason string `json:"reason"`
}

// Reloaded says what a reload did.
type Reloaded struct {
	Generation uint64   `json:"generation"`
	Ended      int      `json:"sessions_ended"`
	Warnings   []string `json:"warnings,omitempty"`
}

// Catalog is what sessions with a target have read of its database.
type Catalog struct {
	Read      time.Time           `json:"read,omitzero" yaml:"read,omitempty"`
	Path      []string            `json:"search_path" yaml:"search_path,flow"`
	Relations map[string]Relation `json:"relations" yaml:"relations"` // by "schema.name"
}

// Relation is a table or view. Its columns are known only where the policy in
// force masks some.
type Relation struct {
	Columns []string   `json:"columns" yaml:"columns,flow,omitempty"`
	Keys    [][]string `json:"keys,omitempty" yaml:"keys,flow,omitempty"` // unique keys without NULL
	// Masked are columns that have the values of masked ones under other names,
	// as those of views do. Those that a mask names need not be among them.
	Masked []string `json:"masked,omitempty" yaml:"masked,flow,omitempty"`
}

// Error is a refusal of the daemon.
type Error struct {
	Status int    `json:"status"`
	Title  string `json:"title"`
	Detail string `json:"detail"`
	// Problems are those of a configuration, one per line of its report.
	Problems []string `json:"problems,omitempty"`
}

func (e *Error) Error() string {
	if e.Detail == "" {
		return e.Title
	}
	return e.Title + ": " + e.Detail
}

// ErrNotRunning is returned when nobody listens at the socket.
var ErrNotRunning = errors.New("posternd is not running")

// Client speaks to one daemon. It may be used from several goroutines.
type Client struct {
	socket string
	http   http.Client
}

// New returns a client of the daemon at socket. It connects with each call.
func New(socket string) *Client {
	c := &Client{socket: socket}
	c.http.Transport = &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
		DisableKeepAlives: true,
	}
	return c
}

// Status asks how the daemon is doing.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var s Status
	return s, c.call(ctx, http.MethodGet, "/v1/status", nil, &s)
}

// Sessions lists the sessions that are running.
func (c *Client) Sessions(ctx context.Context) ([]Session, error) {
	var s []Session
	return s, c.call(ctx, http.MethodGet, "/v1/sessions", nil, &s)
}

// Activity asks what agents have done.
func (c *Client) Activity(ctx context.Context) (Activity, error) {
	var a Activity
	return a, c.call(ctx, http.MethodGet, "/v1/activity", nil, &a)
}

// Budgets lists how agents stand with their budgets.
func (c *Client) Budgets(ctx context.Context) ([]Budget, error) {
	var b []Budget
	return b, c.call(ctx, http.MethodGet, "/v1/budgets", nil, &b)
}

// Approvals lists what waits for a person and what was decided lately.
func (c *Client) Approvals(ctx context.Context) ([]Approval, error) {
	var a []Approval
	return a, c.call(ctx, http.MethodGet, "/v1/approvals", nil, &a)
}

// Watch calls f with every approval that waits and then with each change, until
// ctx ends, f returns an error or the daemon goes away.
func (c *Client) Watch(ctx context.Context, f func(Approval) error) error {
	resp, err := c.do(ctx, http.MethodGet, "/v1/approvals?watch=1", nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, maxAnswer)
	for lines.Scan() {
		var a Approval
		if err := json.Unmarshal(lines.Bytes(), &a); err != nil {
			return fmt.Errorf("read an approval: %w", err)
		}
		if err := f(a); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil && ctx.Err() == nil {
		return fmt.Errorf("watch approvals: %w", err)
	}
	return ctx.Err()
}

// Approve says yes to an approval.
func (c *Client) Approve(ctx context.Context, id, reason string) (Approval, error) {
	var a Approval
	return a, c.call(ctx, http.MethodPost, "/v1/approvals/"+url.PathEscape(id)+"/approve", Decision{reason}, &a)
}

// Deny says no to it.
func (c *Client) Deny(ctx context.Context, id, reason string) (Approval, error) {
	var a Approval
	return a, c.call(ctx, http.MethodPost, "/v1/approvals/"+url.PathEscape(id)+"/deny", Decision{reason}, &a)
}

// Reload makes the daemon read its configuration again. On an error the old one
// stays in force, and Error.Problems says what is wrong with the new one.
func (c *Client) Reload(ctx context.Context) (Reloaded, error) {
	var r Reloaded
	return r, c.call(ctx, http.MethodPost, "/v1/reload", nil, &r)
}

// Catalog asks what the sessions with a target last read of its database: names of
// tables, columns and keys, and no values.
func (c *Client) Catalog(ctx context.Context, target string) (Catalog, error) {
	var out Catalog
	return out, c.call(ctx, http.MethodGet, "/v1/targets/"+url.PathEscape(target)+"/catalog", nil, &out)
}

// TryLogin makes the daemon log in to a target with its credential, and hang up.
func (c *Client) TryLogin(ctx context.Context, target string) error {
	return c.call(ctx, http.MethodPost, "/v1/targets/"+url.PathEscape(target)+"/login", nil, nil)
}

func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	resp, err := c.do(ctx, method, path, in)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(out); err != nil {
		return fmt.Errorf("read the daemon's answer: %w", err)
	}
	return nil
}

// do sends a request; its response is one of success.
func (c *Client) do(ctx context.Context, method, path string, in any) (*http.Response, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://postern"+path, body)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("%w: nobody listens at %s", ErrNotRunning, c.socket)
	case errors.Is(err, os.ErrPermission):
		return nil, fmt.Errorf("no permission for %s: use sudo", c.socket)
	case err != nil:
		return nil, fmt.Errorf("ask the daemon: %w", err)
	case resp.StatusCode/100 == 2:
		return resp, nil
	}
	defer resp.Body.Close()
	e := &Error{Status: resp.StatusCode, Title: resp.Status}
	json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(e) //nolint:errcheck // the status line says enough
	return nil, e
}
