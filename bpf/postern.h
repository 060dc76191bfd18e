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

/*
 * More connections than this of one policy in one second are denied, so that
 * the records of one agent cannot push those of another out of the map: at this
 * rate a record lives three seconds, and it is claimed within milliseconds.
 */
#define FLOWS_PER_SECOND 20000

/* How long a connection waits for the first word on its upstream. */
#define HOLD_NS 200000000ULL

/* The same listener is asked for again after this, if it is still missing. */
#define ASK_AGAIN_NS 100000000ULL

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
	KIND_DEVICE = 10,         /* bound to a device, or a source, that leads elsewhere */
	KIND_EGRESS = 11,         /* a packet that leads past the gateway */
	KIND_INGRESS = 12,        /* a packet that does not come from it */
	KIND_INTERNAL = 13,       /* a map was full or an allocation failed */
	KIND_FLOOD = 14,          /* over FLOWS_PER_SECOND */
	KIND_UNIX = 15,           /* a Unix socket of the host that is not listed */
	/* from here on: counted only, nothing that anybody has to be told */
	KIND_REDIRECTED = 16,
	KIND_RESOLVED = 17,       /* UDP sent to the resolver */
	KIND_LOOPBACK = 18,       /* loopback, left alone */
	KIND_TOKEN_SENT = 19,
	KIND_TOKEN_FAILED = 20,   /* no room for the option: gateway closes */
	KIND_EVENTS_LOST = 21,    /* ring full */
	KIND_EVENTS_LIMITED = 22, /* over EVENTS_PER_SECOND */
	KIND_UDP_PROBE = 23,      /* UDP connect to a virtual address, refused */
	KIND_ASKED = 24,          /* the gateway was asked for a listener or a dial */
	KIND_HELD = 25,           /* a packet that waits for the answer */
	KIND_UNREACHABLE = 26,    /* the upstream did not answer a moment ago */
	KIND_GLASS = 27,          /* let through: somebody broke the glass */
	KIND_COUNT = 28,
};

/* policy: cgroup id -> policy */
struct policy_entry {
	__u32 id;
	__u32 flags;
};

/* Unix sockets of the host are those of unix_paths, and no others. */
#define POLICY_UNIX_LISTED 1

/* unix_paths: Unix sockets that a policy may reach, as the caller writes them */
#define POSTERN_UNIX_PATH 108 /* sun_path, filled up with zeros */

struct unix_key {
	__u32 policy;
	char path[POSTERN_UNIX_PATH];
};

/*
 * listeners: where a policy's connections go. netns is the network namespace's
 * cookie; 0 stands for the gateway's own one, which the map home names. Ports
 * that are 0 mean that there will be no listener.
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

/*
 * loopback: what a policy has on ports of 127.0.0.0/8 and ::1. In the gateway's
 * own network namespace loopback belongs to everybody, so only a listed port is
 * left alone. In another one it is the agent's, so all are but targets.
 */
enum loopback_use {
	LOOPBACK_AS_IS = 1,
	LOOPBACK_TARGET = 2,
};

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
	__u8 away;       /* made in another network namespace than the gateway's */
	__u8 waits;      /* enum wait */
	__u8 pad[7];
	struct flow flow; /* what the agent asked for */
};

/* What a connection waits for before its first packet leaves. */
enum wait {
	WAIT_NONE = 0,
	WAIT_LISTENER = 1, /* in this network namespace */
	WAIT_VERDICT = 2,  /* whether the upstream answers */
};

/* asks: something that the gateway is to do; flow.token is 0 for a listener */
struct ask {
	enum wait what;
	__u32 pad;
	struct flow flow;
};

/* verdicts: token -> whether the gateway could reach the upstream */
enum verdict {
	VERDICT_GO = 1,
	VERDICT_REFUSE = 2,
	VERDICT_WAIT = 3, /* it takes its time; so does the connection */
};

struct answer {
	__u64 until; /* CLOCK_MONOTONIC, nanoseconds: how long to wait for another */
	enum verdict verdict;
	__u32 pad;
};

/* destinations: what came of a destination a moment ago */
struct destination_key {
	__u32 addr[4];
	__u32 policy;
	__u16 port;
	__u16 pad;
};

struct destination {
	__u64 until; /* CLOCK_MONOTONIC, nanoseconds */
	__u32 error; /* errno; 0: it answered */
	__u32 pad;
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

/* limits, paces: how many events, connections a policy had in this second */
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
