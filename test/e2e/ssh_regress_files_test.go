package e2e

import (
	"os"
	"path/filepath"
	"testing"
)

// TestSSHRegressForwarding: connections in the connection, in either direction,
// through each other, and one that fails beside one that does not.
func TestSSHRegressForwarding(t *testing.T) {
	run := startRegress(t)
	const socks = `ssh -f -N -M -S m -D $L1 web.internal; say() { $curl --max-time 5 "$@" | head -c 8; echo; }; `
	const over = `; ssh -S m -O exit web.internal 2>/dev/null`
	tryAll(t, run, map[string]regressCase{
		"local":         {`ssh -f -N -M -S m -L $L1:127.0.0.1:$PORT web.internal; ssh $inner -p $L1 127.0.0.1 "id -u; exit 7"; echo $?` + over, "0\n7\n", 0},
		"a chain":       {`ssh -f -N -M -S m -L $L1:127.0.0.1:$PORT web.internal; ssh $inner -f -N -M -S m2 -L $L2:127.0.0.1:$PORT -p $L1 127.0.0.1; head -c 300000 /dev/urandom > d; ssh $inner -p $L2 127.0.0.1 cat < d | cmp - d; ssh -S m2 -O exit 127.0.0.1 2>/dev/null` + over, "", 0},
		"both at once":  {`ssh -f -N -M -S m -L $L1:127.0.0.1:$PORT -R $L2:127.0.0.1:$L1 web.internal; ssh $inner -p $L1 127.0.0.1 "exec 3<>/dev/tcp/127.0.0.1/$L2; head -c 8 <&3"; echo` + over, "SSH-2.0-\n", 0},
		"one is lost":   {`ssh -f -N -M -S m -L $L3:127.0.0.1:1 -L $L1:127.0.0.1:$PORT web.internal; $curl http://127.0.0.1:$L3/ >/dev/null; ssh $inner -p $L1 127.0.0.1 id -u; ssh -S m web.internal id -u` + over, "0\n0\n", 0},
		"port is taken": {`ssh -o ExitOnForwardFailure=yes -R $PORT:127.0.0.1:$L1 web.internal true 2>/dev/null; echo $?; ssh -R $PORT:127.0.0.1:$L1 web.internal echo on 2>/dev/null`, "255\non\n", 0},
		"socks 4":       {socks + `say --socks4 127.0.0.1:$L1 http://127.0.0.1:$PORT/` + over, "SSH-2.0-\n", 0},
		"socks 4a":      {socks + `say --socks4a 127.0.0.1:$L1 http://127.0.0.1:$PORT/` + over, "SSH-2.0-\n", 0},
		"socks 5":       {socks + `say --socks5-hostname 127.0.0.1:$L1 http://127.0.0.1:$PORT/` + over, "SSH-2.0-\n", 0},
		"socks, denied": {socks + `$curl --socks5 127.0.0.1:$L1 http://127.0.0.1:1/; echo $?` + over, "97\n", 0},
	})
}

