import java.io.StringReader;
import java.io.StringWriter;
import java.sql.*;
import org.postgresql.PGConnection;
import org.postgresql.util.PSQLException;

/** The JDBC driver with its defaults: extended protocol, prepared after five runs, fetch size in a transaction. */
public class Client {
    static void check(boolean ok, String what) {
        if (!ok) throw new AssertionError(what);
    }

    public static void main(String[] args) throws Exception {
        try (Connection c = DriverManager.getConnection(System.getenv("URL"), System.getenv("PGUSER"), System.getenv("PGPASSWORD"))) {
            try (PreparedStatement s = c.prepareStatement("SELECT name, email FROM customers WHERE id = ?")) {
                for (int i = 0; i < 8; i++) { // the sixth run is a named statement with binary results
                    s.setInt(1, 1);
                    ResultSet r = s.executeQuery();
                    check(r.next() && r.getString(1).equals("Ada"), "select");
                    check(!r.getString(2).equals("ada@example.org"), "masked");
                }
            }
            try (PreparedStatement s = c.prepareStatement("INSERT INTO scratch (id, note) VALUES (?, ?)")) {
                for (int i = 4000; i < 4100; i++) {
                    s.setInt(1, i);
                    s.setString(2, "batch");
                    s.addBatch();
                }
                s.executeBatch();
            }
            try (Statement s = c.createStatement()) {
                s.execute("DROP TABLE scratch");
                throw new AssertionError("DROP went through");
            } catch (PSQLException e) {
                check(e.getSQLState().equals("42501"), "state " + e.getSQLState());
                check(e.getServerErrorMessage().getHint() != null, "hint");
            }
            c.setAutoCommit(false);
            try (Statement s = c.createStatement()) {
                s.setFetchSize(7); // a portal, fetched in pieces
                ResultSet r = s.executeQuery("SELECT id FROM scratch WHERE id >= 4000 AND id < 4100 ORDER BY id");
                int n = 4000;
                while (r.next()) check(r.getInt(1) == n++, "cursor");
                check(n == 4100, "cursor ended at " + n);
            }
            c.commit();
            try (Statement s = c.createStatement()) {
                s.executeUpdate("INSERT INTO scratch (id) VALUES (4200)");
                try {
                    s.execute("DROP TABLE scratch");
                    throw new AssertionError("DROP went through");
                } catch (PSQLException e) {
                    check(e.getSQLState().equals("42501"), "state");
                }
                c.rollback();
                ResultSet r = s.executeQuery("SELECT count(*) FROM scratch WHERE id = 4200");
                check(r.next() && r.getInt(1) == 0, "rolled back");
            }
            c.setAutoCommit(true);
            var copy = c.unwrap(PGConnection.class).getCopyAPI();
            check(copy.copyIn("COPY scratch (id, note) FROM STDIN", new StringReader("4300\tx\n4301\ty\n")) == 2, "copy in");
            var out = new StringWriter();
            copy.copyOut("COPY (SELECT id, note FROM scratch WHERE id IN (4300, 4301) ORDER BY id) TO STDOUT", out);
            check(out.toString().equals("4300\tx\n4301\ty\n"), "copy out: " + out);
            try (Statement s = c.createStatement()) {
                var timer = new Thread(() -> {
                    try {
                        Thread.sleep(300);
                        s.cancel();
                    } catch (Exception e) {
                        e.printStackTrace();
                    }
                });
                timer.start();
                try {
                    s.execute("SELECT pg_sleep(30)");
                    throw new AssertionError("not cancelled");
                } catch (PSQLException e) {
                    check(e.getSQLState().equals("57014"), "cancel: " + e.getSQLState());
                }
                timer.join();
            }
            try (Statement s = c.createStatement()) {
                s.executeUpdate("DELETE FROM scratch WHERE id BETWEEN 4000 AND 4999");
            }
        }
        System.out.println("ok");
    }
}
