// Package pkgtest installs the packages: in whole machines in QEMU, where they are
// installed, upgraded under load, downgraded, removed and purged with systemd and
// a real PostgreSQL (package_test.go; the story is guest/scenario), and with rpm in
// a root of its own (rpm_test.go). The units by themselves are test/boot's.
//
// The tests of machines have the build tag qemu and take what test/boot/rootfs and
// test/kernel/fetch make.
package pkgtest
