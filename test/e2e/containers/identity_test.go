package containers

import (
	"errors"
	"io"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postern/postern/pkg/recording"
)

// TestIdentity: which container it was is on record, with the name that people
// gave it, and the command line and the log say so.
func TestIdentity(t *testing.T) {
	w := theWorld
	each(t, func(t *testing.T, e engine, b box, id string) {
		out, err := output(e.in(b.name, "/bin/client", "query", dsn("orders-db.internal", "verify-full"), "SELECT current_user::text"))
		if err != nil {
			t.Fatalf("%q, %v", out, err)
		}
		session, c := w.newest(t, e.agent())
		if want := (recording.Container{Engine: e.name(), ID: id, Name: b.name}); c != want {
			t.Errorf("on record is %+v, want %+v", c, want)
		}
		for _, args := range [][]string{{"sessions", "--agent", e.agent()}, {"replay", "--speed", "0", session}} {
			out, err := output(w.postern.CLI(args...))
			if err != nil || !strings.Contains(out, b.name) {
				t.Errorf("postern %s: %v\n%s", args[0], err, out)
			}
		}
		await(t, "the log", func() bool {
			line, err := w.postern.LogLine("container=" + e.name() + ":" + b.name)
			return err == nil && strings.Contains(line, session)
		})
	})
	if report, err := recording.Verify(filepath.Join(w.postern.State, "recordings")); err != nil || !report.OK() {
		t.Errorf("%+v, %v", report, err)
	}
}

// newest is the last session of an agent, and the container on its record.
func (w *world) newest(t *testing.T, agent string) (session string, c recording.Container) {
	t.Helper()
	for s, err := range recording.Sessions(filepath.Join(w.postern.State, "recordings"), recording.Filter{Agent: agent}) {
		if err != nil {
			t.Fatal(err)
		}
		r, err := recording.Open(s.Path)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		for {
			e, err := r.Next()
			if errors.Is(err, io.EOF) {
				return s.Session, c
			}
			if err != nil {
				t.Fatal(err)
			}
			if found, ok := e.Body.(*recording.Container); ok {
				c = *found
			}
		}
	}
	t.Fatalf("agent %s has no session", agent)
	return "", c
}
