package live

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os/exec"
	"time"
)

// work has agents at work until the end of the world, people who decide, and
// somebody who breaks the glass.
func (w *world) work() {
	ctx, stop := context.WithCancel(context.Background())
	w.stop = stop
	w.began = time.Now()
	reads := []string{
		"SELECT * FROM customers LIMIT 3;", "SELECT id, state FROM orders WHERE id < 20;", "SELECT note FROM notes WHERE id = 1;",
		"UPDATE orders SET state = 'seen' WHERE id = 7;", "SELECT count(*) FROM orders;",
	}
	w.session(ctx, "planner", "orders", 80*time.Millisecond, reads...)
	w.session(ctx, "planner", "reports", 300*time.Millisecond, reads...)
	w.session(ctx, "coder", "orders", 200*time.Millisecond, "SELECT * FROM customers;", "DROP TABLE orders;", "SELECT note FROM notes WHERE id = 1;", "\\c")
	w.session(ctx, "coder", "orders", 4*time.Second, "SELECT note FROM notes WHERE id = 2;", "SELECT pg_sleep(0);", "SELEC 1;")
	w.session(ctx, "planner", "orders", time.Second, "UPDATE orders SET state = 'old' WHERE customer = 1;")
	w.session(ctx, "coder", "reports", 3*time.Second, "DELETE FROM orders WHERE state = 'old' AND customer = 9;")
	w.session(ctx, "reader", "orders", 400*time.Millisecond, "SELECT id FROM orders WHERE id < 30;", "SELECT * FROM customers;")
	w.session(ctx, "planner", "made", time.Second, "SELECT count(*) FROM orders;")
	w.every(ctx, 3*time.Second, func() { // a run that may read one target
		cmd := w.postern.RunIn("redirected", "batch", []string{"--allow", "orders:select"}, "sleep", "2")
		w.must(ctx, cmd)
	})
	w.every(ctx, 2*time.Second, func() { w.tool(ctx, "exporter", "SELECT * FROM orders;", "orders") })
	w.every(ctx, 5*time.Second, func() { w.tool(ctx, "coder", "SELECT 1;", "dead") })
	w.every(ctx, 6*time.Second, func() { w.tool(ctx, "coder", "SELECT 1;", "locked") })
	w.every(ctx, 9*time.Second, func() { w.tool(ctx, "coder", "SELECT 1;", "orders", "PGPASSWORD=a-guess") })
	w.every(ctx, 4*time.Second, func() { w.curious(ctx, "coder") })
	w.every(ctx, time.Second, func() { w.decide(ctx) })
	w.every(ctx, 7*time.Second, func() { w.must(ctx, w.postern.CLI("secret", "refresh")) })
	w.glass(ctx)
}

// every does something again and again, after a pause.
func (w *world) every(ctx context.Context, pause time.Duration, f func()) {
	w.working.Go(func() {
		for ctx.Err() == nil {
			f()
			select {
			case <-ctx.Done():
			case <-time.After(pause):
			}
		}
	})
}

// must has a command succeed.
func (w *world) must(ctx context.Context, cmd *exec.Cmd) {
	if out, err := cmd.CombinedOutput(); err != nil && ctx.Err() == nil {
		w.fail(fmt.Errorf("%v: %w: %s", cmd.Args, err, out))
	}
}

// psql is an agent's, with what it holds for a target.
func (w *world) psql(agent, target string, args ...string) *exec.Cmd {
	cmd := w.postern.Run(agent, append([]string{"psql", "-X", "-q"}, args...)...)
	cmd.Env = append(cmd.Env, "PGHOST="+target+"-db.internal", "PGUSER=app", "PGDATABASE=orders", "PGPASSWORD="+placeholder,
		"PGSSLMODE=verify-full", "PGSSLROOTCERT=/run/postern/root.pem")
	return cmd
}

