// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//go:build ignore

/*
 * The programs that hold a policy cgroup closed and carry its connections to
 * the gateway. They are attached once, at the policy root cgroup, and find the
 * policy of a task among its ancestors.
 *
 *   sock_create     TCP and UDP only; marks the socket with its maker
 *   bind            no port of one's own, except listed ones on loopback
 *   connect         rewrites the destination to the gateway's listener and
 *                   leaves a record under a random token
 *   sockops         writes the token into the SYN
 *   sendmsg         UDP to port 53 goes to the resolver, all other is denied
 *   getpeername,
 *   recvmsg         answer with the destination the agent asked for
 *   egress, ingress nothing passes but to and from the gateway
 *   reuseport       at the gateway's listener: refuses what the gateway could
 *                   not reach
 *
 * Start reading at route() in route.h. The gateway's own sockets are outside
 * of the cgroup and never seen here. Everything unexpected denies.
 */
#include "who.h"
#include "route.h"
#include "packet.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* bpf2go makes Go types of what the object's BTF names, and no map names these. */
const struct event *event_type __attribute__((unused));
const struct ask *ask_type __attribute__((unused));
const enum loopback_use *use_type __attribute__((unused));

SEC("cgroup/sock_create")
int postern_sock_create(struct bpf_sock *ctx)
{
	struct subject s = {};
	struct sock_state *st;
	__u32 type = LOAD(ctx->type);

	s.family = LOAD(ctx->family);
	s.protocol = LOAD(ctx->protocol);
	s.netns = bpf_get_netns_cookie(ctx);
	if (!find_policy(&s))
		return deny(&s, KIND_NO_POLICY);
	if (!(type == SOCK_STREAM && s.protocol == IPPROTO_TCP) &&
	    !(type == SOCK_DGRAM && s.protocol == IPPROTO_UDP))
		return deny(&s, KIND_SOCKET);
	st = bpf_sk_storage_get(&sk, ctx, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!st)
		return deny(&s, KIND_INTERNAL);
	st->owner = s.policy_cgroup;
	st->owner_policy = s.policy;
	st->away = !is_home(s.netns);
	return ALLOW;
}

static __always_inline void v4_subject(struct bpf_sock_addr *ctx, struct subject *s)
{
	__u32 addr = LOAD(ctx->user_ip4);
	__u32 port = LOAD(ctx->user_port);

	s->family = AF_INET;
	s->addr[2] = bpf_htonl(0xffff);
	s->addr[3] = addr;
	s->port = bpf_ntohs((__u16)port);
}

static __always_inline void v6_subject(struct bpf_sock_addr *ctx, struct subject *s)
{
	__u32 a0 = LOAD(ctx->user_ip6[0]), a1 = LOAD(ctx->user_ip6[1]);
	__u32 a2 = LOAD(ctx->user_ip6[2]), a3 = LOAD(ctx->user_ip6[3]);
	__u32 port = LOAD(ctx->user_port);

	s->family = AF_INET6;
	s->addr[0] = a0;
	s->addr[1] = a1;
	s->addr[2] = a2;
	s->addr[3] = a3;
	s->port = bpf_ntohs((__u16)port);
}

static __always_inline int route4(struct bpf_sock_addr *ctx, int connecting)
{
	struct subject s = {};
	int port;

	v4_subject(ctx, &s);
	port = route(ctx, &s, connecting);
	if (port == ROUTE_DENIED)
		return DENY;
	if (port == ROUTE_AS_IS)
		return ALLOW;
	ctx->user_ip4 = bpf_htonl(0x7f000001);
	ctx->user_port = bpf_htons(port);
	return ALLOW;
}

static __always_inline int route6(struct bpf_sock_addr *ctx, int connecting)
{
	struct subject s = {};
	int port, mapped;

	v6_subject(ctx, &s);
	port = route(ctx, &s, connecting);
	if (port == ROUTE_DENIED)
		return DENY;
	if (port == ROUTE_AS_IS)
		return ALLOW;
	mapped = is_mapped(s.addr);
	ctx->user_ip6[0] = 0;
	ctx->user_ip6[1] = 0;
	ctx->user_ip6[2] = mapped ? bpf_htonl(0xffff) : 0;
	ctx->user_ip6[3] = mapped ? bpf_htonl(0x7f000001) : bpf_htonl(1);
	ctx->user_port = bpf_htons(port);
	return ALLOW;
}

SEC("cgroup/connect4")
int postern_connect4(struct bpf_sock_addr *ctx)
{
	return route4(ctx, 1);
}

SEC("cgroup/connect6")
int postern_connect6(struct bpf_sock_addr *ctx)
{
	return route6(ctx, 1);
}

