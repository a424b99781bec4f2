sqlite3=${SQLITE3:-sqlite3}
"$sqlite3" app.db "PRAGMA journal_mode = WAL; CREATE TABLE IF NOT EXISTS orders(id INTEGER PRIMARY KEY, item TEXT)"
{
    cat <<SQL
.load ./liblitestream
SELECT litestream_serve('$1');
INSERT INTO orders(item) VALUES ('lamp');
SELECT litestream_position();
SQL
    cat # what is typed here goes to the shell; it serves until the input ends
} | "$sqlite3" -bail app.db
