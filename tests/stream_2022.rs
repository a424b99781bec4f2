//! The protocol of 2022: streams recorded from a server of that time, our server read as a client of that time reads
//! it, and our client against a server that knows no other version.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use support::stream::{At, Record, SEGMENT, SNAPSHOT};
use support::*;

/// The page sizes of the recorded streams.
const RECORDED: [u32; 2] = [1024, 4096];

/// A recorded stream.
fn recorded(page_size: u32) -> Vec<Record> {
    let file = data(&format!("stream-2022-p{page_size}.bin"));
    stream::records(&std::fs::read(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display())))
}

/// A copy of the database that a recorded stream leads to; SQLite would leave files beside the original.
fn expected(page_size: u32, temp: &Temp) -> PathBuf {
    let copied = temp.path("expected.db");
    copy(&data(&format!("stream-2022-p{page_size}.expected.db")), &copied);
    copied
}

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

/// What an LZ4 frame holds.
fn decompress(frame: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    lz4_flex::frame::FrameDecoder::new(frame).read_to_end(&mut bytes).expect("an LZ4 frame");
    bytes
}

/// The position after a segment.
fn end_of(segment: &Record) -> At {
    At(segment.generation, segment.index, segment.offset + decompress(&segment.payload).len() as u64)
}

/// Fails unless the replica has the bytes of the expected database, but for the mark.
fn assert_expected(page_size: u32, replica: &Path) {
    assert_eq!(stock(replica, "PRAGMA wal_checkpoint(TRUNCATE)"), "0|0|0");
    let expected = std::fs::read(data(&format!("stream-2022-p{page_size}.expected.db"))).unwrap();
    assert!(mask_mark(file_bytes(replica)) == mask_mark(expected), "page size {page_size}: other bytes than expected");
}

#[test]
fn a_recorded_stream_is_pulled() {
    for page_size in RECORDED {
        let temp = Temp::new();
        let records = recorded(page_size);
        let (bytes, end) = (stream::encode(&records), end_of(records.last().unwrap()));
        let upstream = Upstream::start(move |_, reply| {
            reply.stream_v1(page_size);
            reply.send(&bytes);
            reply.hold();
        });
        let mut replica = Shell::open(&temp.path("replica.db"));
        let position = replica.ask(&format!("SELECT litestream_pull('{}/app.db')", upstream.url()));
        assert_eq!(position, end.to_string(), "page size {page_size}");
        assert!(is_marked(&temp.path("replica.db")));
        assert_eq!(replica.ask("PRAGMA integrity_check"), "ok");
        drop(replica);
        assert_expected(page_size, &temp.path("replica.db"));
    }
}

/// After a snapshot the segments sent are older than it in part; only when all of them have come is there a state to show.
#[test]
fn a_snapshot_whose_stream_ends_before_it_pauses_shows_nothing() {
    let temp = Temp::new();
    let bytes = stream::encode(&recorded(4096));
    let upstream = Upstream::start(move |_, reply| {
        reply.stream_v1(4096);
        reply.send(&bytes);
        reply.end();
    });
    let mut replica = Shell::open(&temp.path("replica.db"));
    let error = replica.refused(&format!("SELECT litestream_pull('{}/app.db')", upstream.url()));
    assert!(error.contains("ended"), "{error}");
    assert_eq!(replica.ask("SELECT count(*) FROM sqlite_schema"), "0");
}

/// A server that cuts off its first answer after half of `bytes`, and sends all of them in later
/// ones.
fn cut_off_at_first(bytes: Vec<u8>, begin: impl Fn(&mut Reply) + Send + Sync + 'static) -> Upstream {
    let connections = AtomicUsize::new(0);
    Upstream::start(move |_, reply| {
        begin(reply);
        if connections.fetch_add(1, Ordering::SeqCst) == 0 {
            return reply.send(&bytes[..bytes.len() / 2]);
        }
        reply.send(&bytes);
        reply.hold();
    })
}

