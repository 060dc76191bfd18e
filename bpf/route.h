/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The decision where a connect or sendmsg goes. */
#ifndef POSTERN_ROUTE_H
#define POSTERN_ROUTE_H

#include "who.h"

/*
 * Set before loading, by what the kernel has and user space does: whether a
 * program may choose the errno of a refused connect (5.18), and whether the
 * gateway dials as soon as it is asked to.
 */
const volatile __u32 chooses_errno;
const volatile __u32 foretells;

#define SOL_SOCKET 1
#define SO_BINDTODEVICE 25

/* Answers of route() besides a port of the gateway. */
#define ROUTE_DENIED 0
#define ROUTE_AS_IS 0x10000

/* Where the kernel cannot, a refused connect is EPERM. */
static __always_inline void refuse_with(__u32 error)
{
	if (chooses_errno)
		bpf_set_retval(-(int)error);
}

/* Who has the socket that would get what is sent to a local address. */
enum occupant {
	OCCUPANT_NONE,
	OCCUPANT_GATEWAY,
	OCCUPANT_SELF,
	OCCUPANT_OTHER,
};

/* Whether this is a socket of the policy in s, as far as anybody marked it. */
static __always_inline int made_by(struct bpf_sock *socket, const struct subject *s)
{
	struct sock_state *st = bpf_sk_storage_get(&sk, socket, 0, 0);

	return st && st->owner == s->policy_cgroup && st->owner_policy == s->policy;
}

static __always_inline int occupant(struct bpf_sock_addr *ctx, const struct subject *s, __u32 host,
				    __u16 port, __u32 *policy_id)
{
	int v4 = is_mapped(s->addr);
	struct bpf_sock_tuple to = {};
	__u32 size = v4 ? sizeof(to.ipv4) : sizeof(to.ipv6);
	int who = OCCUPANT_OTHER;
	struct bpf_sock *socket;
	struct gateway *mark;

	if (v4) {
		to.ipv4.daddr = host;
		to.ipv4.dport = bpf_htons(port);
	} else {
		to.ipv6.daddr[3] = bpf_htonl(1);
		to.ipv6.dport = bpf_htons(port);
	}
	if (s->protocol == IPPROTO_TCP)
		socket = bpf_sk_lookup_tcp(ctx, &to, size, BPF_F_CURRENT_NETNS, 0);
	else
		socket = bpf_sk_lookup_udp(ctx, &to, size, BPF_F_CURRENT_NETNS, 0);
	if (!socket)
		return OCCUPANT_NONE;
	mark = bpf_sk_storage_get(&gateways, socket, 0, 0);
	if (mark) {
		*policy_id = mark->policy;
		who = OCCUPANT_GATEWAY;
	} else if (made_by(socket, s)) {
		who = OCCUPANT_SELF;
	}
	bpf_sk_release(socket);
	return who;
}

/*
 * A destination on this host that the agent named itself: ROUTE_DENIED,
 * ROUTE_AS_IS, or -1 for the gateway.
 */
static __always_inline int route_local(struct bpf_sock_addr *ctx, const struct subject *s,
				       const struct sock_state *st)
{
	__u32 host = is_unspecified(s->addr) ? bpf_htonl(0x7f000001) : s->addr[3];
	__u32 policy_id;
	int use, who;

	who = occupant(ctx, s, host, s->port, &policy_id);
	if (who == OCCUPANT_GATEWAY) {
		deny(s, KIND_GATEWAY_PORT);
		return ROUTE_DENIED;
	}
	use = use_of(s->policy, s->port);
	if (use == LOOPBACK_AS_IS)
		return ROUTE_AS_IS;
	/*
	 * Names are the gateway's to answer, whatever listens here. And what is
	 * not the agent's may lead out: the engine's own resolver that docker
	 * has in a container (127.0.0.11, on a port that the container can
	 * read), a sidecar's proxy.
	 */
	if (!st->away || use || s->port == DNS_PORT || who == OCCUPANT_OTHER)
		return -1;
	return ROUTE_AS_IS;
}

