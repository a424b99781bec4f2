//! Frames of a WAL applied by hand: `litestream_apply_frame`, `litestream_apply_wal` and `litestream_wal`.
//!
//! The source of the frames is always a database written by stock SQLite. What comes out is judged by stock SQLite in
//! other processes, and by comparing files byte by byte.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io::Write;
use std::path::PathBuf;

use rusqlite::{Connection, params};
use support::wal::{Frame, Header};
use support::*;

/// Where the page numbers of the second and of the third region of a wal-index start: the hash tables that a frame
/// past these must be found through.
const REGION_ONE: usize = 4062;
const REGION_TWO: usize = 4062 + 4096;

/// A database of stock SQLite, a copy of it taken at one moment, and a WAL that holds all that came after.
struct Source {
    temp: Temp,
    writer: Connection,
}

impl Source {
    fn new(page_size: u32, setup: &str) -> Source {
        let temp = Temp::new();
        let writer = plain(&temp.path("source.db"));
        writer.run(&format!("PRAGMA page_size = {page_size}; {setup}; PRAGMA journal_mode = wal"));
        // Without spilling, a transaction has each page once, as the library writes it.
        writer.run("PRAGMA wal_autocheckpoint = 0; PRAGMA cache_size = -500000");
        let source = Source { temp, writer };
        copy(&source.path(), &source.replica());
        source
    }

    fn path(&self) -> PathBuf {
        self.temp.path("source.db")
    }

    fn replica(&self) -> PathBuf {
        self.temp.path("replica.db")
    }

    fn replica_wal(&self) -> PathBuf {
        self.temp.path("replica.db-wal")
    }

    /// Runs SQL on the source and gives the frames that it added to the WAL.
    fn frames(&self, sql: &str) -> Vec<Frame> {
        let before = self.all_frames().len();
        self.writer.run(sql);
        self.all_frames().split_off(before)
    }

    fn all_frames(&self) -> Vec<Frame> {
        match self.wal_bytes() {
            bytes if bytes.is_empty() => Vec::new(),
            bytes => wal::parse(&bytes).1,
        }
    }

    fn wal_bytes(&self) -> Vec<u8> {
        file_bytes(&self.temp.path("source.db-wal"))
    }

    /// Fails unless source and replica are the same file but for the mark, each after a checkpoint that found no lock
    /// in its way.
    fn assert_same_file(self) {
        for database in [self.path(), self.replica()] {
            let checkpoint = stock(&database, "PRAGMA wal_checkpoint(TRUNCATE)");
            assert_eq!(checkpoint, "0|0|0", "checkpoint of {}", database.display());
        }
        let (replica, source) = (file_bytes(&self.replica()), file_bytes(&self.path()));
        assert_eq!(replica.len(), source.len(), "size of the database files");
        assert!(mask_mark(replica) == mask_mark(source), "pages {:?}", differing_pages(&self.path(), &self.replica()));
        assert_eq!(stock(&self.replica(), "PRAGMA integrity_check"), "ok");
    }
}

/// Applies frames one after another and gives the number of each in the WAL of the replica.
fn apply(replica: &Connection, frames: &[Frame]) -> Vec<usize> {
    let mut call = replica.prepare_cached("SELECT litestream_apply_frame(?1, ?2, ?3)").unwrap();
    let mut one = |frame: &Frame| {
        let number = call.query_row(params![frame.pgno, frame.commit, frame.page], |row| row.get::<_, u32>(0));
        number.unwrap_or_else(|e| panic!("{frame:?}: {e}")) as usize
    };
    frames.iter().map(&mut one).collect()
}

fn apply_wal(replica: &Connection, bytes: &[u8]) -> i64 {
    replica.query_row("SELECT litestream_apply_wal(?1)", [bytes], |row| row.get(0)).unwrap()
}

