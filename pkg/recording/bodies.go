package recording

import (
	"encoding/binary"
	"iter"
	"net/netip"
	"time"
)

// Opened is the first event of every session file: who connected, where to, and
// under which policy.
type Opened struct {
	Session    string         `json:"session"`
	Agent      string         `json:"agent"`
	Run        string         `json:"run,omitempty"`
	Cgroup     string         `json:"cgroup"`
	CgroupID   uint64         `json:"cgroup_id"`
	Netns      uint64         `json:"netns"`
	PID        uint32         `json:"pid"`
	TID        uint32         `json:"tid"`
	UID        uint32         `json:"uid"`
	GID        uint32         `json:"gid"`
	Comm       string         `json:"comm"` // chosen by the agent
	Exe        string         `json:"exe"`
	Started    time.Time      `json:"started"` // when connect was called
	Original   netip.AddrPort `json:"original"`
	Name       string         `json:"name,omitempty"`
	Target     string         `json:"target"`
	Protocol   string         `json:"protocol"`
	Generation uint64         `json:"generation"`  // of the policy
	ConfigHash Hash           `json:"config_hash"` // of the configuration as loaded
	Journal    Hash           `json:"journal"`     // of the journal frame that announced this file
}

// Kind implements Body.
func (*Opened) Kind() Kind { return KindOpened }

// AppendTo implements Body.
func (o *Opened) AppendTo(dst []byte) []byte {
	dst = appendString(dst, o.Session)
	dst = appendString(dst, o.Agent)
	dst = appendString(dst, o.Run)
	dst = appendString(dst, o.Cgroup)
	dst = binary.AppendUvarint(dst, o.CgroupID)
	dst = binary.AppendUvarint(dst, o.Netns)
	dst = binary.AppendUvarint(dst, uint64(o.PID))
	dst = binary.AppendUvarint(dst, uint64(o.TID))
	dst = binary.AppendUvarint(dst, uint64(o.UID))
	dst = binary.AppendUvarint(dst, uint64(o.GID))
	dst = appendString(dst, o.Comm)
	dst = appendString(dst, o.Exe)
	dst = appendTime(dst, o.Started)
	dst = appendAddr(dst, o.Original)
	dst = appendString(dst, o.Name)
	dst = appendString(dst, o.Target)
	dst = appendString(dst, o.Protocol)
	dst = binary.AppendUvarint(dst, o.Generation)
	dst = append(dst, o.ConfigHash[:]...)
	return append(dst, o.Journal[:]...)
}

func (o *Opened) parse(d *decoder) {
	o.Session, o.Agent, o.Run, o.Cgroup = d.string(), d.string(), d.string(), d.string()
	o.CgroupID, o.Netns = d.uint(), d.uint()
	o.PID, o.TID, o.UID, o.GID = d.uint32(), d.uint32(), d.uint32(), d.uint32()
	o.Comm, o.Exe = d.string(), d.string()
	o.Started, o.Original = d.time(), d.addr()
	o.Name, o.Target, o.Protocol = d.string(), d.string(), d.string()
	o.Generation, o.ConfigHash, o.Journal = d.uint(), d.hash(), d.hash()
}

// Container is the container that the agent was in, if it was in one.
type Container struct {
	Engine string `json:"engine"`
	ID     string `json:"id"`
	Name   string `json:"name,omitempty"` // when it was known
}

// Kind implements Body.
func (*Container) Kind() Kind { return KindContainer }

// AppendTo implements Body.
func (c *Container) AppendTo(dst []byte) []byte {
	dst = appendString(dst, c.Engine)
	dst = appendString(dst, c.ID)
	return appendString(dst, c.Name)
}

func (c *Container) parse(d *decoder) {
	c.Engine, c.ID, c.Name = d.string(), d.string(), d.string()
}

// Intent is what the client wanted before its first request.
type Intent struct {
	Purpose    string `json:"purpose"`
	User       string `json:"user,omitempty"`
	Database   string `json:"database,omitempty"`
	Parameters []Pair `json:"parameters,omitempty"`
}

// Pair is a named value.
type Pair struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Kind implements Body.
func (*Intent) Kind() Kind { return KindIntent }

// AppendTo implements Body.
func (i *Intent) AppendTo(dst []byte) []byte {
	dst = appendString(dst, i.Purpose)
	dst = appendString(dst, i.User)
	dst = appendString(dst, i.Database)
	dst = binary.AppendUvarint(dst, uint64(len(i.Parameters)))
	for _, p := range i.Parameters {
		dst = appendString(dst, p.Name)
		dst = appendString(dst, p.Value)
	}
	return dst
}