/* Asks the gateway for what the connection waits for. */
static __always_inline int ask(const struct sock_state *st, enum wait what)
{
	struct ask *a = bpf_ringbuf_reserve(&asks, sizeof(*a), 0);

	if (!a) {
		count(KIND_EVENTS_LOST);
		return 0;
	}
	a->what = what;
	a->pad = 0;
	a->flow = st->flow;
	bpf_ringbuf_submit(a, 0);
	count(KIND_ASKED);
	return 1;
}

/* Whether it is time to ask for this listener (again). */
static __always_inline int may_ask(const struct listener_key *key)
{
	__u64 now = bpf_ktime_get_ns(), *last = bpf_map_lookup_elem(&asked, key);

	if (last && now - *last < ASK_AGAIN_NS)
		return 0;
	return !bpf_map_update_elem(&asked, key, &now, BPF_ANY);
}

/*
 * The listener of the policy in the socket's network namespace. Where there is
 * none yet its ports are likely to become those it has at home: what is sent
 * there is held until the gateway has opened them (see held in packet.h).
 */
static __always_inline struct listener *find_listener(const struct subject *s, struct sock_state *st)
{
	struct listener *l = listener_of(st->away ? s->netns : 0, s->policy);

	st->waits = WAIT_NONE;
	if (l || !st->away)
		return l;
	st->waits = WAIT_LISTENER;
	return listener_of(0, s->policy);
}

/*
 * The port of the policy's gateway. Nobody there is fine: the kernel says
 * ECONNREFUSED. Somebody else there is not: a local user who took the port
 * while the gateway was down would get what agents say.
 */
static __always_inline int route_gateway(struct bpf_sock_addr *ctx, const struct subject *s,
					 struct sock_state *st)
{
	struct listener *l = find_listener(s, st);
	__u32 policy_id = 0;
	__u16 port = 0;
	int who;

	if (l && s->protocol == IPPROTO_UDP)
		port = l->dns_udp_port;
	else if (l && s->port == DNS_PORT)
		port = l->dns_tcp_port;
	else if (l)
		port = l->tcp_port;
	if (!port) {
		deny(s, KIND_NO_LISTENER);
		return ROUTE_DENIED;
	}
	who = occupant(ctx, s, bpf_htonl(0x7f000001), port, &policy_id);
	if (who != OCCUPANT_NONE && (who != OCCUPANT_GATEWAY || policy_id != s->policy)) {
		deny(s, KIND_SQUATTED);
		return ROUTE_DENIED;
	}
	return port;
}

/* Keeps what was asked for: for getpeername, for the SYN, for the resolver. */
static __always_inline void remember(struct sock_state *st, const struct subject *s, __u16 port)
{
	__u64 id = bpf_get_current_pid_tgid(), owner = bpf_get_current_uid_gid();
	struct flow *f = &st->flow;

	f->token = 0;
	f->cgroup = s->cgroup;
	f->policy_cgroup = s->policy_cgroup;
	f->netns = s->netns;
	f->started = bpf_ktime_get_ns();
	f->policy = s->policy;
	f->pid = (__u32)id;
	f->tgid = id >> 32;
	f->uid = (__u32)owner;
	f->gid = owner >> 32;
	f->daddr[0] = s->addr[0];
	f->daddr[1] = s->addr[1];
	f->daddr[2] = s->addr[2];
	f->daddr[3] = s->addr[3];
	f->dport = s->port;
	f->family = s->family;
	f->protocol = s->protocol;
	f->pad = 0;
	bpf_get_current_comm(f->comm, sizeof(f->comm));
	st->peer_port = port;
	st->route = ROUTE_GATEWAY;
}