/// Some rows of every size, with an index.
fn rows(table: &str, count: u32, bytes: u32) -> String {
    format!(
        "CREATE TABLE {table}(id INTEGER PRIMARY KEY, name TEXT, bytes BLOB);
         WITH RECURSIVE i(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM i WHERE n < {count})
         INSERT INTO {table} SELECT n, 'row ' || n, randomblob(abs(random()) % {bytes} + 1) FROM i;
         CREATE INDEX {table}_by_name ON {table}(name)"
    )
}

#[test]
fn a_wal_of_stock_sqlite_replayed_frame_by_frame_gives_the_same_file_at_every_page_size() {
    for page_size in [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536] {
        let source = Source::new(page_size, &bank::create(20, page_size));
        let replica = loaded(&source.replica());
        let (mut other_process, this_process) = (Shell::stock(&source.replica()), plain(&source.replica()));
        for step in 1..=12u32 {
            let frames = source.frames(&bank::step(step.into(), step));
            assert_eq!(frames.iter().filter(|f| f.commit > 0).count(), 1, "one transaction");
            let (last, before) = frames.split_last().unwrap();
            apply(&replica, before);
            assert_eq!(other_process.ask("SELECT n FROM counter"), (step - 1).to_string(), "staged, not committed");
            apply(&replica, std::slice::from_ref(last));
            assert_eq!(other_process.ask("SELECT n FROM counter"), step.to_string(), "page size {page_size}");
            assert_eq!(this_process.ask::<u32>("SELECT n FROM counter"), step);
        }
        let frames = source.frames(&rows("more", 50, page_size * 3));
        apply(&replica, &frames);
        let sum = "SELECT count(*) || ' ' || sum(length(bytes)) FROM more";
        assert_eq!(other_process.ask(sum), source.writer.ask::<String>(sum));
        drop((replica, this_process, other_process));
        source.assert_same_file();
    }
}

#[test]
fn one_statement_ships_a_whole_wal() {
    let source = Source::new(4096, &rows("t", 100, 9000));
    let frames = source.frames("UPDATE t SET name = name || '!'; DELETE FROM t WHERE id % 3 = 0");
    let mut shell = Shell::open(&source.replica());
    let shipped = shell.ask(&format!(
        "SELECT count(litestream_apply_frame(pgno, \"commit\", page)) FROM
         (SELECT * FROM litestream_wal('{}-wal') WHERE valid ORDER BY frame)",
        source.path().display()
    ));
    assert_eq!(shipped, frames.len().to_string());
    assert_eq!(shell.ask("SELECT count(*) FROM t"), source.writer.ask::<i64>("SELECT count(*) FROM t").to_string());
    drop(shell);
    source.assert_same_file();
}

#[test]
fn what_is_written_is_byte_for_byte_a_wal_and_recovered_without_its_index() {
    for page_size in [512, 4096, 65536] {
        let source = Source::new(page_size, &rows("t", 40, 3000));
        let replica = loaded(&source.replica());
        // A reader keeps the WAL from being restarted, however few frames make a checkpoint due.
        let mut reader = Shell::stock(&source.replica());
        reader.run("BEGIN; SELECT count(*) FROM t");
        let mut frames = source.frames("UPDATE t SET name = name || '!'");
        frames.extend(source.frames("DELETE FROM t WHERE id % 3 = 0"));
        let numbers = apply(&replica, &frames);
        assert_eq!(numbers, (1..=frames.len()).collect::<Vec<_>>(), "numbers of the frames");
        let written = file_bytes(&source.replica_wal());
        let (header, found) = wal::parse(&written);
        assert_eq!((header.page_size, header.big), (page_size, cfg!(target_endian = "big")));
        assert_eq!(written.len(), wal::size(frames.len(), page_size), "nothing follows the last frame");
        assert!(marked(&frames) == marked(&found), "the frames are those of the source");
        assert!(wal::build(&header, &found) == written, "every byte is prescribed");
        recovers_without_index(&source);
        reader.quit();
        drop(replica);
        source.assert_same_file();
    }
}

