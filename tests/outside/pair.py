"""A primary and a replica, each in a `sqlite3` shell of its own, and what compares their files."""

import os
import queue
import socket
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR") or REPOSITORY / "target").resolve()
NAME = "liblitestream.dylib" if sys.platform == "darwin" else "liblitestream.so"
LIBRARY = Path(os.environ.get("LIBRARY") or TARGET / "release" / NAME).resolve()
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "liblitestream-outside"
PATIENCE = 300
"""Seconds for one answer. Nothing is measured; past that it hangs."""
ERRORS = ("Error", "Runtime error", "Parse error")


class Failed(Exception):
    """What SQL, or a comparison, ended with."""


class Shell:
    """A `sqlite3` process on a database, which takes SQL and answers it."""

    def __init__(self, database, load=True):
        self.asked = 0
        self.process = subprocess.Popen(
            ["sqlite3", "-batch", str(database)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        self.lines = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        if load:
            self.ask(f".load '{LIBRARY}'")

    def _read(self):
        for line in self.process.stdout:
            self.lines.put(line.rstrip("\n"))
        self.lines.put(None)

    def ask(self, sql):
        """What SQL or a dot command gives. Raises Failed with the error it ends with."""
        self.asked += 1
        end = f"--end-of-answer-{self.asked}--"
        said = []
        try:
            self.process.stdin.write(f"{sql}{'' if sql.startswith('.') else ';'}\n.print {end}\n")
            self.process.stdin.flush()
            while (line := self.lines.get(timeout=PATIENCE)) != end:
                if line is None:
                    raise Failed(
                        f"the shell ended with {self.process.wait()}, having said {said[-5:]}"
                    )
                said.append(line)
        except queue.Empty:
            raise Failed(f"no answer within {PATIENCE} s to {sql[:200]}") from None
        except BrokenPipeError:
            raise Failed(f"the shell ended with {self.process.wait()} before {sql[:200]}") from None
        if errors := [line for line in said if line.startswith(ERRORS)]:
            raise Failed("; ".join(errors))
        return "\n".join(said)

    def quit(self):
        """Ends the shell by ending its input. Fails if a signal ends it.

        Its status says no more than whether a statement failed.
        """
        self.process.stdin.close()
        if (status := self.process.wait(PATIENCE)) < 0:
            raise Failed(f"the shell was ended by signal {-status}")

    def kill(self):
        """Kills the process where it is."""
        self.process.kill()
        self.process.wait()


class Pair:
    """A served database and its replica, whose files are compared as a stock reader sees them."""

    def __init__(self, primary, replica):
        self.primary_path, self.replica_path = primary, replica
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{taken.getsockname()[1]}"
        self.replica = None
        self.primary = Shell(primary)
        try:
            self.url = self.primary.ask(f"SELECT litestream_serve('{self.address}')")
            self.follow()
        except BaseException:
            self.kill()
            raise

    def follow(self):
        """Starts the replica's process."""
        self.replica = Shell(self.replica_path)
        self.replica.ask(f"SELECT litestream_follow('{self.url}')")

    def leave(self):
        """Ends the replica's process in order."""
        self.replica.quit()
        self.replica = None

    def catch_up(self):
        """Waits until the replica has what the primary has now."""
        position = self.primary.ask("SELECT litestream_position()")
        for _ in range(PATIENCE // 10):
            if self.replica.ask(f"SELECT litestream_wait('{position}', 10000)") == "1":
                return
        status = self.replica.ask(
            "SELECT state, reason, position, last_error FROM litestream_status"
        )
        raise Failed(f"the replica did not reach {position}: {status}")

    def compare(self):
        """Fails unless the replica's file holds the primary's pages, and never was healed."""
        self.catch_up()
        one, other = pages(self.primary_path), pages(self.replica_path)
        if one != other:
            raise Failed(difference(one, other))
        here, there = check(self.primary_path), check(self.replica_path)
        if here != there:
            raise Failed(
                f"integrity_check of the replica: {there[:300]}; of the primary: {here[:300]}"
            )
        heals, failures = self.replica.ask(
            "SELECT heals, coalesce(healed, '') FROM litestream_status"
        ).split("|", 1)
        if heals != "0":
            raise Failed(f"{heals} heals, though nothing was damaged: {failures}")

    def end(self):
        """Ends both processes in order."""
        if self.replica:
            self.leave()
        self.primary.quit()

    def kill(self):
        """Ends both processes, whatever they do."""
        for shell in filter(None, (self.primary, self.replica)):
            shell.kill()


def stock(path):
    """A connection as everybody has it, without the library."""
    connection = sqlite3.connect(path, isolation_level=None, timeout=60)
    connection.text_factory = bytes
    return connection


def pages(path):
    """All pages as a reader gets them now, those of the WAL included.

    The file format versions, which mark a replica, are masked.
    """
    connection = stock(path)
    try:
        database = bytearray(connection.serialize())
    finally:
        connection.close()
    database[18:20] = b"\2\2"
    return bytes(database)


def check(path):
    """What integrity_check says, or its error, such as that of a tokenizer that is missing here."""
    connection = stock(path)
    try:
        return b"; ".join(row[0] for row in connection.execute("PRAGMA integrity_check")).decode(
            errors="replace"
        )
    except sqlite3.Error as error:
        return str(error)
    finally:
        connection.close()


def difference(one, other):
    """Says in which pages two databases differ."""
    size = int.from_bytes(one[16:18], "big")
    size = 65536 if size == 1 else size
    count = max(len(one), len(other)) // size
    differing = [
        n + 1
        for n in range(count)
        if one[n * size : n * size + size] != other[n * size : n * size + size]
    ]
    return (
        f"{len(differing)} of {count} pages differ, the first {differing[:10]}; "
        f"the primary has {len(one) // size} pages, the replica {len(other) // size}"
    )
