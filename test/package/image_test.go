//go:build qemu

package pkgtest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const (
	build    = "../../build"
	postgres = "/usr/lib/postgresql/15"
)

// image is the root file system of test/boot with PostgreSQL, a database, two
// builds of the package and the story in it. The newer one is beside it as well.
func image(t *testing.T) string {
	t.Helper()
	rootfs, err := os.ReadFile(filepath.Join(build, "boot/rootfs.cpio"))
	if err != nil {
		t.Fatalf("no rootfs to boot: run `make rootfs` as root: %v", err)
	}
	tree := t.TempDir()
	script(t, `
		mkdir -p "$TREE"/srv "$TREE"/etc/systemd/system "$TREE"/usr/share/postgresql
		cp guest/{scenario,cable,try} "$TREE"/srv/
		cp guest/*.service "$TREE"/etc/systemd/system/
		for version in 1 2; do
			PACKAGE_VERSION=0.1.0~$version FORMATS=deb ../../packaging/build "$WORK/$version" amd64
		done
		cp "$WORK"/1/*.deb "$TREE"/srv/old.deb
		cp "$WORK"/2/*.deb "$TREE"/srv/new.deb`, tree)
	script(t, `
		mkdir -p "$TREE$POSTGRES"/{bin,lib}
		cp "$POSTGRES"/bin/{postgres,psql} "$TREE$POSTGRES"/bin/
		cp "$POSTGRES"/lib/{plpgsql,dict_snowball}.so "$TREE$POSTGRES"/lib/
		cp -r /usr/share/postgresql/15 "$TREE"/usr/share/postgresql/
		ldd "$POSTGRES"/bin/{postgres,psql} | awk '/=>/ { print $3 }' | sort -u | xargs cp -L --parents -t "$TREE"
		# In the machine /lib is a link.
		cp -rn "$TREE"/lib/. "$TREE"/usr/lib/ && rm -r "$TREE"/lib
		data=$TREE/srv/pg
		install -d -m 700 -o nobody "$data"
		chmod 755 "$TREE" "$(dirname "$TREE")"
		as() { setpriv --reuid nobody --regid nogroup --clear-groups "$@"; }
		printf the-real-one >"$WORK/password" && chmod 644 "$WORK/password" && chmod 755 "$WORK" "$(dirname "$WORK")"
		as "$POSTGRES"/bin/initdb -D "$data" -U orders_rw --pwfile "$WORK/password" -E UTF8 --no-locale \
			--auth-local trust --auth-host scram-sha-256 --no-sync >/dev/null
		sed -i '/timezone/d' "$data/postgresql.conf"
		single() { as "$POSTGRES"/bin/postgres --single -D "$data" "$1" >/dev/null; }
		echo 'CREATE DATABASE orders' | single postgres
		printf '%s\n' 'CREATE TABLE customers (name text)' "INSERT INTO customers VALUES ('Ada')" | single orders`, tree)
	pack := exec.Command("sh", "-c", "find . | busybox cpio -o -H newc -R 0:0")
	pack.Dir = tree
	overlay, err := pack.Output()
	if err != nil {
		t.Fatalf("pack the initrd: %v", err)
	}
	path := filepath.Join(t.TempDir(), "initrd")
	if err := os.WriteFile(path, append(rootfs, overlay...), 0o600); err != nil {
		t.Fatal(err)
	}
	script(t, fmt.Sprintf(`cp "$TREE"/srv/new.deb %s.deb`, path), tree)
	return path
}

// withModule is the image with the module of a kernel for the cable.
func withModule(t *testing.T, kernel, base string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "initrd")
	script(t, fmt.Sprintf(`
		mkdir -p "$TREE/usr/lib/postern-test"
		cp ../../build/kernels/%s/modules/veth.ko "$TREE/usr/lib/postern-test/"
		(cat %s && cd "$TREE" && find . | busybox cpio -o -H newc -R 0:0) >%s`, kernel, base, to), t.TempDir())
	return to
}

// restarted is the image as the machine left it: with the package installed, and
// what it wrote to its serial line.
func restarted(t *testing.T, base, left string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "initrd")
	script(t, fmt.Sprintf(`
		dpkg-deb -x %[1]s.deb "$TREE"
		base64 -d %[2]s | tar -C "$TREE" -xzf - --numeric-owner
		chmod 755 "$TREE"
		(cat %[1]s && cd "$TREE" && find . | busybox cpio -o -H newc) >%[3]s`, base, left, to), t.TempDir())
	return to
}

// script runs bash as far as it succeeds, with a tree to fill and a place to work.
func script(t *testing.T, text, tree string) {
	t.Helper()
	cmd := exec.Command("bash", "-euo", "pipefail", "-c", text)
	cmd.Env = append(os.Environ(), "TREE="+tree, "WORK="+t.TempDir(), "POSTGRES="+postgres)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, strings.TrimSpace(string(out)))
	}
}