/// Frames with the mark that page 1 gets on a replica.
fn marked(frames: &[Frame]) -> Vec<Frame> {
    let mut frames = frames.to_vec();
    frames.iter_mut().filter(|frame| frame.pgno == 1).for_each(|frame| frame.page[18] = 3);
    frames
}

/// Fails unless stock SQLite, given a copy of database and WAL of the replica and no wal-index, sees what the source has.
fn recovers_without_index(source: &Source) {
    let folder = source.temp.folder("recovered");
    copy(&source.replica(), &folder.join("copy.db"));
    copy(&source.replica_wal(), &folder.join("copy.db-wal"));
    assert_eq!(stock(&folder.join("copy.db"), "PRAGMA integrity_check"), "ok");
    assert_same_pages(&source.path(), &folder.join("copy.db"));
}

#[test]
fn a_wal_with_checksums_of_either_byte_order_is_read_and_applied() {
    for big in [false, true] {
        let source = Source::new(1024, &rows("t", 60, 3000));
        let frames = source.frames("UPDATE t SET name = name || '!'; DELETE FROM t WHERE id % 3 = 0");
        let bytes = wal::build(&Header { big, page_size: 1024, sequence: 5, salts: [77, 0xfedc_ba98] }, &frames);
        let file = source.temp.path("shipped-wal");
        std::fs::File::create(&file).unwrap().write_all(&bytes).unwrap();
        let replica = loaded(&source.replica());
        let listed = format!("SELECT count(*) FILTER (WHERE valid) FROM litestream_wal('{}')", file.display());
        assert_eq!(replica.ask::<u32>(&listed) as usize, frames.len());
        assert_eq!(apply_wal(&replica, &bytes), 2, "transactions");
        drop(replica);
        source.assert_same_file();
    }
}

#[test]
fn a_replica_whose_own_wal_has_the_other_byte_order_is_written_in_that_order() {
    for big in [false, true] {
        let source = Source::new(512, &rows("t", 60, 900));
        let had = source.frames("UPDATE t SET name = name || '!'");
        let header = Header { big, page_size: 512, sequence: 0, salts: [1, 2] };
        std::fs::write(source.replica_wal(), wal::build(&header, &had)).unwrap();
        let replica = loaded(&source.replica());
        let mut other_process = Shell::stock(&source.replica());
        assert_eq!(other_process.ask("SELECT count(*) FROM t WHERE name LIKE '%!'"), "60", "recovered from the WAL");
        let new = source.frames("DELETE FROM t WHERE id % 3 = 0");
        let numbers = apply(&replica, &new);
        assert_eq!(numbers.first(), Some(&(had.len() + 1)), "number of the first frame appended");
        assert_eq!(other_process.ask("SELECT count(*) FROM t"), "40");
        let (found, frames) = wal::parse(&file_bytes(&source.replica_wal()));
        assert_eq!(found, header);
        assert!(frames == [had, marked(&new)].concat(), "the frames it had and those appended");
        recovers_without_index(&source);
        drop((replica, other_process));
        source.assert_same_file();
    }
}

#[test]
fn a_transaction_past_the_second_region_of_the_wal_index_is_found_by_everybody() {
    let source = Source::new(512, "CREATE TABLE t(id INTEGER PRIMARY KEY, bytes BLOB)");
    let replica = loaded(&source.replica());
    let mut other_process = Shell::stock(&source.replica());
    other_process.run("SELECT count(*) FROM t");
    let grow = "WITH RECURSIVE i(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM i WHERE n < 9000)
                INSERT INTO t SELECT n, randomblob(440) FROM i";
    let frames = source.frames(grow);
    assert!(frames.len() > REGION_TWO, "{} frames in one transaction", frames.len());
    assert_eq!(apply(&replica, &frames).last(), Some(&frames.len()));
    assert_eq!(other_process.ask("SELECT count(*) FROM t"), "9000");
    assert_eq!(other_process.ask("PRAGMA integrity_check"), "ok");
    apply(&replica, &source.frames("UPDATE t SET bytes = zeroblob(440) WHERE id % 100 = 0"));
    assert_eq!(other_process.ask("SELECT count(*) FROM t WHERE bytes = zeroblob(440)"), "90");
    assert_same_pages(&source.path(), &source.replica());
    recovers_without_index(&source);
    drop((replica, other_process));
    source.assert_same_file();
}

