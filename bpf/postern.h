/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the kernel programs and the Go side share: the values of the maps, the
 * kinds of denial and the TCP option that carries a token.
 *
 * Every struct is laid out without implicit padding, so that a map key never
 * holds bytes nobody wrote. Ports are in host byte order unless a name says
 * otherwise; addresses are in network byte order, always 16 bytes, IPv4 as
 * ::ffff:a.b.c.d.
 */
#ifndef POSTERN_H
#define POSTERN_H

#include <linux/types.h>

/* A policy cgroup lies at most this deep below the cgroup2 root. */
#define POSTERN_MAX_LEVEL 8

/*
 * The token travels in the SYN as an experimental TCP option (RFC 4727, shared
 * use with a magic number as in RFC 6994): kind, length, magic, token.
 */
#define TOKEN_KIND 254
#define TOKEN_LEN 12
#define TOKEN_MAGIC 0x5053

#define DNS_PORT 53

/* More denials than this of one policy in one second are counted, not sent. */
#define EVENTS_PER_SECOND 100

/* Why something was denied, or what was let through. Index into stats. */
enum kind {
	KIND_NONE = 0,
	KIND_NO_POLICY = 1,       /* the task's cgroup has no policy */
	KIND_SOCKET = 2,          /* a kind of socket agents may not have */
	KIND_FOREIGN_SOCKET = 3,  /* made by another policy, or before attach */
	KIND_UDP = 4,             /* UDP to anything but a resolver */
	KIND_PROTOCOL = 5,        /* connect of neither TCP nor UDP */
	KIND_BIND = 6,            /* a port of its own choice */
	KIND_GATEWAY_PORT = 7,    /* the gateway's own port, dialled directly */
	KIND_SQUATTED = 8,        /* somebody else listens on the gateway's port */
	KIND_NO_LISTENER = 9,     /* no gateway for this policy in this netns */
	KIND_DEVICE = 10,         /* bound to a device that leads elsewhere */
	KIND_EGRESS = 11,         /* a packet that leads past the gateway */
	KIND_INGRESS = 12,        /* a packet that does not come from it */
	KIND_INTERNAL = 13,       /* a map was full or an allocation failed */
	/* from here on: counted only, nothing that anybody has to be told */
	KIND_REDIRECTED = 14,
	KIND_RESOLVED = 15,       /* UDP sent to the resolver */
	KIND_LOOPBACK = 16,       /* listed loopback port, left alone */
	KIND_TOKEN_SENT = 17,
	KIND_TOKEN_FAILED = 18,   /* no room for the option: gateway closes */
	KIND_EVENTS_LOST = 19,    /* ring full */
	KIND_EVENTS_LIMITED = 20, /* over EVENTS_PER_SECOND */
	KIND_UDP_PROBE = 21,      /* UDP connect to a virtual address, refused */
	KIND_COUNT = 22,
};

/* policy: cgroup id -> policy */
struct policy_entry {
	__u32 id;
	__u32 flags; /* none defined yet: must be zero */
};

/*
 * listeners: where a policy's connections go. netns is the network namespace's
 * cookie; 0 stands for the initial one, for kernels before 5.14, where user
 * space cannot ask for a cookie.
 */
struct listener_key {
	__u64 netns;
	__u32 policy;
	__u32 pad;
};

struct listener {
	__u16 tcp_port;
	__u16 dns_udp_port;
	__u16 dns_tcp_port;
	__u16 pad;
};

/* loopback: ports of 127.0.0.0/8 and ::1 that a policy may use as they are */
struct loopback_key {
	__u32 policy;
	__u16 port;
	__u16 pad;
};

/* flows: token -> who called connect, and where to */
struct flow {
	__u64 token;
	__u64 cgroup;        /* of the calling task */
	__u64 policy_cgroup; /* its nearest ancestor with a policy */
	__u64 netns;         /* cookie of the socket's network namespace */
	__u64 started;       /* CLOCK_MONOTONIC, nanoseconds */
	__u32 policy;
	__u32 pid;           /* thread */
	__u32 tgid;          /* process */
	__u32 uid;
	__u32 gid;
	__u32 daddr[4];
	__u16 dport;
	__u16 family;        /* of the call: AF_INET6 also for v4-mapped */
	__u32 protocol;
	__u32 pad;
	__u8 comm[16];
};

/* dns_src: who sent the datagram that the resolver got from this address */
struct sender_key {
	__u32 addr[4];
	__u16 port;
	__u16 dns_port; /* a resolver port belongs to one policy */
};

/* sk: one per socket made in a policy cgroup, from sock_create to its end */
struct sock_state {
	__u64 owner; /* the policy cgroup that made the socket */
	__u32 owner_policy;
	__u16 peer_port; /* where the kernel really sends to */
	__u8 route;      /* enum route */
	__u8 pad;
	struct flow flow; /* what the agent asked for */
};

enum route {
	ROUTE_NONE = 0,
	ROUTE_GATEWAY = 1,
	ROUTE_LOOPBACK = 2,
};

/* gateways: the mark on a socket of the gateway, by which others are told */
struct gateway {
	__u32 policy;
	__u32 pad;
};

/* limits: how many events one policy has sent in the current second */
struct limit {
	__u64 second;
	__u32 sent;
	__u32 pad;
};

/* events: one denial */
struct event {
	__u64 time; /* CLOCK_MONOTONIC, nanoseconds */
	__u64 cgroup;
	__u64 policy_cgroup;
	__u64 netns;
	__u32 policy;
	enum kind kind;
	__u32 pid;  /* 0 where a packet was denied: no task is known */
	__u32 tgid;
	__u32 uid;
	__u32 gid;
	__u32 addr[4]; /* the far end */
	__u16 port;
	__u16 family;
	__u32 protocol;
	__u8 comm[16];
};

#endif
