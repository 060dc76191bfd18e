// Package identity turns what the kernel knows about a process into facts the
// rest of Postern can speak of: a cgroup's id into its path and back, who is
// at the other end of a Unix socket, and what program a process runs.
//
// It leaves to others what the facts mean: which agent a cgroup belongs to is
// for the configuration, who a person is for the OIDC side, and who called
// connect was recorded by the kernel (package redirect).
//
// Start reading at Cgroups, then Peer and AtAccept.
package identity
