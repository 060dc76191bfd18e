package shell

import (
	"path"
	"strings"
)

// The verbs of programs that clients start to transfer files or a repository.
const (
	VerbRemove = "file-remove" // rsync --delete; the object is the path
	VerbFetch  = "git-fetch"   // the object is the repository
	VerbPush   = "git-push"    // the same
)

// Act is what a command would do besides being run, where its words tell.
type Act struct {
	Verb   string
	Object string // empty: not known
}

// Scp is one command of the old scp protocol, of scp -O and of clients from
// before OpenSSH 9.0.
type Scp struct {
	Sends     bool   // -f: the server sends files, which are read; else -t: it is sent them
	Recursive bool   // -r
	Directory bool   // -d: the target is one
	Paths     []Word // as the server is given them; of -t there is one
}

// Scp returns the command where it is all that the text would run: then its
// files can be decided one by one as they are named.
func (s *Script) Scp() *Scp {
	if len(s.Unknown) > 0 || len(s.Commands) == 0 {
		return nil
	}
	c := s.Commands[0]
	for _, other := range s.Commands { // both dialects may have it, with words that differ
		if other.Name != "scp" || len(other.Via) > 0 || len(other.Assigned) > 0 || len(other.Redirects) > 0 || len(other.Words) != len(c.Words) {
			return nil
		}
	}
	if len(s.Commands) > 1 && !dynamic(c.Words) {
		return nil
	}
	return parseScp(c.Words[1:])
}

// Transfers says that all the text would run are the host's halves of rsync and
// git: they speak a protocol of their own with the client, which is no text.
func (s *Script) Transfers() bool {
	for _, c := range s.Commands {
		if !listed("rsync git git-upload-pack git-receive-pack git-upload-archive", c.Name) ||
			len(c.Acts) == 0 || len(c.Via) > 0 || len(c.Redirects) > 0 {
			return false
		}
	}
	return len(s.Commands) > 0 && len(s.Unknown) == 0
}

func parseScp(args []Word) *Scp {
	var out Scp
	mode := false
	for len(args) > 0 && args[0].Known && len(args[0].Text) > 1 && args[0].Text[0] == '-' {
		option := args[0].Text
		args = args[1:]
		if option == "--" {
			break
		}
		for _, letter := range option[1:] {
			switch letter {
			case 'f':
				mode, out.Sends = true, true
			case 't':
				mode = true
			case 'r':
				out.Recursive = true
			case 'd':
				out.Directory = true
			case 'p', 'q', 'v', 'B', 'C', '1', '2', '4', '6':
			default:
				return nil
			}
		}
	}
	out.Paths = args
	if !mode || len(args) == 0 || !out.Sends && len(args) != 1 {
		return nil
	}
	return &out
}

// copied is scp among other commands, or with other options: its files are not
// decided one by one.
func copied(f *following) {
	c := parseScp(f.args())
	if c == nil {
		f.pivot = true // a client: it connects
		return
	}
	f.followed = true
	verb := VerbWrite
	if c.Sends {
		verb = VerbRead
	}
	for _, p := range c.Paths {
		object := object(p)
		if !c.Sends || c.Recursive {
			object = "" // what is in it, too
		}
		f.act(verb, object)
	}
}

// act notes what the command does.
func (f *following) act(verb, object string) {
	f.acts = append(f.acts, Act{verb, object})
}

// object is a path of a word, where that says which.
func object(w Word) string {
	if !w.Known || !strings.HasPrefix(w.Text, "/") {
		return ""
	}
	return path.Clean(w.Text)
}

// rsyncFlags are options of rsync's server that only say how files are compared
// and sent; those with a value are without it. What is missing may name files.
var rsyncFlags = set(`--server --sender --numeric-ids --delete --delete-before --delete-during --delete-after --delete-delay --delete-excluded --delete-missing-args
	--ignore-errors --force --existing --ignore-existing --ignore-non-existing --ignore-missing-args --size-only --checksum-choice --compress-choice --compress-level
	--inplace --append --append-verify --partial --delay-updates --prune-empty-dirs --safe-links --munge-links --copy-unsafe-links --no-implied-dirs --mkpath
	--from0 --max-size --min-size --modify-window --block-size --bwlimit --timeout --stats --fake-super --no-r --no-i-r --no-inc-recursive --inc-recursive
	--log-format --out-format --info --debug --iconv --checksum-seed --stop-at --stop-after --max-alloc --open-noatime --fsync --list-only --new-compress --old-compress
	--remove-source-files --groupmap --usermap --super --no-W --no-whole-file --whole-file --msgs2stderr --stderr --specials --preallocate --sparse --use-qsort`)