#[test]
fn the_newest_frame_of_a_page_is_found_in_every_region_of_the_wal_index() {
    let source = Source::new(512, &rows("t", 60, 900));
    let replica = loaded(&source.replica());
    let mut holder = Shell::stock(&source.replica());
    holder.run("BEGIN; SELECT count(*) FROM t");
    let mut other_process = Shell::stock(&source.replica());
    let (mut last, mut round) = (0, 0);
    // The open read transaction keeps the WAL from starting again, so the few pages come again and again in it.
    while last <= REGION_TWO + 500 {
        round += 1;
        let sql = format!("UPDATE t SET name = 'round {round}' WHERE id % 3 = {}", round % 3);
        last = *apply(&replica, &source.frames_added(&sql)).last().unwrap();
        if round % 20 == 0 || (last > REGION_ONE && last < REGION_ONE + 100) {
            let newest =
                other_process.ask("SELECT max(CAST(substr(name, 7) AS INTEGER)) FROM t WHERE name LIKE 'round%'");
            assert_eq!(newest, round.to_string(), "at frame {last}");
        }
    }
    assert_same_pages(&source.path(), &source.replica());
    holder.run("COMMIT");
    drop((replica, holder, other_process));
    source.assert_same_file();
}

impl Source {
    /// As [`Source::frames`], for a source that is not asked twice about the same frames: starts its WAL again first.
    fn frames_added(&self, sql: &str) -> Vec<Frame> {
        self.writer.run("PRAGMA wal_checkpoint(TRUNCATE)");
        self.writer.run(sql);
        self.all_frames()
    }
}

#[test]
fn what_a_killed_writer_left_in_the_wal_index_is_cleaned_up() {
    let source = Source::new(512, &rows("t", 12_000, 900));
    let mut keeper = Shell::stock(&source.replica());
    keeper.run("SELECT count(*) FROM t");
    // A cache of ten pages makes the writer spill its uncommitted pages into the WAL and the wal-index.
    let mut writer = Shell::stock(&source.replica());
    writer.run("PRAGMA cache_size = 10; BEGIN; UPDATE t SET name = 'never', bytes = zeroblob(length(bytes))");
    let spilled = file_bytes(&source.replica_wal()).len();
    assert!(spilled > wal::size(REGION_TWO, 512), "the writer spilled {spilled} bytes into the WAL");
    writer.kill();
    let replica = loaded(&source.replica());
    for round in 0..30 {
        let sql = format!("UPDATE t SET name = 'round {round}' WHERE id % 30 = {round}");
        apply(&replica, &source.frames_added(&sql));
        let seen = keeper.ask(&format!("SELECT count(*) FROM t WHERE name = 'round {round}'"));
        assert_eq!(seen, "400", "rows of round {round}");
    }
    assert_eq!(keeper.ask("SELECT count(*) FROM t WHERE name = 'never'"), "0");
    assert_eq!(keeper.ask("PRAGMA integrity_check"), "ok");
    assert_same_pages(&source.path(), &source.replica());
    drop((replica, keeper));
    source.assert_same_file();
}

#[test]
fn a_large_transaction_of_a_killed_process_leaves_no_trace() {
    let source = Source::new(4096, &rows("t", 2000, 4000));
    let mut keeper = Shell::stock(&source.replica());
    keeper.run("SELECT count(*) FROM t");
    let mut killed = Shell::open(&source.replica());
    killed.run(
        "WITH RECURSIVE i(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM i WHERE n < 9000)
         SELECT count(litestream_apply_frame(n + 1, 0, randomblob(4096))) FROM i",
    );
    let appended = file_bytes(&source.replica_wal()).len();
    assert!(appended > wal::size(REGION_ONE, 4096), "{appended} bytes are in the WAL, not all 36 MB in memory");
    killed.kill();
    assert_eq!(keeper.ask("PRAGMA integrity_check"), "ok");
    let replica = loaded(&source.replica());
    for round in 0..10 {
        apply(&replica, &source.frames(&format!("UPDATE t SET name = 'round {round}' WHERE id % 10 = {round}")));
        assert_eq!(keeper.ask(&format!("SELECT count(*) FROM t WHERE name = 'round {round}'")), "200");
    }
    assert_same_pages(&source.path(), &source.replica());
    drop((replica, keeper));
    source.assert_same_file();
}

