/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Who calls, which policy holds for him, and where his connections go. */
#ifndef POSTERN_WHO_H
#define POSTERN_WHO_H

#include <linux/in.h>
#include <bpf/bpf_endian.h>
#include "deny.h"

#define AF_INET 2
#define AF_INET6 10
#define LOOPBACK_IFINDEX 1 /* lo, in every network namespace */
#define SOCK_STREAM 1
#define SOCK_DGRAM 2

/*
 * One load of one context field. Left to itself clang merges and moves such
 * loads, and the verifier refuses "dereference of modified ctx ptr".
 */
#define LOAD(field) (*(volatile typeof(field) *)&(field))

/*
 * Finds the calling task's policy: that of its nearest ancestor cgroup which
 * has one. Without a policy there is no permission for anything.
 */
static __always_inline int find_policy(struct subject *s)
{
	s->cgroup = bpf_get_current_cgroup_id();
#pragma unroll
	for (int level = POSTERN_MAX_LEVEL; level >= 1; level--) {
		__u64 id = bpf_get_current_ancestor_cgroup_id(level);
		struct policy_entry *p;

		if (!id)
			continue;
		p = bpf_map_lookup_elem(&policy, &id);
		if (p) {
			s->policy_cgroup = id;
			s->policy = p->id;
			return 1;
		}
	}
	return 0;
}

/* Whether the network namespace is the gateway's own. */
static __always_inline int is_home(__u64 netns)
{
	__u32 only = 0;
	__u64 *cookie = bpf_map_lookup_elem(&home, &only);

	return netns == (cookie && *cookie ? *cookie : bpf_get_netns_cookie(0));
}

/* What the policy has on a port of loopback: enum loopback_use, or 0. */
static __always_inline int use_of(__u32 policy_id, __u16 port)
{
	struct loopback_key key = { .policy = policy_id, .port = port };
	__u8 *use = port ? bpf_map_lookup_elem(&loopback, &key) : 0;

	return use ? *use : 0;
}

static __always_inline int listed(__u32 policy_id, __u16 port)
{
	return use_of(policy_id, port) == LOOPBACK_AS_IS;
}

/* netns is 0 for the gateway's own. */
static __always_inline struct listener *listener_of(__u64 netns, __u32 policy_id)
{
	struct listener_key key = { .netns = netns, .policy = policy_id };

	return bpf_map_lookup_elem(&listeners, &key);
}

static __always_inline int glass_until(__u64 key)
{
	__u64 *until = bpf_map_lookup_elem(&glass, &key);

	return until && *until > bpf_ktime_get_boot_ns();
}

/* Whether somebody broke the glass for this policy cgroup, or for all. */
static __always_inline int glass_broken(__u64 policy_cgroup)
{
	return glass_until(policy_cgroup) || glass_until(0);
}

static __always_inline int is_mapped(const __u32 *a)
{
	return !a[0] && !a[1] && a[2] == bpf_htonl(0xffff);
}

/* 127.0.0.0/8, written as v4-mapped, or ::1 */
static __always_inline int is_loopback(const __u32 *a)
{
	if (is_mapped(a))
		return (a[3] & bpf_htonl(0xff000000)) == bpf_htonl(0x7f000000);
	return !a[0] && !a[1] && !a[2] && a[3] == bpf_htonl(1);
}

/* 0.0.0.0 and :: as a destination mean this host. */
static __always_inline int is_unspecified(const __u32 *a)
{
	return (is_mapped(a) || (!a[0] && !a[1] && !a[2])) && !a[3];
}

/*
 * The addresses that the resolver gives to names: 198.18.0.0/15 and
 * fd50:6f73:7465::/48, as internal/dns has them.
 */
static __always_inline int is_virtual(const __u32 *a)
{
	if (is_mapped(a))
		return (a[3] & bpf_htonl(0xfffe0000)) == bpf_htonl(0xc6120000);
	return a[0] == bpf_htonl(0xfd506f73) && (a[1] & bpf_htonl(0xffff0000)) == bpf_htonl(0x74650000);
}

#endif