#[test]
fn a_new_replica_that_is_cut_off_connects_again() {
    let (v1, at) = (recorded(4096), At(1, 0, 4152));
    let database = file_bytes(&data("stream-2022-p4096.expected.db"));
    let v2 = stream::encode(&stream::everything(at, &database, 4096));
    let end = end_of(v1.last().unwrap());
    let streams: [(&str, Upstream, At); 2] = [
        ("1", cut_off_at_first(stream::encode(&v1), |reply| reply.stream_v1(4096)), end),
        ("2", cut_off_at_first(v2, |reply| reply.stream_v2(4096)), at),
    ];
    for (version, upstream, end) in streams {
        let temp = Temp::new();
        let mut replica = Shell::open(&temp.path("replica.db"));
        let url = format!("{}/app.db", upstream.url());
        let followed = replica.ask(&format!("SELECT litestream_follow('{url}', '{{\"timeout_ms\": 60000}}')"));
        assert_eq!(followed, end.to_string(), "version {version}");
        assert_eq!(replica.ask("SELECT reconnects, state FROM litestream_status"), "1|streaming", "version {version}");
        assert_eq!(upstream.requests().len(), 2, "version {version}");
        assert_eq!(replica.ask("PRAGMA integrity_check"), "ok");
        drop(replica);
        assert_expected(4096, &temp.path("replica.db"));
    }
}

/// An upstream that never sends all of it is given up, as one that is silent is.
#[test]
fn a_new_replica_that_is_cut_off_each_time_gives_up_in_time() {
    let temp = Temp::new();
    let bytes = stream::encode(&recorded(4096));
    let upstream = Upstream::start(move |_, reply| {
        reply.stream_v1(4096);
        reply.send(&bytes[..bytes.len() / 2]);
    });
    let mut replica = Shell::open(&temp.path("replica.db"));
    let url = format!("{}/app.db", upstream.url());
    replica.refused(&format!("SELECT litestream_follow('{url}', '{{\"timeout_ms\": 1000}}')"));
    assert!(upstream.requests().len() > 1, "it tried once only");
    assert_eq!(replica.ask("SELECT count(*) FROM sqlite_schema"), "0");
}

#[test]
fn what_came_whole_is_kept_when_a_stream_of_2022_that_went_on_ends() {
    let temp = Temp::new();
    let records = recorded(4096);
    let (half, end) = (records.len() / 2, end_of(records.last().unwrap()));
    let (first, again) = (stream::encode(&records[..half]), stream::encode(&records[1..]));
    let upstream = Upstream::start(move |request, reply| {
        reply.stream_v1(4096);
        if request.line.contains("generation=") {
            reply.send(&again);
            reply.end();
        } else {
            reply.send(&first);
            reply.hold();
        }
    });
    let mut replica = Shell::open(&temp.path("replica.db"));
    replica.run(&format!("SELECT litestream_pull('{}/app.db')", upstream.url()));
    replica.run(&format!("SELECT litestream_follow('{}/app.db')", upstream.url()));
    assert_eq!(replica.ask(&format!("SELECT litestream_wait('{end}', 60000)")), "1");
    drop(replica);
    assert_expected(4096, &temp.path("replica.db"));
}

#[test]
fn a_recorded_stream_is_followed_and_no_state_shown_is_torn() {
    for page_size in RECORDED {
        let temp = Temp::new();
        let records = Arc::new(recorded(page_size));
        let allowed = Arc::new(AtomicUsize::new(10));
        let (serving, may) = (Arc::clone(&records), Arc::clone(&allowed));
        let upstream = Upstream::start(move |_, reply| {
            reply.stream_v1(page_size);
            for (n, record) in serving.iter().enumerate() {
                until("the test lets the next record go", || match may.load(Ordering::SeqCst) {
                    allowed if allowed > n => Ok(()),
                    allowed => Err(format!("{allowed} records")),
                });
                reply.send(&record.encode());
            }
            reply.hold();
        });
        let mut replica = Shell::open(&temp.path("replica.db"));
        let position = replica.ask(&format!("SELECT litestream_follow('{}/app.db')", upstream.url()));
        assert_eq!(position[..16], format!("{:016x}", records[0].generation));
        let mut reader = Shell::stock(&temp.path("replica.db"));
        for (n, record) in records.iter().enumerate().skip(1) {
            allowed.fetch_max(n + 1, Ordering::SeqCst);
            let goal = end_of(record);
            assert_eq!(replica.ask(&format!("SELECT litestream_wait('{goal}', 60000)")), "1", "after record {n}");
            assert_eq!(reader.ask("PRAGMA integrity_check"), "ok", "after record {n}");
        }
        assert_eq!(upstream.requests().len(), 1, "one connection");
        assert_same_pages(&expected(page_size, &temp), &temp.path("replica.db"));
        drop((reader, replica));
        assert_expected(page_size, &temp.path("replica.db"));
    }
}