// rsyncLetters are its short options that only say how; what follows e is the
// client's version and what it can do. Missing are those that name files (T, f, B),
// and s, with which other arguments are read from the client.
const rsyncLetters = "vlogDtprcuHAXEWSxzqnyNUOJkKLRIbdhPiVm0"

// rsyncFolders are options that name another directory; one that is relative is
// within the target.
var rsyncFolders = set("--partial-dir --backup-dir --temp-dir --compare-dest --copy-dest --link-dest")

// synced is rsync --server: its words say which paths are sent or received, and
// the rest is between both ends.
func synced(f *following) {
	args := f.args()
	if len(args) == 0 || !args[0].Known || args[0].Text != "--server" {
		f.pivot = true // a client: it connects, by a program of the caller's choice
		return
	}
	sends, deletes, takes := false, false, false
	var folders []Word
	for len(args) > 0 && args[0].Known && strings.HasPrefix(args[0].Text, "-") && len(args[0].Text) > 1 {
		option, value, joined := strings.Cut(args[0].Text, "=")
		args = args[1:]
		sends = sends || option == "--sender"
		deletes = deletes || strings.HasPrefix(option, "--delete") || option == "--remove-source-files"
		takes = takes || option == "--remove-source-files"
		switch {
		case rsyncFolders[option] && joined:
			folders = append(folders, known(value))
		case rsyncFolders[option] && len(args) > 0:
			folders, args = append(folders, args[0]), args[1:]
		case strings.HasPrefix(option, "--") && !rsyncFlags[option], !strings.HasPrefix(option, "--") && !onlySaysHow(option[1:]):
			f.unsure("the option %s of rsync is not known here", quote(option))
		}
	}
	if len(args) < 2 || !args[0].Known || args[0].Text != "." {
		f.unsure("what rsync is to transfer does not stand in the command")
		return
	}
	for _, p := range args[1:] {
		f.syncs(p, sends, deletes, takes)
	}
	for _, p := range folders {
		if p.Known && !strings.HasPrefix(p.Text, "/") && !strings.Contains("/"+p.Text+"/", "/../") {
			continue
		}
		f.act(VerbRead, object(p))
		f.act(VerbWrite, object(p))
	}
	f.followed = !f.pivot
}

// onlySaysHow judges short options in one word.
func onlySaysHow(letters string) bool {
	how, _, _ := strings.Cut(letters, "e")
	return strings.Trim(how, rsyncLetters) == ""
}

func (f *following) syncs(p Word, sends, deletes, takes bool) {
	switch {
	case sends:
		f.act(VerbRead, object(p))
	default:
		f.act(VerbWrite, object(p))
	}
	if deletes && !sends || takes && sends {
		f.act(VerbRemove, object(p))
	}
}

// repository is git-upload-pack and its kind, which git clients start.
func repository(f *following) {
	words := f.c.Words
	program := f.c.Name
	if program == "git" {
		if len(words) < 2 || !words[1].Known {
			f.pivot = true
			return
		}
		program, words = "git-"+words[1].Text, words[1:]
	}
	verb := map[string]string{"git-upload-pack": VerbFetch, "git-upload-archive": VerbFetch, "git-receive-pack": VerbPush}[program]
	args := words[1:]
	for len(args) > 0 && args[0].Known && strings.HasPrefix(args[0].Text, "-") {
		option, _, _ := strings.Cut(args[0].Text, "=")
		if !listed("--strict --no-strict --timeout --stateless-rpc --advertise-refs --http-backend-info-refs", option) {
			verb = ""
		}
		args = args[1:]
	}
	if verb == "" || len(args) != 1 || program == "git-upload-archive" && f.c.Name == "git" {
		f.pivot = true
		return
	}
	f.followed, f.instead = true, true
	name := args[0].Text
	if !args[0].Known || strings.Contains("/"+name+"/", "/../") || strings.Contains(name, "//") || strings.Contains("/"+name+"/", "/./") {
		name = ""
	}
	f.act(verb, name)
}
