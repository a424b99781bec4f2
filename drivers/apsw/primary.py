import apsw, sys

db = apsw.Connection("app.db")
db.enable_load_extension(True)
db.load_extension("./liblitestream")
db.enable_load_extension(False)
db.execute("PRAGMA journal_mode = WAL")
db.execute("CREATE TABLE IF NOT EXISTS orders(id INTEGER PRIMARY KEY, item TEXT)")

print(db.execute("SELECT litestream_serve(?)", (sys.argv[1],)).get)
with db:
    db.execute("INSERT INTO orders(item) VALUES ('lamp')")
print(db.execute("SELECT litestream_position()").get, flush=True)
sys.stdin.read()  # serves until the input ends
