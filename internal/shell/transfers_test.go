package shell

import "testing"

// A conversation counts as one that is no text only when nothing else is run that
// could say something in its place.
func TestTransfers(t *testing.T) {
	for text, want := range map[string]bool{
		"git-upload-pack '/srv/a.git'":                true,
		"git-receive-pack '/srv/a.git'":               true,
		"git upload-pack '/srv/a.git'":                true,
		"rsync --server --sender -logDtpre.iLsf . /d": true,
		"rsync --server -logDtpre.iLsf . $HOME":       true,
		"rsync --server . /d; cat /etc/passwd":        false,
		"cat /etc/passwd | git-upload-pack /a":        false,
		"git-upload-pack /a > /b":                     false,
		"sudo rsync --server . /d":                    false,
		"rsync -a /a /b":                              false,
		"rsync --server --unheard-of . /a":            false,
		"git log":                                     false,
		"git-upload-pack":                             false,
		"/tmp/git-upload-pack /a":                     false,
		"/usr/bin/git-upload-pack /a":                 true,
		"scp -t /a":                                   false,
		"PATH=/tmp rsync --server . /d":               false,
		"rsync() { cat; }; rsync --server . /d":       false,
		"$(cat x) --server . /d":                      false,
		"":                                            false,
		"ls":                                          false,
	} {
		if got := Parse(text, Options{}).Transfers(); got != want {
			t.Errorf("%q: %t", text, got)
		}
	}
}
