/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Counting, and telling user space about denials. */
#ifndef POSTERN_DENY_H
#define POSTERN_DENY_H

#include "maps.h"

/* What cgroup programs return. There is nothing in between. */
#define DENY 0
#define ALLOW 1

#define SECOND_NS 1000000000ULL

/* The far end of a call or packet, and who is at the near end. */
struct subject {
	__u64 cgroup;
	__u64 policy_cgroup;
	__u64 netns;
	__u32 policy;
	__u32 protocol;
	__u32 addr[4];
	__u16 port;
	__u16 family;
};

static __always_inline void count(__u32 kind)
{
	__u64 *n = bpf_map_lookup_elem(&stats, &kind);

	if (n)
		__sync_fetch_and_add(n, 1);
}

/*
 * Whether this policy may have one more in this second. Two processors may race
 * for the last one: the bound is about noise, not about safety.
 */
static __always_inline int within(void *counts, __u64 policy_cgroup, __u64 now, __u32 most)
{
	__u64 second = now / SECOND_NS;
	struct limit *l = bpf_map_lookup_elem(counts, &policy_cgroup);
	struct limit fresh = { .second = second, .sent = 1 };

	if (!l) {
		bpf_map_update_elem(counts, &policy_cgroup, &fresh, BPF_ANY);
		return 1;
	}
	if (l->second != second) {
		l->second = second;
		l->sent = 0;
	}
	if (l->sent >= most)
		return 0;
	l->sent++;
	return 1;
}

/*
 * The pid, uid and name are filled in by the caller's program type: packets
 * have none, and the verifier knows the helpers only where a task calls.
 */
static __always_inline struct event *event_for(const struct subject *s, __u32 kind)
{
	__u64 now = bpf_ktime_get_ns();
	struct event *e;

	count(kind);
	if (!within(&limits, s->policy_cgroup, now, EVENTS_PER_SECOND)) {
		count(KIND_EVENTS_LIMITED);
		return 0;
	}
	e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);
	if (!e) {
		count(KIND_EVENTS_LOST);
		return 0;
	}
	__builtin_memset(e, 0, sizeof(*e));
	e->time = now;
	e->cgroup = s->cgroup;
	e->policy_cgroup = s->policy_cgroup;
	e->netns = s->netns;
	e->policy = s->policy;
	e->kind = kind;
	e->addr[0] = s->addr[0];
	e->addr[1] = s->addr[1];
	e->addr[2] = s->addr[2];
	e->addr[3] = s->addr[3];
	e->port = s->port;
	e->family = s->family;
	e->protocol = s->protocol;
	return e;
}

/* Tells user space what the calling task did. */
static __always_inline void tell(const struct subject *s, __u32 kind)
{
	struct event *e = event_for(s, kind);
	__u64 id, owner;

	if (!e)
		return;
	id = bpf_get_current_pid_tgid();
	owner = bpf_get_current_uid_gid();
	e->pid = (__u32)id;
	e->tgid = id >> 32;
	e->uid = (__u32)owner;
	e->gid = owner >> 32;
	bpf_get_current_comm(e->comm, sizeof(e->comm));
	bpf_ringbuf_submit(e, 0);
}

/* Denies what the calling task asked for. */
static __always_inline int deny(const struct subject *s, __u32 kind)
{
	tell(s, kind);
	return DENY;
}

/* Denies a packet. */
static __always_inline int drop(const struct subject *s, __u32 kind)
{
	struct event *e = event_for(s, kind);

	if (e)
		bpf_ringbuf_submit(e, 0);
	return DENY;
}

#endif
