package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// typistClient types at a real bash, and waits for what each line has it show.
const typistClient = `
import paramiko, sys
t = paramiko.Transport(("web.internal", 22)); t.start_client(); t.auth_none("root")
s = t.open_session(); s.get_pty(); s.invoke_shell(); s.settimeout(60)
shown = ""
def until(text):
    global shown
    while text not in shown:
        piece = s.recv(4096)
        if not piece: sys.exit("the shell ended before %r: %r" % (text, shown))
        shown += piece.decode()
    before, _, shown = shown.partition(text); print(before + text)
until("# ")
s.send("echo one-$((40+2))\r"); until("\rone-42\r\n"); until("# ")
s.send("rm -rf " + sys.argv[1] + "\r"); until("postern: session"); until("# ")
s.send("echo tww\x7fo\r"); until("\rtwo\r\n"); until("# ")
s.send("\x1b[A\r"); until("postern: session"); until("# ")
s.send("echo this | ask\r"); until("waiting for approval"); s.send("\x03"); until("postern: session"); until("# ")
s.send("exit 0\r")
while s.recv(4096): pass
print("status", s.recv_exit_status())
`

// Lines that are typed at a shell are decided one by one, and what is denied the
// shell does not read.
func TestSSHLines(t *testing.T) {
	w := startSSH(t)
	if err := os.WriteFile(filepath.Join(w.home, "typist.py"), []byte(typistClient), 0o644); err != nil {
		t.Fatal(err)
	}
	out, status := w.as("typist", "python3 $HOME/typist.py $SRV; ssh -T web.internal <<-. \n id -u; rm -rf $SRV\n.\n")
	if status != 126 || strings.Count(out, "nothing is removed here") != 2 || !strings.Contains(out, "status 0\n") {
		t.Errorf("status %d: %s", status, out)
	}
	mustContain(t, out, "it was edited by keys that only the shell knows", "cancelled while it waited for approval")
	if _, err := os.Stat(w.dir); err != nil {
		t.Error("it was removed:", err)
	}
	replayed := ""
	for _, line := range strings.Split(w.cli(t, "sessions", "--agent", "typist", "--limit", "2"), "\n")[1:] {
		if f := strings.Fields(line); len(f) > 2 {
			replayed += w.cli(t, "replay", "--json", f[2])
		}
	}
	for _, text := range []string{"echo one-$((40+2))", "rm -rf " + w.dir, "echo two", "^[[A"} {
		if !strings.Contains(replayed, fmt.Sprintf("%q", text)) {
			t.Errorf("%q is not on record", text)
		}
	}
}