/* What came of this destination a moment ago, if that still holds. */
static __always_inline struct destination *known(const struct subject *s)
{
	struct destination_key key = { .policy = s->policy, .port = s->port };
	struct destination *d;

	__builtin_memcpy(key.addr, s->addr, sizeof(key.addr));
	d = bpf_map_lookup_elem(&destinations, &key);
	return d && d->until > bpf_ktime_get_ns() ? d : 0;
}

/* Stores the record that the gateway will claim by the token in the SYN. */
static __always_inline int issue_token(struct sock_state *st)
{
	__u64 token = (__u64)bpf_get_prandom_u32() << 32 | bpf_get_prandom_u32();

	if (!token)
		token = 1;
	st->flow.token = token;
	return !bpf_map_update_elem(&flows, &token, &st->flow, BPF_NOEXIST);
}

/*
 * The state of the calling socket, if it is the caller's own. A socket without
 * state was made before the programs were attached, or by the kernel for
 * itself; one of another policy was passed on or inherited.
 */
static __always_inline struct sock_state *own_socket(struct bpf_sock_addr *ctx, const struct subject *s)
{
	struct bpf_sock *socket = ctx->sk;
	struct sock_state *st;

	if (!socket)
		return 0;
	st = bpf_sk_storage_get(&sk, socket, 0, 0);
	if (!st || st->owner != s->policy_cgroup || st->owner_policy != s->policy)
		return 0;
	return st;
}

#define TCP_ESTABLISHED 1 /* a connected UDP socket has this state too */

/*
 * A send() on an IPv6 socket that is connected to a v4-mapped address reaches
 * sendmsg4 as if it named the address it is connected to, which is the
 * resolver's: route() has seen it when it was connected.
 */
static __always_inline int is_resend(struct bpf_sock_addr *ctx, const struct subject *s,
				     const struct sock_state *st)
{
	struct bpf_sock *socket = ctx->sk;

	return socket && socket->state == TCP_ESTABLISHED && LOAD(ctx->family) == AF_INET6 &&
	       s->family == AF_INET && s->protocol == IPPROTO_UDP && is_loopback(s->addr) &&
	       st->route == ROUTE_GATEWAY && s->port == st->peer_port;
}

/*
 * A connection on its way to the gateway: leaves the record, and asks for what
 * is missing. It waits to hear of an upstream that nobody knows about.
 */
static __always_inline int begin(const struct subject *s, struct sock_state *st)
{
	struct listener_key key = { .netns = s->netns, .policy = s->policy };
	struct destination *d;

	if (!within(&paces, s->policy_cgroup, st->flow.started, FLOWS_PER_SECOND)) {
		deny(s, KIND_FLOOD);
		return 0;
	}
	if ((st->waits & WAIT_LISTENER) && may_ask(&key))
		ask(st, WAIT_LISTENER);
	if (s->protocol == IPPROTO_UDP)
		return 1;
	d = known(s);
	if (d && d->error) {
		count(KIND_UNREACHABLE);
		refuse_with(d->error);
		return 0;
	}
	if (!issue_token(st)) {
		deny(s, KIND_INTERNAL);
		return 0;
	}
	if (!d && foretells && s->port != DNS_PORT && ask(st, WAIT_VERDICT))
		st->waits |= WAIT_VERDICT;
	return 1;
}

/*
 * Whether the socket may be sent to loopback. One that is bound to a device
 * would leave by it.
 */
static __always_inline int unbind(struct bpf_sock_addr *ctx, const struct subject *s, int connecting)
{
	struct bpf_sock *socket = ctx->sk;
	char none[4] = {};

	if (!socket || socket->bound_dev_if <= LOOPBACK_IFINDEX)
		return 1;
	/* Only a caller with CAP_NET_RAW may be unbound, also by us. */
	if (connecting && !bpf_setsockopt(ctx, SOL_SOCKET, SO_BINDTODEVICE, none, sizeof(none)))
		return 1;
	deny(s, KIND_DEVICE);
	return 0;
}