SEC("cgroup/sendmsg4")
int postern_sendmsg4(struct bpf_sock_addr *ctx)
{
	return route4(ctx, 0);
}

SEC("cgroup/sendmsg6")
int postern_sendmsg6(struct bpf_sock_addr *ctx)
{
	return route6(ctx, 0);
}

/* What the agent asked for, if port is where its traffic really goes. */
static __always_inline struct flow *asked_for(struct bpf_sock_addr *ctx, __u32 port)
{
	struct bpf_sock *socket = ctx->sk;
	struct sock_state *st;

	if (!socket)
		return 0;
	st = bpf_sk_storage_get(&sk, socket, 0, 0);
	if (!st || st->route != ROUTE_GATEWAY || bpf_ntohs((__u16)port) != st->peer_port)
		return 0;
	return &st->flow;
}

/*
 * The verifier wants exactly 1 from these on every path: they cannot deny,
 * only tell the agent an address.
 */
static __always_inline int restore4(struct bpf_sock_addr *ctx)
{
	struct flow *f = asked_for(ctx, LOAD(ctx->user_port));

	if (f) {
		ctx->user_ip4 = f->daddr[3];
		ctx->user_port = bpf_htons(f->dport);
	}
	return ALLOW;
}

static __always_inline int restore6(struct bpf_sock_addr *ctx)
{
	struct flow *f = asked_for(ctx, LOAD(ctx->user_port));

	if (f) {
		ctx->user_ip6[0] = f->daddr[0];
		ctx->user_ip6[1] = f->daddr[1];
		ctx->user_ip6[2] = f->daddr[2];
		ctx->user_ip6[3] = f->daddr[3];
		ctx->user_port = bpf_htons(f->dport);
	}
	return ALLOW;
}

SEC("cgroup/getpeername4")
int postern_getpeername4(struct bpf_sock_addr *ctx)
{
	return restore4(ctx);
}

SEC("cgroup/getpeername6")
int postern_getpeername6(struct bpf_sock_addr *ctx)
{
	return restore6(ctx);
}

SEC("cgroup/recvmsg4")
int postern_recvmsg4(struct bpf_sock_addr *ctx)
{
	return restore4(ctx);
}

SEC("cgroup/recvmsg6")
int postern_recvmsg6(struct bpf_sock_addr *ctx)
{
	return restore6(ctx);
}

/*
 * An ephemeral port may be bound to any address: it is how programs choose
 * their source. What cannot be had, but in a network namespace of one's own, is
 * a port that others could know.
 */
static __always_inline int may_bind(struct bpf_sock_addr *ctx, struct subject *s)
{
	struct sock_state *st;

	s->netns = bpf_get_netns_cookie(ctx);
	s->protocol = LOAD(ctx->protocol);
	if (!find_policy(s))
		return deny(s, KIND_NO_POLICY);
	st = own_socket(ctx, s);
	if (!st)
		return deny(s, KIND_FOREIGN_SOCKET);
	if (!s->port || st->away)
		return ALLOW;
	if (is_loopback(s->addr) && listed(s->policy, s->port))
		return ALLOW;
	return deny(s, KIND_BIND);
}

SEC("cgroup/bind4")
int postern_bind4(struct bpf_sock_addr *ctx)
{
	struct subject s = {};

	v4_subject(ctx, &s);
	return may_bind(ctx, &s);
}

SEC("cgroup/bind6")
int postern_bind6(struct bpf_sock_addr *ctx)
{
	struct subject s = {};

	v6_subject(ctx, &s);
	return may_bind(ctx, &s);
}

SEC("cgroup_skb/egress")
int postern_egress(struct __sk_buff *skb)
{
	struct packet p = {};
	int known = read_packet(skb, &p);
	struct sock_state *st = state_of(skb);

	if (known && st && may_leave(&p, st)) {
		if (!held(&p, st))
			return ALLOW;
		count(KIND_HELD);
		return DENY;
	}
	if (st && glass_broken(st->owner))
		return ALLOW;
	return drop_packet(skb, &p, st, 1);
}

SEC("cgroup_skb/ingress")
int postern_ingress(struct __sk_buff *skb)
{
	struct packet p = {};
	int known = read_packet(skb, &p);
	struct sock_state *st = state_of(skb);

	if (known && st && may_enter(&p, st))
		return ALLOW;
	if (st && glass_broken(st->owner) && !is_opening(&p))
		return ALLOW;
	return drop_packet(skb, &p, st, 0);
}

struct token_option {
	__u8 kind;
	__u8 len;
	__u16 magic;
	__u64 token;
} __attribute__((packed));

