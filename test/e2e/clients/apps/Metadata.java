import java.sql.*;

/** Every call of DatabaseMetaData that returns rows, printed so that two runs compare. */
public class Metadata {
    static void show(String name, ResultSet r) throws SQLException {
        ResultSetMetaData m = r.getMetaData();
        System.out.println("# " + name);
        while (r.next()) {
            StringBuilder line = new StringBuilder();
            for (int i = 1; i <= m.getColumnCount(); i++) line.append(m.getColumnName(i)).append('=').append(r.getString(i)).append(' ');
            System.out.println(line);
        }
        r.close();
    }

    public static void main(String[] args) throws Exception {
        try (Connection c = DriverManager.getConnection(System.getenv("URL"), System.getenv("PGUSER"), System.getenv("PGPASSWORD"))) {
            DatabaseMetaData d = c.getMetaData();
            System.out.println(d.getDatabaseProductName() + " " + d.getDatabaseProductVersion() + " " + d.getMaxColumnNameLength());
            System.out.println(d.getSQLKeywords().length() + " " + d.getStringFunctions().length());
            show("schemas", d.getSchemas());
            show("types of tables", d.getTableTypes());
            show("types", d.getTypeInfo());
            show("tables", d.getTables(null, null, "%", new String[] {"TABLE", "VIEW", "PARTITIONED TABLE", "SEQUENCE", "INDEX", "TYPE"}));
            show("columns", d.getColumns(null, null, "%", "%"));
            show("udts", d.getUDTs(null, null, "%", null));
            show("functions", d.getFunctions(null, "apps", "%"));
            show("columns of functions", d.getFunctionColumns(null, "apps", "%", "%"));
            show("procedures", d.getProcedures(null, "apps", "%"));
            show("columns of procedures", d.getProcedureColumns(null, "apps", "%", "%"));
            for (String[] t : new String[][] {{"public", "customers"}, {"apps", "items"}, {"apps", "parts"}}) {
                show("keys of " + t[1], d.getPrimaryKeys(null, t[0], t[1]));
                show("imported", d.getImportedKeys(null, t[0], t[1]));
                show("exported", d.getExportedKeys(null, t[0], t[1]));
                show("indexes", d.getIndexInfo(null, t[0], t[1], false, false));
                show("privileges", d.getTablePrivileges(null, t[0], t[1]));
                show("of columns", d.getColumnPrivileges(null, t[0], t[1], "%"));
                show("best row", d.getBestRowIdentifier(null, t[0], t[1], DatabaseMetaData.bestRowSession, true));
                show("versions", d.getVersionColumns(null, t[0], t[1]));
            }
            show("cross", d.getCrossReference(null, "public", "customers", null, "apps", "items"));
            show("client info", d.getClientInfoProperties());
            try (PreparedStatement s = c.prepareStatement("SELECT c.id, c.name, i.label FROM customers c JOIN apps.items i ON i.customer = c.id WHERE i.id = ?")) {
                ResultSetMetaData m = s.getMetaData();
                for (int i = 1; i <= m.getColumnCount(); i++)
                    System.out.println(m.getTableName(i) + " " + m.getColumnName(i) + " " + m.getColumnTypeName(i) + " " + m.isNullable(i) + " " + m.isAutoIncrement(i));
                System.out.println(s.getParameterMetaData().getParameterTypeName(1));
            }
        }
    }
}
