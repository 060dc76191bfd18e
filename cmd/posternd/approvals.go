package main

import (
	"context"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/postern/postern/internal/approval"
	"github.com/postern/postern/internal/control"
	"github.com/postern/postern/internal/engine"
	pkgcontrol "github.com/postern/postern/pkg/control"
)

// asked says whether a peer may see an approval: root all of them, who has
// logged in those that ask them.
func (d *daemon) asked(who []*engine.Identity, root bool) func(*approval.Approval) bool {
	return func(a *approval.Approval) bool {
		if root {
			return true
		}
		for _, i := range who {
			for _, name := range a.Approvers {
				if d.people.counts(i, name) {
					return true
				}
			}
		}
		return false
	}
}

func (d *daemon) shownApprovals(by control.Peer) ([]pkgcontrol.Approval, error) {
	out := []pkgcontrol.Approval{}
	who, err := d.people.approver(by)
	if err != nil {
		return nil, err
	}
	asked := d.asked(who, by.UID == 0)
	for _, a := range d.approvals.List() {
		if asked(&a) {
			out = append(out, d.shown(a))
		}
	}
	return out, nil
}

func (d *daemon) watch(ctx context.Context, by control.Peer, f func(pkgcontrol.Approval) error) error {
	who, err := d.people.approver(by)
	if err != nil {
		return err
	}
	asked := d.asked(who, by.UID == 0)
	for a := range d.approvals.Watch(ctx) {
		if !asked(&a) {
			continue
		}
		if err := f(d.shown(a)); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func (d *daemon) shown(a approval.Approval) pkgcontrol.Approval {
	out := pkgcontrol.Approval{
		ID: a.ID, State: string(a.State), Agent: a.Agent, Run: a.Run, Identity: d.people.shown(a.Behalf), Target: a.Target, Session: a.Session, Rule: a.Rule,
		Text: a.Text, Effects: a.Effects, Approvers: a.Approvers, ReasonRequired: a.ReasonRequired, Waiting: a.Waiting,
		Created: a.Created, DecideBy: a.DecideBy,
	}
	if p := a.Preview; p != nil {
		out.Preview = &pkgcontrol.Preview{Ran: p.Ran, Why: p.Why, Rows: p.Rows, Error: p.Error, Columns: p.Columns, Sample: p.Sample}
	}
	for _, p := range a.Params {
		switch {
		case p.Null:
			out.Params = append(out.Params, "NULL")
		case p.Binary || !utf8.Valid(p.Value):
			out.Params = append(out.Params, fmt.Sprintf("\\x%x", p.Value))
		default:
			out.Params = append(out.Params, string(p.Value))
		}
	}
	for _, v := range a.Votes {
		out.DecidedBy, out.Reason = v.By, v.Reason
	}
	return out
}

// decide counts a peer's word: root's for every group, that of who has logged in
// for the groups that they are in.
func (d *daemon) decide(id string, by control.Peer, approve bool, reason string) (pkgcontrol.Approval, error) {
	votes := []approval.Vote{{By: by.Name, Reason: reason}}
	if by.UID != 0 {
		var err error
		if votes, err = d.votes(id, by, reason); err != nil {
			return pkgcontrol.Approval{}, err
		}
	}
	if !approve {
		votes = votes[:1] // one no suffices
	}
	for _, v := range votes {
		decide := d.approvals.Deny
		if approve {
			decide = d.approvals.Approve
		}
		if err := decide(id, v); err != nil {
			return pkgcontrol.Approval{}, err
		}
	}
	if a := d.approval(id); a != nil {
		return d.shown(*a), nil
	}
	return pkgcontrol.Approval{ID: id}, nil
}

func (d *daemon) approval(id string) *approval.Approval {
	for _, a := range d.approvals.List() {
		if strings.EqualFold(a.ID, id) {
			return &a
		}
	}
	return nil
}

// votes are those of who has logged in, one for each group that is asked and that
// they are in.
func (d *daemon) votes(id string, by control.Peer, reason string) ([]approval.Vote, error) {
	who, err := d.people.approver(by)
	if err != nil {
		return nil, err
	}
	a := d.approval(id)
	if a == nil || !d.asked(who, false)(a) {
		return nil, approval.ErrUnknown // whose it is, is nobody else's business
	}
	as, groups := d.people.mayDecide(a, who)
	if as == nil {
		return nil, fmt.Errorf("%w: all that you are in have approved", approval.ErrDecided)
	}
	var out []approval.Vote
	for _, group := range groups {
		out = append(out, approval.Vote{Group: group, UID: by.UID, By: as.String(), Who: who, Reason: reason})
	}
	return out, nil
}
