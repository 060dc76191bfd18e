/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The last line: what packets may leave and reach a socket of a policy. */
#ifndef POSTERN_PACKET_H
#define POSTERN_PACKET_H

#include "who.h"

#define ETH_P_IP 0x0800
#define ETH_P_IPV6 0x86dd

#define IP_FRAGMENT 0x3fff /* more fragments, or an offset */
#define TCP_SYN 0x02
#define TCP_ACK 0x10
#define TCP_FLAGS_AT 13

#define IPPROTO_HOPOPTS 0
#define OPTION_JUMBO 0xc2
#define MAX_V6_PAYLOAD 65535

struct packet {
	__u32 saddr[4];
	__u32 daddr[4];
	__u16 sport;
	__u16 dport;
	__u16 family;
	__u8 protocol;
	__u8 tcp_flags;
	__u32 device;
};

struct v4_header {
	__u8 version_length;
	__u8 tos;
	__u16 length;
	__u16 id;
	__u16 fragment;
	__u8 ttl;
	__u8 protocol;
	__u16 checksum;
	__u32 saddr;
	__u32 daddr;
};

struct v6_header {
	__u32 flow;
	__u16 length;
	__u8 next;
	__u8 hops;
	__u32 saddr[4];
	__u32 daddr[4];
};

/* A hop-by-hop header with the one option that tells a longer payload (RFC 2675). */
struct jumbo_header {
	__u8 next;
	__u8 length;
	__u8 option;
	__u8 option_length;
	__u32 payload;
};

/*
 * The kernel puts this header in front of segments that no length of IPv6 can
 * tell (ip6_xmit): with BIG TCP, and since Linux 6.10 from bbr on loopback. An
 * agent that sets it by IPV6_HOPOPTS gets it in front of a payload with a length
 * or behind the kernel's own, and neither is this.
 */
static __always_inline int is_jumbo(struct __sk_buff *skb, const struct v6_header *h)
{
	struct jumbo_header j;

	if (h->next != IPPROTO_HOPOPTS || h->length)
		return 0;
	if (bpf_skb_load_bytes(skb, sizeof(*h), &j, sizeof(j)))
		return 0;
	return j.next == IPPROTO_TCP && !j.length && j.option == OPTION_JUMBO &&
	       j.option_length == sizeof(j.payload) && bpf_ntohl(j.payload) > MAX_V6_PAYLOAD;
}

/*
 * Reads addresses and ports. Options (a source route!), fragments and extension
 * headers but the kernel's own are not understood, and what is not understood
 * does not pass.
 */
static __always_inline int read_packet(struct __sk_buff *skb, struct packet *p)
{
	__u16 ports[2];
	__u32 at;

	p->device = skb->ifindex;
	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		struct v4_header h;

		if (bpf_skb_load_bytes(skb, 0, &h, sizeof(h)))
			return 0;
		p->family = AF_INET;
		p->protocol = h.protocol;
		p->saddr[2] = p->daddr[2] = bpf_htonl(0xffff);
		p->saddr[3] = h.saddr;
		p->daddr[3] = h.daddr;
		if (h.version_length != 0x45 || (h.fragment & bpf_htons(IP_FRAGMENT)))
			return 0;
		at = sizeof(h);
	} else if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		struct v6_header h;

		if (bpf_skb_load_bytes(skb, 0, &h, sizeof(h)))
			return 0;
		p->family = AF_INET6;
		p->protocol = h.next;
		__builtin_memcpy(p->saddr, h.saddr, sizeof(p->saddr));
		__builtin_memcpy(p->daddr, h.daddr, sizeof(p->daddr));
		at = sizeof(h);
		if (is_jumbo(skb, &h)) {
			p->protocol = IPPROTO_TCP;
			at += sizeof(struct jumbo_header);
		}
	} else {
		return 0;
	}
	if (p->protocol != IPPROTO_TCP && p->protocol != IPPROTO_UDP)
		return 0;
	if (bpf_skb_load_bytes(skb, at, ports, sizeof(ports)))
		return 0;
	p->sport = bpf_ntohs(ports[0]);
	p->dport = bpf_ntohs(ports[1]);
	if (p->protocol == IPPROTO_TCP &&
	    bpf_skb_load_bytes(skb, at + TCP_FLAGS_AT, &p->tcp_flags, sizeof(p->tcp_flags)))
		return 0;
	return 1;
}

