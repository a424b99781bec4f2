import java.sql.*;
import org.sqlite.SQLiteConfig;

public class Replica {
    public static void main(String[] args) throws Exception {
        SQLiteConfig config = new SQLiteConfig();
        config.enableLoadExtension(true);
        Connection db = config.createConnection("jdbc:sqlite:copy.db");
        Statement sql = db.createStatement();
        sql.execute("SELECT load_extension('./liblitestream')");

        sql.execute("SELECT litestream_follow('" + args[0] + "')");
        System.out.println(sql.executeQuery("SELECT litestream_wait('" + args[1] + "', 10000)").getString(1));
        System.out.println(sql.executeQuery("SELECT group_concat(item) FROM orders").getString(1));
        ResultSet status = sql.executeQuery("SELECT state, sqlite_version FROM litestream_status");
        System.out.println(status.getString(1) + " " + status.getString(2));

        System.in.read(); // an empty line promotes
        sql.execute("SELECT litestream_promote()");
        db.close();
        sql = config.createConnection("jdbc:sqlite:copy.db").createStatement(); // opened anew, to write
        sql.execute("INSERT INTO orders(item) VALUES ('chair')");
        System.out.println(sql.executeQuery("SELECT group_concat(item) FROM orders").getString(1));
    }
}
