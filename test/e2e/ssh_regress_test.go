package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postern/postern/test/servers"
)

// What OpenSSH's own regression tests try of a client, a server and what is between
// them, tried with Postern between: its cases, and some that they lack.

// regressPolicy hides nothing of the host: what differs from a connection without
// a gateway is the gateway's fault. What leads on still has to lead to a target.
const regressPolicy = `
  - name: regress
    rules:
      - {name: held, target: web, verbs: [exec], objects: [systemctl], ask: {approvers: [ops]}}
      - {name: all, target: "*", verbs: ["*", unknown], allow: true}
`

// startRegress adds an agent for whom all is allowed, and who has four ports of
// loopback to itself: $L1 to $L4.
func startRegress(t *testing.T, settings ...string) func(script string) (string, int) {
	t.Helper()
	w := startSSH(t, settings...)
	return w.regress(t, "")
}

// regress is startRegress with more of a configuration.
func (w *sshWorld) regress(t *testing.T, more string) func(script string) (string, int) {
	t.Helper()
	var ports []string
	exports := ""
	for i := range 4 {
		p, err := servers.FreePort()
		if err != nil {
			t.Fatal(err)
		}
		ports = append(ports, fmt.Sprint(p))
		exports += fmt.Sprintf("export L%d=%d; ", i+1, p)
	}
	text := strings.Replace(w.configuration(), "\nagents:\n", fmt.Sprintf("\nagents:\n  - {name: regress, cgroup: %s/regress, policy: regress, loopback: [%s]}\n", w.postern.Root, strings.Join(ports, ", ")), 1)
	text = strings.Replace(text, "\npolicies:\n", "\npolicies:\n"+strings.TrimPrefix(regressPolicy, "\n"), 1)
	w.apply(t, text+more)
	// curl says "SSH-2.0-curl / HTTP/1.1", which the other end hangs up upon.
	script := exports + `curl="curl -s --http0.9 --max-time 20 -X SSH-2.0-curl"; inner="-o StrictHostKeyChecking=no -o LogLevel=ERROR -o UserKnownHostsFile=/dev/null"; export HOME=$(mktemp -d -p $HOME); cd $HOME; until_file() { i=0; while ! [ -s $1 ] && [ $i -lt 300 ]; do sleep 0.1; i=$((i+1)); done; }
`
	file := filepath.Join(w.home, "script")
	return func(s string) (string, int) {
		t.Helper()
		if err := os.WriteFile(file, []byte(script+s), 0o644); err != nil {
			t.Fatal(err)
		}
		return w.as("regress", "timeout 100 sh "+file)
	}
}

type regressCase struct {
	script string
	want   string // all that is said
	status int
}

func tryAll(t *testing.T, run func(string) (string, int), cases map[string]regressCase) {
	t.Helper()
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			out, status := run(c.script)
			if out = strings.ReplaceAll(out, "\r\n", "\n"); status != c.status || out != c.want {
				t.Errorf("status %d (want %d): %q (want %q)\n%s", status, c.status, out, c.want, lastLines(theWorld.daemonLog()))
			}
		})
	}
}

