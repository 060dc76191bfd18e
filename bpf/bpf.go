// Package bpf holds the kernel programs, compiled, and the Go types of what
// they share with user space. It has no logic: loading, attaching and reading
// the maps is the work of internal/redirect.
//
// The source starts at postern.bpf.c; postern.h has the shared types. The
// object needs the kernel's UAPI headers and its own BTF only, so one object
// serves every kernel from 5.10 on, on amd64 and arm64. What takes newer hooks
// and the kernel's BTF is an object of its own, unix.bpf.c.
package bpf

//go:generate go tool bpf2go -cc clang-14 -strip llvm-strip-14 -target bpfel -go-package bpf -output-stem postern -no-global-types -type policy_entry -type listener_key -type listener -type loopback_key -type flow -type sender_key -type sock_state -type gateway -type limit -type event -type kind -type ask -type wait -type verdict -type answer -type unix_key -type destination_key -type destination -type loopback_use Postern postern.bpf.c -- -O2 -g -Wall -Wextra -Werror -Wno-unused-parameter -Wno-sign-compare -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu
//go:generate go tool bpf2go -cc clang-14 -strip llvm-strip-14 -target bpfel -go-package bpf -output-stem unix -no-global-types Unix unix.bpf.c -- -O2 -g -Wall -Wextra -Werror -Wno-unused-parameter -Wno-sign-compare -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu
