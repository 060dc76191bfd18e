"""psycopg2 as an agent would use it. Exits with an error when something is not as without Postern."""
import io
import os
import select
import threading

import psycopg2
import psycopg2.extras

dsn = os.environ["DSN"]
conn = psycopg2.connect(dsn)
conn.autocommit = True
cur = conn.cursor()

cur.execute("SELECT name FROM customers WHERE id = %s", (1,))
assert cur.fetchone() == ("Ada",)

cur.execute("SELECT email FROM customers WHERE id = 1")
email = cur.fetchone()[0]
assert email and email != "ada@example.org", email

cur.execute("INSERT INTO scratch (id, note) VALUES (%s, %s) RETURNING id", (2001, "é ' \\ \" ☃"))
assert cur.fetchone() == (2001,)
cur.execute("SELECT note FROM scratch WHERE id = 2001")
assert cur.fetchone() == ("é ' \\ \" ☃",)
psycopg2.extras.execute_values(cur, "INSERT INTO scratch (id, note) VALUES %s", [(i, "v") for i in range(2002, 2102)])

try:
    cur.execute("DROP TABLE scratch")
    raise SystemExit("DROP went through")
except psycopg2.Error as e:
    assert e.pgcode == "42501", e
    assert "no-ddl" in e.diag.message_detail and e.diag.message_hint, e
cur.execute("SELECT 1")

conn.autocommit = False
cur.execute("INSERT INTO scratch (id) VALUES (2999)")
try:
    cur.execute("DROP TABLE scratch")
    raise SystemExit("DROP went through")
except psycopg2.Error as e:
    assert e.pgcode == "42501", e
try:
    cur.execute("SELECT 1")
    raise SystemExit("the transaction is not failed")
except psycopg2.errors.InFailedSqlTransaction:
    pass
conn.rollback()
cur.execute("SELECT count(*) FROM scratch WHERE id = 2999")
assert cur.fetchone() == (0,)

named = conn.cursor("by_server")
named.itersize = 10
named.execute("SELECT id FROM scratch WHERE id BETWEEN 2002 AND 2101 ORDER BY id")
assert [r[0] for r in named] == list(range(2002, 2102))
named.close()
conn.commit()

cur.copy_expert("COPY scratch (id, note) FROM STDIN WITH (FORMAT csv)", io.StringIO("2500,a\n2501,\"b, c\"\n"))
out = io.StringIO()
cur.copy_expert("COPY (SELECT id, note FROM scratch WHERE id >= 2500 AND id < 2600 ORDER BY id) TO STDOUT WITH (FORMAT csv)", out)
assert out.getvalue() == "2500,a\n2501,\"b, c\"\n", out.getvalue()
conn.commit()

conn.autocommit = True
cur.execute("LISTEN news")
cur.execute("NOTIFY news, 'hello'")
if not conn.notifies:
    select.select([conn], [], [], 10)
    conn.poll()
assert conn.notifies[0].payload == "hello", conn.notifies

timer = threading.Timer(0.3, conn.cancel)
timer.start()
try:
    cur.execute("SELECT pg_sleep(30)")
    raise SystemExit("not cancelled")
except psycopg2.errors.QueryCanceled:
    pass
timer.join()
cur.execute("SELECT 1")
cur.execute("DELETE FROM scratch WHERE id BETWEEN 2000 AND 2999")
print("ok")