// TestSSHRegressConnect: how connections begin and end.
func TestSSHRegressConnect(t *testing.T) {
	run := startRegress(t)
	tryAll(t, run, map[string]regressCase{
		"connect":             {`ssh web.internal true`, "", 0},
		"uri":                 {`ssh ssh://root@web.internal:22 true`, "", 0},
		"batch mode":          {`ssh -o BatchMode=yes web.internal id -u`, "0\n", 0},
		"many in a row":       {`for i in 1 2 3 4 5 6 7 8 9 10; do ssh web.internal echo -n . || exit; done`, "..........", 0},
		"many at once":        {`for i in 1 2 3 4 5 6 7 8 9 10; do ssh web.internal echo -n . & done; wait`, "..........", 0},
		"proxy command":       {`ssh $inner -o "ProxyCommand=ssh -q -W %h:%p web.internal" -p $PORT 127.0.0.1 id -u`, "0\n", 0},
		"proxy jumps":         {`printf 'Host *\nStrictHostKeyChecking no\nLogLevel ERROR\nUser root\nUserKnownHostsFile /dev/null\nHost b c\nHostName 127.0.0.1\nPort %s\nHost b\nProxyJump web.internal\nHost c\nProxyJump b\n' $PORT > jumps; ssh -F jumps c "id -u; exit 7"`, "0\n", 7},
		"exit statuses":       {`for s in 0 1 4 5 44 126 127 255; do ssh -n web.internal exit $s; echo $?; done`, "0\n1\n4\n5\n44\n126\n127\n255\n", 0},
		"and output":          {`for s in 0 5; do ssh -n web.internal "echo out; echo err >&2; exit $s" 2>err; s=$?; cat err; echo $s; done`, "out\nerr\n0\nout\nerr\n5\n", 0},
		"closed before":       {`for s in 0 5; do ssh -n web.internal "exec >/dev/null 2>&1; sleep 0.3; exit $s"; echo $?; done`, "0\n5\n", 0},
		"output that goes on": {`ssh -n web.internal "sh -c 'sleep 0.3; echo late' & exit 5"`, "late\n", 5},
		"output left behind":  {`ssh -n web.internal "sleep 3600 >/dev/null 2>&1 & echo \$!; exit 5" > pid; s=$?; ssh web.internal kill $(cat pid); exit $s`, "", 5},
		"no such command":     {`ssh -n web.internal no-such-command 2>/dev/null`, "", 127},
		"signals there":       {`for s in TERM KILL INT USR1; do ssh web.internal "kill -$s \$\$"; echo $?; done`, "255\n255\n255\n255\n", 0},
		"a signal here":       {`exec 2>/dev/null; ssh web.internal "echo \$\$; exec sleep 3600" > pid & until_file pid; kill -TERM $!; wait $!; echo $(($? > 0)); ssh web.internal "kill $(cat pid)"; true`, "1\n", 0},
		"no input":            {`echo hello | ssh -n web.internal cat`, "", 0},
		"in the background":   {`ssh -f web.internal "cat; echo done > $SRV/f"; until_file $SRV/f; cat $SRV/f`, "done\n", 0},
		"no terminal":         {`ssh -T web.internal tty`, "not a tty\n", 1},
		"a terminal":          {`ssh -q -tt web.internal "test -t 0 && test -t 1 && test -t 2 && echo yes; exit 3" </dev/null`, "yes\n", 3},
		"its size":            {`timeout 20 script -qefc "stty rows 17 cols 93; ssh -q -t web.internal stty size" /dev/null </dev/null | tail -c 7`, "17 93\n", 0},
		"its type":            {`TERM=vt52 ssh -q -tt web.internal 'echo $TERM' </dev/null`, "vt52\n", 0},
		"a bad port":          {`ssh -p 0 web.internal true 2>/dev/null`, "", 255},
		"a shell":             {`printf 'echo a\nexit 9\n' | ssh -T web.internal`, "a\n", 9},
		"a shell's terminal":  {`printf 'exec 2>/dev/null; stty -echo; PS1=; echo tty-$((40+2)); exit 9\n' | timeout 20 ssh -q -tt web.internal | grep -o ^tty-42`, "tty-42\n", 0},
		"no command":          {`ssh -N -f -M -S m web.internal && ssh -S m -O exit web.internal 2>/dev/null`, "", 0},
		"a local command":     {`ssh -o PermitLocalCommand=yes -o 'LocalCommand=echo here' web.internal echo there`, "here\nthere\n", 0},
		"a remote command":    {`ssh -o 'RemoteCommand=echo there' web.internal`, "there\n", 0},
		"compression":         {`ssh -C web.internal echo a`, "a\n", 0},
	})
}

