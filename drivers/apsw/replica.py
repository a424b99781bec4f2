import apsw, sys

url, position = sys.argv[1:]
db = apsw.Connection("copy.db")
db.enable_load_extension(True)
db.load_extension("./liblitestream")
db.enable_load_extension(False)

db.execute("SELECT litestream_follow(?)", (url,)).fetchall()
print(db.execute("SELECT litestream_wait(?, 10000)", (position,)).get)
print(db.execute("SELECT group_concat(item) FROM orders").get)
print(*db.execute("SELECT state, sqlite_version FROM litestream_status").get, flush=True)

sys.stdin.readline()  # an empty line promotes
db.execute("SELECT litestream_promote()").fetchall()
db.close()
db = apsw.Connection("copy.db")  # opened anew, to write
db.execute("INSERT INTO orders(item) VALUES ('chair')")
print(db.execute("SELECT group_concat(item) FROM orders").get)
