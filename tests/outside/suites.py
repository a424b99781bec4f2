#!/usr/bin/env python3
"""Runs SQLite's own programs, speedtest1 and mptest, on a served database with a follower.

    tests/outside/suites.py [PATTERN ...]     all runs, or those whose name contains one of these

The programs know nothing of the library, which serves the database from another process and follows
in a third one. While they run, a stock reader checks the replica over and over. At the end the
replica's file is compared with the primary's page by page. The programs come from Debian's source
package of SQLite, and SQLite itself from the crate that this project uses; `cc` builds them in a
cache folder. SIZE=n is that of speedtest1; KEEP=1 leaves what failed.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from pair import CACHE, PATIENCE, REPOSITORY, Failed, Pair, check, stock

FOLDER = CACHE / "suites"
SIZE = os.environ.get("SIZE") or "100"
MIRROR = os.environ.get("MIRROR") or "http://deb.debian.org/debian"

# Both programs begin with removing the database, which is served here and must stay.
KEEP_THE_DATABASE = """
#include <unistd.h>
#define unlink(path) 0
#define xDelete(vfs, path, sync) szOsFile
"""
OPTIONS = ["-O2", "-DSQLITE_ENABLE_RTREE", "-DSQLITE_ENABLE_FTS5", "-DSQLITE_THREADSAFE=1"]

SPEEDTEST = ["speedtest1", "--size", SIZE, "--testset"]
RUNS = {
    "speedtest1 main": [*SPEEDTEST, "main"],
    "speedtest1 main, pages of 1024 bytes": [*SPEEDTEST, "main", "--pagesize", "1024"],
    "speedtest1 main, pages of 65536 bytes": [*SPEEDTEST, "main", "--pagesize", "65536"],
    "speedtest1 main, big transactions": [*SPEEDTEST, "main", "--big-transactions"],
    "speedtest1 main, without rowid, UTF-16": [
        *SPEEDTEST, "main", "--without-rowid", "--primarykey", "--utf16le"
    ],
    "speedtest1 main, auto-vacuum": [*SPEEDTEST, "main", "--autovacuum"],
    "speedtest1 main, checkpoints": [*SPEEDTEST, "main", "--checkpoint", "--nosync"],
    "speedtest1 orm": [*SPEEDTEST, "orm"],
    "speedtest1 main, orm, fp": [*SPEEDTEST, "main,orm,fp"],
    "speedtest1 rtree": [*SPEEDTEST, "rtree"],
    "mptest multiwrite01": ["mptest", "multiwrite01.test"],
    "mptest multiwrite01, synchronous": ["mptest", "--sync", "multiwrite01.test"],
    "mptest crash01": ["mptest", "crash01.test"],
    # Not config01 and config02: they change journal mode and page size, which WAL mode forbids.
}  # fmt: skip


def main():
    patterns = sys.argv[1:]
    build()
    print(
        f"{'run':<42} {'s':>6} {'MiB':>6} {'page':>5} {'commits':>8} {'received':>8} {'checks':>6}",
        flush=True,
    )
    failed = 0
    for name, command in RUNS.items():
        if not patterns or any(pattern in name for pattern in patterns):
            failed += not tried(name, *command)
    if failed:
        sys.exit(f"{failed} differ or fail")


def build():
    """Gets the sources and builds the programs, if they are not there."""
    if all((FOLDER / program).exists() for program in ("speedtest1", "mptest")):
        return
    sources = FOLDER / "sources"
    shutil.rmtree(sources, ignore_errors=True)
    (sources / "lists/partial").mkdir(parents=True)
    (sources / "sources.list").write_text(f"deb-src {MIRROR} {codename()} main\n")
    # The machine's own lists stay as they are.
    apt = [
        "apt-get",
        "-q",
        "-o",
        f"Dir::Etc::SourceList={sources}/sources.list",
        "-o",
        "Dir::Etc::SourceParts=/dev/null",
    ]
    apt += ["-o", f"Dir::State::Lists={sources}/lists", "-o", "APT::Sandbox::User=root"]
    run([*apt, "update"], sources)
    run([*apt, "source", "--download-only", "sqlite3"], sources)
    (packed,) = sources.glob("sqlite3_*.orig.tar.*")
    run(["tar", "-xf", packed, "--strip-components=1"], sources)
    (sources / "keep.h").write_text(KEEP_THE_DATABASE)
    sqlite = amalgamation()
    keep = ["-include", sources / "keep.h", "-I", sqlite]
    run(["cc", *OPTIONS, "-c", sqlite / "sqlite3.c", "-o", "sqlite3.o"], sources)
    for program, source in [("speedtest1", "test/speedtest1.c"), ("mptest", "mptest/mptest.c")]:
        run(
            [
                "cc",
                *OPTIONS,
                *keep,
                sources / source,
                "sqlite3.o",
                "-o",
                FOLDER / program,
                "-lpthread",
                "-ldl",
                "-lm",
            ],
            sources,
        )


def codename():
    """The version of Debian whose source package is taken."""
    for line in Path("/etc/os-release").read_text().splitlines():
        if (
            line.startswith("VERSION_CODENAME=")
            and "ID=debian" in Path("/etc/os-release").read_text()
        ):
            return line.split("=")[1].strip('"')
    return "bookworm"


def amalgamation():
    """The folder with SQLite's one file, in the crate that the tests link."""
    metadata = subprocess.run(
        ["cargo", "metadata", "--locked", "--format-version", "1"],
        cwd=REPOSITORY,
        capture_output=True,
        check=True,
    )
    packages = json.loads(metadata.stdout)["packages"]
    (manifest,) = [
        package["manifest_path"] for package in packages if package["name"] == "libsqlite3-sys"
    ]
    return Path(manifest).parent / "sqlite3"


