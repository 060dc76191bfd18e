// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//go:build ignore

/*
 * Optional, for kernels that have the hook (6.7): which Unix sockets of the host
 * an agent may reach. It needs the kernel's BTF, which is why it is an object of
 * its own, that shares the maps of the other one.
 *
 * The hook sees the path as the caller wrote it, byte by byte: /./run/x and a
 * relative path name the same socket. So there is a list of what is allowed, and
 * nothing else is. In another network namespace than the gateway's the mounts
 * are another's too, and say what can be reached, unless an agent made it itself.
 */
#include "who.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define AF_UNIX 1

/* Of the kernel's type only what is read; the loader finds where it really is. */
struct bpf_sock_addr_kern {
	struct sockaddr *uaddr;
	__u32 uaddrlen;
} __attribute__((preserve_access_index));

struct user_namespace {
	int level;
} __attribute__((preserve_access_index));

struct cred {
	struct user_namespace *user_ns;
} __attribute__((preserve_access_index));

struct task_struct {
	const struct cred *cred;
} __attribute__((preserve_access_index));

extern void *bpf_cast_to_kern_ctx(void *) __ksym;

/*
 * Whether the caller is in a user namespace of its own. That is how somebody
 * without capabilities gets a network namespace, which hides no path: the
 * guard and container engines that are root make theirs without.
 */
static __always_inline int in_user_namespace(void)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task_btf();

	return task->cred->user_ns->level > 0;
}

#define PATH_AT 2 /* sun_path in struct sockaddr_un (uapi/linux/un.h) */

static __always_inline int may_reach(struct bpf_sock_addr *ctx)
{
	struct bpf_sock_addr_kern *kern;
	struct unix_key key = {};
	struct subject s = { .family = AF_UNIX };
	struct policy_entry *p;
	__u32 length;
	__u64 id;

	s.netns = bpf_get_netns_cookie(ctx);
	if (!find_policy(&s))
		return deny(&s, KIND_NO_POLICY);
	id = s.policy_cgroup;
	p = bpf_map_lookup_elem(&policy, &id);
	if (!p || !(p->flags & POLICY_UNIX_LISTED) || (!is_home(s.netns) && !in_user_namespace()))
		return ALLOW;
	kern = bpf_cast_to_kern_ctx(ctx);
	length = kern->uaddrlen;
	if (length <= PATH_AT || length > PATH_AT + POSTERN_UNIX_PATH)
		return deny(&s, KIND_UNIX);
	key.policy = s.policy;
	length -= PATH_AT;
	if (length > POSTERN_UNIX_PATH || bpf_probe_read_kernel(key.path, length, (void *)kern->uaddr + PATH_AT))
		return deny(&s, KIND_UNIX);
	return bpf_map_lookup_elem(&unix_paths, &key) ? ALLOW : deny(&s, KIND_UNIX);
}

SEC("cgroup/connect_unix")
int postern_connect_unix(struct bpf_sock_addr *ctx)
{
	return may_reach(ctx);
}

SEC("cgroup/sendmsg_unix")
int postern_sendmsg_unix(struct bpf_sock_addr *ctx)
{
	return may_reach(ctx);
}
