import sqlite3, sys

db = sqlite3.connect("app.db")
db.enable_load_extension(True)
db.load_extension("./liblitestream")
db.enable_load_extension(False)
db.execute("PRAGMA journal_mode = WAL")
db.execute("CREATE TABLE IF NOT EXISTS orders(id INTEGER PRIMARY KEY, item TEXT)")

print(*db.execute("SELECT litestream_serve(?)", (sys.argv[1],)).fetchone())
with db:
    db.execute("INSERT INTO orders(item) VALUES ('lamp')")
print(*db.execute("SELECT litestream_position()").fetchone(), flush=True)
sys.stdin.read()  # serves until the input ends
