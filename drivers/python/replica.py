import sqlite3, sys

url, position = sys.argv[1:]
db = sqlite3.connect("copy.db")
db.enable_load_extension(True)
db.load_extension("./liblitestream")
db.enable_load_extension(False)

db.execute("SELECT litestream_follow(?)", (url,)).fetchone()
print(*db.execute("SELECT litestream_wait(?, 10000)", (position,)).fetchone())
print(*db.execute("SELECT group_concat(item) FROM orders").fetchone())
print(*db.execute("SELECT state, sqlite_version FROM litestream_status").fetchone(), flush=True)

sys.stdin.readline()  # an empty line promotes
db.execute("SELECT litestream_promote()").fetchone()
db.close()
db = sqlite3.connect("copy.db")  # opened anew, to write
with db:
    db.execute("INSERT INTO orders(item) VALUES ('chair')")
print(*db.execute("SELECT group_concat(item) FROM orders").fetchone())
