//! A replica whose upstream can be told to misbehave.

use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use super::stream::{self, At, Record, SEGMENT, SNAPSHOT};
use super::{Shell, Sql, Temp, Upstream, file_bytes, mask_mark, plain, stock};

/// Where the upstream is at first, and where it is when it misbehaves.
pub const FIRST: At = At(0x1234_5678_9abc_def0, 0, 32 + 536);
pub const LATER: At = At(0x1234_5678_9abc_def0, 0, 32 + 3 * 536);

/// The history of the version 1 streams, which no replica knows.
pub const OTHER: u64 = 0x1111_2222_3333_4444;

/// What an upstream answers to the next request.
#[derive(Clone)]
pub enum Answer {
    /// A version 2 stream that ends in order.
    V2(Vec<u8>),
    /// A version 2 stream that is cut off.
    V2Cut(Vec<u8>),
    /// A version 1 stream that goes silent, as those of 2022 do.
    V1(Vec<u8>),
    /// A version 1 stream that ends in order.
    V1Ended(Vec<u8>),
    /// Bytes, and then the connection ends.
    Raw(Vec<u8>),
    /// Nothing, for ever.
    Silence,
}

/// A replica of an upstream that can be told what to answer.
pub struct Victim {
    pub temp: Temp,
    pub page_size: u32,
    pub upstream: Upstream,
    pub answer: Arc<Mutex<Answer>>,
    pub shell: Shell,
    /// The database it has.
    pub bytes: Vec<u8>,
    /// Its position.
    pub position: String,
}

impl Victim {
    /// A replica of a small database, up to date.
    pub fn new(page_size: u32) -> Victim {
        let bytes = database(page_size, 20);
        let mut victim = Victim::empty(page_size);
        victim.says(Answer::V2(stream::encode(&stream::everything(FIRST, &bytes, page_size))));
        victim.position = victim.shell.ask(&victim.pull());
        assert_eq!(victim.position, FIRST.to_string());
        victim.rest();
        victim.bytes = file_bytes(&victim.path());
        assert!(mask_mark(victim.bytes.clone()) == bytes, "the replica starts with what it was sent");
        victim
    }

    /// A replica that has nothing yet.
    pub fn empty(page_size: u32) -> Victim {
        let answer = Arc::new(Mutex::new(Answer::Silence));
        let says = Arc::clone(&answer);
        let upstream = Upstream::start(move |_, reply| {
            let answer = says.lock().unwrap().clone();
            match answer {
                Answer::V2(bytes) => {
                    reply.stream_v2(page_size);
                    reply.send(&bytes);
                    reply.end();
                }
                Answer::V2Cut(bytes) => {
                    reply.stream_v2(page_size);
                    reply.send(&bytes);
                }
                Answer::V1(bytes) => {
                    reply.stream_v1(page_size);
                    reply.send(&bytes);
                    reply.hold();
                }
                Answer::V1Ended(bytes) => {
                    reply.stream_v1(page_size);
                    reply.send(&bytes);
                    reply.end();
                }
                Answer::Raw(bytes) => reply.raw(&bytes),
                Answer::Silence => reply.hold(),
            }
        });
        let temp = Temp::new();
        let shell = Shell::open(&temp.path("replica.db"));
        Victim { temp, page_size, upstream, answer, shell, bytes: Vec::new(), position: String::new() }
    }

    pub fn path(&self) -> PathBuf {
        self.temp.path("replica.db")
    }

    pub fn says(&self, answer: Answer) {
        *self.answer.lock().unwrap() = answer;
    }

    pub fn url(&self) -> String {
        format!("{}/app.db", self.upstream.url())
    }

    /// SQL that pulls. Only silence is waited for for less than the usual time.
    pub fn pull(&self) -> String {
        let timeout = if matches!(*self.answer.lock().unwrap(), Answer::Silence) { 500 } else { 60_000 };
        format!("SELECT litestream_pull('{}', '{{\"timeout_ms\": {timeout}}}')", self.url())
    }

