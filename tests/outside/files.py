#!/usr/bin/env python3
"""Replicates databases that other people made: those inside packages of Debian, PyPI and npm
(files.toml), those that programs make on the spot, and some of every page size and encoding.

    tests/outside/files.py [PATTERN ...]     all files, or those whose name contains one of these

Each is copied, put into WAL mode, served and followed. A generated workload writes to it, through a
stock connection and through the one that serves it, in turn. After each phase the replica's file
is compared with the primary's page by page, as a stock reader sees it. A difference is a failure,
and so are fewer than 30 files. SEED=n repeats a run; KEEP=1 leaves what failed; VERBOSE=1 prints
what the database itself refused.
"""

import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
import tomllib
import zipfile
from collections import Counter
from pathlib import Path

from pair import CACHE, Failed, Pair, stock
from workload import Refused, Workload

AT_LEAST = 30
LARGEST = 32 << 20
"""Size of a file, in bytes. Larger ones take too long for what they add."""
ENCODINGS = {1: "UTF-8", 2: "UTF-16le", 3: "UTF-16be"}


def row(name, size, page, encoding, tables, statements, refused, seconds, result):
    """Prints a row of the table."""
    print(
        f"{name:<60} {size:>6} {page:>5} {encoding:<8} {tables:>6} {statements:>10} {refused:>7}"
        f"{seconds:>6} {result}",
        flush=True,
    )


class Missing(Exception):
    """What cannot be had here, and why."""


def main():
    patterns = sys.argv[1:]
    seed = int(os.environ.get("SEED") or random.randrange(1 << 30))
    print(f"SEED={seed}", flush=True)
    listed = tomllib.loads((Path(__file__).parent / "files.toml").read_text())
    results = Counter()
    row("file", "KiB", "page", "encoding", "tables", "statements", "refused", "s", "result")
    for name, file in found(listed):
        if patterns and not any(pattern in name for pattern in patterns):
            continue
        results[tried(name, file, seed)] += 1
    print(", ".join(f"{count} {result}" for result, count in results.items()))
    if results["FAILED"]:
        sys.exit(1)
    if results["equal"] < AT_LEAST and not patterns:
        sys.exit(f"at least {AT_LEAST} files are wanted")


def found(listed):
    """Name and path of each database. What cannot be had is said."""
    for package in listed["package"]:
        where = f"{package['from']}:{package['name']}"
        yield from chosen(where, package, fetched)
    for made in listed["made"]:
        yield from chosen(made["name"], made, made_by)
    yield from chosen("sqlite", {"take": 99}, made_here)


def chosen(where, entry, get):
    try:
        folder = get(entry)
    except Missing as why:
        print(f"{where:<60} skipped: {why}", flush=True)
        return
    files = [path for path in sorted(folder.rglob("*")) if is_database(path)]
    files.sort(key=lambda path: (path.stat().st_size < 8 << 10, path.stat().st_size, path.name))
    if not files:
        print(f"{where:<60} skipped: no database in it", flush=True)
    for path in files[: entry.get("take", 3)]:
        yield f"{where}/{path.name}", path


def is_database(path):
    if path.is_symlink() or not path.is_file() or not 512 < path.stat().st_size <= LARGEST:
        return False
    with path.open("rb") as file:
        return file.read(16) == b"SQLite format 3\0"


def called(command, folder, **options):
    """Runs a command; Missing with the end of what it said if it fails."""
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=600, **options
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Missing(str(error)) from None
    if done.returncode:
        said = (done.stderr + done.stdout).strip().splitlines() or [f"ended with {done.returncode}"]
        raise Missing(f"{said[-1][:120]}")
    return done.stdout


def fetched(package):
    """The unpacked package, in the cache."""
    name = package["name"]
    folder = CACHE / "packages" / package["from"] / name.replace("/", "-")
    if folder.is_dir():
        return folder
    new = folder.with_name(folder.name + ".new")
    shutil.rmtree(new, ignore_errors=True)
    (new / "unpacked").mkdir(parents=True)
    {"debian": from_debian, "pypi": from_pypi, "npm": from_npm}[package["from"]](name, new)
    new.rename(folder)
    return folder


