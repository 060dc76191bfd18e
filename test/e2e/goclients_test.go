package e2e

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/lib/pq"
)

// runClient is the test binary as an agent.
func runClient(name string) int {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	err := map[string]func(context.Context) error{
		"pgx": pgxClient, "lib-pq": pqClient, "writer": writer, "patient-writer": patientWriter, "sleeper": sleeper, "dialler": dialler, "copy": copyAgent,
		"held": heldClient, "ssh": sshClient,
	}[name](ctx)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("ok")
	return 0
}

func expect(ok bool, format string, args ...any) error {
	if ok {
		return nil
	}
	return fmt.Errorf(format, args...)
}

func pgxClient(ctx context.Context) error {
	for _, mode := range []pgx.QueryExecMode{
		pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeDescribeExec,
		pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol,
	} {
		if err := pgxMode(ctx, mode); err != nil {
			return fmt.Errorf("%v: %w", mode, err)
		}
	}
	return nil
}

func pgxMode(ctx context.Context, mode pgx.QueryExecMode) error {
	cfg, err := pgx.ParseConfig(os.Getenv("DSN"))
	if err != nil {
		return err
	}
	cfg.DefaultQueryExecMode = mode
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	for range 3 {
		var id int
		var name, email string
		if err := conn.QueryRow(ctx, "SELECT id, name, email FROM customers WHERE id = $1", 2).Scan(&id, &name, &email); err != nil {
			return err
		}
		if err := expect(id == 2 && name == "Grace" && email != "grace@example.org" && email != "", "row: %d %s %s", id, name, email); err != nil {
			return err
		}
	}
	if err := deniedInTransaction(ctx, conn); err != nil {
		return err
	}
	if err := deniedInBatch(ctx, conn); err != nil {
		return err
	}
	if mode != pgx.QueryExecModeSimpleProtocol {
		rows := pgx.CopyFromRows([][]any{{7100, "z"}, {7101, "y"}})
		n, err := conn.CopyFrom(ctx, pgx.Identifier{"scratch"}, []string{"id", "note"}, rows)
		if err = errors.Join(err, expect(n == 2, "copied %d", n)); err != nil {
			return err
		}
	}
	short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	_, err = conn.Exec(short, "SELECT pg_sleep(30)")
	cancel()
	if err := expect(err != nil, "not cancelled"); err != nil {
		return err
	}
	again, err := pgx.ConnectConfig(ctx, cfg) // pgx closes a connection whose context ended
	if err != nil {
		return err
	}
	defer again.Close(ctx)
	_, err = again.Exec(ctx, "DELETE FROM scratch WHERE id >= 7000 AND id < 8000")
	return err
}

func isDenied(err error) error {
	var e *pgconn.PgError
	if !errors.As(err, &e) || e.Code != "42501" || !strings.Contains(e.Detail, "no-ddl") || e.Hint == "" {
		return fmt.Errorf("not the denial that was due: %w", err)
	}
	return nil
}

func deniedInTransaction(ctx context.Context, conn *pgx.Conn) error {
	tx, err := conn.Begin(ctx)
	if err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, "INSERT INTO scratch (id, note) VALUES ($1, 'q')", 7010); err != nil {
		return err
	}
	_, err = tx.Exec(ctx, "DROP TABLE scratch")
	if err := isDenied(err); err != nil {
		return err
	}
	if err := tx.Commit(ctx); !errors.Is(err, pgx.ErrTxCommitRollback) {
		return fmt.Errorf("the commit says %w", err)
	}
	var n int
	err = conn.QueryRow(ctx, "SELECT count(*) FROM scratch WHERE id = 7010").Scan(&n)
	return errors.Join(err, expect(n == 0, "half of the transaction was committed"))
}

func deniedInBatch(ctx context.Context, conn *pgx.Conn) error {
	b := &pgx.Batch{}
	b.Queue("INSERT INTO scratch (id) VALUES (7020)")
	b.Queue("DROP TABLE scratch")
	b.Queue("SELECT 1")
	if err := isDenied(conn.SendBatch(ctx, b).Close()); err != nil {
		return err
	}
	var n int
	err := conn.QueryRow(ctx, "SELECT count(*) FROM scratch WHERE id = 7020").Scan(&n)
	return errors.Join(err, expect(n == 0, "half of the batch was committed"))
}