#[test]
fn a_transaction_staged_and_never_committed_leaves_no_trace() {
    let source = Source::new(1024, &rows("t", 60, 3000));
    let frames = source.frames("UPDATE t SET name = name || '!'");
    let (_, uncommitted) = frames.split_last().unwrap();
    let before = file_bytes(&source.replica());
    let replica = loaded(&source.replica());
    apply(&replica, uncommitted);
    drop(replica);
    // Another process may write, so no lock is left; this replica was never marked.
    let copied = source.temp.path("copied.db");
    copy(&source.replica(), &copied);
    assert!(file_bytes(&copied) == before, "the database file");
    assert_eq!(stock(&source.replica(), "BEGIN IMMEDIATE; SELECT count(*) FROM t WHERE name LIKE '%!'; COMMIT"), "0");
    assert_eq!(stock(&source.replica(), "PRAGMA wal_checkpoint(TRUNCATE)"), "0|0|0");
    assert!(file_bytes(&source.replica()) == before, "the database file after a checkpoint");
    let replica = loaded(&source.replica());
    assert_eq!(apply(&replica, &frames).last(), Some(&frames.len()), "only these frames are in the WAL");
    drop(replica);
    source.assert_same_file();
}

#[test]
fn a_database_grows_and_shrinks_as_its_source_does() {
    let setups = [
        ("none", "VACUUM; DROP TABLE b; VACUUM"),
        ("full", "DELETE FROM a WHERE id > 10; DROP TABLE b"),
        ("incremental", "PRAGMA incremental_vacuum(20); DROP TABLE b; PRAGMA incremental_vacuum"),
    ];
    for (auto_vacuum, script) in setups {
        let setup = format!("PRAGMA auto_vacuum = {auto_vacuum}; {}; {}", rows("a", 300, 3000), rows("b", 300, 3000));
        let source = Source::new(1024, &setup);
        let replica = loaded(&source.replica());
        let mut other_process = Shell::stock(&source.replica());
        let mut sizes = vec![other_process.ask("PRAGMA page_count").parse::<u32>().unwrap()];
        let grow_again = rows("c", 500, 3000);
        let script = format!("{}; DELETE FROM a WHERE id % 2; {script}; {grow_again}", rows("d", 10, 3000));
        for transaction in wal::transactions(&source.frames(&script)) {
            apply(&replica, transaction);
            let pages = transaction.last().unwrap().commit;
            assert_eq!(other_process.ask("PRAGMA page_count"), pages.to_string(), "auto_vacuum = {auto_vacuum}");
            assert_eq!(other_process.ask("PRAGMA integrity_check"), "ok");
            sizes.push(pages);
        }
        let shrunk = sizes.windows(2).any(|pair| pair[1] < pair[0]);
        let grown = sizes.windows(2).any(|pair| pair[1] > pair[0]);
        assert!(shrunk && grown, "auto_vacuum = {auto_vacuum}: {sizes:?}");
        drop((replica, other_process));
        source.assert_same_file();
    }
}

