import multiprocessing, sqlite3, sys

WORKERS = 3


def work(address, written, urls, end):
    db = sqlite3.connect("app.db", timeout=10)  # in the worker, not before the fork
    db.enable_load_extension(True)
    db.load_extension("./liblitestream")
    try:
        url, = db.execute("SELECT litestream_serve(?)", (address,)).fetchone()
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
            raise
        url = None  # another worker serves it
    with db:
        db.execute("INSERT INTO orders(item) VALUES ('lamp')")
    written.wait()
    if url:
        urls.put((url, *db.execute("SELECT litestream_position()").fetchone()))
    end.wait()


if __name__ == "__main__":
    workers = multiprocessing.get_context(sys.argv[1])  # fork, spawn or forkserver
    db = sqlite3.connect("app.db")
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("CREATE TABLE IF NOT EXISTS orders(id INTEGER PRIMARY KEY, item TEXT)")
    db.close()  # nothing of SQLite's is open when the workers begin

    written, urls, end = workers.Barrier(WORKERS), workers.Queue(), workers.Event()
    started = [workers.Process(target=work, args=(sys.argv[2], written, urls, end)) for _ in range(WORKERS)]
    for worker in started:
        worker.start()
    print(*urls.get(), sep="\n", flush=True)
    sys.stdin.read()  # works until the input ends
    end.set()
    for worker in started:
        worker.join()
    sys.exit(max(worker.exitcode for worker in started))