def from_debian(name, folder):
    # The user that apt downloads as may not write there.
    called(["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", name], folder)
    for package in folder.glob("*.deb"):
        called(["dpkg-deb", "-x", package, folder / "unpacked"], folder)
        package.unlink()


def from_pypi(name, folder):
    environment = CACHE / "venv"
    if not (environment / "bin/pip").exists():
        called([sys.executable, "-m", "venv", environment], CACHE)
    # No source package: making one ready runs what it brings.
    called(
        [environment / "bin/pip", "download", "-q", "--no-deps", "--only-binary=:all:", name],
        folder,
    )
    for wheel in folder.glob("*.whl"):
        with zipfile.ZipFile(wheel) as packed:
            packed.extractall(folder / "unpacked")
        wheel.unlink()


def from_npm(name, folder):
    called(["npm", "pack", "--silent", name], folder)
    for packed in folder.glob("*.tgz"):
        called(["tar", "-xzf", packed, "-C", folder / "unpacked"], folder)
        packed.unlink()


def made_by(made):
    """What a program makes, in the cache. Packages are unpacked where it is missing."""
    folder = CACHE / "made" / made["name"]
    if folder.is_dir():
        return folder
    path, libraries = [], []
    program, *packages = made["programs"] or [None]
    for name in packages if not shutil.which(program or "sh") else []:
        unpacked = fetched({"from": "debian", "name": name}) / "unpacked"
        path += [str(unpacked / "usr/bin"), str(unpacked / "bin")]
        libraries += [
            str(found) for at in ("lib", "usr/lib") for found in (unpacked / at).glob("*-linux-gnu")
        ]
    new = folder.with_name(folder.name + ".new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    variables = os.environ | {
        "PATH": os.pathsep.join(path + [os.environ["PATH"]]),
        "HOME": str(new),
        "USER": "made",
    }
    variables["LD_LIBRARY_PATH"] = os.pathsep.join(libraries)
    called(["sh", "-ec", made["script"]], new, env=variables)
    new.rename(folder)
    return folder


