package shell

import "strings"

// interpreters run programs that they are given as text or on their standard
// input.
var interpreters = set(`python python2 python3 pypy pypy3 perl perl5 ruby irb node nodejs deno bun php lua luajit tclsh wish expect guile
	awk gawk mawk nawk bc dc sqlite3 psql mysql mariadb mongo mongosh redis-cli gdb R Rscript julia octave ghci runghc scala groovy jshell java
	erl elixir iex racket sbcl clisp emacs vi vim nvim ex ed view pico nano swift go gcc cc make gmake cmake m4 gnuplot jrunscript
	sh bash dash ash ksh zsh fish csh tcsh pwsh osascript`)

// pivots are programs that by design run code, open connections or hold
// sessions that nothing here looks into, besides the interpreters.
var pivots = set(`ssh scp sftp rsync sshfs telnet nc ncat netcat socat curl wget ftp lftp tftp nmap
	docker podman nerdctl ctr crictl kubectl oc helm runc crun lxc lxc-attach virsh vagrant terraform ansible ansible-playbook salt salt-call puppet chef-client
	git hg svn npm npx yarn pnpm pip pip3 pipx uv poetry gem bundle rake cargo rustc composer conda mvn gradle apt apt-get aptitude dpkg dnf yum rpm zypper pacman apk snap flatpak brew
	systemctl systemd-run service initctl at batch crontab atrm screen tmux script
	man info less more most pg journalctl dmesg tar cpio zip unzip 7z sed mount umount insmod modprobe sysctl
	openssl gpg tcpdump wireshark tshark strace ltrace perf bpftrace bpftool nsenter unshare chroot capsh setcap useradd usermod userdel passwd chpasswd visudo vipw
	mail sendmail mutt aws gcloud az reboot shutdown poweroff halt init telinit kexec ldconfig ld xargs parallel watch env flock
	nohup timeout nice setsid stdbuf su sudo sudoedit doas runuser pkexec`)

// quiet are commands that run nothing but themselves, whatever their words are,
// but for those of hidden.
var quiet = set(`: true false echo printf pwd cd pushd popd dirs test [ [[ ls dir vdir stat cat tac head nl wc md5sum sha1sum sha224sum sha256sum sha384sum
	sha512sum b2sum cksum sum base64 base32 cut paste tr fold fmt expand unexpand comm join uniq seq factor basename dirname realpath readlink
	grep egrep fgrep rgrep zgrep zcat bzcat xzcat zstdcat od xxd hexdump strings file diff cmp du df free uptime uname hostname arch nproc lscpu lsblk lsusb lspci
	id whoami groups who w users last lastlog tty logname date cal ps pgrep pstree top vmstat iostat mpstat sar lsof ss netstat getent printenv
	sleep wait jobs exit return break continue shift getopts times ulimit umask type which whereis command hash let local
	kill pkill killall rm rmdir mkdir touch unlink mktemp export declare readonly typeset unset read set shopt builtin getconf locale column rev shuf
	md5 jq yq true sync dig host nslookup ping ping6 traceroute uuidgen numfmt tsort pathchk stty tput clear iconv cksum look ip ifconfig findmnt
	cp mv ln install chmod chown chgrp chattr tee dd truncate sort split shred mkfifo mknod fallocate gzip gunzip xz bzip2 zstd
	eval exec source . trap time`)

// hidden are beginnings of words by which quiet commands run others.
var hidden = map[string][]string{
	"sort": {"--c"}, "split": {"--f"}, "install": {"--s"},
	"ip": {"e", "-b", "-force"}, // ip netns exec; words can be cut short
}

// Pivots are examples of commands that act outside of the gateway, for those who
// warn of rules that allow them.
var Pivots = []string{"sh", "bash", "python3", "perl", "awk", "ssh", "curl", "docker", "kubectl", "git", "systemctl", "tar", "vim", "make"}

// pivot says whether a command may run more than is looked into here. What its
// follower finds comes on top.
func pivot(c Command) Pivot {
	n := c.Name
	switch {
	case strings.Contains(n, "/"):
		return PivotUnknown
	case interpreters[n], interpreters[versionless(n)], pivots[n], shells[n], otherShells[n]:
		return PivotYes
	case quiet[n]:
		return hides(c)
	case n == "find":
		return PivotNo
	}
	return PivotUnknown
}

func hides(c Command) Pivot {
	beginnings, ok := hidden[c.Name]
	if !ok {
		return PivotNo
	}
	out := PivotNo
	for _, word := range c.Words[1:] {
		for _, b := range beginnings {
			if strings.HasPrefix(word.Text, b) {
				return PivotYes
			}
		}
		if !word.Known {
			out = PivotUnknown
		}
	}
	return out
}

// versionless is python for python3.11.
func versionless(name string) string {
	return strings.TrimRight(name, "0123456789.-")
}
