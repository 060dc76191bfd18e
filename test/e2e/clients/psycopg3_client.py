"""psycopg 3: server-side binding, pipeline mode, COPY, binary results, async notifications."""
import logging
import os
import threading

import psycopg

# It warns on standard error when the error that a pipeline ends with has come
# already, which is a matter of timing.
logging.getLogger("psycopg").setLevel(logging.ERROR)

dsn = os.environ["DSN"]
with psycopg.connect(dsn, autocommit=True) as conn:
    assert conn.execute("SELECT name FROM customers WHERE id = %s", (1,)).fetchone() == ("Ada",)
    email = conn.execute("SELECT email FROM customers WHERE id = %s", (1,)).fetchone()[0]
    assert email and email != "ada@example.org", email
    # binary results take the same way
    cur = conn.cursor(binary=True)
    assert cur.execute("SELECT id, name FROM customers WHERE id = %s", (2,)).fetchone() == (2, "Grace")
    assert cur.execute("SELECT email FROM customers WHERE id = %s", (2,)).fetchone()[0] != "grace@example.org"

    # prepared after five runs
    for i in range(10):
        conn.execute("INSERT INTO scratch (id, note) VALUES (%s, %s)", (3000 + i, f"n{i}"))
    assert conn.execute("SELECT count(*) FROM scratch WHERE id >= 3000 AND id < 3010").fetchone() == (10,)

    with conn.pipeline() as p:
        cursors = [conn.execute("SELECT %s::int + 1", (i,)) for i in range(50)]
        p.sync()
        assert [c.fetchone()[0] for c in cursors] == [i + 1 for i in range(50)]

    # an error inside a pipeline fails what follows up to its sync, and no more
    try:
        with conn.pipeline() as p:
            conn.execute("INSERT INTO scratch (id) VALUES (3100)")
            conn.execute("DROP TABLE scratch")
            conn.execute("INSERT INTO scratch (id) VALUES (3101)")
            p.sync()
        raise SystemExit("DROP went through")
    except psycopg.errors.InsufficientPrivilege as e:
        assert "no-ddl" in e.diag.message_detail, e.diag.message_detail
    assert conn.execute("SELECT count(*) FROM scratch WHERE id IN (3100, 3101)").fetchone() == (0,)

    with conn.transaction():
        conn.execute("INSERT INTO scratch (id) VALUES (3200)")
        try:
            with conn.transaction():  # a savepoint
                conn.execute("INSERT INTO scratch (id) VALUES (3201)")
                conn.execute("DROP TABLE scratch")
        except psycopg.errors.InsufficientPrivilege:
            pass
    assert conn.execute("SELECT array_agg(id) FROM scratch WHERE id IN (3200, 3201)").fetchone() == ([3200],)

    with conn.cursor().copy("COPY scratch (id, note) FROM STDIN") as copy:
        for i in range(3300, 3400):
            copy.write_row((i, "copied"))
    with conn.cursor().copy("COPY (SELECT id FROM scratch WHERE note = 'copied' ORDER BY id) TO STDOUT") as copy:
        assert [int(r[0]) for r in copy.rows()] == list(range(3300, 3400))
    with conn.cursor().copy("COPY scratch (id, note) FROM STDIN (FORMAT BINARY)") as copy:
        copy.set_types(["int4", "text"])
        copy.write_row((3400, "binary"))
    assert conn.execute("SELECT note FROM scratch WHERE id = 3400").fetchone() == ("binary",)

    conn.execute("LISTEN news3")
    with psycopg.connect(dsn, autocommit=True) as other:
        other.execute("NOTIFY news3, 'three'")
    for note in conn.notifies():
        assert note.payload == "three"
        break

    timer = threading.Timer(0.3, conn.cancel)
    timer.start()
    try:
        conn.execute("SELECT pg_sleep(30)")
        raise SystemExit("not cancelled")
    except psycopg.errors.QueryCanceled:
        pass
    timer.join()
    conn.execute("DELETE FROM scratch WHERE id BETWEEN 3000 AND 3999")
print("ok")