def made_here(_):
    """Databases of every page size and encoding, and every kind of table that SQLite has."""
    folder = CACHE / "made" / "sqlite"
    if folder.is_dir():
        return folder
    new = folder.with_name(folder.name + ".new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    for n in range(8):
        size, encoding, vacuum = 512 << n, list(ENCODINGS.values())[n % 3], n % 3
        connection = stock(new / f"{size}-{encoding}.db")
        connection.executescript(
            f"PRAGMA page_size = {size}; PRAGMA encoding = '{encoding}';"
            f"PRAGMA auto_vacuum = {vacuum};" + KINDS
        )
        connection.close()
    # Pages that end with reserved bytes, as extensions for checksums and encryption make them.
    reserved = new / "4096-reserved.db"
    shutil.copyfile(new / "4096-UTF-8.db", reserved)
    called(["sqlite3", reserved, ".filectrl reserve_bytes 32", "VACUUM"], new)
    new.rename(folder)
    return folder


KINDS = """
BEGIN;
CREATE TABLE plain(id INTEGER PRIMARY KEY, a TEXT, b BLOB, c REAL, d INTEGER UNIQUE);
WITH RECURSIVE i(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM i WHERE n < 3000)
    INSERT INTO plain SELECT n, hex(randomblob(n % 90)), randomblob(n % 700), n * 0.5, n FROM i;
CREATE TABLE keyed(k TEXT, n INTEGER, v, PRIMARY KEY (k, n)) WITHOUT ROWID;
INSERT INTO keyed SELECT substr(a, 1, 3), id, b FROM plain;
CREATE TABLE generated(
    id INTEGER PRIMARY KEY, x INTEGER, y AS (x * 2) STORED, z AS (x || 'z') VIRTUAL, w TEXT);
INSERT INTO generated(x, w) SELECT d, a FROM plain;
CREATE INDEX over_generated ON generated(z, y);
CREATE INDEX partial ON plain(a) WHERE c > 100;
CREATE TABLE strict_one(i INT NOT NULL CHECK (i >= 0), t TEXT, b BLOB) STRICT;
INSERT INTO strict_one SELECT id, a, b FROM plain LIMIT 500;
CREATE VIRTUAL TABLE words5 USING fts5(a, b, prefix = '2 3');
INSERT INTO words5 SELECT a, hex(b) FROM plain LIMIT 800;
CREATE VIRTUAL TABLE words4 USING fts4(a, b);
INSERT INTO words4 SELECT a, c FROM plain LIMIT 800;
CREATE VIRTUAL TABLE boxes USING rtree(id, x0, x1, y0, y1);
INSERT INTO boxes SELECT id, id, id + 3, c, c + 2 FROM plain LIMIT 800;
CREATE TABLE counted(
    id INTEGER PRIMARY KEY AUTOINCREMENT, of INTEGER REFERENCES plain(id) ON DELETE CASCADE);
INSERT INTO counted(of) SELECT id FROM plain;
CREATE TABLE large(id INTEGER PRIMARY KEY, b BLOB);
INSERT INTO large VALUES (1, zeroblob(300000)), (2, randomblob(200000)), (3, NULL);
CREATE TRIGGER noted AFTER UPDATE OF a ON plain
    BEGIN INSERT INTO large(b) VALUES (randomblob(40)); END;
CREATE VIEW seen AS SELECT a, b FROM plain JOIN counted ON of = plain.id;
COMMIT;
ANALYZE;
"""


def tried(name, file, seed):
    """Replicates a copy of one file and prints its row. The result: equal, skipped or FAILED."""
    folder = Path(tempfile.mkdtemp(prefix="litestream-files-"))
    began, run = time.monotonic(), Run()
    try:
        replicate(folder, file, f"{seed}/{name}", run)
        result = "equal"
    except Missing as why:
        result = f"skipped: {why}"
    except Exception as failure:
        result = f"FAILED in {run.phase}: {type(failure).__name__}: {failure}"
    seconds = f"{time.monotonic() - began:.1f}"
    counts = (run.tables, run.statements, run.refused)
    row(name, run.size >> 10, run.page_size, run.encoding, *counts, seconds, result)
    if result.startswith("FAILED") and os.environ.get("KEEP"):
        print(f"{'':<60} kept in {folder}", flush=True)
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return result.split(":")[0].split(" ")[0]


class Run:
    """What the table says of a file."""

    size = page_size = tables = statements = refused = 0
    encoding = phase = ""


def replicate(folder, file, seed, run):
    """Copies a database, serves and follows the copy, and writes to it."""
    path = folder / "primary.db"
    shutil.copyfile(file, path)
    run.size, run.phase = path.stat().st_size, "preparing"
    writer = stock(path)
    try:
        (run.page_size,) = writer.execute("PRAGMA page_size").fetchone()
        run.encoding = writer.execute("PRAGMA encoding").fetchone()[0].decode()
        (mode,) = writer.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != b"wal":
            raise Missing(f"it does not go into WAL mode: {mode}")
    except sqlite3.Error as error:
        raise Missing(f"SQLite cannot read it: {error}") from None
    pair = Pair(path, folder / "replica.db")
    try:
        phases(pair, writer, seed, run)
        writer.close()
        pair.end()
    finally:
        writer.close()
        pair.kill()


def phases(pair, writer, seed, run):
    def by_stock(sql):
        try:
            writer.execute(sql).fetchall()
        except sqlite3.Error as error:
            raise Refused(str(error)) from None

    def by_server(sql):
        try:
            pair.primary.ask(sql)
        except Failed as error:
            if "the shell ended" in str(error) or "no answer" in str(error):
                raise
            raise Refused(str(error)) from None

    work = Workload(seed, lambda sql: writer.execute(sql).fetchall(), [by_stock, by_server])
    run.tables = len(work.tables)

    def away():
        pair.leave()
        work.updates()
        work.inserts(5)
        pair.follow()

    def killed():
        pair.replica.kill()
        work.updates()
        work.vacuum()
        pair.follow()

    for phase, step in [
        ("the first copy", lambda: None),
        ("updates", work.updates),
        ("deletes", work.deletes),
        ("inserts", work.inserts),
        ("indexes", work.indexes),
        ("everything", work.everything),
        ("a vacuum", work.vacuum),
        ("checkpoints", work.checkpoints),
        ("a replica that was away", away),
        ("updates again", work.updates),
        ("a replica that was killed", killed),
        ("the last updates", work.updates),
    ]:
        run.phase = phase
        step()
        run.statements, run.refused = work.statements, work.refused
        pair.compare()


if __name__ == "__main__":
    main()