// TestSSHRegressStreams: what is said arrives, all of it and on its own stream,
// whoever stops first.
func TestSSHRegressStreams(t *testing.T) {
	run := startRegress(t)
	data := `head -c 1100000 /dev/urandom > data; `
	tryAll(t, run, map[string]regressCase{
		"sizes": {`head -c 2200000 /dev/urandom > all; ssh -M -S m -f -N web.internal; for s in 0 1 10 100 1000 1023 1024 1025 4096 10000 16384 32767 32768 32769 50000 65535 65536 65537 131072 262145 1048577 2097153; do
head -c $s all > part; ssh -S m web.internal "cat > $SRV/up" < part; cmp part $SRV/up || echo up $s; ssh -S m web.internal cat $SRV/up > down; cmp part down || echo down $s
ssh -S m web.internal cat < part > both; cmp part both || echo both $s; done; ssh -S m -O exit web.internal 2>/dev/null`, "", 0},
		"pieces":                  {data + `for s in 10 100 1k 32k 64k 128k 256k; do dd if=data obs=$s 2>/dev/null | ssh web.internal "cat > $SRV/pieces"; cmp data $SRV/pieces || echo $s; done`, "", 0},
		"standard error":          {data + `for n in "" -n; do ssh $n web.internal "exec > /dev/null; sleep 0.2; cat >&2 $HOME/data; sleep 0.2" </dev/null 2> err; cmp data err; done`, "", 0},
		"error, the rest closed":  {data + `ssh web.internal "exec sh -c 'exec >&-; sleep 0.2; cat $HOME/data >&2'" </dev/null 2>err >out; cmp data err; cat out`, "", 0},
		"error after the end":     {data + `ssh web.internal "exec < /dev/null > /dev/null; cat $HOME/data >&2; sleep 0.3; echo last >&2" <data 2>err; tail -c 5 err; head -c -5 err | cmp - data`, "last\n", 0},
		"both, apart":             {`ssh web.internal 'i=0; while [ $i -lt 2000 ]; do echo o$i; echo e$i >&2; i=$((i+1)); done' >out 2>err; wc -l < out; wc -l < err; grep -c o out; grep -c e err`, "2000\n2000\n2000\n2000\n", 0},
		"a broken pipe":           {`for i in 1 2 3 4; do ssh web.internal "echo $i" 2>/dev/null | true; done; ssh web.internal echo after`, "after\n", 0},
		"a broken pipe in full":   {`timeout 30 ssh web.internal yes 2>/dev/null | head -1; ssh web.internal echo after`, "y\nafter\n", 0},
		"a slow reader":           {`ssh web.internal "yes | head -200000" | (sleep 1; wc -l)`, "200000\n", 0},
		"yes and head":            {`ssh web.internal 'sh -c "while true; do echo yes; done | head -2000"' | (sleep 1; wc -l)`, "2000\n", 0},
		"input that ends first":   {`true | ssh web.internal "sleep 0.3; echo late"; printf x | ssh web.internal "cat; sleep 0.3; echo late"`, "late\nxlate\n", 0},
		"input closed here":       {`ssh web.internal "sleep 0.3; echo late" <&-`, "late\n", 0},
		"input closed there":      {`yes 2>/dev/null | timeout 30 ssh web.internal "exec <&-; sleep 0.3; echo late"; yes 2>/dev/null | timeout 30 ssh web.internal head -1; yes 2>/dev/null | timeout 30 ssh web.internal true; echo $?`, "late\ny\n0\n", 0},
		"input that nobody reads": {`head -c 20000000 /dev/zero | timeout 30 ssh web.internal "sleep 0.5; exit 3"`, "", 3},
		"the end, then an answer": {`(echo 3; echo 1; echo 2) | ssh web.internal sort`, "1\n2\n3\n", 0},
		"output closed here":      {`ssh web.internal "echo lost; exit 3" >&-`, "", 3},
		"binary":                  {`i=0; while [ $i -lt 256 ]; do printf "\\$(printf %03o $i)"; i=$((i+1)); done > bytes; ssh web.internal cat <bytes | cmp - bytes; ssh -q -tt web.internal "stty raw -echo; cat $HOME/bytes" </dev/null | cmp - bytes`, "", 0},
	})
}

// TestSSHRegressEnvironment: SendEnv and SetEnv.
func TestSSHRegressEnvironment(t *testing.T) {
	run := startRegress(t)
	tryAll(t, run, map[string]regressCase{
		"none":             {`A_X=1 ssh web.internal 'echo "<$A_X>"'`, "<>\n", 0},
		"sent":             {`A_X=1 A_Y=2 B_X=3 B_Y=4 ssh -o "SendEnv=A_* B_X" web.internal 'echo "$A_X$A_Y$B_X<$B_Y>"'`, "123<>\n", 0},
		"set":              {`ssh -o "SetEnv=A_X='1 2' A_Y=2" web.internal 'echo "$A_X,$A_Y"'`, "1 2,2\n", 0},
		"set before sent":  {`A_X=1 ssh -o SendEnv=A_X -o SetEnv=A_X=2 web.internal 'echo $A_X'`, "2\n", 0},
		"empty":            {`A_X= ssh -o SendEnv=A_X web.internal 'echo "${A_X-unset}"'`, "\n", 0},
		"large":            {`export A_X=$(head -c 30000 /dev/zero | tr '\0' x); ssh -o SendEnv=A_X web.internal printenv A_X | wc -c`, "30001\n", 0},
		"many":             {`for i in $(seq 100); do export A_$i=$i; done; ssh -o "SendEnv=A_*" web.internal "printenv | grep -c ^A_"`, "100\n", 0},
		"with a terminal":  {`A_X=1 ssh -q -tt -o SendEnv=A_X web.internal 'echo $A_X' </dev/null`, "1\n", 0},
		"by one of many":   {`ssh -M -S m -o "SendEnv=A_*" -f -N web.internal; A_X=1 ssh -S m -o SendEnv=A_X web.internal 'echo $A_X'; A_X=2 ssh -S m web.internal 'echo "<$A_X>"'; ssh -S m -O exit web.internal 2>/dev/null`, "1\n<>\n", 0},
		"files in between": {`A_X=1 ssh -o SendEnv=A_X web.internal 'printf %s "$A_X" > '$SRV/env; cat $SRV/env`, "1", 0},
	})
}