#[test]
fn a_replica_goes_on_though_a_server_of_2022_sends_the_whole_index_again() {
    let temp = Temp::new();
    let page_size = 4096;
    let records = recorded(page_size);
    let (half, snapshot) = (records.len() / 2, &records[0]);
    let first = stream::encode(&records[..half]);
    let again = stream::encode(&records[1..]);
    let generation = snapshot.generation;
    let upstream = Upstream::start(move |request, reply| {
        reply.stream_v1(page_size);
        let resumes =
            request.line.contains(&format!("generation={generation:016x}")) && request.line.contains("index=");
        reply.send(if resumes { &again } else { &first });
        reply.hold();
    });
    let url = format!("{}/app.db", upstream.url());
    let mut replica = Shell::open(&temp.path("replica.db"));
    let position = replica.ask(&format!("SELECT litestream_pull('{url}')"));
    assert_eq!(position, end_of(&records[half - 1]).to_string());
    assert_eq!(replica.ask("PRAGMA integrity_check"), "ok");
    let position = replica.ask(&format!("SELECT litestream_pull('{url}')"));
    assert_eq!(position, end_of(records.last().unwrap()).to_string());
    drop(replica);
    assert_expected(page_size, &temp.path("replica.db"));
}

#[test]
fn a_server_of_2022_that_says_nothing_until_the_next_write_is_waited_for() {
    let temp = Temp::new();
    let page_size = 1024;
    let records = recorded(page_size);
    let (first, again) = (stream::encode(&records[..20]), stream::encode(&records[1..]));
    let (written, connections) = (Arc::new(AtomicBool::new(false)), AtomicUsize::new(0));
    let write = Arc::clone(&written);
    let upstream = Upstream::start(move |_, reply| {
        if connections.fetch_add(1, Ordering::SeqCst) == 0 {
            reply.stream_v1(page_size);
            reply.send(&first);
            return reply.hold();
        }
        // Up to date: not even the headers of the answer come before there is something to send.
        until("the primary is written to", || if write.load(Ordering::SeqCst) { Ok(()) } else { Err("not yet") });
        reply.stream_v1(page_size);
        reply.send(&again);
        reply.hold();
    });
    let mut replica = Shell::open(&temp.path("replica.db"));
    replica.run(&format!("SELECT litestream_follow('{}/app.db', '{{\"timeout_ms\": 500}}')", upstream.url()));
    upstream.cut();
    until("the replica has connected again", || match upstream.requests().len() {
        n if n > 1 => Ok(()),
        n => Err(format!("{n} requests")),
    });
    assert_eq!(replica.ask("PRAGMA integrity_check"), "ok");
    written.store(true, Ordering::SeqCst);
    let goal = end_of(records.last().unwrap());
    assert_eq!(replica.ask(&format!("SELECT litestream_wait('{goal}', 60000)")), "1");
    assert_same_pages(&expected(page_size, &temp), &temp.path("replica.db"));
}

#[test]
fn silence_of_a_server_of_2022_is_no_failure() {
    let temp = Temp::new();
    let bytes = stream::encode(&recorded(1024));
    let upstream = Upstream::start(move |_, reply| {
        reply.stream_v1(1024);
        reply.send(&bytes);
        reply.hold();
    });
    let mut replica = Shell::open(&temp.path("replica.db"));
    replica.run(&format!("SELECT litestream_follow('{}/app.db', '{{\"timeout_ms\": 200}}')", upstream.url()));
    until("the stream has been silent for several times the time-out", || {
        let lag = replica.ask("SELECT lag FROM litestream_status");
        if lag.parse::<f64>().is_ok_and(|lag| lag > 2.0) { Ok(()) } else { Err(format!("lag {lag}")) }
    });
    assert_eq!(replica.ask("SELECT reconnects FROM litestream_status"), "0");
    assert_eq!(upstream.requests().len(), 1);
}

/// What a client of 2022 has: the snapshot, and the WAL of each index as its segments make it.
struct Client2022 {
    snapshot: Vec<u8>,
    wals: BTreeMap<u64, Vec<u8>>,
    reached: At,
}

impl Client2022 {
    fn new() -> Client2022 {
        Client2022 { snapshot: Vec::new(), wals: BTreeMap::new(), reached: At(0, 0, 0) }
    }

    /// Reads records until it has what the primary had at `position`.
    fn read_to(&mut self, stream: &mut Response, position: &str) {
        while self.reached.to_string().as_str() < position {
            let record = Record::read(stream).unwrap_or_else(|| panic!("the stream ended at {}", self.reached));
            self.take(record);
        }
        assert_eq!(self.reached.to_string(), position);
    }