#[test]
fn a_transaction_that_wrote_pages_it_then_cut_off_is_applied() {
    let source = Source::new(512, &format!("PRAGMA auto_vacuum = full; {}", rows("t", 400, 900)));
    // A small cache makes the transaction write pages to the WAL that are beyond the end when it commits.
    source.writer.run("PRAGMA cache_size = 5");
    let frames =
        source.frames("BEGIN; UPDATE t SET bytes = zeroblob(length(bytes)); DELETE FROM t WHERE id > 20; COMMIT");
    let end = frames.last().unwrap().commit;
    assert!(end > 0 && frames.iter().any(|frame| frame.pgno > end), "no page of the WAL is beyond page {end}");
    let replica = loaded(&source.replica());
    apply(&replica, &frames);
    assert_eq!(stock(&source.replica(), "SELECT count(*) FROM t; PRAGMA page_count"), format!("20\n{end}"));
    drop(replica);
    source.assert_same_file();
}

#[test]
fn the_wal_starts_again_when_all_is_backfilled_while_readers_come_and_go() {
    let source = Source::new(512, &bank::create(60, 512));
    let replica = loaded(&source.replica());
    let (mut steady, mut coming) = (Shell::stock(&source.replica()), None);
    let mut witness = bank::Witness::default();
    let (mut restarts, mut last, mut step) = (0, 0, 0);
    while restarts < 12 {
        step += 1;
        assert!(step < 5000, "{restarts} restarts after {step} transactions, the WAL has {last} frames");
        let numbers = apply(&replica, &source.frames_added(&bank::step(step, 60)));
        restarts += u32::from(numbers[0] <= last);
        last = *numbers.last().unwrap();
        if step % 10 == 0 {
            witness.see(&steady.ask(&bank::judge("quick_check")));
        }
        // Holds a read transaction for 13 of 40 transactions, which keeps the WAL from starting again meanwhile.
        match step % 40 {
            5 => {
                let mut shell = Shell::stock(&source.replica());
                shell.run("BEGIN; SELECT n FROM counter");
                coming = Some((shell, step));
            }
            18 => {
                let (mut shell, since) = coming.take().unwrap();
                assert_eq!(shell.ask("SELECT n FROM counter"), since.to_string(), "an open read transaction");
                assert_eq!(shell.ask("PRAGMA quick_check"), "ok");
            }
            _ => {}
        }
    }
    let (header, _) = wal::parse(&file_bytes(&source.replica_wal()));
    assert!(header.sequence >= restarts, "sequence {} after {restarts} restarts", header.sequence);
    assert_same_pages(&source.path(), &source.replica());
    drop((replica, steady, coming));
    source.assert_same_file();
}

#[test]
fn the_salt_goes_up_by_one_when_the_wal_starts_again() {
    let source = Source::new(512, &bank::create(60, 512));
    let replica = loaded(&source.replica());
    let mut seen: Vec<Header> = Vec::new();
    for step in 1.. {
        apply(&replica, &source.frames_added(&bank::step(step, 60)));
        let (header, _) = wal::parse(&file_bytes(&source.replica_wal()));
        if seen.last() != Some(&header) {
            seen.push(header);
        }
        if seen.len() == 4 {
            break;
        }
        assert!(step < 2000, "{} lives of the WAL after {step} transactions", seen.len());
    }
    for pair in seen.windows(2) {
        assert_eq!(pair[1].salts[0], pair[0].salts[0].wrapping_add(1), "the first salt counts");
        assert_ne!(pair[1].salts[1], pair[0].salts[1], "the second salt is drawn anew");
        assert_eq!(pair[1].sequence, pair[0].sequence.wrapping_add(1), "the sequence counts");
    }
}

#[test]
fn apply_wal_takes_whole_transactions_raw_or_compressed() {
    let source = Source::new(1024, &rows("t", 60, 3000));
    source.frames("UPDATE t SET name = name || '!' WHERE id < 30");
    source.frames("DELETE FROM t WHERE id % 3 = 0");
    let bytes = source.wal_bytes();
    let complete = source.all_frames().len();
    let replica = loaded(&source.replica());
    // The last transaction lacks its last frame.
    let cut = &bytes[..wal::size(complete - 1, 1024)];
    assert_eq!(apply_wal(&replica, cut), 1, "transactions in a WAL that was cut");
    assert_eq!(replica.ask::<i64>("SELECT count(*) FROM t"), 60);
    assert_eq!(replica.ask::<i64>("SELECT count(*) FROM t WHERE name LIKE '%!'"), 29);
    let mut frame = lz4_flex::frame::FrameEncoder::new(Vec::new());
    frame.write_all(&bytes).unwrap();
    assert_eq!(apply_wal(&replica, &frame.finish().unwrap()), 2, "transactions in a compressed WAL");
    assert_eq!(replica.ask::<i64>("SELECT count(*) FROM t"), 40);
    drop(replica);
    source.assert_same_file();
}

