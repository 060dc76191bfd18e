// Package kernel boots the kernels that Postern supports, 5.10 being the
// oldest, in QEMU and lets the guest (folder guest) hold the kernel programs
// to what they promise. It leaves the full tests of the programs to
// internal/redirect, which run on the kernel of the machine.
//
// The tests have the build tag qemu. `make test-kernels` fetches the kernels
// and runs them.
package kernel