func pqClient(ctx context.Context) error {
	db, err := sql.Open("postgres", os.Getenv("DSN"))
	if err != nil {
		return err
	}
	defer db.Close()
	var name, email string
	if err := db.QueryRowContext(ctx, "SELECT name, email FROM customers WHERE id = $1", 1).Scan(&name, &email); err != nil {
		return err
	}
	if err := expect(name == "Ada" && email != "ada@example.org", "row: %s %s", name, email); err != nil {
		return err
	}
	_, err = db.ExecContext(ctx, "DROP TABLE scratch")
	var e *pq.Error
	if !errors.As(err, &e) || e.Code != "42501" || e.Hint == "" {
		return fmt.Errorf("not the denial that was due: %w", err)
	}
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	stmt, err := tx.Prepare(pq.CopyIn("scratch", "id", "note")) //nolint:staticcheck // what programs in the field use
	if err != nil {
		return err
	}
	for i := range 100 {
		if _, err := stmt.Exec(8000+i, "copied"); err != nil {
			return err
		}
	}
	if _, err := stmt.Exec(); err != nil {
		return err
	}
	if err := errors.Join(stmt.Close(), tx.Commit()); err != nil {
		return err
	}
	short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	if _, err := db.ExecContext(short, "SELECT pg_sleep(30)"); err == nil {
		return errors.New("not cancelled")
	}
	var n int
	if err := db.QueryRowContext(ctx, "SELECT count(*) FROM scratch WHERE note = 'copied' AND id >= 8000").Scan(&n); err != nil {
		return err
	}
	_, err = db.ExecContext(ctx, "DELETE FROM scratch WHERE id >= 8000 AND id < 9000")
	return errors.Join(err, expect(n == 100, "%d rows were copied", n))
}

// writer inserts one row after the other until it is stopped, and says each
// that was acknowledged.
func writer(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, os.Getenv("DSN"))
	if err != nil {
		return err
	}
	for i := 0; ; i++ {
		if _, err := conn.Exec(ctx, fmt.Sprintf("INSERT INTO scratch (id, note) VALUES (%d, '%s')", 100_000+i, os.Getenv("MARK"))); err != nil {
			return err
		}
		fmt.Println(i)
	}
}

// patientWriter writes, and connects again whenever its connection is gone.
func patientWriter(ctx context.Context) error {
	i := 0
	for ctx.Err() == nil {
		conn, err := pgx.Connect(ctx, os.Getenv("DSN"))
		if err != nil {
			continue
		}
		for ; err == nil; i++ {
			_, err = conn.Exec(ctx, fmt.Sprintf("INSERT INTO scratch (id, note) VALUES (%d, '%s')", 100_000+i, os.Getenv("MARK")))
			if i == 20 {
				fmt.Println(i) // it has begun; nobody reads more
			}
		}
	}
	return ctx.Err()
}

// dialler opens 500 connections a second until it is told that it is enough,
// and asks each for TLS: who answers has served it.
func dialler(ctx context.Context) error {
	addrs, err := net.DefaultResolver.LookupHost(ctx, os.Getenv("PGHOST"))
	if err != nil {
		return err
	}
	at := net.JoinHostPort(addrs[0], os.Getenv("PGPORT"))
	var connected, refused, unanswered atomic.Int64
	var dialling sync.WaitGroup
	enough := make(chan struct{})
	go func() { bufio.NewReader(os.Stdin).ReadString('\n'); close(enough) }()
	fmt.Println("dialling")
	for tick := time.NewTicker(2 * time.Millisecond); ; {
		select {
		case <-enough:
			dialling.Wait()
			fmt.Printf("connected %d, refused %d, not answered %d\n", connected.Load(), refused.Load(), unanswered.Load())
			return nil
		case <-tick.C:
		}
		dialling.Go(func() {
			var d net.Dialer
			conn, err := d.DialContext(ctx, "tcp", at)
			if err != nil {
				refused.Add(1)
				return
			}
			defer conn.Close()
			connected.Add(1)
			answer := make([]byte, 1)
			conn.Write([]byte{0, 0, 0, 8, 4, 210, 22, 47}) // SSLRequest
			if _, err := io.ReadFull(conn, answer); err != nil || answer[0] != 'S' {
				unanswered.Add(1)
			}
		})
	}
}

// sleeper holds a session open.
func sleeper(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, os.Getenv("DSN"))
	if err != nil {
		return err
	}
	fmt.Println("connected")
	_, err = conn.Exec(ctx, "SELECT pg_sleep(60)")
	return err
}