// mastered begins with a connection that others share, and ends it.
func mastered(script string) string {
	return `m="-S m"; ssh -M $m -f -N web.internal || exit; ` + script + `; ssh $m -O exit web.internal 2>/dev/null`
}

// TestSSHRegressMultiplex: many sessions and forwardings in one connection.
func TestSSHRegressMultiplex(t *testing.T) {
	run := startRegress(t)
	tryAll(t, run, map[string]regressCase{
		"check":            {mastered(`ssh $m -O check web.internal 2>&1 | sed "s/[0-9]\+/N/"`), "Master running (pid=N)\n", 0},
		"status":           {mastered(`for s in 0 1 4 5 44; do ssh $m web.internal exit $s; echo $?; ssh $m web.internal "exec >/dev/null 2>&1; sleep 0.2; exit $s"; echo $?; done`), "0\n0\n1\n1\n4\n4\n5\n5\n44\n44\n", 0},
		"parallel":         {mastered(`head -c 1500000 /dev/urandom > d; for i in 1 2 3 4 5 6 7 8; do (ssh $m web.internal cat <d >d$i; cmp d d$i) & p="$p $!"; done; wait $p`), "", 0},
		"files":            {mastered(`head -c 500000 /dev/urandom > d; scp -q -o ControlPath=m d web.internal:$SRV/mux; scp -O -q -o ControlPath=m web.internal:$SRV/mux back; cmp d back; echo "get $SRV/mux again" | sftp -q -b - -o ControlPath=m web.internal >/dev/null; cmp d again`), "", 0},
		"terminal":         {mastered(`ssh $m -q -tt web.internal 'test -t 0 && echo yes' </dev/null`), "yes\n", 0},
		"input":            {mastered(`echo a | ssh $m web.internal cat; echo b | ssh $m -n web.internal cat; ssh $m web.internal "sleep 0.2; echo late" </dev/null`), "a\nlate\n", 0},
		"forward":          {mastered(`ssh $m -O forward -L $L1:127.0.0.1:$PORT web.internal && ssh $inner -p $L1 127.0.0.1 id -u; ssh $m -O cancel -L $L1:127.0.0.1:$PORT web.internal; ssh $inner -p $L1 127.0.0.1 id -u 2>&1 | grep -c refused`), "0\n1\n", 0},
		"forward a socket": {mastered(`ssh $m -O forward -L $HOME/s:127.0.0.1:$PORT web.internal && $curl --unix-socket $HOME/s http://x/ | head -c 8; echo; ssh $m -O cancel -L $HOME/s:127.0.0.1:$PORT web.internal; $curl --unix-socket $HOME/s http://x/; echo $?`), "SSH-2.0-\n7\n", 0},
		"forward back":     {mastered(`ssh $m -O forward -R 0:127.0.0.1:$L1 web.internal > port; ssh $m -O forward -L $L1:127.0.0.1:$PORT web.internal; ssh $m web.internal "exec 3<>/dev/tcp/127.0.0.1/$(cat port); head -c 8 <&3"; echo; ssh $m -O cancel -R 0:127.0.0.1:$L1 web.internal; ssh $m web.internal "exec 3<>/dev/tcp/127.0.0.1/$(cat port) && head -c 8 <&3" 2>&1 | grep -q refused && echo gone`), "SSH-2.0-\ngone\n", 0},
		"dynamic":          {mastered(`ssh $m -O forward -D $L1 web.internal && $curl --socks5 127.0.0.1:$L1 http://127.0.0.1:$PORT/ | head -c 8; echo`), "SSH-2.0-\n", 0},
		"stop":             {mastered(`ssh $m web.internal "echo begun; sleep 1; echo ended" > o & until_file o; ssh $m -O stop web.internal 2>/dev/null; ssh $m -O check web.internal 2>/dev/null || echo stopped; wait $!; cat o`), "stopped\nbegun\nended\n", 255},
		"exit":             {`ssh -M -S m -f -N web.internal; ssh -S m web.internal "echo begun; exec sleep 3600" > o & until_file o; ssh -S m -O exit web.internal 2>/dev/null; wait $!; echo $?`, "255\n", 0},
		"persist":          {`ssh -o ControlMaster=auto -o ControlPath=m -o ControlPersist=30 web.internal echo a; ssh -S m web.internal echo b; ssh -S m -O exit web.internal 2>/dev/null`, "a\nb\n", 0},
	})
}