func (i *Intent) parse(d *decoder) {
	i.Purpose, i.User, i.Database = d.string(), d.string(), d.string()
	for n := d.list(); n > 0 && !d.bad; n-- {
		i.Parameters = append(i.Parameters, Pair{d.string(), d.string()})
	}
}

// Upstream says that the target was reached and logged in to.
type Upstream struct {
	Address  string        `json:"address"`
	TLS      string        `json:"tls,omitempty"` // version and cipher suite, empty without TLS
	Verified bool          `json:"verified"`      // chain and name of the server's certificate
	Took     time.Duration `json:"took_ns"`
}

// Kind implements Body.
func (*Upstream) Kind() Kind { return KindUpstream }

// AppendTo implements Body.
func (u *Upstream) AppendTo(dst []byte) []byte {
	dst = appendString(dst, u.Address)
	dst = appendString(dst, u.TLS)
	dst = appendBool(dst, u.Verified)
	return binary.AppendUvarint(dst, uint64(u.Took))
}

func (u *Upstream) parse(d *decoder) {
	u.Address, u.TLS, u.Verified, u.Took = d.string(), d.string(), d.bool(), time.Duration(d.uint())
}

// Request is one thing the client asked for. Text and parameters are as the
// client sent them, with placeholders and never with the secrets behind them.
type Request struct {
	ID      uint64   `json:"id"` // from 1, within the session
	Form    string   `json:"form"`
	Text    string   `json:"text"`
	Params  []Param  `json:"params,omitempty"`
	Effects []Effect `json:"effects,omitempty"`
	Context string   `json:"context,omitempty"`
}

// Param is one bound parameter.
type Param struct {
	Value  []byte
	Null   bool
	Binary bool
}

// Effect is one thing a request would do.
type Effect struct {
	Verb   string `json:"verb"`
	Object string `json:"object,omitempty"`
}

// Kind implements Body.
func (*Request) Kind() Kind { return KindRequest }

// AppendTo implements Body.
func (r *Request) AppendTo(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, r.ID)
	dst = appendString(dst, r.Form)
	dst = appendString(dst, r.Text)
	dst = binary.AppendUvarint(dst, uint64(len(r.Params)))
	for i := range r.Params {
		p := &r.Params[i]
		dst = appendBytes(dst, p.Value)
		dst = appendBool(dst, p.Null)
		dst = appendBool(dst, p.Binary)
	}
	dst = binary.AppendUvarint(dst, uint64(len(r.Effects)))
	for i := range r.Effects {
		dst = appendString(dst, r.Effects[i].Verb)
		dst = appendString(dst, r.Effects[i].Object)
	}
	return appendString(dst, r.Context)
}

func (r *Request) parse(d *decoder) {
	r.ID, r.Form, r.Text = d.uint(), d.string(), d.string()
	for n := d.list(); n > 0 && !d.bad; n-- {
		r.Params = append(r.Params, Param{d.bytes(), d.bool(), d.bool()})
	}
	for n := d.list(); n > 0 && !d.bad; n-- {
		r.Effects = append(r.Effects, Effect{d.string(), d.string()})
	}
	r.Context = d.string()
}

// Verdict is what the policy made of a request.
type Verdict struct {
	Request  uint64 `json:"request"`
	Action   string `json:"action"` // "allow", "deny", "ask"
	Rule     string `json:"rule,omitempty"`
	Reason   string `json:"reason,omitempty"`
	Observed bool   `json:"observed,omitempty"` // it would have been so: the agent is in observe mode
}

// Kind implements Body.
func (*Verdict) Kind() Kind { return KindVerdict }

// AppendTo implements Body.
func (v *Verdict) AppendTo(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, v.Request)
	dst = appendString(dst, v.Action)
	dst = appendString(dst, v.Rule)
	dst = appendString(dst, v.Reason)
	return appendBool(dst, v.Observed)
}

func (v *Verdict) parse(d *decoder) {
	v.Request, v.Action, v.Rule, v.Reason, v.Observed = d.uint(), d.string(), d.string(), d.string(), d.bool()
}

// Approval is a change of an approval that a request waits for.
type Approval struct {
	Request  uint64 `json:"request"`
	ID       string `json:"id"`
	State    string `json:"state"` // "pending", "approved", "consumed", "denied", "expired", "withdrawn"
	Approver string `json:"approver,omitempty"`
	Reason   string `json:"reason,omitempty"`
}

// Kind implements Body.
func (*Approval) Kind() Kind { return KindApproval }