// session is a client that stays, and sends statements in turn, in waves.
func (w *world) session(ctx context.Context, agent, target string, pause time.Duration, statements ...string) {
	w.working.Go(func() {
		cmd := w.psql(agent, target)
		in, err := cmd.StdinPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			w.fail(err)
			return
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		for i := 0; ; i++ {
			wave := 1 + 0.6*math.Sin(time.Since(w.began).Seconds()/12)
			select {
			case <-ctx.Done():
				in.Close()
				cmd.Process.Kill()
				<-ended
				return
			case err := <-ended:
				w.fail(fmt.Errorf("psql of %s ended: %w", agent, errors.Join(err, ctx.Err())))
				return
			case <-time.After(time.Duration(float64(pause) * wave)):
			}
			io.WriteString(in, statements[i%len(statements)]+"\n")
		}
	})
}

// tool is a client that comes, says one thing and goes; it may be refused.
func (w *world) tool(ctx context.Context, agent, statement, target string, env ...string) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	cmd := w.psql(agent, target, "-c", statement)
	cmd.Env = append(cmd.Env, env...)
	w.within(ctx, cmd)
}

func (w *world) within(ctx context.Context, cmd *exec.Cmd) {
	if err := cmd.Start(); err != nil {
		w.fail(err)
		return
	}
	stop := context.AfterFunc(ctx, func() { cmd.Process.Kill() })
	defer stop()
	cmd.Wait() //nolint:errcheck // what it gets is for the metrics to tell
}

// attempts are what an agent does that looks for another way out.
const attempts = `
import socket, time
def attempt(f):
    try: f()
    except OSError: pass
attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("203.0.113.2", 443)))
attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP))
attempt(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP))
attempt(lambda: socket.socket(socket.AF_INET6, socket.SOCK_STREAM, 262))
attempt(lambda: socket.create_connection(("203.0.113.2", 443), 2).recv(1))
attempt(lambda: socket.socket().bind(("0.0.0.0", 8080)))
for name in ("example.com", "telemetry.example.net"):
    attempt(lambda: socket.getaddrinfo(name, 443))
attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x06orders\x00\x00\x41\x00\x01", ("127.0.0.53", 53)))
# More lookups that leave the host than an agent may make.
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for i in range(400):
    name = b"n%03d" % i
    attempt(lambda: s.sendto(b"\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x04" + name + b"\x04real\x08internal\x00\x00\x01\x00\x01", ("127.0.0.53", 53)))
    time.sleep(0.001)
`

func (w *world) curious(ctx context.Context, agent string) {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	w.within(ctx, w.postern.Run(agent, "python3", "-c", attempts))
}

// decide is a person who decides on what has waited for a while, but for what
// one may not see at once.
func (w *world) decide(ctx context.Context) {
	waiting, err := w.postern.Control.Approvals(ctx)
	if err != nil {
		if ctx.Err() == nil {
			w.fail(err)
		}
		return
	}
	for i, a := range waiting {
		age := time.Since(a.Created)
		switch {
		case a.State != "pending" || age < 3*time.Second || age < 12*time.Second && len(a.ID)+i%2 == 0:
		case a.Target == "reports":
			if age > 9*time.Second {
				_, err = w.postern.Control.Deny(ctx, a.ID, "not on a Friday")
			}
		default:
			_, err = w.postern.Control.Approve(ctx, a.ID, "looks right")
		}
		if err != nil && ctx.Err() == nil {
			w.fail(err)
		}
	}
}

// glass is broken for one agent, which takes its chance.
func (w *world) glass(ctx context.Context) {
	w.working.Go(func() {
		w.must(ctx, w.postern.CLI("break-glass", "--for", "30m", "--reason", "a test of dashboards", "--agent", "batch"))
		w.every(ctx, 3*time.Second, func() {
			w.within(ctx, w.postern.Run("batch", "python3", "-c", "import socket; socket.create_connection(('127.0.0.1', "+fmt.Sprint(w.pg.Port)+"), 2)"))
		})
	})
}