def run(command, folder):
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        sys.exit(
            f"{' '.join(map(str, command))}\nended with {done.returncode}:\n"
            f"{done.stdout}{done.stderr}"
        )


def tried(name, program, *arguments):
    """One run, and its row of the table. Whether all went well."""
    folder = Path(tempfile.mkdtemp(prefix="litestream-suites-"))
    began, row, result = time.monotonic(), [0, 0, 0, 0, 0], "equal"
    try:
        replicate(folder, program, arguments, row)
    except Exception as failure:
        result = f"FAILED: {type(failure).__name__}: {failure}"
    mib, page, commits, received, checks = row
    seconds = time.monotonic() - began
    print(
        f"{name:<42} {seconds:>6.1f} {mib:>6.1f} {page:>5} {commits:>8} {received:>8} {checks:>6} "
        f"{result}",
        flush=True,
    )
    if result == "equal" or not os.environ.get("KEEP"):
        shutil.rmtree(folder, ignore_errors=True)
    else:
        print(f"{'':<42} kept in {folder}", flush=True)
    return result == "equal"


def replicate(folder, program, arguments, row):
    database = folder / "primary.db"
    prepare(database, arguments)
    pair = Pair(database, folder / "replica.db")
    watch = Watch(pair.replica_path)
    try:
        pair.catch_up()
        watch.start()
        done = subprocess.run(
            command_of(program, arguments, database),
            cwd=FOLDER / "sources/mptest",
            capture_output=True,
            text=True,
            timeout=1800,
        )
        if done.returncode:
            raise Failed(
                f"{program} ended with {done.returncode}: {(done.stdout + done.stderr)[-600:]}"
            )
        watch.stop()
        pair.compare()
        row[:] = summary(pair, watch)
        if not row[2]:
            raise Failed(f"{program} wrote nothing to the database that is served")
        pair.end()
    finally:
        watch.stop(quietly=True)
        pair.kill()


def prepare(database, arguments):
    """An empty database in WAL mode, with the page size and encoding that the program asks for."""
    connection = stock(database)
    if "--pagesize" in arguments:
        connection.execute(f"PRAGMA page_size = {arguments[arguments.index('--pagesize') + 1]}")
    if "--utf16le" in arguments:
        connection.execute("PRAGMA encoding = 'UTF-16le'")
    if "--autovacuum" in arguments:
        connection.execute("PRAGMA auto_vacuum = FULL")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE before_the_suite(x)")
    connection.close()


def command_of(program, arguments, database):
    if program == "mptest":
        *options, script = arguments
        return [
            FOLDER / program,
            database,
            "--journalmode",
            "WAL",
            "--trace",
            "0",
            *options,
            script,
        ]
    return [FOLDER / program, *arguments, "--journal", "wal", database]


def summary(pair, watch):
    connection = stock(pair.primary_path)
    (size,) = connection.execute("PRAGMA page_size").fetchone()
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.close()
    commits = int(float(pair.primary.ask("SELECT commits FROM litestream_status") or 0))
    received = int(float(pair.replica.ask("SELECT commits FROM litestream_status") or 0))
    return [pages * size / (1 << 20), size, commits, received, watch.checks]


class Watch(threading.Thread):
    """A stock reader that checks the replica until it is stopped."""

    def __init__(self, path):
        super().__init__(daemon=True)
        self.path, self.checks, self.found, self.ended = path, 0, "", threading.Event()

    def run(self):
        while not self.ended.wait(0.1):
            said = check(self.path)
            self.checks += 1
            if said != "ok":
                self.found = said
                return

    def stop(self, quietly=False):
        """Ends it, and fails if a check found something."""
        self.ended.set()
        if self.is_alive():
            self.join(PATIENCE)
        if self.found and not quietly:
            raise Failed(f"a reader of the replica found {self.found[:300]}")


if __name__ == "__main__":
    main()