_Static_assert(sizeof(struct token_option) == TOKEN_LEN, "the option's length byte");

static __always_inline struct sock_state *redirected(struct bpf_sock_ops *ops)
{
	struct bpf_sock *socket = ops->sk;
	struct sock_state *st;

	if (!socket)
		return 0;
	st = bpf_sk_storage_get(&sk, socket, 0, 0);
	return st && st->route == ROUTE_GATEWAY && st->flow.token ? st : 0;
}

static __always_inline int is_syn(struct bpf_sock_ops *ops)
{
	return (ops->skb_tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

static __always_inline void write_token(struct bpf_sock_ops *ops)
{
	struct token_option o = {
		.kind = TOKEN_KIND,
		.len = TOKEN_LEN,
		.magic = bpf_htons(TOKEN_MAGIC),
	};
	struct sock_state *st = redirected(ops);

	if (!st)
		return;
	o.token = st->flow.token;
	count(bpf_store_hdr_opt(ops, &o, sizeof(o), 0) ? KIND_TOKEN_FAILED : KIND_TOKEN_SENT);
}

static __always_inline struct sock_state *waiting(struct bpf_sock_ops *ops)
{
	struct sock_state *st = redirected(ops);

	return st && st->waits ? st : 0;
}

#define SOL_TCP 6
#define TCP_SYNCNT 7

/*
 * A SYN that is held is sent again after a jiffy, then after twice as long each
 * time (TIMEOUT_INIT, in jiffies). The usual number of attempts would be over
 * after half a second. A listener comes within milliseconds or not at all; an
 * upstream that does not answer may take the time that it takes elsewhere.
 */
static __always_inline void be_patient(struct bpf_sock_ops *ops)
{
	struct sock_state *st = waiting(ops);
	int attempts;

	if (!st)
		return;
	attempts = st->waits & WAIT_LISTENER ? 7 : 14;
	bpf_setsockopt(ops, SOL_TCP, TCP_SYNCNT, &attempts, sizeof(attempts));
}

/* A SYN without its token is closed by the gateway: nothing here can open. */
SEC("sockops")
int postern_sockops(struct bpf_sock_ops *ops)
{
	__u32 flags = ops->bpf_sock_ops_cb_flags;

	switch (ops->op) {
	case BPF_SOCK_OPS_TIMEOUT_INIT:
		if (waiting(ops))
			ops->reply = 1;
		break;
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		if (redirected(ops))
			bpf_sock_ops_cb_flags_set(ops, flags | BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG);
		be_patient(ops);
		break;
	case BPF_SOCK_OPS_HDR_OPT_LEN_CB:
		if (is_syn(ops) && bpf_reserve_hdr_opt(ops, TOKEN_LEN, 0))
			count(KIND_TOKEN_FAILED);
		break;
	case BPF_SOCK_OPS_WRITE_HDR_OPT_CB:
		if (is_syn(ops))
			write_token(ops);
		break;
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
		bpf_sock_ops_cb_flags_set(ops, flags & ~BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG);
		break;
	}
	return 1;
}

/*
 * The token in the TCP header that data begins with. Options may stand in any
 * order, but ours is written last, behind at most 40 - TOKEN_LEN bytes.
 */
static __always_inline __u64 token_in(struct sk_reuseport_md *md)
{
	__u8 header[20], option[2];
	__u32 at = sizeof(header), end;
	__u64 token = 0;

	if (bpf_skb_load_bytes(md, 0, header, sizeof(header)))
		return 0;
	end = (header[12] >> 4) * 4;
#pragma unroll
	for (int i = 0; i < 12; i++) {
		if (at + sizeof(option) > end || bpf_skb_load_bytes(md, at, option, sizeof(option)) || !option[0])
			return 0;
		if (option[0] == 1) {
			at++;
			continue;
		}
		if (option[0] == TOKEN_KIND && option[1] == TOKEN_LEN)
			return bpf_skb_load_bytes(md, at + 4, &token, sizeof(token)) ? 0 : token;
		if (option[1] < 2)
			return 0;
		at += option[1];
	}
	return 0;
}

/*
 * A dropped SYN is a listener that is not there: the kernel refuses the
 * connection, as the upstream did.
 */
SEC("sk_reuseport")
int postern_reuseport(struct sk_reuseport_md *md)
{
	__u64 token = md->ip_protocol == IPPROTO_TCP ? token_in(md) : 0;
	struct answer *a = token ? bpf_map_lookup_elem(&verdicts, &token) : 0;

	return a && a->verdict == VERDICT_REFUSE ? SK_DROP : SK_PASS;
}