// TestSSHRegressRekey: new keys on either leg, while bytes go either way, with all
// that is offered.
func TestSSHRegressRekey(t *testing.T) {
	w := startSSH(t, "RekeyLimit 256K")
	run := w.regress(t, "")
	const try = `try() { ssh -v -o RekeyLimit=256K "$@" web.internal cat < d > e 2> log; cmp d e || echo "$@"; [ $(grep -c "NEWKEYS sent" log) -gt 2 ] || echo "no rekey: $@"; }
offer() { ssh -vv web.internal true 2>&1 | tr -d '\r' | awk -v what="$1" '/peer server KEXINIT/ {on=1} on && index($0, "debug2: " what) {sub(".*: ", ""); print; exit}' | tr , '\n'; }
head -c 1500000 /dev/urandom > d
`
	tryAll(t, run, map[string]regressCase{
		"up":        {`head -c 4000000 /dev/urandom > d; ssh -o RekeyLimit=64K web.internal "cat > $SRV/up" < d; cmp d $SRV/up`, "", 0},
		"down":      {`head -c 4000000 /dev/urandom > $HOME/d; ssh -o RekeyLimit=64K web.internal cat $HOME/d | cmp - d`, "", 0},
		"by time":   {`(for i in 1 2 3 4 5; do echo $i; sleep 0.5; done) | ssh -v -o "RekeyLimit=default 1" web.internal cat 2>log; [ $(grep -c "NEWKEYS sent" log) -gt 1 ] || cat log`, "1\n2\n3\n4\n5\n", 0},
		"files":     {`head -c 3000000 /dev/urandom > f; scp -q -o RekeyLimit=128K f web.internal:$SRV/f && scp -q -o RekeyLimit=128K web.internal:$SRV/f g && cmp f g; scp -O -q -o RekeyLimit=128K f web.internal:$SRV/f2 && cmp f $SRV/f2`, "", 0},
		"exchanges": {try + `for k in $(offer "KEX algorithms"); do case $k in ext-info-*|kex-strict-*) continue;; esac; ssh -Q kex | grep -qx $k && try -o KexAlgorithms=$k && n=$((n+1)); done; [ $n -ge 6 ] || echo only $n`, "", 0},
		"ciphers":   {try + `for c in aes128-gcm@openssh.com aes256-gcm@openssh.com chacha20-poly1305@openssh.com aes128-ctr aes192-ctr aes256-ctr; do try -o Ciphers=$c; done; offer "ciphers stoc"`, "aes128-gcm@openssh.com\naes256-gcm@openssh.com\n", 0},
		"codes":     {try + `for c in $(offer "MACs stoc"); do try -o Ciphers=aes128-ctr -o MACs=$c; n=$((n+1)); done; [ $n -ge 3 ] || echo only $n`, "", 0},
		"host keys": {try + `for k in $(offer "host key algorithms"); do try -o HostKeyAlgorithms=$k; n=$((n+1)); done; [ $n -ge 2 ] || echo only $n`, "", 0},
	})
	log, err := os.ReadFile(filepath.Join(w.sshd.Dir, "sshd.log"))
	if err != nil || strings.Contains(string(log), "Corrupted") || strings.Contains(string(log), "Bad packet") {
		t.Errorf("%v\n%s", err, log)
	}
}