    /// Fails unless pulling what `answer` gives is an error, which is returned, and changes nothing.
    pub fn refuses(&mut self, what: &str, answer: Answer) -> String {
        self.says(answer);
        let pull = self.pull();
        match self.shell.answer(&pull) {
            Ok(position) => panic!("{what}: pulled to {position} and should have been refused"),
            Err(error) => {
                self.assert_untouched(what);
                error
            }
        }
    }

    /// Fails unless the replica is as it was, and every lock can be had by another process.
    pub fn assert_untouched(&mut self, what: &str) {
        if self.bytes.is_empty() {
            assert!(file_bytes(&self.path()).is_empty(), "{what}: the file of a new replica is not empty");
            assert_eq!(stock(&self.path(), "BEGIN EXCLUSIVE; SELECT count(*) FROM sqlite_schema"), "0", "{what}");
            return;
        }
        assert_eq!(self.shell.ask("SELECT litestream_position()"), self.position, "{what}: the position");
        assert_eq!(self.shell.ask("PRAGMA integrity_check; SELECT count(*) FROM t"), "ok\n20", "{what}");
        self.rest();
        assert!(file_bytes(&self.path()) == self.bytes, "{what}: the file of the replica changed");
    }

    /// Puts all of the WAL into the file, which takes every lock there is, in another process.
    pub fn rest(&self) {
        let checkpoint = stock(&self.path(), "PRAGMA wal_checkpoint(TRUNCATE)");
        assert_eq!(checkpoint, "0|0|0", "a checkpoint in another process");
    }

    /// Fails unless a right stream is still taken, by another process as well while this one lives.
    pub fn takes_what_is_right(&mut self) {
        let bytes = database(self.page_size, 30);
        self.says(Answer::V2(stream::encode(&stream::everything(LATER, &bytes, self.page_size))));
        let pull = self.pull();
        assert_eq!(Shell::open(&self.path()).ask(&pull), LATER.to_string());
        assert_eq!(self.shell.ask(&pull), LATER.to_string());
        assert_eq!(self.shell.ask("PRAGMA integrity_check; SELECT count(*) FROM t"), "ok\n30");
        self.rest();
        assert!(mask_mark(file_bytes(&self.path())) == bytes, "the right stream was taken wrongly");
    }
}

/// A database as bytes.
pub fn database(page_size: u32, rows: u32) -> Vec<u8> {
    let temp = Temp::new();
    let path = temp.path("made.db");
    stock(
        &path,
        &format!(
            "PRAGMA page_size = {page_size}; PRAGMA journal_mode = wal; CREATE TABLE t(id INTEGER PRIMARY KEY, x);
             WITH RECURSIVE i(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM i WHERE n < {rows})
             INSERT INTO t SELECT n, hex(randomblob({page_size} / 8)) FROM i"
        ),
    );
    file_bytes(&path)
}

/// The records of a version 1 stream: a snapshot, then the WAL in four segments of which the first is its header.
pub fn version_one(page_size: u32) -> (Vec<Record>, Vec<u8>) {
    let temp = Temp::new();
    let path = temp.path("made.db");
    let writer = plain(&path);
    writer.run(&format!("PRAGMA page_size = {page_size}; PRAGMA journal_mode = wal; PRAGMA wal_autocheckpoint = 0"));
    writer.run("CREATE TABLE t(id INTEGER PRIMARY KEY, x); PRAGMA wal_checkpoint(TRUNCATE)");
    let snapshot = file_bytes(&path);
    let mut ends = vec![0, 32];
    for n in 0..3 {
        writer.run(&format!("INSERT INTO t(x) VALUES (hex(randomblob({page_size}))), ({n})"));
        ends.push(file_bytes(&temp.path("made.db-wal")).len());
    }
    let wal = file_bytes(&temp.path("made.db-wal"));
    let mut records = vec![Record::new(SNAPSHOT, At(OTHER, 0, 0), snapshot)];
    records.extend(ends.windows(2).map(|pair| segment(pair[0] as u64, &wal[pair[0]..pair[1]])));
    (records, wal)
}

pub fn segment(offset: u64, bytes: &[u8]) -> Record {
    let mut frame = lz4_flex::frame::FrameEncoder::new(Vec::new());
    frame.write_all(bytes).unwrap();
    Record::new(SEGMENT, At(OTHER, 0, offset), frame.finish().unwrap())
}