#[test]
fn apply_wal_gives_zero_for_a_wal_without_transactions() {
    let source = Source::new(1024, &rows("t", 60, 3000));
    let frames = source.frames("UPDATE t SET name = name || '!'");
    let replica = loaded(&source.replica());
    let header = Header { big: false, page_size: 1024, sequence: 0, salts: [1, 2] };
    assert_eq!(apply_wal(&replica, &wal::build(&header, &[])), 0);
    assert_eq!(apply_wal(&replica, &wal::build(&header, &frames[..frames.len() - 1])), 0);
    assert_eq!(replica.ask::<i64>("SELECT count(*) FROM t WHERE name LIKE '%!'"), 0);
}

#[test]
fn litestream_wal_lists_every_frame_and_says_which_are_valid() {
    let source = Source::new(512, &rows("t", 60, 900));
    source.writer.run("UPDATE t SET name = name || '!'");
    let old = source.all_frames();
    // A checkpoint that starts the WAL again leaves the old frames in the file, behind the new ones.
    source.writer.run("PRAGMA wal_checkpoint(RESTART)");
    source.writer.run("UPDATE t SET name = 'new' WHERE id = 7");
    let bytes = source.wal_bytes();
    let (header, new) = wal::parse(&bytes);
    assert!(new.len() < old.len(), "{} new frames, {} old", new.len(), old.len());
    let file = source.temp.path("source.db-wal");
    let reader = loaded(":memory:".as_ref());
    let sql = format!("SELECT * FROM litestream_wal('{}') ORDER BY frame", file.display());
    let mut listed = reader.prepare(&sql).unwrap();
    let mut rows = listed.query([]).unwrap();
    let mut valid = Vec::new();
    for number in 1..=old.len() {
        let row = rows.next().unwrap().unwrap_or_else(|| panic!("no row for frame {number}"));
        let at = wal::size(number - 1, 512);
        let word = |n: usize| i64::from(u32::from_be_bytes(bytes[at + n * 4..at + n * 4 + 4].try_into().unwrap()));
        assert_eq!(row.get::<_, u32>("frame").unwrap() as usize, number);
        for (n, column) in ["pgno", "commit", "salt1", "salt2", "checksum1", "checksum2"].iter().enumerate() {
            assert_eq!(row.get::<_, i64>(*column).unwrap(), word(n), "{column} of frame {number}");
        }
        let page: Vec<u8> = row.get("page").unwrap();
        assert!(page == bytes[at + 24..at + 24 + 512], "page of frame {number}");
        let is_valid: bool = row.get("valid").unwrap();
        if is_valid {
            assert_eq!(row.get::<_, u32>("salt1").unwrap(), header.salts[0]);
            valid.push(Frame { pgno: row.get("pgno").unwrap(), commit: row.get("commit").unwrap(), page });
        }
    }
    assert!(rows.next().unwrap().is_none(), "rows after the last frame");
    assert!(valid == new, "the valid frames are those that follow the header");
}