// AppendTo implements Body.
func (a *Approval) AppendTo(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, a.Request)
	dst = appendString(dst, a.ID)
	dst = appendString(dst, a.State)
	dst = appendString(dst, a.Approver)
	return appendString(dst, a.Reason)
}

func (a *Approval) parse(d *decoder) {
	a.Request, a.ID, a.State, a.Approver, a.Reason = d.uint(), d.string(), d.string(), d.string(), d.string()
}

// Fields begins a result set.
type Fields struct {
	Request uint64  `json:"request"`
	Fields  []Field `json:"fields"`
}

// Field is one column of a result.
type Field struct {
	Name     string `json:"name"`
	Relation string `json:"relation,omitempty"`
	Column   string `json:"column,omitempty"`
	Type     string `json:"type,omitempty"`
	Binary   bool   `json:"binary,omitempty"`
}

// Kind implements Body.
func (*Fields) Kind() Kind { return KindFields }

// AppendTo implements Body.
func (f *Fields) AppendTo(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, f.Request)
	dst = binary.AppendUvarint(dst, uint64(len(f.Fields)))
	for i := range f.Fields {
		c := &f.Fields[i]
		dst = appendString(dst, c.Name)
		dst = appendString(dst, c.Relation)
		dst = appendString(dst, c.Column)
		dst = appendString(dst, c.Type)
		dst = appendBool(dst, c.Binary)
	}
	return dst
}

func (f *Fields) parse(d *decoder) {
	f.Request = d.uint()
	for n := d.list(); n > 0 && !d.bad; n-- {
		f.Fields = append(f.Fields, Field{d.string(), d.string(), d.string(), d.string(), d.bool()})
	}
}

// Rows is a piece of a result, as it went to the client.
type Rows struct {
	Request uint64
	Body    []byte // rows in the form of the format, each with its length before it
}

// Kind implements Body.
func (*Rows) Kind() Kind { return KindRows }

// AppendTo implements Body.
func (r *Rows) AppendTo(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, r.Request)
	return appendBytes(dst, r.Body)
}

// parse leaves the rows as they are: an upstream may have sent any bytes, and
// what went to the client is on record whether it makes sense or not.
func (r *Rows) parse(d *decoder) { r.Request, r.Body = d.uint(), d.bytes() }

// All yields the rows, up to the first that does not follow the format; a nil
// value is NULL. The slice of values is reused for the next row, the values
// themselves are part of Body.
func (r *Rows) All() iter.Seq[[][]byte] {
	return func(yield func([][]byte) bool) {
		var values [][]byte
		for b := r.Body; len(b) > 0; {
			row, rest, ok := cutRow(b)
			if !ok || !validRow(row) {
				return
			}
			values = values[:0]
			for row = row[2:]; len(row) > 0; {
				var v []byte
				v, row = cutValue(row)
				values = append(values, v)
			}
			if !yield(values) {
				return
			}
			b = rest
		}
	}
}

// AppendRow appends one row, in PostgreSQL's DataRow form, to the body of a
// Rows event.
func AppendRow(body, row []byte) []byte {
	body = binary.BigEndian.AppendUint32(body, uint32(len(row)))
	return append(body, row...)
}

func cutRow(b []byte) (row, rest []byte, ok bool) {
	if len(b) < 4 {
		return nil, nil, false
	}
	n := uint64(binary.BigEndian.Uint32(b))
	if n > uint64(len(b)-4) {
		return nil, nil, false
	}
	return b[4 : 4+n], b[4+n:], true
}

// cutValue is for rows that are valid.
func cutValue(b []byte) (v, rest []byte) {
	n := int32(binary.BigEndian.Uint32(b))
	if n < 0 {
		return nil, b[4:]
	}
	return b[4 : 4+n : 4+n], b[4+n:]
}

func validRow(row []byte) bool {
	if len(row) < 2 {
		return false
	}
	count := int(int16(binary.BigEndian.Uint16(row)))
	if count < 0 {
		return false
	}
	for row = row[2:]; count > 0; count-- {
		if len(row) < 4 {
			return false
		}
		n := int64(int32(binary.BigEndian.Uint32(row)))
		if n < -1 || n > int64(len(row)-4) {
			return false
		}
		row = row[4+max(n, 0):]
	}
	return len(row) == 0
}

// AppendRowsHead appends what comes before the body of a Rows event, for a
// writer that appends a body of size bytes behind it.
func AppendRowsHead(dst []byte, request uint64, size int) []byte {
	dst = binary.AppendUvarint(dst, request)
	return binary.AppendUvarint(dst, uint64(size))
}