/*
 * IPv6 lets anybody send from an address that is not the host's (IPV6_FREEBIND,
 * IPV6_PKTINFO), and what the gateway answers would leave for it: a way to tell
 * something to whoever has the address. IPv4 takes a capability for that. Which
 * addresses are the host's a program cannot tell, so none may be a source; what
 * is not found here, by a datagram, is dropped at egress.
 */
static __always_inline int foreign_source(struct bpf_sock_addr *ctx, const struct subject *s)
{
	struct bpf_sock *socket = ctx->sk;
	__u32 source[4];

	if (!socket || s->family != AF_INET6 || is_mapped(s->addr))
		return 0;
	source[0] = socket->src_ip6[0];
	source[1] = socket->src_ip6[1];
	source[2] = socket->src_ip6[2];
	source[3] = socket->src_ip6[3];
	if (is_unspecified(source) || is_loopback(source))
		return 0;
	deny(s, KIND_DEVICE);
	return 1;
}

/*
 * UDP that is not for a resolver goes nowhere. getaddrinfo of glibc connects a
 * UDP socket to every address it found, to sort them by the source that each
 * would have: nothing is sent, and it is no attempt at anything.
 */
static __always_inline int deny_udp(const struct subject *s, int connecting)
{
	if (connecting && is_virtual(s->addr))
		count(KIND_UDP_PROBE);
	else
		deny(s, KIND_UDP);
	return ROUTE_DENIED;
}

/* The caller, and the socket if it is his own; denies otherwise. */
static __always_inline struct sock_state *admitted(struct bpf_sock_addr *ctx, struct subject *s)
{
	struct sock_state *st;

	s->netns = bpf_get_netns_cookie(ctx);
	s->protocol = LOAD(ctx->protocol);
	if (!find_policy(s)) {
		deny(s, KIND_NO_POLICY);
		return 0;
	}
	if (s->protocol != IPPROTO_TCP && s->protocol != IPPROTO_UDP) {
		deny(s, KIND_PROTOCOL);
		return 0;
	}
	st = own_socket(ctx, s);
	if (!st)
		deny(s, KIND_FOREIGN_SOCKET);
	return st;
}

/*
 * Decides one connect or sendmsg whose destination is in s: ROUTE_DENIED,
 * ROUTE_AS_IS, or the port on loopback to send it to.
 */
static __always_inline int route(struct bpf_sock_addr *ctx, struct subject *s, int connecting)
{
	struct sock_state *st = admitted(ctx, s);
	int port;

	if (!st)
		return ROUTE_DENIED;
	if (!connecting && is_resend(ctx, s, st))
		return ROUTE_AS_IS;
	if (s->protocol == IPPROTO_TCP)
		st->route = ROUTE_NONE;
	if (glass_broken(s->policy_cgroup)) {
		tell(s, KIND_GLASS);
		return ROUTE_AS_IS;
	}
	if (is_loopback(s->addr) || is_unspecified(s->addr)) {
		port = route_local(ctx, s, st);
		if (port == ROUTE_AS_IS) {
			if (s->protocol == IPPROTO_TCP) {
				st->peer_port = s->port;
				st->route = ROUTE_LOOPBACK;
				st->waits = WAIT_NONE;
			}
			count(KIND_LOOPBACK);
		}
		if (port >= 0)
			return port;
	}
	if (s->protocol == IPPROTO_UDP && s->port != DNS_PORT)
		return deny_udp(s, connecting);
	port = route_gateway(ctx, s, st);
	if (port == ROUTE_DENIED || !unbind(ctx, s, connecting) || foreign_source(ctx, s))
		return ROUTE_DENIED;
	remember(st, s, port);
	if (!begin(s, st)) {
		st->route = ROUTE_NONE;
		return ROUTE_DENIED;
	}
	count(s->protocol == IPPROTO_TCP ? KIND_REDIRECTED : KIND_RESOLVED);
	return port;
}

#endif
