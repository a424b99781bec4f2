"""A generated workload for a database of anybody's: it knows no more of it than its schema says.

Every statement is text, so that a stock connection and the shell that serves the database can both
run it. What the database itself refuses is no failure: a constraint, or a trigger that calls a
function of its application.
"""

import os
import random
import sqlite3

FOREIGN = (
    "no such function",
    "no such module",
    "no such collation",
    "no such tokenizer",
    "unknown tokenizer",
    "may not be",
)
"""Errors of a table that only its own application can write to."""


def quoted(name):
    return '"' + name.replace('"', '""') + '"'


class Table:
    """A table that rows can be written to."""

    def __init__(self, query, name, without_rowid, virtual):
        self.name = quoted(name)
        self.query, self.virtual = query, virtual
        columns = query(f"SELECT name, type, pk, hidden FROM pragma_table_xinfo({text(name)})")
        written = [
            (quoted(name.decode()), declared.decode().upper(), pk)
            for name, declared, pk, hidden in columns
            if not hidden
        ]
        self.columns = [name for name, _, _ in written]
        keys = [name for name, _, pk in written if pk]
        self.key = f"({', '.join(keys)})" if without_rowid else "rowid"
        self.picked = ", ".join(keys) if without_rowid else "rowid"
        self.keys = keys
        # The key of a rowid table is given anew to each copy of a row.
        alias = (
            len(keys) == 1
            and not without_rowid
            and any(pk and declared == "INTEGER" for _, declared, pk in written)
        )
        self.copied = [name for name, _, pk in written if not (alias and pk)]
        self.values = [name for name in self.columns if name not in keys] or self.columns

    def some(self, chance, rows, many):
        """An expression that picks `many` rows in a row, somewhere among `rows`."""
        at = chance.randrange(max(1, rows - many + 1))
        if self.virtual:  # An R-Tree cannot be written to while it is read.
            found = self.query(f"SELECT rowid FROM {self.name} LIMIT {many} OFFSET {at}")
            return f"rowid IN ({', '.join(str(row[0]) for row in found)})"
        return f"{self.key} IN (SELECT {self.picked} FROM {self.name} LIMIT {many} OFFSET {at})"


def text(value):
    return "'" + value.replace("'", "''") + "'"


