import concurrent.futures, queue, sqlite3, sys


def opened():
    db = sqlite3.connect("app.db", timeout=10, check_same_thread=False)
    db.enable_load_extension(True)
    db.load_extension("./liblitestream")
    db.enable_load_extension(False)
    return db


def sell(_):
    db = pool.get()
    with db:
        db.execute("INSERT INTO orders(item) VALUES ('lamp')")
    position, = db.execute("SELECT litestream_position()").fetchone()  # any connection of the process knows it
    pool.put(db)
    return position


db = opened()
db.execute("PRAGMA journal_mode = WAL")
db.execute("CREATE TABLE IF NOT EXISTS orders(id INTEGER PRIMARY KEY, item TEXT)")
print(*db.execute("SELECT litestream_serve(?)", (sys.argv[1],)).fetchone())
db.close()  # it is served all the same, until the process ends

pool = queue.Queue()
for _ in range(4):
    pool.put(opened())
with concurrent.futures.ThreadPoolExecutor(8) as threads:
    print(max(threads.map(sell, range(40))), flush=True)
sys.stdin.read()