// TestSSHRegressFiles: what sftp and scp can do, with names that are awkward.
func TestSSHRegressFiles(t *testing.T) {
	run := startRegress(t)
	const sftp = `b() { sftp -q -b - "$@" web.internal 2>&1 | grep -v "^sftp>"; }; head -c 700000 /dev/urandom > a; d=$(mktemp -u $SRV/XXXXXX); echo "mkdir $d" | b; `
	const scp = `head -c 300000 /dev/urandom > a; d=$(mktemp -u $SRV/XXXXXX); ssh web.internal mkdir $d; mkdir -p t/u/v; echo x > t/u/v/w; cp a t/; chmod 604 a; touch -d 2001-02-03 a; `
	cases := map[string]regressCase{
		"put and get":   {sftp + `printf "put a $d/a\nget $d/a b\nget $d/a .\nput a $d/\n" | b; cmp a b; cmp a $d/a`, "", 0},
		"small buffers": {sftp + `printf "put a $d/a\nget $d/a b\n" | b -B 1000 -R 100; cmp a b`, "", 0},
		"one by one":    {sftp + `printf "put a $d/a\nget $d/a b\n" | b -R 1; cmp a b`, "", 0},
		"directories":   {sftp + `printf "put a $d/a\nmkdir $d/x\ncd $d/x\npwd\ncd ..\nls -1\nrename a c\nls -1 $d\nrm c\nrmdir x\nls -1\n" | b | sed "s,$d,D,"`, "Remote working directory: D/x\na\nx\nD/c\nD/x\n", 0},
		"patterns":      {sftp + `printf "put a $d/g-1\nput a $d/g-2\nput a $d/h-1\nls -1 $d/g-*\nget $d/[gh]-1 .\nrm $d/g*\nls -1 $d\n" | b | sed "s,$d,D,"; ls *-1`, "D/g-1\nD/g-2\nD/h-1\ng-1\nh-1\n", 0},
		"names":         {sftp + `printf "put a \"$d/a b\"\nput a \"$d/it's\"\nput a \"$d/é\"\nput a $d/-x\nls -1 $d\n" | b | sed "s,$d,D,"`, "D/-x\nD/a b\nD/it's\nD/\u00e9\n", 0},
		"links":         {sftp + `printf "put a $d/a\nsymlink $d/a $d/s\nln $d/a $d/h\nget $d/s s\nget $d/h h\n" | b; cmp a s; cmp a h; readlink $d/s | sed "s,$d,D,"; stat -c %h $d/a`, "D/a\n2\n", 0},
		"permissions":   {sftp + `printf "put a $d/a\nchmod 611 $d/a\n" | b; stat -c %a $d/a; chmod 604 a; printf "put -p a $d/p\nget -p $d/p q\n" | b; stat -c %a $d/p q`, "611\n604\n604\n", 0},
		"resumed":       {sftp + `head -c 300000 a > b; printf "put b $d/a\nreput a $d/a\nreget $d/a b\n" | b; cmp a b; cmp a $d/a`, "", 0},
		"recursive":     {sftp + `mkdir -p t/u/v; echo x > t/u/v/w; cp a t/; printf "put -r t $d/\nget -r $d/t back\n" | b >/dev/null; diff -r t back; diff -r t $d/t`, "", 0},
		"errors":        {sftp + `printf -- "-get $d/none x\n-rm $d/none\n-rmdir $d/none\n-rename $d/none $d/b\nput a $d/a\nls -1 $d\n" | b | grep -v "[Nn]o such file\|not found\|^Couldn't" | sed "s,$d,D,"`, "D/a\n", 0},
		"a disk's room": {sftp + `echo "df $d" | b | grep -c "[0-9]%"`, "1\n", 0},
		"between hosts": {scp + `scp -q a web.internal:$d/x && scp -3 -q web.internal:$d/x web.internal:$d/y; cmp a $d/y; scp -O -3 -q web.internal:$d/x web.internal:$d/z; cmp a $d/z`, "", 0},
	}
	for name, o := range map[string]string{"scp": "", "scp -O": "-O"} {
		o := "s() { scp -q " + o + ` "$@"; }; `
		cases[name+", a file"] = regressCase{scp + o + `s a web.internal:$d/; s web.internal:$d/a b; cmp a b; s a web.internal:$d/c; cmp a $d/c`, "", 0}
		cases[name+", several"] = regressCase{scp + o + `cp a b; s a b web.internal:$d/; mkdir in; s web.internal:$d/a web.internal:$d/b in; cmp a in/a; cmp b in/b`, "", 0}
		cases[name+" -r"] = regressCase{scp + o + `s -r t web.internal:$d/; s -r web.internal:$d/t back; diff -r t back; diff -r t $d/t`, "", 0}
		cases[name+" -p"] = regressCase{scp + o + `s -p a web.internal:$d/a; s -p web.internal:$d/a b; stat -c %a,%y $d/a b | cut -c1-14`, "604,2001-02-03\n604,2001-02-03\n", 0}
		cases[name+", none"] = regressCase{scp + o + `s web.internal:$d/none x 2>/dev/null; echo $?; : > e; s e web.internal:$d/e; s web.internal:$d/e f; wc -c < f`, "1\n0\n", 0}
	}
	tryAll(t, run, cases)
}

// TestSSHPathTricks: a path is what the server makes of it, whatever it is called.
func TestSSHPathTricks(t *testing.T) {
	w := startSSH(t)
	secret := filepath.Join(w.sshd.Dir, "secret")
	if err := os.WriteFile(secret, []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, to := range map[string]string{"file": secret, "folder": w.sshd.Dir, "up": "../sshd/secret", "over": "file", "new": filepath.Join(w.sshd.Dir, "made")} {
		if err := os.Symlink(to, filepath.Join(w.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(w.dir, "mine"), []byte("open"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, command := range map[string]string{
		"upward": "get $SRV/../sshd/secret x", "a link": "get $SRV/file x", "a link upward": "get $SRV/up x", "a link to a link": "get $SRV/over x",
		"through a folder": "get $SRV/folder/secret x", "as a folder": "cd $SRV/folder", "below a file": "get $SRV/mine/../../sshd/secret x",
		"slashes": "get $SRV//..//sshd/./secret x", "from its folder": "cd $SRV\nget ../sshd/secret x", "a write": "put mine $SRV/file",
		"a write upward": "put mine $SRV/../sshd/secret", "a new one": "put mine $SRV/new", "a rename out": "rename $SRV/mine $SRV/folder/secret",
		"a rename in": "rename $SRV/../sshd/secret $SRV/x", "a link out": "symlink $SRV/../sshd/secret $SRV/made", "a hard link": "ln $SRV/../sshd/secret $SRV/made",
		"a mode": "chmod 666 $SRV/file", "a removal": "rm $SRV/folder/secret",
	} {
		t.Run(name, func(t *testing.T) {
			out, status := w.as("admin", `cd $HOME; rm -f x; echo mine > mine; printf "`+command+`\n" | sftp -q -b - web.internal; s=$?; cat x 2>/dev/null; exit $s`)
			mustContain(t, out, "postern: ")
			mustNotContain(t, out, "kept")
			if status == 0 {
				t.Errorf("it was done: %s", out)
			}
		})
	}
	if b, err := os.ReadFile(secret); err != nil || string(b) != "kept" {
		t.Errorf("the secret is %q: %v", b, err)
	}
	if s, err := os.Stat(secret); err != nil || s.Mode().Perm() != 0o600 {
		t.Errorf("its mode is %v: %v", s.Mode(), err)
	}
	for _, made := range []string{filepath.Join(w.sshd.Dir, "made"), filepath.Join(w.dir, "made")} {
		if _, err := os.Lstat(made); err == nil {
			t.Errorf("%s was made", made)
		}
	}
}
