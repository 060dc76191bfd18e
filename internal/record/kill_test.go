package record

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/postern/postern/pkg/recording"
)

// writerVariable makes the test binary a daemon that records in the directory
// it names until it is killed.
const writerVariable = "POSTERN_TEST_RECORD_WRITER"

func TestMain(m *testing.M) {
	if dir := os.Getenv(writerVariable); dir != "" {
		if err := writeForever(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// writeForever has three sessions at any time, each of some requests, and says
// on standard output what is on record, after it is.
func writeForever(dir string) error {
	s, err := Open(dir, Options{Durability: Process})
	if err != nil {
		return err
	}
	prefix := strconv.FormatUint(rand.Uint64(), 36)
	failed := make(chan error)
	for i := range 3 {
		go func() {
			for n := 0; ; n++ {
				if err := writeSession(s, fmt.Sprintf("%s-%d-%d", prefix, i, n), n); err != nil {
					failed <- err
				}
			}
		}()
	}
	return <-failed
}

// writeSession writes requests of very different sizes, so that the room of the
// file has to grow, and now and then a session without an end.
func writeSession(s *Store, id string, n int) error {
	c, err := s.Session(meta(id))
	if err != nil {
		return err
	}
	for i := range 1 + n%40 {
		request := *aRequest
		request.Text = strings.Repeat("x", 1<<(i%17)) + fmt.Sprintf(" number %d", i+1)
		if _, err := c.Request(&request); err != nil {
			return err
		}
		fmt.Printf("%s %d\n", id, i+1) // one write(2), so that a line is whole or not there
	}
	if n%5 == 4 {
		return nil
	}
	return c.Close(End{})
}

// Whenever the daemon is killed, everything that it had on record is there, the
// next start finds its way, and the directory verifies before and after.
func TestKilled(t *testing.T) {
	dir := t.TempDir()
	promised := map[string]int{}
	for range 12 {
		kill(t, dir, rand.IntN(400), promised)
		verified(t, dir)
		must(t, openStore(t, dir, Options{}).Close())
		if r := verified(t, dir); len(r.NotClosed) > 0 {
			t.Fatal("not closed by the next start:", r.NotClosed)
		}
	}
	if len(promised) < 10 {
		t.Error("the writers had no more than", len(promised), "sessions")
	}
	for id, want := range promised {
		if got := requests(t, summary(t, dir, id).Path); got < want {
			t.Errorf("session %s has %d requests on record, %d were promised", id, got, want)
		}
	}
}

// kill starts a writer, kills it when it has promised so many requests, and
// notes what it promised.
func kill(t *testing.T, dir string, after int, promised map[string]int) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), writerVariable+"="+dir)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	lines := bufio.NewScanner(out)
	for n := 0; n < after && lines.Scan(); n++ {
		note(t, lines.Text(), promised)
	}
	must(t, cmd.Process.Kill())
	for lines.Scan() {
		note(t, lines.Text(), promised)
	}
	if cmd.Wait(); stderr.Len() > 0 {
		t.Fatal("the writer ended by itself: ", stderr.String())
	}
}

func note(t *testing.T, line string, promised map[string]int) {
	t.Helper()
	id, number, ok := strings.Cut(line, " ")
	n, err := strconv.Atoi(number)
	if !ok || err != nil {
		t.Fatalf("the writer says %q", line)
	}
	promised[id] = max(promised[id], n)
}

// requests counts them, and that each is whole and in its place.
func requests(t *testing.T, path string) (n int) {
	t.Helper()
	r, err := recording.Open(path)
	must(t, err)
	defer r.Close()
	for {
		ev, err := r.Next()
		if err == io.EOF {
			return n
		}
		must(t, err)
		if q, ok := ev.Body.(*recording.Request); ok {
			if n++; q.ID != uint64(n) || !strings.HasSuffix(q.Text, fmt.Sprintf(" number %d", n)) {
				t.Fatalf("%s: request %d is %d", path, n, q.ID)
			}
		}
	}
}

// A reader beside the writer sees events in order and never a broken one.
func TestReadBesideTheWriter(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir, Options{})
	c, err := s.Session(meta("s1"))
	must(t, err)
	const all = 5000
	var writing sync.WaitGroup
	writing.Go(func() {
		for i := range all {
			request := *aRequest
			request.Text = fmt.Sprintf(" number %d", i+1)
			if _, err := c.Request(&request); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for n := 0; n < all && !t.Failed(); {
		n = requests(t, c.Path())
		verified(t, dir)
	}
	writing.Wait()
	must(t, c.Close(End{}))
	must(t, s.Close())
}