#[test]
fn a_replica_fed_by_hand_is_read_only_for_everybody_until_promoted() {
    let source = Source::new(4096, &rows("t", 20, 900));
    let replica = loaded(&source.replica());
    apply(&replica, &source.frames("CREATE TABLE u(x)"));
    assert!(is_marked(&source.replica()));
    let mut other_process = Shell::stock(&source.replica());
    for write in ["INSERT INTO t(name) VALUES ('x')", "CREATE TABLE v(x)", "VACUUM", "PRAGMA user_version = 7"] {
        let error = other_process.refused(write);
        assert!(error.contains("attempt to write a readonly database"), "{write}: {error}");
    }
    assert!(plain(&source.replica()).refused("DELETE FROM t RETURNING id").contains("readonly"));
    assert_eq!(other_process.ask("PRAGMA wal_checkpoint").split('|').next(), Some("0"), "checkpoints go on");
    replica.ask::<Option<String>>("SELECT litestream_promote()");
    assert!(!is_marked(&source.replica()));
    // SQLite remembers in each connection that it has seen the mark.
    stock(&source.replica(), "INSERT INTO t(name) VALUES ('x')");
    assert_eq!(replica.ask::<i64>("SELECT count(*) FROM t WHERE name = 'x'"), 1);
}

#[test]
fn applying_waits_for_a_writer_of_another_process_to_end() {
    let source = Source::new(4096, &rows("t", 20, 900));
    let replica = loaded(&source.replica());
    let frames = source.frames("UPDATE t SET name = 'new'");
    let mut writer = Shell::stock(&source.replica());
    writer.run("BEGIN IMMEDIATE");
    let (sender, started) = std::sync::mpsc::channel();
    std::thread::scope(|threads| {
        let applying = threads.spawn(move || {
            sender.send(()).unwrap();
            apply(&replica, &frames)
        });
        started.recv().unwrap();
        assert_eq!(writer.ask("SELECT count(*) FROM t WHERE name = 'new'"), "0");
        writer.run("ROLLBACK");
        applying.join().unwrap();
    });
    assert_eq!(writer.ask("SELECT count(*) FROM t WHERE name = 'new'"), "20");
    drop(writer);
    source.assert_same_file();
}

#[test]
fn a_commit_to_a_size_that_its_wal_cannot_lead_to_is_refused() {
    let source = Source::new(512, &rows("t", 10, 300));
    let mut frames = source.frames("UPDATE t SET name = name || '!'");
    let replica = loaded(&source.replica());
    let last = frames.last_mut().unwrap();
    let size = std::mem::replace(&mut last.commit, u32::MAX);
    let header = Header { big: false, page_size: 512, sequence: 1, salts: [1, 2] };
    let error = replica.query_row("SELECT litestream_apply_wal(?1)", [wal::build(&header, &frames)], |_| Ok(()));
    assert!(error.unwrap_err().to_string().contains("a commit to 4294967295 pages"));
    assert_eq!(
        stock(&source.replica(), "PRAGMA integrity_check; SELECT count(*) FROM t WHERE name LIKE '%!'"),
        "ok\n0"
    );
    frames.last_mut().unwrap().commit = size;
    assert_eq!(apply_wal(&replica, &wal::build(&header, &frames)), 1);
    drop(replica);
    source.assert_same_file();
}

#[test]
fn stopping_drops_staged_frames_and_the_lock_that_they_hold() {
    let source = Source::new(65536, "CREATE TABLE t(x)");
    let frames = source.frames(
        "INSERT INTO t SELECT randomblob(60000) FROM (WITH RECURSIVE i(n) AS \
         (SELECT 1 UNION ALL SELECT n + 1 FROM i WHERE n < 300) SELECT n FROM i)",
    );
    let replica = loaded(&source.replica());
    let staged = frames.iter().filter(|frame| frame.commit == 0);
    for frame in staged {
        let call = "SELECT litestream_apply_frame(?1, 0, ?2)";
        replica.query_row(call, params![frame.pgno, frame.page], |row| row.get::<_, i64>(0)).unwrap();
    }
    let mut other = Shell::stock(&source.replica());
    assert!(other.refused("BEGIN IMMEDIATE").contains("locked"), "more than 16 MiB are staged");
    assert_eq!(replica.ask::<Option<String>>("SELECT litestream_stop()"), None);
    assert_eq!(other.ask("BEGIN IMMEDIATE; ROLLBACK; SELECT count(*) FROM t"), "0");
}