    fn take(&mut self, record: Record) {
        match record.kind {
            SNAPSHOT => {
                assert_eq!(record.offset, 0, "a snapshot is labelled with the start of an index");
                assert!(self.wals.is_empty(), "a snapshot comes first");
                self.reached = record.at();
                self.snapshot = record.payload;
            }
            SEGMENT => {
                let wal = self.wals.entry(record.index).or_default();
                assert_eq!(record.offset, wal.len() as u64, "segments of index {} in a row", record.index);
                let bytes = decompress(&record.payload);
                assert!(record.offset > 0 || bytes.len() == 32, "the first segment is the WAL header alone");
                wal.extend_from_slice(&bytes);
                self.reached = end_of(&record);
            }
            other => panic!("a record of type {other} in a version 1 stream"),
        }
    }

    /// The database as SQLite makes it of snapshot and WALs.
    fn database(&self, temp: &Temp) -> PathBuf {
        let database = temp.path("client.db");
        std::fs::write(&database, &self.snapshot).unwrap();
        for bytes in self.wals.values() {
            let (header, frames) = wal::parse(bytes);
            assert_eq!(bytes.len(), wal::size(frames.len(), header.page_size), "every frame is valid");
            assert!(frames.last().is_none_or(|frame| frame.commit > 0), "segments end with a commit");
            std::fs::write(temp.path("client.db-wal"), bytes).unwrap();
            assert_eq!(stock(&database, "PRAGMA wal_checkpoint(TRUNCATE)"), "0|0|0");
        }
        assert_eq!(stock(&database, "PRAGMA integrity_check"), "ok");
        database
    }
}

#[test]
fn our_server_feeds_a_client_of_2022() {
    let temp = Temp::new();
    let (mut primary, url) = serving_bank(&temp.path("primary.db"), 40, "{}");
    let mut stream = get(&url, "/stream?path=primary.db", &[]);
    assert_eq!((stream.status, stream.header("Litestream-Stream-Version")), (200, None));
    assert_eq!(stream.header("Litestream-Page-Size"), Some("4096"));
    let mut client = Client2022::new();
    for step in 0..20 {
        client.read_to(&mut stream, &primary.ask("SELECT litestream_position()"));
        primary.run(&bank::step(step, 30));
    }
    primary.run("DROP TABLE ballast; VACUUM");
    client.read_to(&mut stream, &primary.ask("SELECT litestream_position()"));
    assert_same_pages(&temp.path("primary.db"), &client.database(&temp));
}

#[test]
fn our_server_feeds_a_client_of_2022_across_wal_resets() {
    let temp = Temp::new();
    let (mut primary, url) = serving_bank(&temp.path("primary.db"), 40, "{\"checkpoint_frames\": 50}");
    let mut stream = get(&url, "/stream?path=primary.db", &[]);
    let mut client = Client2022::new();
    for step in 0..100 {
        primary.run(&bank::step(step, 30));
        client.read_to(&mut stream, &primary.ask("SELECT litestream_position()"));
    }
    assert!(client.wals.len() > 3, "{} WALs", client.wals.len());
    assert_same_pages(&temp.path("primary.db"), &client.database(&temp));
}

#[test]
fn a_client_of_2022_resumes_at_the_start_of_its_index_and_gets_a_snapshot_for_any_other() {
    let temp = Temp::new();
    let (mut primary, url) = serving_bank(&temp.path("primary.db"), 40, "{}");
    primary.run(&bank::step(1, 5));
    let position = primary.ask("SELECT litestream_position()");
    let (generation, index) = (&position[..16], &position[17..33]);
    let first = |query: &str| Record::read(&mut get(&url, &format!("/stream?path=primary.db{query}"), &[])).unwrap();
    let resumed = first(&format!("&generation={generation}&index={index}"));
    assert_eq!((resumed.kind, resumed.offset), (SEGMENT, 0));
    assert_eq!(resumed.at().to_string()[..33], position[..33]);
    for query in [
        String::new(),
        format!("&generation={generation}"),
        format!("&index={index}"),
        format!("&generation=0123456789abcdef&index={index}"),
        format!("&generation={generation}&index=7fffffffffffffff"),
    ] {
        let record = first(&query);
        assert_eq!((record.kind, record.offset), (SNAPSHOT, 0), "{query}");
        assert_eq!(record.at().to_string()[..33], position[..33], "{query}");
    }
}

