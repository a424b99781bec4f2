//! What the application of the primary does: commits of sizes around every bound, growth,
//! shrinking, checkpoints.

use rusqlite::Connection;

use super::random::Random;
use crate::base::limits;

/// The application.
pub struct Workload {
    connection: Connection,
    /// Holds a read transaction now and then, which checkpoints have to stop at.
    reader: Connection,
    page_size: usize,
    /// Pages past which the database is made smaller.
    most_pages: usize,
}

impl Workload {
    /// Makes the database behind `connection`, in WAL mode.
    pub fn begin(connection: Connection, reader: Connection, page_size: usize, random: &mut Random) -> Workload {
        let vacuum = random.below(3);
        let made = format!(
            "PRAGMA page_size = {page_size}; PRAGMA auto_vacuum = {vacuum}; PRAGMA journal_mode = wal; \
             PRAGMA synchronous = off; PRAGMA cache_size = 1000; \
             CREATE TABLE t(id INTEGER PRIMARY KEY, x); CREATE TABLE u(id INTEGER PRIMARY KEY, a, b)"
        );
        connection.execute_batch(&made).expect("making a database");
        connection.busy_timeout(std::time::Duration::ZERO).expect("a timeout");
        let most_pages = random.one_of(&[20, 60, 150, 400]);
        Workload { connection, reader, page_size, most_pages }
    }

    /// Does one thing. What it was.
    pub fn step(&mut self, random: &mut Random) -> String {
        let did = match random.below(100) {
            0..=29 => self.insert(random),
            30..=44 => self.update(random),
            45..=54 => self.run("INSERT INTO u(a, b) SELECT id, hex(id) FROM t LIMIT 9".into()),
            55..=59 => self.run("UPDATE u SET a = a + 1 WHERE id % 3 = 0".into()),
            60..=66 => self.delete(random),
            67..=70 => self.rolled_back(random),
            71..=75 => self.unwritten(random),
            76..=80 => self.schema(random),
            81..=82 => self.run("VACUUM".into()),
            83..=85 => self.run(format!("PRAGMA incremental_vacuum({})", random.one_of(&[1, 2, 8, 1000]))),
            86..=92 => self.checkpoint(random),
            93..=94 => self.run(format!("PRAGMA user_version = {}", random.below(1 << 30))),
            95..=96 => self.run(format!("PRAGMA wal_autocheckpoint = {}", random.one_of(&[0, 3, 20, 100, 1000]))),
            97..=98 => self.read(random),
            _ => self.run("DELETE FROM t".into()),
        };
        if self.pages() > self.most_pages {
            let smaller = random.one_of(&["", "; VACUUM", "; PRAGMA incremental_vacuum", "; DELETE FROM u; VACUUM"]);
            return format!("{did}; {}", self.run(format!("DELETE FROM t WHERE id % 4 > 0{smaller}")));
        }
        did
    }

    /// All pages as the application reads them.
    pub fn pages_now(&self) -> Vec<u8> {
        super::pages(&self.connection).unwrap_or_else(|said| panic!("reading the primary: {said}"))
    }

    /// Page size of the database in bytes.
    pub fn page_size(&self) -> usize {
        self.page_size
    }

    fn pages(&self) -> usize {
        self.connection.query_row("PRAGMA page_count", [], |row| row.get::<_, i64>(0)).expect("a count") as usize
    }

    /// Statements that may find the database locked, or come to nothing.
    fn run(&self, sql: String) -> String {
        match self.connection.execute_batch(&sql) {
            Ok(()) => sql,
            Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy) => {
                format!("{sql} (busy)")
            }
            Err(error) => panic!("{sql}: {error}"),
        }
    }

    /// Bytes of a value that takes as many pages as some bound, or nearly so.
    fn size_of_a_value(&self, random: &mut Random) -> usize {
        let chunk = limits::CHUNK_BYTES;
        let bounds = [
            chunk,
            2 * chunk,
            limits::LIVE_COMMIT_BYTES,
            limits::STAGE_BYTES / 2,
            limits::STAGE_BYTES,
            2 * limits::STAGE_BYTES,
        ];
        let around = (random.one_of(&bounds) / self.page_size) as isize + random.one_of(&[-4, -3, -2, -1, 0, 1, 2]);
        let pages = if random.once_in(2) { around.max(0) as usize } else { random.below(4) };
        pages * (self.page_size - 4) + random.below(40)
    }

    fn insert(&self, random: &mut Random) -> String {
        let size = self.size_of_a_value(random);
        let rows = random.one_of(&[1, 1, 1, 2, 5]);
        self.run("BEGIN IMMEDIATE".into());
        for _ in 0..rows {
            let value = random.bytes(size / rows);
            self.connection
                .prepare_cached("INSERT INTO t(x) VALUES (?)")
                .and_then(|mut s| s.execute([value]))
                .expect("insert");
        }
        self.run("COMMIT".into());
        format!("insert {rows} rows of {size} bytes")
    }

    fn update(&self, random: &mut Random) -> String {
        let size = self.size_of_a_value(random);
        let (value, skip) = (random.bytes(size), random.below(20));
        let sql = "UPDATE t SET x = ? WHERE id = (SELECT id FROM t LIMIT 1 OFFSET ?)";
        let done = self.connection.prepare_cached(sql).and_then(|mut s| s.execute((value, skip as i64)));
        format!("update {} rows to {size} bytes", done.expect("update"))
    }

    fn delete(&self, random: &mut Random) -> String {
        let (skip, rows) = (random.below(10), random.one_of(&[1, 1, 3, 10]));
        self.run(format!("DELETE FROM t WHERE id IN (SELECT id FROM t LIMIT {rows} OFFSET {skip})"))
    }

    fn rolled_back(&self, random: &mut Random) -> String {
        let kept = if random.once_in(2) { "ROLLBACK TO a; RELEASE a; COMMIT" } else { "ROLLBACK" };
        let size = self.size_of_a_value(random);
        self.run(format!(
            "BEGIN; INSERT INTO u(a) VALUES (1); SAVEPOINT a; INSERT INTO t(x) VALUES (zeroblob({size})); {kept}"
        ))
    }

    /// Pages that come into the database and are free again at once: they are never written.
    fn unwritten(&self, random: &mut Random) -> String {
        let size = self.size_of_a_value(random);
        self.run(format!("BEGIN; INSERT INTO t VALUES (-7, zeroblob({size})); DELETE FROM t WHERE id = -7; COMMIT"))
    }

    fn schema(&self, random: &mut Random) -> String {
        self.run(
            random
                .one_of(&[
                    "CREATE INDEX IF NOT EXISTS i ON u(b, a)",
                    "DROP INDEX IF EXISTS i",
                    "CREATE TABLE IF NOT EXISTS v AS SELECT * FROM u",
                    "DROP TABLE IF EXISTS v",
                    "ANALYZE",
                ])
                .into(),
        )
    }

    fn checkpoint(&self, random: &mut Random) -> String {
        let mode = random.one_of(&["PASSIVE", "PASSIVE", "FULL", "RESTART", "TRUNCATE"]);
        self.run(format!("PRAGMA wal_checkpoint({mode})"))
    }

    fn read(&self, random: &mut Random) -> String {
        if self.reader.is_autocommit() && random.once_in(2) {
            self.reader.execute_batch("BEGIN; SELECT count(*) FROM t").expect("a reader");
            return "a reader begins".into();
        }
        if !self.reader.is_autocommit() {
            self.reader.execute_batch("COMMIT").expect("a reader");
        }
        "no reader".into()
    }
}
