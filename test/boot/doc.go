// Package boot boots a whole machine in QEMU, Debian 12 with systemd and runc,
// and holds Postern to its promise about restarts: a container with a restart
// policy never runs uncovered. It leaves the kernel programs themselves to
// internal/redirect and test/kernel.
//
// The tests have the build tag qemu and take what test/boot/rootfs makes.
// Start reading at boot_test.go; what the machine runs is in folder guest, its
// units are in packaging/systemd (Postern's own) and image (the test's).
package boot