#[test]
fn what_a_client_of_2022_asks_wrongly_is_answered_as_then() {
    let temp = Temp::new();
    let (mut primary, url) = serving_bank(&temp.path("primary.db"), 40, "{}");
    let generation = primary.ask("SELECT litestream_position()")[..16].to_string();
    for index in ["xyz", "8000000000000000", "-1", "00000000000000000"] {
        let answer = get(&url, &format!("/stream?path=primary.db&generation={generation}&index={index}"), &[]);
        assert_eq!(answer.status, 400, "index '{index}'");
        assert_eq!(answer.text(), "Invalid index query parameter\n", "index '{index}'");
    }
    let unknown = get(&url, "/stream?path=other.db", &[]);
    assert_eq!((unknown.status, unknown.text().as_str()), (404, "Database not found\n"));
    let method = request("POST", &url, "/stream?path=primary.db", &[("Content-Length", "0")]);
    assert_eq!((method.status, method.text().as_str()), (405, "Method not allowed\n"));
}

#[test]
fn our_client_follows_our_server_in_version_1() {
    let temp = Temp::new();
    let (mut primary, url) = serving_bank(&temp.path("primary.db"), 40, "{\"checkpoint_frames\": 100}");
    let old = strip_version(url.trim_end_matches("/primary.db"));
    let mut replica = Shell::open(&temp.path("replica.db"));
    let followed = format!("{}/primary.db", old.url());
    let position = replica.ask(&format!("SELECT litestream_follow('{followed}')"));
    assert_eq!(position, primary.ask("SELECT litestream_position()"));
    assert_eq!(primary.ask("SELECT version FROM litestream_replicas"), "1");
    let mut reader = Shell::stock(&temp.path("replica.db"));
    let mut witness = bank::Witness::default();
    for step in 0..60 {
        primary.run(&bank::step(step, 40));
        witness.see(&reader.ask(&bank::judge("integrity_check")));
    }
    primary.run("DELETE FROM ballast WHERE id % 2; VACUUM");
    catch_up(&mut primary, &mut replica);
    assert_eq!(replica.ask("SELECT state FROM litestream_status"), "streaming");
    assert_same_pages(&temp.path("primary.db"), &temp.path("replica.db"));
    assert_eq!(replica.ask("SELECT litestream_stop()"), format!("followed {followed}"));
    primary.run(&bank::step(100, 10));
    let position = primary.ask("SELECT litestream_position()");
    assert_eq!(replica.ask(&format!("SELECT litestream_pull('{followed}')")), position);
    assert_same_pages(&temp.path("primary.db"), &temp.path("replica.db"));
}

#[test]
fn our_client_in_version_1_catches_up_with_a_primary_that_never_pauses() {
    let temp = Temp::new();
    let (mut primary, url) = serving_bank(&temp.path("primary.db"), 40, "{}");
    let old = strip_version(url.trim_end_matches("/primary.db"));
    let mut replica = Shell::open(&temp.path("replica.db"));
    let (stop, mut writer) = (AtomicBool::new(false), Shell::stock(&temp.path("primary.db")));
    writer.run(".timeout 60000");
    std::thread::scope(|threads| {
        let _stop = StopOnDrop(&stop);
        threads.spawn(|| {
            for step in 0.. {
                writer.run(&bank::step(step, 5));
                if stop.load(Ordering::SeqCst) {
                    return;
                }
            }
        });
        // The primary ends a version 1 stream where its WAL was restarted before the tail saw all
        // of it.
        replica.run(&format!("SELECT litestream_follow('{}/primary.db', '{{\"timeout_ms\": 60000}}')", old.url()));
        catch_up(&mut primary, &mut replica);
    });
    catch_up(&mut primary, &mut replica);
    assert_same_pages(&temp.path("primary.db"), &temp.path("replica.db"));
}

#[test]
fn a_replica_in_version_1_connects_again_when_cut_off() {
    let temp = Temp::new();
    let (mut primary, url) = serving_bank(&temp.path("primary.db"), 40, "{}");
    let old = strip_version(url.trim_end_matches("/primary.db"));
    let mut replica = Shell::open(&temp.path("replica.db"));
    replica.run(&format!("SELECT litestream_follow('{}/primary.db')", old.url()));
    for round in 0..5 {
        old.cut();
        primary.run(&bank::step(round, 10));
        catch_up(&mut primary, &mut replica);
        assert_same_pages(&temp.path("primary.db"), &temp.path("replica.db"));
    }
}
