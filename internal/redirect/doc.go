// Package redirect is user space's side of the kernel programs in package bpf:
// the guard attaches them and proves that they are attached, the daemon opens
// their maps, listens, and learns of each connection who made it and where it
// was going.
//
// A connection from a policy cgroup arrives at the policy's Listener on
// loopback. Its SYN carried a random token; Claim reads the token and takes
// the record the kernel stored under it. A connection without a record is
// nobody's and is to be closed.
//
// What this package leaves to others: which cgroup is which agent (the
// configuration), creating cgroups (package guard), and every byte of protocol.
// No other package imports cilium/ebpf.
//
// Start reading at Attach for the guard's side, at Kernel and Listener for the
// daemon's. The maps and their meaning are in bpf/postern.h.
package redirect
