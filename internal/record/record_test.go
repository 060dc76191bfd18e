package record

import (
	"io"
	"net/netip"
	"testing"
	"time"

	"github.com/postern/postern/internal/engine"
	"github.com/postern/postern/pkg/recording"
)

func meta(id string) Meta {
	return Meta{
		Flow: engine.Flow{
			Session: id, Agent: "planner", Cgroup: "/agents.slice/planner", CgroupID: 77, PID: 10, TID: 11, UID: 1000, GID: 1000,
			Comm: "python3", Exe: "/usr/bin/python3", Started: time.Unix(1700000000, 5), Name: "orders-db",
			Original: netip.MustParseAddrPort("198.18.0.7:5432"),
		},
		Target: "orders", Protocol: "postgres", Generation: 3,
	}
}

var aRequest = &engine.Request{
	Kind: "query", Text: "UPDATE orders SET state = 'sent' WHERE id = $1 AND customer IN (SELECT id FROM customers WHERE vip)",
	Params:  []engine.Param{{Value: []byte("4711")}},
	Effects: []engine.Effect{{Verb: "update", Object: "public.orders"}, {Verb: "select", Object: "public.customers"}},
	Context: "role=app",
}

func openStore(t testing.TB, dir string, o Options) *Store {
	t.Helper()
	s, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func events(t testing.TB, path string) []recording.Event {
	t.Helper()
	r, err := recording.Open(path)
	must(t, err)
	defer r.Close()
	var all []recording.Event
	for {
		ev, err := r.Next()
		if err == io.EOF {
			return all
		}
		must(t, err)
		all = append(all, ev)
	}
}

func BenchmarkRequest(b *testing.B) {
	s := openStore(b, b.TempDir(), Options{TotalBytes: 1 << 40, AgentBytes: 1 << 40})
	c, err := s.Session(meta("bench"))
	must(b, err)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Request(aRequest); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	must(b, c.Close(End{}))
	must(b, s.Close())
}