/* The state of the packet's socket, while the policy that made it still holds. */
static __always_inline struct sock_state *state_of(struct __sk_buff *skb)
{
	struct bpf_sock *socket = skb->sk;
	struct sock_state *st;
	struct policy_entry *p;
	__u64 owner;

	if (!socket)
		return 0;
	socket = bpf_sk_fullsock(socket);
	if (!socket)
		return 0;
	st = bpf_sk_storage_get(&sk, socket, 0, 0);
	if (!st)
		return 0;
	owner = st->owner;
	p = bpf_map_lookup_elem(&policy, &owner);
	if (!p || p->id != st->owner_policy)
		return 0;
	return st;
}

/*
 * Tells the resolver who sent this datagram. The resolver's port is part of
 * the key, so a source port reused by another policy's agent is another entry.
 */
static __always_inline int announce(const struct packet *p, struct sock_state *st)
{
	struct sender_key key = { .port = p->sport, .dns_port = p->dport };

	__builtin_memcpy(key.addr, p->saddr, sizeof(key.addr));
	return !bpf_map_update_elem(&dns_src, &key, &st->flow, BPF_ANY);
}

/*
 * Whether the packet has to wait: the kernel sends the SYN again, soon (see
 * sockops), and a resolver is asked again. Only a first packet waits: the end
 * of waiting is noted in the socket's state.
 */
static __always_inline int held(const struct packet *p, struct sock_state *st)
{
	struct answer *a;
	struct listener *l;
	__u64 token, until;

	if (st->route != ROUTE_GATEWAY || !st->waits)
		return 0;
	if (st->waits & WAIT_LISTENER) {
		l = listener_of(st->flow.netns, st->owner_policy);
		if (!l || (p->protocol == IPPROTO_TCP ? p->dport != l->tcp_port && p->dport != l->dns_tcp_port
						      : p->dport != l->dns_udp_port))
			return 1;
		st->waits &= ~WAIT_LISTENER;
	}
	token = st->flow.token;
	a = bpf_map_lookup_elem(&verdicts, &token);
	until = a ? a->until : st->flow.started + HOLD_NS;
	if ((st->waits & WAIT_VERDICT) && bpf_ktime_get_ns() < until)
		return 1;
	st->waits = WAIT_NONE;
	return 0;
}

static __always_inline int may_leave(const struct packet *p, struct sock_state *st)
{
	/* A socket bound to another device sends even 127.0.0.1 out by it. */
	if (p->device != LOOPBACK_IFINDEX || !is_loopback(p->daddr))
		return 0;
	if (p->family == AF_INET6 && !is_loopback(p->saddr))
		return 0; /* see foreign_source in route.h */
	if (st->route == ROUTE_GATEWAY && p->dport == st->peer_port)
		return p->protocol == IPPROTO_TCP || announce(p, st);
	if (st->away || listed(st->owner_policy, p->sport))
		return 1;
	return listed(st->owner_policy, p->dport) &&
	       (p->protocol == IPPROTO_UDP || st->route == ROUTE_LOOPBACK);
}

static __always_inline int is_opening(const struct packet *p)
{
	return p->protocol == IPPROTO_TCP && (p->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

/*
 * Agents are served, they do not serve: a connection towards an agent begins
 * with a SYN, and only a listed port on loopback may get one. This is where
 * listening is denied, for there is no hook in listen().
 */
static __always_inline int may_enter(const struct packet *p, struct sock_state *st)
{
	if (p->device != LOOPBACK_IFINDEX || !is_loopback(p->saddr))
		return 0;
	if (st->away || listed(st->owner_policy, p->dport))
		return is_loopback(p->daddr);
	if (is_opening(p))
		return 0;
	if (st->route != ROUTE_NONE && p->sport == st->peer_port)
		return 1;
	return p->protocol == IPPROTO_UDP && listed(st->owner_policy, p->sport);
}

static __always_inline int drop_packet(struct __sk_buff *skb, const struct packet *p,
				       const struct sock_state *st, int leaving)
{
	struct subject s = {
		.cgroup = bpf_skb_cgroup_id(skb),
		.policy_cgroup = st ? st->owner : 0,
		.policy = st ? st->owner_policy : 0,
		.protocol = p->protocol,
		.family = p->family,
		.port = leaving ? p->dport : p->sport,
	};

	__builtin_memcpy(s.addr, leaving ? p->daddr : p->saddr, sizeof(s.addr));
	return drop(&s, leaving ? KIND_EGRESS : KIND_INGRESS);
}

#endif
