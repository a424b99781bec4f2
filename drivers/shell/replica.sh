sqlite3=${SQLITE3:-sqlite3}
{
    cat <<SQL
.load ./liblitestream
SELECT litestream_follow('$1');
SELECT litestream_wait('$2', 10000);
SELECT group_concat(item) FROM orders;
SELECT state, sqlite_version FROM litestream_status;
SQL
    read -r _ # an empty line promotes
    echo "SELECT litestream_promote();"
} | "$sqlite3" -bail copy.db
"$sqlite3" copy.db "INSERT INTO orders(item) VALUES ('chair'); SELECT group_concat(item) FROM orders"
