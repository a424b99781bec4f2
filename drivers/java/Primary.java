import java.sql.*;
import org.sqlite.SQLiteConfig;

public class Primary {
    public static void main(String[] args) throws Exception {
        SQLiteConfig config = new SQLiteConfig();
        config.enableLoadExtension(true);
        config.setJournalMode(SQLiteConfig.JournalMode.WAL);
        Connection db = config.createConnection("jdbc:sqlite:app.db");
        Statement sql = db.createStatement();
        sql.execute("SELECT load_extension('./liblitestream')");
        sql.execute("CREATE TABLE IF NOT EXISTS orders(id INTEGER PRIMARY KEY, item TEXT)");

        System.out.println(sql.executeQuery("SELECT litestream_serve('" + args[0] + "')").getString(1));
        sql.execute("INSERT INTO orders(item) VALUES ('lamp')");
        System.out.println(sql.executeQuery("SELECT litestream_position()").getString(1));
        System.in.readAllBytes(); // serves until the input ends
    }
}
