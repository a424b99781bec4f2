//! What comes in wrong, from the user or from the other end of a socket, is refused: it changes nothing of the replica,
//! does not harm the process, and leaves no lock behind.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use support::stream::{At, BEGIN, COMMIT, ERROR, HEARTBEAT, PAGES, Record, SEGMENT, SNAPSHOT};
use support::*;

/// Where the upstream is at first, and where it is when it misbehaves.
const FIRST: At = At(0x1234_5678_9abc_def0, 0, 32 + 536);
const LATER: At = At(0x1234_5678_9abc_def0, 0, 32 + 3 * 536);

/// A database as bytes.
fn database(page_size: u32, rows: u32) -> Vec<u8> {
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

/// What an upstream answers to the next request.
#[derive(Clone)]
enum Answer {
    /// A version 2 stream that ends in order.
    V2(Vec<u8>),
    /// A version 2 stream that is cut off.
    V2Cut(Vec<u8>),
    /// A version 1 stream that ends in order.
    V1(Vec<u8>),
    /// Bytes, and then the connection ends.
    Raw(Vec<u8>),
    /// Nothing, for ever.
    Silence,
}

/// A replica of an upstream that can be told what to answer.
struct Victim {
    temp: Temp,
    page_size: u32,
    upstream: Upstream,
    answer: Arc<Mutex<Answer>>,
    shell: Shell,
    /// The database it has.
    bytes: Vec<u8>,
    /// Its position.
    position: String,
}

impl Victim {
    /// A replica of a small database, up to date.
    fn new(page_size: u32) -> Victim {
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
    fn empty(page_size: u32) -> Victim {
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

    fn path(&self) -> PathBuf {
        self.temp.path("replica.db")
    }

    fn says(&self, answer: Answer) {
        *self.answer.lock().unwrap() = answer;
    }

    fn pull(&self) -> String {
        format!("SELECT litestream_pull('{}/app.db', '{{\"timeout_ms\": 500}}')", self.upstream.url())
    }

    /// Fails unless pulling what `answer` gives is an error, which is returned, and changes nothing.
    fn refuses(&mut self, what: &str, answer: Answer) -> String {
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
    fn assert_untouched(&mut self, what: &str) {
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
    fn rest(&self) {
        let checkpoint = stock(&self.path(), "PRAGMA wal_checkpoint(TRUNCATE)");
        assert_eq!(checkpoint, "0|0|0", "a checkpoint in another process");
    }

    /// Fails unless a right stream is still taken.
    fn takes_what_is_right(&mut self) {
        let bytes = database(self.page_size, 30);
        self.says(Answer::V2(stream::encode(&stream::everything(LATER, &bytes, self.page_size))));
        let pull = self.pull();
        assert_eq!(self.shell.ask(&pull), LATER.to_string());
        assert_eq!(self.shell.ask("PRAGMA integrity_check; SELECT count(*) FROM t"), "ok\n30");
        self.rest();
        assert!(mask_mark(file_bytes(&self.path())) == bytes, "the right stream was taken wrongly");
    }
}

/// Where a stream of these records may be cut so that its last commit is missing: at the start of each record, inside
/// its header, after its header, inside its payload, before its last byte.
fn cuts(records: &[Record]) -> Vec<usize> {
    let mut places = Vec::new();
    let mut start = 0;
    for record in records {
        let end = start + 40 + record.payload.len();
        places.extend([start, start + 1, start + 20, start + 40, (start + 40 + end) / 2, end - 1]);
        start = end;
    }
    places.dedup();
    places
}

#[test]
fn a_stream_cut_anywhere_changes_nothing() {
    let new = database(512, 30);
    let everything = stream::everything(LATER, &new, 512);
    let mut changes = everything.clone();
    changes[0] = stream::begin(LATER, 512, false, 9);
    for (what, records) in [("everything", everything), ("changes", changes)] {
        let bytes = stream::encode(&records);
        let mut victim = Victim::new(512);
        for at in cuts(&records) {
            let part = bytes[..at].to_vec();
            victim.refuses(&format!("{what}, ended at byte {at}"), Answer::V2(part.clone()));
            victim.refuses(&format!("{what}, cut at byte {at}"), Answer::V2Cut(part));
        }
        victim.takes_what_is_right();
    }
}

#[test]
fn a_new_replica_whose_stream_is_cut_anywhere_stays_empty() {
    let records = stream::everything(FIRST, &database(512, 30), 512);
    let bytes = stream::encode(&records);
    let mut victim = Victim::empty(512);
    for at in cuts(&records) {
        let part = bytes[..at].to_vec();
        victim.refuses(&format!("ended at byte {at}"), Answer::V2(part.clone()));
        victim.refuses(&format!("cut at byte {at}"), Answer::V2Cut(part));
    }
    victim.takes_what_is_right();
}

/// Streams of version 2 that are wrong, each with what is wrong and a word that the error must contain.
fn wrong_streams(page_size: u32) -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let new = database(page_size, 30);
    let size = page_size as usize;
    let good = stream::everything(LATER, &new, page_size);
    let count = (new.len() / size) as u32;
    let page = |n: u32| (n, &new[(n as usize - 1) * size..n as usize * size]);
    let begin = || stream::begin(LATER, page_size, true, u64::from(count));
    let commit = || stream::commit(LATER, count);
    let with = |records: &[Record]| stream::encode(records);
    let instead = |at: usize, record: Record| {
        let mut records = good.clone();
        records[at] = record;
        stream::encode(&records)
    };
    let absurd = |kind: u32, bytes: u64| {
        let mut stream = if kind == BEGIN { Vec::new() } else { begin().encode() };
        stream.extend(Record::new(kind, LATER, Vec::new()).header(bytes));
        stream.extend_from_slice(&new);
        stream
    };
    let mut flagged = stream::encode(&good);
    flagged[40 + 16 + 7] = 1;
    let mut short_count = stream::pages(&[page(1), page(2)]);
    short_count.payload[3] = 1;
    let mut zero_count = stream::pages(&[page(1)]);
    zero_count.payload[3] = 0;
    let mut mode = begin();
    mode.payload[7] = 2;
    let mut reserved = commit();
    reserved.payload[7] = 1;
    let lock_page = (1 << 30) / page_size + 1;
    let zeros = vec![0; size];
    let other_size = if page_size == 512 { 1024 } else { 512 };
    vec![
        ("a record of type 0", instead(1, Record::new(0, LATER, vec![0; 600])), "type 0"),
        ("a record of type 8", instead(1, Record::new(8, LATER, vec![0; 600])), "type 8"),
        ("a record with flags", flagged, "flags"),
        ("a snapshot in version 2", instead(1, Record::new(SNAPSHOT, LATER, new.clone())), "napshot"),
        ("a segment in version 2", instead(1, Record::new(SEGMENT, LATER, vec![0; 600])), "egment"),
        ("a begin record of 2^63 bytes", absurd(BEGIN, 1 << 63), "9223372036854775808"),
        ("a pages record of 2^63 bytes", absurd(PAGES, 1 << 63), "9223372036854775808"),
        ("a pages record of 2^64 - 1 bytes", absurd(PAGES, u64::MAX), "18446744073709551615"),
        ("a pages record of 1 GiB", absurd(PAGES, 1 << 30), "1073741824"),
        ("a commit record of 2^63 bytes", absurd(COMMIT, 1 << 63), "9223372036854775808"),
        ("a heartbeat of 2^63 bytes", absurd(HEARTBEAT, 1 << 63), "9223372036854775808"),
        ("an error record of 2^63 bytes", absurd(ERROR, 1 << 63), "9223372036854775808"),
        ("no begin record", with(&good[1..]), "begin"),
        ("a second begin record instead of pages", instead(1, begin()), ""),
        ("a begin record that is too short", instead(0, Record::new(BEGIN, LATER, vec![0; 15])), "15"),
        ("a page size of 0", instead(0, stream::begin(LATER, 0, true, 1)), "page size 0"),
        ("a page size of 1000", instead(0, stream::begin(LATER, 1000, true, 1)), "page size 1000"),
        ("an unknown mode", instead(0, mode), "mode 2"),
        ("pages of another size", instead(0, stream::begin(LATER, other_size, true, 9)), "pages"),
        ("page number 0", instead(1, stream::pages(&[page(1), (0, &zeros)])), "page number 0"),
        ("the lock-byte page", instead(1, stream::pages(&[page(1), (lock_page, &zeros)])), "lock-byte"),
        ("more pages than counted", instead(1, short_count), "pages"),
        ("no pages in a pages record", instead(1, zero_count), "pages"),
        ("a commit of 0 pages", instead(good.len() - 1, stream::commit(LATER, 0)), "0 pages"),
        ("a commit with something reserved", instead(good.len() - 1, reserved), "reserved"),
        ("a commit that is too short", instead(good.len() - 1, Record::new(COMMIT, LATER, vec![0; 23])), "23"),
        ("everything but page 1", with(&[begin(), stream::pages(&[page(2), page(3)]), commit()]), "page"),
        ("everything but page 2", with(&[begin(), stream::pages(&[page(1), page(3)]), commit()]), "page"),
        ("an error", with(&[begin(), stream::error(LATER, "the disk is on fire")]), "the disk is on fire"),
        ("an error at once", with(&[stream::error(LATER, "the disk is on fire")]), "the disk is on fire"),
        ("an error that is no text", instead(1, Record::new(ERROR, LATER, vec![0xff; 10])), ""),
        ("text instead of records", b"cannot obtain WAL iterator: something went wrong\n".to_vec(), "type"),
    ]
}

#[test]
fn a_wrong_stream_changes_nothing_and_the_error_says_what_is_wrong() {
    for page_size in [512, 65536] {
        let mut victim = Victim::new(page_size);
        for (what, bytes, word) in wrong_streams(page_size) {
            let error = victim.refuses(&format!("{what}, page size {page_size}"), Answer::V2(bytes));
            assert!(error.contains(word), "{what}: the error does not say '{word}': {error}");
        }
        victim.takes_what_is_right();
    }
}

#[test]
fn a_new_replica_with_a_wrong_stream_stays_empty() {
    for page_size in [512, 65536] {
        let mut victim = Victim::empty(page_size);
        for (what, bytes, word) in wrong_streams(page_size) {
            let error = victim.refuses(&format!("{what}, page size {page_size}"), Answer::V2(bytes));
            assert!(error.contains(word), "{what}: the error does not say '{word}': {error}");
        }
        victim.takes_what_is_right();
    }
}

#[test]
fn a_follower_outlives_a_wrong_stream_and_heals() {
    let mut victim = Victim::new(512);
    let good = stream::encode(&stream::everything(FIRST, &mask_mark(victim.bytes.clone()), 512));
    victim.says(Answer::V2(good));
    let url = format!("{}/app.db", victim.upstream.url());
    victim.shell.run(&format!("SELECT litestream_follow('{url}', '{{\"timeout_ms\": 500}}')"));
    for (what, bytes, word) in wrong_streams(512).into_iter().step_by(5) {
        victim.says(Answer::V2(bytes));
        until(&format!("the status tells of {what}"), || {
            let told = victim.shell.ask("SELECT last_error, state FROM litestream_status");
            if told.contains(word) && !told.contains("streaming") { Ok(()) } else { Err(told) }
        });
        assert_eq!(victim.shell.ask("PRAGMA integrity_check; SELECT count(*) FROM t"), "ok\n20", "{what}");
    }
    let new = database(512, 30);
    victim.says(Answer::V2(stream::encode(&stream::everything(LATER, &new, 512))));
    assert_eq!(victim.shell.ask(&format!("SELECT litestream_wait('{LATER}', 60000)")), "1");
    assert_eq!(victim.shell.ask("SELECT litestream_stop()"), format!("followed {url}"));
    assert_eq!(victim.shell.ask("PRAGMA integrity_check; SELECT count(*) FROM t"), "ok\n30");
    victim.rest();
    assert!(mask_mark(file_bytes(&victim.path())) == new, "the replica has what came at last");
}

/// Answers that are no streams, each with a word that the error must contain.
fn no_streams() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let text = |status: &str, kind: &str, text: &str| {
        let length = text.len();
        format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n{text}").into_bytes()
    };
    let html = "<html><body><h1>It works!</h1>".repeat(20);
    vec![
        ("404", text("404 Not Found", "text/plain", "Database not found\n"), "Database not found"),
        ("503", text("503 Service Unavailable", "text/plain", "No generation available\n"), "No generation available"),
        ("500 with a page", text("500 Internal Server Error", "text/html", &html), "500"),
        ("a web page", text("200 OK", "text/html", &html), ""),
        ("an empty page", text("200 OK", "text/html", ""), ""),
        ("no content", b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(), "204"),
        ("a redirect", b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n".to_vec(), "302"),
        ("a proxy that wants a login", text("407 Proxy Authentication Required", "text/plain", "no"), "407"),
        ("no HTTP", b"220 mail.example.com ESMTP\r\n".to_vec(), ""),
        ("nothing", Vec::new(), ""),
        ("half a header", b"HTTP/1.1 200 OK\r\nLitestream-Pa".to_vec(), ""),
        ("endless headers", [b"HTTP/1.1 200 OK\r\n".to_vec(), b"X-Filler: 0123456789\r\n".repeat(50_000)].concat(), ""),
        (
            "a page size of 0",
            b"HTTP/1.1 200 OK\r\nLitestream-Page-Size: 0\r\nContent-Length: 0\r\n\r\n".to_vec(),
            "",
        ),
        (
            "a chunk without an end",
            b"HTTP/1.1 200 OK\r\nLitestream-Stream-Version: 2\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nx".to_vec(),
            "",
        ),
        (
            "a chunk of nonsense",
            b"HTTP/1.1 200 OK\r\nLitestream-Stream-Version: 2\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".to_vec(),
            "",
        ),
    ]
}

#[test]
fn an_answer_that_is_no_stream_changes_nothing() {
    for mut victim in [Victim::new(512), Victim::empty(512)] {
        for (what, bytes, word) in no_streams() {
            let error = victim.refuses(what, Answer::Raw(bytes));
            assert!(error.contains(word), "{what}: the error does not say '{word}': {error}");
        }
        victim.refuses("no answer", Answer::Silence);
        victim.takes_what_is_right();
    }
}

#[test]
fn a_long_error_page_is_told_in_short() {
    let mut victim = Victim::new(512);
    let page = "x".repeat(1 << 20);
    let length = page.len();
    let answer = format!("HTTP/1.1 500 Oops\r\nContent-Length: {length}\r\n\r\n{page}");
    let error = victim.refuses("a long error page", Answer::Raw(answer.into_bytes()));
    assert!(error.len() < 2000, "an error of {} bytes", error.len());
}

/// The records of a version 1 stream: a snapshot, then the WAL in four segments of which the first is its header.
fn version_one(page_size: u32) -> (Vec<Record>, Vec<u8>) {
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
    let mut records = vec![Record::new(SNAPSHOT, At(FIRST.0, 0, 0), snapshot)];
    records.extend(ends.windows(2).map(|pair| segment(pair[0] as u64, &wal[pair[0]..pair[1]])));
    (records, wal)
}

fn segment(offset: u64, bytes: &[u8]) -> Record {
    use std::io::Write;
    let mut frame = lz4_flex::frame::FrameEncoder::new(Vec::new());
    frame.write_all(bytes).unwrap();
    Record::new(SEGMENT, At(FIRST.0, 0, offset), frame.finish().unwrap())
}

#[test]
fn a_version_1_stream_that_is_wrong_shows_nothing_of_what_is_wrong() {
    let (good, wal) = version_one(512);
    let snapshot = || good[0].clone();
    let with = |records: Vec<Record>| stream::encode(&records);
    let frame = &wal[32..32 + 536];
    let changed = |at: usize| {
        let mut bytes = frame.to_vec();
        bytes[at] ^= 1;
        with(vec![snapshot(), good[1].clone(), segment(32, &bytes)])
    };
    let mut no_database = snapshot();
    no_database.payload[..16].copy_from_slice(b"No SQLite at all");
    let mut odd = snapshot();
    odd.payload.push(0);
    let mut other_size = snapshot();
    other_size.payload[16..18].copy_from_slice(&1024u16.to_be_bytes());
    let mut other_generation = good[2].clone();
    other_generation.generation += 1;
    let mut header = wal[..32].to_vec();
    header[10] ^= 1;
    let cases = [
        ("a frame with wrong salts", changed(8), ""),
        ("a frame with a wrong checksum", changed(16), ""),
        ("a frame with a changed page", changed(100), ""),
        ("a WAL header with a wrong checksum", with(vec![snapshot(), segment(0, &header)]), ""),
        (
            "a segment that is no LZ4",
            with(vec![snapshot(), Record::new(SEGMENT, At(FIRST.0, 0, 0), vec![7; 50])]),
            "LZ4",
        ),
        ("a segment with half a frame", with(vec![snapshot(), good[1].clone(), segment(32, &frame[..300])]), ""),
        ("a gap between segments", with(vec![snapshot(), good[1].clone(), good[3].clone()]), ""),
        ("segments without a WAL header", with(vec![snapshot(), good[2].clone()]), ""),
        ("segments without a snapshot", with(good[1..].to_vec()), ""),
        ("a segment of another generation", with(vec![snapshot(), good[1].clone(), other_generation]), ""),
        ("a snapshot that is no database", with(vec![no_database]), ""),
        ("a snapshot with a byte too many", with(vec![odd]), ""),
        ("a snapshot with other pages", with(vec![other_size]), ""),
        ("a snapshot of 2^63 bytes", [snapshot().header(1 << 63), wal.clone()].concat(), "9223372036854775808"),
        ("a segment of 2^63 bytes", [snapshot().encode(), good[1].header(1 << 63)].concat(), "9223372036854775808"),
        ("a text", b"cannot obtain WAL iterator: something went wrong\n".to_vec(), "type"),
    ];
    let mut replica = Victim::new(512);
    let mut empty = Victim::empty(512);
    // To a replica of another generation, a version 1 stream is one that replaces everything.
    for (what, bytes, word) in cases {
        for victim in [&mut replica, &mut empty] {
            let error = victim.refuses(&format!("{what}, in version 1"), Answer::V1(bytes.clone()));
            assert!(error.contains(word), "{what}: the error does not say '{word}': {error}");
        }
    }
    replica.takes_what_is_right();
    empty.takes_what_is_right();
}

#[test]
fn a_version_1_stream_cut_anywhere_leaves_a_state_that_was() {
    let (records, _) = version_one(512);
    let bytes = stream::encode(&records);
    for at in cuts(&records) {
        let mut victim = Victim::empty(512);
        victim.says(Answer::V1(bytes[..at].to_vec()));
        let pull = victim.pull();
        let pulled = victim.shell.answer(&pull);
        let what = format!("cut at byte {at}, pulled {pulled:?}");
        if file_bytes(&victim.path()).is_empty() {
            pulled.expect_err(&what);
            continue;
        }
        // One row more with each insert of two.
        assert_eq!(victim.shell.ask("PRAGMA integrity_check"), "ok", "{what}");
        let rows = victim.shell.ask("SELECT count(*) FROM t");
        assert!(["0", "2", "4", "6"].contains(&rows.as_str()), "{what}: {rows} rows");
        victim.rest();
    }
}

#[test]
fn urls_that_are_none_are_refused() {
    let mut victim = Victim::new(512);
    let urls = [
        ("''", ""),
        ("'/app.db'", "http"),
        ("'localhost:9090/app.db'", "http"),
        ("'ftp://localhost/app.db'", "ftp"),
        ("'file:///tmp/app.db'", "file"),
        ("'http://'", "host"),
        ("'http:///app.db'", "host"),
        ("'http://:9090/app.db'", "host"),
        ("'http://localhost:0x50/app.db'", "port"),
        ("'http://localhost:99999/app.db'", "port"),
        ("'http://local host/app.db'", ""),
        ("'http://127.0.0.1:1/%zz'", "%zz"),
        ("'http://127.0.0.1:1/app.db?path=a&path=b'", "path"),
        ("char(104, 116, 116, 112, 0, 47)", ""),
        ("NULL", "URL"),
        ("7", "URL"),
        ("1.5", "URL"),
        ("x'687474703a2f2f'", "URL"),
    ];
    for (url, word) in urls {
        for call in ["pull", "follow"] {
            let error = victim.shell.refused(&format!("SELECT litestream_{call}({url})"));
            assert!(
                error.to_lowercase().contains(&word.to_lowercase()),
                "{call}({url}) does not say '{word}': {error}"
            );
            victim.assert_untouched(&format!("{call}({url})"));
        }
    }
    victim.takes_what_is_right();
}

#[test]
fn addresses_that_are_none_are_refused() {
    let temp = Temp::new();
    let mut shell = Shell::open(&temp.path("app.db"));
    shell.run("PRAGMA journal_mode = wal; CREATE TABLE t(x)");
    let addresses = [
        "''",
        "'127.0.0.1'",
        "':'",
        "'127.0.0.1:port'",
        "'127.0.0.1:65536'",
        "'127.0.0.1:-1'",
        "'http://127.0.0.1:9090'",
    ];
    for address in addresses.iter().chain(&["NULL", "9090", "9090.0", "x'00'", "'192.0.2.1:0'"]) {
        shell.refused(&format!("SELECT litestream_serve({address})"));
        assert_eq!(shell.ask("SELECT count(*) FROM litestream_status"), "0", "{address}");
    }
    assert_eq!(stock(&temp.path("app.db"), "INSERT INTO t VALUES (1); PRAGMA wal_checkpoint(TRUNCATE)"), "0|0|0");
    shell.run("SELECT litestream_serve('127.0.0.1:0')");
}

#[test]
fn options_that_are_none_are_refused() {
    let temp = Temp::new();
    let mut primary = Shell::open(&temp.path("app.db"));
    primary.run("PRAGMA journal_mode = wal; CREATE TABLE t(x)");
    let mut victim = Victim::new(512);
    let url = victim.upstream.url();
    let wrong = [
        "'{'",
        "'[]'",
        "'null'",
        "'7'",
        "'\"schema\"'",
        "''",
        "'{} {}'",
        "'{\"schema\": 7}'",
        "'{\"schema\": \"none\"}'",
    ];
    for options in wrong.iter().chain(&["7", "1.5", "x'7b7d'"]) {
        primary.refused(&format!("SELECT litestream_serve('127.0.0.1:0', {options})"));
        assert_eq!(primary.ask("SELECT count(*) FROM litestream_status"), "0", "{options}");
        for call in ["pull", "follow"] {
            victim.shell.refused(&format!("SELECT litestream_{call}('{url}', {options})"));
            victim.assert_untouched(&format!("{call} with options {options}"));
        }
    }
    let serve = ["schema", "checkpoint_frames", "wal_limit", "heartbeat_ms"];
    let error = primary.refused("SELECT litestream_serve('127.0.0.1:0', '{\"chekpoint_frames\": 7}')");
    assert!(error.contains("chekpoint_frames"), "{error}");
    serve.iter().for_each(|known| assert!(error.contains(known), "'{known}' is not listed: {error}"));
    for call in ["pull", "follow"] {
        let error = victim.shell.refused(&format!("SELECT litestream_{call}('{url}', '{{\"over_write\": true}}')"));
        assert!(error.contains("over_write"), "{error}");
        for known in ["schema", "overwrite", "writable", "timeout_ms", "checkpoint_frames"] {
            assert!(error.contains(known), "'{known}' is not listed: {error}");
        }
        for value in ["\"yes\"", "1", "null", "[]"] {
            victim.shell.refused(&format!("SELECT litestream_{call}('{url}', '{{\"overwrite\": {value}}}')"));
        }
        for value in ["-1", "1.5", "\"10\"", "true", "1e99", "99999999999999999999"] {
            victim.shell.refused(&format!("SELECT litestream_{call}('{url}', '{{\"timeout_ms\": {value}}}')"));
            victim.assert_untouched(&format!("{call} with a timeout_ms of {value}"));
        }
    }
    for option in ["checkpoint_frames", "wal_limit", "heartbeat_ms"] {
        for value in ["-1", "1.5", "\"10\"", "true"] {
            primary.refused(&format!("SELECT litestream_serve('127.0.0.1:0', '{{\"{option}\": {value}}}')"));
        }
    }
    assert_eq!(primary.ask("SELECT count(*) FROM litestream_status"), "0");
    victim.takes_what_is_right();
}

#[test]
fn a_wrong_number_of_arguments_is_refused() {
    let mut shell = Shell::open(":memory:".as_ref());
    for (name, counts) in [
        ("version", &[1][..]),
        ("serve", &[0, 3]),
        ("pull", &[0, 3]),
        ("follow", &[0, 3]),
        ("stop", &[1]),
        ("position", &[1]),
        ("wait", &[0, 3]),
        ("lag", &[1]),
        ("apply_frame", &[0, 1, 2, 4]),
        ("apply_wal", &[0, 2]),
        ("promote", &[1]),
    ] {
        for count in counts {
            let arguments = vec!["1"; *count].join(", ");
            let error = shell.refused(&format!("SELECT litestream_{name}({arguments})"));
            assert!(error.contains("wrong number of arguments"), "{name}({arguments}): {error}");
        }
    }
}

#[test]
fn frames_that_fit_no_database_are_refused() {
    let mut victim = Victim::new(512);
    let pages = victim.bytes.len() / 512;
    let lock_page = (1 << 30) / 512 + 1;
    let cases = [
        ("2, 10, zeroblob(511)".to_string(), "512"),
        ("2, 10, zeroblob(513)".to_string(), "512"),
        ("2, 10, zeroblob(4096)".to_string(), "512"),
        ("2, 10, x''".to_string(), "512"),
        ("0, 10, zeroblob(512)".to_string(), "page number 0"),
        ("-1, 10, zeroblob(512)".to_string(), "-1"),
        ("4294967296, 10, zeroblob(512)".to_string(), "4294967296"),
        ("9223372036854775807, 10, zeroblob(512)".to_string(), "9223372036854775807"),
        (format!("{}, {pages}, zeroblob(512)", pages + 1), "commit size"),
        ("2, 1, zeroblob(512)".to_string(), "commit size"),
        (format!("{lock_page}, {}, zeroblob(512)", lock_page + 1), "lock-byte"),
        (format!("{lock_page}, 0, zeroblob(512)"), "lock-byte"),
        ("2, -1, zeroblob(512)".to_string(), "-1"),
        ("2, 4294967296, zeroblob(512)".to_string(), "4294967296"),
        ("NULL, 10, zeroblob(512)".to_string(), ""),
        ("'2', 10, zeroblob(512)".to_string(), ""),
        ("2.5, 10, zeroblob(512)".to_string(), ""),
        ("x'02', 10, zeroblob(512)".to_string(), ""),
        ("2, NULL, zeroblob(512)".to_string(), ""),
        ("2, '10', zeroblob(512)".to_string(), ""),
        ("2, 10.5, zeroblob(512)".to_string(), ""),
        ("2, 10, NULL".to_string(), ""),
        ("2, 10, 7".to_string(), ""),
        ("2, 10, hex(zeroblob(256))".to_string(), ""),
    ];
    for (arguments, word) in &cases {
        let call = format!("SELECT litestream_apply_frame({arguments})");
        let error = victim.shell.refused(&call);
        assert!(error.contains(word), "{call} does not say '{word}': {error}");
        victim.assert_untouched(&call);
        // The same after a frame that was right: it goes with the wrong one.
        victim.shell.run("SELECT litestream_apply_frame(2, 0, zeroblob(512))");
        victim.shell.refused(&call);
        victim.assert_untouched(&format!("{call} after a frame"));
    }
    victim.takes_what_is_right();
}

#[test]
fn a_commit_size_of_0_pages_commits_nothing() {
    let mut victim = Victim::new(512);
    victim.shell.run("SELECT litestream_apply_frame(1, 0, zeroblob(512))");
    victim.shell.run("SELECT litestream_apply_frame(2, 0, zeroblob(512))");
    victim.assert_untouched("frames without a commit");
}

#[test]
fn frames_for_a_database_that_takes_none_are_refused_with_advice() {
    let temp = Temp::new();
    let mut memory = Shell::open(":memory:".as_ref());
    assert!(memory.refused("SELECT litestream_apply_frame(1, 1, zeroblob(4096))").contains("memory"));
    let mut rollback = Shell::open(&temp.path("rollback.db"));
    rollback.run("CREATE TABLE t(x)");
    let before = file_bytes(&temp.path("rollback.db"));
    let error = rollback.refused("SELECT litestream_apply_frame(1, 1, zeroblob(4096))");
    assert!(error.contains("journal_mode"), "{error}");
    assert!(file_bytes(&temp.path("rollback.db")) == before, "a database in rollback mode was changed");
    assert_eq!(stock(&temp.path("rollback.db"), "PRAGMA journal_mode; INSERT INTO t VALUES (1)"), "delete");
}

#[test]
fn a_wal_that_is_none_is_refused() {
    let mut victim = Victim::new(512);
    let (_, good) = version_one(512);
    let path = victim.temp.path("wrong-wal");
    let mut frame = 0;
    let mut changed = |at: usize, with: u8| {
        frame += 1;
        let mut bytes = good.clone();
        bytes[at] ^= with;
        bytes
    };
    let cases = [
        ("nothing", Vec::new()),
        ("one byte", vec![0x37]),
        ("half a header", good[..16].to_vec()),
        ("a wrong magic", changed(0, 1)),
        ("a wrong version", changed(7, 1)),
        ("another page size", changed(10, 6)),
        ("a header with a wrong salt", changed(16, 1)),
        ("a header with a wrong checksum", changed(24, 1)),
        ("zeros", vec![0; 4096]),
        ("text", b"This is not the WAL you are looking for, move along.".to_vec()),
        ("half an LZ4 frame", segment(0, &good).payload[..100].to_vec()),
        ("an LZ4 frame around nothing", segment(0, &[]).payload),
        ("the magic of LZ4", vec![0x04, 0x22, 0x4d, 0x18]),
    ];
    for (what, bytes) in cases {
        std::fs::write(&path, bytes).unwrap();
        victim.shell.refused(&format!("SELECT litestream_apply_wal(readfile('{}'))", path.display()));
        victim.assert_untouched(what);
    }
    for argument in ["NULL", "7", "1.5", "'text'"] {
        victim.shell.refused(&format!("SELECT litestream_apply_wal({argument})"));
        victim.assert_untouched(argument);
    }
    let other = wal::Header { big: false, page_size: 1024, sequence: 0, salts: [1, 2] };
    let frames = [wal::Frame { pgno: 1, commit: 1, page: vec![0; 1024] }];
    std::fs::write(&path, wal::build(&other, &frames)).unwrap();
    let error = victim.shell.refused(&format!("SELECT litestream_apply_wal(readfile('{}'))", path.display()));
    assert!(error.contains("1024") && error.contains("512"), "another page size: {error}");
    victim.assert_untouched("another page size");
    victim.takes_what_is_right();
}

#[test]
fn a_wal_whose_frames_are_wrong_is_applied_up_to_there_and_no_further() {
    let mut victim = Victim::new(512);
    let (_, good) = version_one(512);
    let path = victim.temp.path("wrong-wal");
    let first = wal::transactions(&wal::parse(&good).1).next().unwrap().len();
    // In the first transaction: in its salts, in its checksum, in its page, before and at its last frame.
    for frame in [0, first - 1] {
        for at in [8, 12, 16, 20, 24, 24 + 511] {
            let mut bytes = good.clone();
            bytes[wal::size(frame, 512) + at] ^= 1;
            std::fs::write(&path, bytes).unwrap();
            let call = format!("SELECT litestream_apply_wal(readfile('{}'))", path.display());
            assert_eq!(victim.shell.ask(&call), "0", "byte {at} of frame {frame}");
            victim.assert_untouched(&format!("byte {at} of frame {frame}"));
        }
    }
    victim.takes_what_is_right();
}

#[test]
fn files_that_are_no_wal_are_refused_by_the_table() {
    let temp = Temp::new();
    let mut shell = Shell::open(&temp.path("app.db"));
    shell.run("PRAGMA journal_mode = wal; CREATE TABLE t(x)");
    std::fs::write(temp.path("text-wal"), b"This is not the WAL you are looking for, move along.").unwrap();
    std::fs::create_dir(temp.path("folder-wal")).unwrap();
    for (path, word) in
        [("app.db", "-wal"), ("app.db-shm", "-wal"), ("missing.db-wal", ""), ("text-wal", ""), ("folder-wal", "")]
    {
        let error = shell.refused(&format!("SELECT count(*) FROM litestream_wal('{}')", temp.path(path).display()));
        assert!(error.contains(word), "{path}: {error}");
    }
    for argument in ["NULL", "7", "x'00'"] {
        let answer = shell.answer(&format!("SELECT count(*) FROM litestream_wal({argument})"));
        assert_ne!(answer, Ok("1".to_string()), "{argument}");
    }
    shell.refused("INSERT INTO litestream_status(url) VALUES ('x')");
    shell.refused("DELETE FROM litestream_replicas");
    // The database files were not opened and closed on the way: that would have dropped the locks of this process.
    shell.run("BEGIN IMMEDIATE; INSERT INTO t VALUES (1)");
    shell.answer(&format!("SELECT count(*) FROM litestream_wal('{}')", temp.path("app.db").display())).unwrap_err();
    let mut other = Shell::stock(&temp.path("app.db"));
    assert!(other.refused("BEGIN IMMEDIATE").contains("locked"), "the write lock is still held");
    shell.run("COMMIT");
    other.run("INSERT INTO t VALUES (2)");
}

#[test]
fn what_is_no_position_is_not_waited_for() {
    let mut victim = Victim::new(512);
    let position = victim.position.clone();
    let wrong = ["''", "'/'", "'yesterday'", "NULL", "7", "x'00'"].map(String::from);
    let mut calls: Vec<String> = wrong.iter().map(|text| format!("litestream_wait({text}, 50)")).collect();
    calls.push(format!("litestream_wait('{}', 50)", &position[1..]));
    calls.push(format!("litestream_wait('{}', 50)", position.to_uppercase()));
    for timeout in ["'long'", "1.5", "NULL", "x'00'"] {
        calls.push(format!("litestream_wait('{position}', {timeout})"));
    }
    for call in calls {
        victim.shell.refused(&format!("SELECT {call}"));
        victim.assert_untouched(&call);
    }
    assert_eq!(victim.shell.ask(&format!("SELECT litestream_wait('{position}', 0)")), "1");
}
