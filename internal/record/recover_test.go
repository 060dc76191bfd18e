package record

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postern/postern/pkg/recording"
)

// life is one start of the daemon with a session in it.
func life(t *testing.T, dir, id string, o Options) {
	t.Helper()
	s := openStore(t, dir, o)
	c, err := s.Session(meta(id))
	must(t, err)
	_, err = c.Request(aRequest)
	must(t, err)
	must(t, c.Close(End{}))
	must(t, s.Close())
}

func problems(t *testing.T, dir string) string {
	t.Helper()
	report, err := recording.Verify(dir)
	must(t, err)
	var whats []string
	for _, p := range report.Problems {
		whats = append(whats, string(p.What))
	}
	return strings.Join(whats, " ")
}

func TestStartsContinueTheJournal(t *testing.T) {
	dir := t.TempDir()
	for _, id := range []string{"s1", "s2", "s3"} {
		life(t, dir, id, Options{})
	}
	if r := verified(t, dir); r.Journals != 1 || r.Sessions != 3 {
		t.Errorf("%+v", r)
	}
}

// A journal that grew long is followed by another, which links to it.
func TestJournalsFollowEachOther(t *testing.T) {
	dir := t.TempDir()
	for _, id := range []string{"s1", "s2", "s3"} {
		life(t, dir, id, Options{maxJournal: 300})
	}
	if r := verified(t, dir); r.Journals != 3 || r.Sessions != 3 {
		t.Errorf("%+v", r)
	}
}

// A journal that was damaged is kept as it is and continued in a new one.
func TestDamagedJournal(t *testing.T) {
	for name, damage := range map[string]func([]byte) []byte{
		"a byte":     func(b []byte) []byte { b[200] ^= 1; return b },
		"the header": func(b []byte) []byte { b[3] ^= 1; return b },
		"all of it":  func([]byte) []byte { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			life(t, dir, "s1", Options{})
			path := filepath.Join(dir, recording.JournalName(1))
			b, err := os.ReadFile(path)
			must(t, err)
			b = damage(b)
			must(t, os.WriteFile(path, b, 0o600))
			life(t, dir, "s2", Options{})
			if again, err := os.ReadFile(path); err != nil || !bytes.Equal(again, b) {
				t.Error("the damaged journal was changed")
			}
			first := events(t, filepath.Join(dir, recording.JournalName(2)))[0].Body.(*recording.Started)
			if first.Sequence != 2 || !strings.Contains(first.Note, "damaged") {
				t.Errorf("the new journal begins with %+v", first)
			}
			if got := problems(t, dir); !strings.Contains(got, "altered") {
				t.Errorf("found %q", got)
			}
			if summaryOf(t, dir, "s2") == nil {
				t.Error("the session after it is not found")
			}
		})
	}
}

func summaryOf(t *testing.T, dir, id string) (found *recording.Summary) {
	t.Helper()
	for s := range recording.Sessions(dir, recording.Filter{}) {
		if s.Session == id {
			found = &s
		}
	}
	return found
}

// When a journal was deleted, no other is written over for want of a number.
func TestDeletedJournal(t *testing.T) {
	dir := t.TempDir()
	for _, id := range []string{"s1", "s2"} {
		life(t, dir, id, Options{maxJournal: 300})
	}
	must(t, os.Remove(filepath.Join(dir, recording.JournalName(1))))
	before, err := os.ReadFile(filepath.Join(dir, recording.JournalName(2)))
	must(t, err)
	life(t, dir, "s3", Options{maxJournal: 300})
	if after, err := os.ReadFile(filepath.Join(dir, recording.JournalName(2))); err != nil || !bytes.Equal(after, before) {
		t.Error("the journal that was left was overwritten")
	}
	if _, err := os.Stat(filepath.Join(dir, recording.JournalName(3))); err != nil {
		t.Error(err)
	}
	if got := problems(t, dir); !strings.Contains(got, "missing") || !strings.Contains(got, "stray") {
		t.Errorf("found %q", got)
	}
}

// An older copy of the directory that a daemon went on with does not fit what
// was written after the copy was made.
func TestForkedJournal(t *testing.T) {
	dir, copied := t.TempDir(), filepath.Join(t.TempDir(), "copy")
	life(t, dir, "s1", Options{})
	must(t, os.CopyFS(copied, os.DirFS(dir)))
	life(t, dir, "s2", Options{})
	life(t, copied, "s3", Options{})
	// The journal of the copy takes the place of the real one.
	b, err := os.ReadFile(filepath.Join(copied, recording.JournalName(1)))
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, recording.JournalName(1)), b, 0o600))
	if got := problems(t, dir); got != "stray missing" {
		t.Errorf("found %q", got)
	}
}

// Sessions of a daemon that did not end them are closed by the next start, with
// what there is of them.
func TestRecoverSessions(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir, Options{})
	paths := map[string]string{}
	for _, id := range []string{"whole", "unfinished", "altered", "gone"} {
		c, err := s.Session(meta(id))
		must(t, err)
		_, err = c.Request(aRequest)
		must(t, err)
		paths[id] = c.Path()
	}
	used := func(id string) int64 {
		r, err := recording.Open(paths[id])
		must(t, err)
		defer r.Close()
		for err == nil {
			_, err = r.Next()
		}
		return r.Offset()
	}
	change := func(id string, at int64, b string) {
		f, err := os.OpenFile(paths[id], os.O_WRONLY, 0)
		must(t, err)
		_, err = f.WriteAt([]byte(b), at)
		must(t, err)
		must(t, f.Close())
	}
	change("unfinished", used("unfinished")+4, "\x04\x00\x00\x00remains")
	change("altered", 200, "x")
	must(t, os.Remove(paths["gone"]))
	length := used("whole")
	must(t, s.Close()) // as a killed daemon, it leaves them open
	must(t, openStore(t, dir, Options{}).Close())
	for id, want := range map[string]string{
		"whole": recording.HowRecovered, "unfinished": recording.HowRecovered, "altered": recording.HowBroken, "gone": recording.HowMissing,
	} {
		if got := summary(t, dir, id); got.How != want {
			t.Errorf("%s: %+v", id, got)
		}
	}
	if st, err := os.Stat(paths["whole"]); err != nil || st.Size() != length {
		t.Error("the room that was made ahead is still there:", st.Size(), err)
	}
	if got := problems(t, dir); strings.Count(got, "altered") != 1 || strings.Count(got, "missing") != 1 || len(strings.Fields(got)) != 2 {
		t.Errorf("found %q", got)
	}
}