class Workload:
    """Writes to a database through `executors`, which take one statement each, in turn."""

    def __init__(self, seed, query, executors):
        self.chance = random.Random(seed)
        self.query, self.executors = query, executors
        self.statements = self.refused = 0
        self.given_up = set()
        self.made = []
        self.tables = []
        self.look()

    def look(self):
        """Reads the schema."""
        found = self.query(
            "SELECT name, wr, type = 'virtual' FROM pragma_table_list "
            "WHERE schema = 'main' AND type IN ('table', 'virtual') "
            "AND name NOT LIKE 'sqlite~_%' ESCAPE '~' ORDER BY name"
        )
        self.tables = []
        for name, without_rowid, virtual in found:
            try:
                self.tables.append(Table(self.query, name.decode(), without_rowid, virtual))
            except sqlite3.Error:  # Of a module that is not here.
                self.given_up.add(quoted(name.decode()))
                self.refused += 1
        self.tables = [
            table for table in self.tables if table.columns and table.name not in self.given_up
        ]

    def rows(self, table):
        """How many rows a table has, up to 20,000."""
        try:
            return self.query(f"SELECT count(*) FROM (SELECT 1 FROM {table.name} LIMIT 20000)")[0][
                0
            ]
        except sqlite3.Error:
            self.give_up(table)
            return 0

    def give_up(self, table):
        self.given_up.add(table.name)
        self.tables = [other for other in self.tables if other.name != table.name]

    def run(self, sql, table=None):
        """Runs one statement through the next executor. Whether the database took it."""
        self.statements += 1
        execute = self.executors[self.statements % len(self.executors)]
        try:
            execute(sql)
            return True
        except Refused as error:
            self.refused += 1
            if os.environ.get("VERBOSE"):
                print(f"    {error}: {sql[:200]}")
            if table and any(sign in str(error) for sign in FOREIGN):
                self.give_up(table)
            return False

    def value(self, column, longest=400):
        """An expression for a new value of a column, up to twice `longest` bytes longer."""
        n = self.chance.randrange(1, longest)
        return self.chance.choice(
            [
                f"CASE typeof({column}) WHEN 'integer' THEN {column} + 1 "
                f"WHEN 'real' THEN {column} * 1.5 WHEN 'blob' THEN {column} || zeroblob({n}) "
                f"ELSE {column} || hex(randomblob({n})) END",
                f"CASE typeof({column}) WHEN 'text' THEN substr({column}, 1, {n % 7}) "
                f"WHEN 'blob' THEN randomblob({n}) ELSE {column} END",
                column,
            ]
        )

    def updates(self, times=40):
        """Updates random rows of random tables."""
        for _ in range(times):
            if not self.tables:
                return
            table = self.chance.choice(self.tables)
            rows = self.rows(table)
            many = self.chance.choice([1, 1, 1, 3, 30, 300])
            chosen = self.chance.sample(
                table.values, self.chance.randint(1, min(3, len(table.values)))
            )
            sets = ", ".join(f"{column} = {self.value(column)}" for column in chosen)
            self.run(
                f"UPDATE OR IGNORE {table.name} SET {sets} "
                f"WHERE {table.some(self.chance, rows, many)}",
                table,
            )

    def deletes(self, times=15):
        """Deletes random rows."""
        for _ in range(times):
            if not self.tables:
                return
            table = self.chance.choice(self.tables)
            many = self.chance.choice([1, 1, 5, 100])
            self.run(
                f"DELETE FROM {table.name} WHERE {table.some(self.chance, self.rows(table), many)}",
                table,
            )

    def inserts(self, times=15):
        """Inserts copies of rows, and of some columns of rows where the whole is unique."""
        for _ in range(times):
            if not self.tables:
                return
            table = self.chance.choice(self.tables)
            if not table.copied:
                continue
            many = self.chance.choice([1, 10, 1000])
            columns = ", ".join(table.copied)
            values = ", ".join(
                self.value(c) if self.chance.random() < 0.5 else c for c in table.copied
            )
            chosen = table.some(self.chance, self.rows(table), many)
            self.run(
                f"INSERT OR IGNORE INTO {table.name} ({columns}) "
                f"SELECT {values} FROM {table.name} WHERE {chosen}",
                table,
            )

    def indexes(self, times=4):
        """Makes indexes, and drops some."""
        for n in range(times):
            if not self.tables:
                return
            table = self.chance.choice(self.tables)
            columns = ", ".join(
                self.chance.sample(
                    table.columns, self.chance.randint(1, min(2, len(table.columns)))
                )
            )
            name = f"outside_{len(self.made)}_{n}"
            if self.run(f"CREATE INDEX {name} ON {table.name} ({columns})"):
                self.made.append(name)
            if self.made and self.chance.random() < 0.4:
                self.run(f"DROP INDEX {self.made.pop()}")

    def everything(self):
        """Updates every row of the largest table in one transaction, and copies the table."""
        if not self.tables:
            return
        largest = max(self.tables, key=self.rows)
        column = self.chance.choice(largest.values)
        self.run(
            f"UPDATE OR IGNORE {largest.name} SET {column} = {self.value(column, 40)}", largest
        )
        self.run("DROP TABLE IF EXISTS outside_copy")
        self.run(f"CREATE TABLE outside_copy AS SELECT * FROM {largest.name}")
        self.look()

    def vacuum(self):
        """Gives free pages back where auto-vacuum is incremental, and writes all of it anew."""
        self.run("DROP TABLE IF EXISTS outside_copy")
        self.run("PRAGMA incremental_vacuum(7)")
        self.run("VACUUM")
        self.look()

    def checkpoints(self):
        """Empties the WAL as an application does, between updates."""
        for mode in ("TRUNCATE", "RESTART", "PASSIVE", "FULL"):
            self.updates(5)
            self.run(f"PRAGMA wal_checkpoint({mode})")
        self.updates(5)


class Refused(Exception):
    """What the database did not take."""
