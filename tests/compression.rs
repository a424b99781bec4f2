//! Compressed streams: the same database arrives, in fewer bytes, where both ends want that and it gains something.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::path::Path;

use support::stream::{BEGIN, COMMIT, COMPRESSED, HEARTBEAT, PAGES, Record};
use support::*;

/// Request headers of a client that takes compressed records.
const WANTED: [(&str, &str); 2] = [("Litestream-Stream-Version", "2"), ("Litestream-Compression", "lz4")];

/// What a stream may have in addition without anything being wrong: heartbeats, and a commit that came in two.
const SLACK: u64 = 10_000;

/// A primary with so many rows of 2 KB: of text that repeats itself, or of random bytes.
fn primary_with(database: &Path, page_size: u32, rows: u32, random: bool) -> (Shell, String) {
    let mut primary = Shell::open(database);
    primary.run(&format!("PRAGMA page_size = {page_size}; PRAGMA journal_mode = wal"));
    primary.run("CREATE TABLE t(id INTEGER PRIMARY KEY, x)");
    primary.run(&insert(rows, random));
    let url = primary.ask("SELECT litestream_serve('127.0.0.1:0')");
    (primary, url)
}

fn insert(rows: u32, random: bool) -> String {
    let x = if random {
        "randomblob(2000)"
    } else {
        "substr(replace(hex(zeroblob(1000)), '00', 'row ' || n || ' '), 1, 2000)"
    };
    format!(
        "WITH RECURSIVE i(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM i WHERE n < {rows}) INSERT INTO t(x) SELECT {x} FROM i"
    )
}

/// A replica that follows `url` with the option `compression` as given, or without it.
fn following_with(database: &Path, url: &str, compression: Option<&str>) -> Shell {
    let mut replica = Shell::open(database);
    let options = compression.map_or("{}".to_string(), |name| format!("{{\"compression\": \"{name}\"}}"));
    replica.run(&format!("SELECT litestream_follow('{url}', '{options}')"));
    replica
}

/// What the one replica that is connected was sent, in bytes.
fn sent(primary: &mut Shell) -> u64 {
    primary.ask("SELECT bytes FROM litestream_replicas").parse().expect("one replica")
}

/// Fails unless what the replica says that it received comes to be what the primary says that it sent.
fn assert_counted(primary: &mut Shell, replica: &mut Shell) {
    until("the replica has received what the primary has sent", || {
        let received = replica.ask("SELECT bytes FROM litestream_status");
        let sent = primary.ask("SELECT bytes FROM litestream_replicas");
        if received == sent { Ok(()) } else { Err(format!("{received} of {sent} bytes")) }
    });
}

/// Follows with each kind of compression in turn, and gives the bytes sent with none and with LZ4.
fn compared(temp: &Temp, primary: &mut Shell, url: &str) -> [u64; 2] {
    ["none", "lz4"].map(|name| {
        let database = temp.path(&format!("{name}.db"));
        let mut replica = following_with(&database, url, Some(name));
        assert_same_pages(&temp.path("primary.db"), &database);
        assert_counted(primary, &mut replica);
        let bytes = sent(primary);
        replica.run("SELECT litestream_stop()");
        until_gives(primary, "SELECT count(*) FROM litestream_replicas", "0");
        bytes
    })
}

#[test]
fn a_database_that_repeats_itself_arrives_the_same_in_far_fewer_bytes() {
    for page_size in [512, 4096, 65536] {
        let temp = Temp::new();
        let (mut primary, url) = primary_with(&temp.path("primary.db"), page_size, 2000, false);
        let [plain, compressed] = compared(&temp, &mut primary, &url);
        assert!(plain > 3_000_000, "page size {page_size}: {plain} bytes");
        assert!(compressed < plain / 10, "page size {page_size}: {compressed} of {plain} bytes");
    }
}

#[test]
fn random_content_is_sent_as_it_is() {
    let temp = Temp::new();
    let (mut primary, url) = primary_with(&temp.path("primary.db"), 4096, 2000, true);
    let [plain, compressed] = compared(&temp, &mut primary, &url);
    assert!(plain > 4_000_000, "{plain} bytes");
    assert!(compressed < plain + SLACK, "{compressed} of {plain} bytes");
    assert!(compressed + SLACK > plain, "{compressed} of {plain} bytes: the content is not as random as it should be");
}

#[test]
fn commits_are_compressed_as_they_happen_small_and_large() {
    let temp = Temp::new();
    let (mut primary, url) = primary_with(&temp.path("primary.db"), 4096, 10, false);
    let mut replica = following_with(&temp.path("replica.db"), &url, Some("lz4"));
    // A commit from the log, and one that is too large for it.
    for (rows, least) in [(20, 40_000), (3000, 6_000_000)] {
        let (before, pages) = (sent(&mut primary), pages_sent(&mut primary));
        primary.run(&insert(rows, false));
        catch_up(&mut primary, &mut replica);
        let (bytes, plain) = (sent(&mut primary) - before, (pages_sent(&mut primary) - pages) * 4096);
        assert!(plain >= least, "{rows} rows: pages of {plain} bytes");
        assert!(bytes < plain / 5, "{rows} rows: {bytes} of {plain} bytes");
        assert_same_pages(&temp.path("primary.db"), &temp.path("replica.db"));
    }
    let before = sent(&mut primary);
    primary.run(&insert(20, true));
    catch_up(&mut primary, &mut replica);
    assert!(sent(&mut primary) - before > 40_000, "random bytes have become fewer");
    assert_same_pages(&temp.path("primary.db"), &temp.path("replica.db"));
    assert_counted(&mut primary, &mut replica);
}

fn pages_sent(primary: &mut Shell) -> u64 {
    primary.ask("SELECT pages FROM litestream_replicas").parse().expect("one replica")
}

#[test]
fn followers_with_and_without_compression_get_the_same() {
    let temp = Temp::new();
    let (mut primary, url) = serving_bank(&temp.path("primary.db"), 100, "{}");
    let old = strip_version(url.trim_end_matches("/primary.db"));
    let old_url = format!("{}/primary.db", old.url());
    let kinds = [(&url, "none"), (&url, "lz4"), (&url, "lz4"), (&old_url, "lz4")];
    let path = |n: usize| temp.path(&format!("replica-{n}.db"));
    let mut replicas: Vec<Shell> =
        kinds.iter().enumerate().map(|(n, (url, kind))| following_with(&path(n), url, Some(kind))).collect();
    for step in 0..200 {
        primary.run(&bank::step(step, (step % 50) as u32));
    }
    primary.run("CREATE TABLE t(id INTEGER PRIMARY KEY, x); VACUUM");
    let mut arrive = |primary: &mut Shell| {
        for (n, replica) in replicas.iter_mut().enumerate() {
            catch_up(primary, replica);
            assert_same_pages(&temp.path("primary.db"), &path(n));
            bank::Witness::default().see(&replica.ask(&bank::judge("integrity_check")));
        }
        let bytes = primary.ask("SELECT bytes FROM litestream_replicas WHERE version = 2 ORDER BY client");
        bytes.lines().map(|n| n.parse().unwrap()).collect::<Vec<u64>>()
    };
    let before = arrive(&mut primary);
    primary.run(&insert(2000, false));
    let after = arrive(&mut primary);
    let mut grown: Vec<u64> = before.iter().zip(&after).map(|(before, after)| after - before).collect();
    grown.sort();
    let [_, compressed, plain] = grown[..] else { panic!("three replicas of version 2, not {grown:?}") };
    assert!(plain > 4_000_000 && compressed < plain / 5, "{grown:?} bytes");
}

#[test]
fn the_default_is_lz4_except_on_loopback_and_the_option_overrides_it() {
    let temp = Temp::new();
    let (_primary, url) = primary_with(&temp.path("primary.db"), 4096, 10, false);
    let asked = Upstream::start(|_, reply| reply.text("503 Service Unavailable", "text/plain", "not today\n"));
    let port = asked.url().rsplit(':').next().unwrap().to_string();
    let mut shell = Shell::open(&temp.path("replica.db"));
    // 0.0.0.0 is no loopback address, but leads here.
    let cases = [
        ("127.0.0.1", "{}", None),
        ("localhost", "{}", None),
        ("127.0.0.1", "{\"compression\": \"lz4\"}", Some("lz4")),
        ("127.0.0.1", "{\"compression\": \"none\"}", None),
        ("0.0.0.0", "{}", Some("lz4")),
        ("0.0.0.0", "{\"compression\": \"none\"}", None),
    ];
    for (n, (host, options, expected)) in cases.into_iter().enumerate() {
        let call = ["pull", "follow"][n % 2];
        shell.refused(&format!("SELECT litestream_{call}('http://{host}:{port}/primary.db', '{options}')"));
        let requests = asked.requests();
        assert_eq!(requests.len(), n + 1, "{host} {options}");
        assert_eq!(requests[n].header("Litestream-Compression"), expected, "{host} {options}");
    }
    for (name, compression) in [("default.db", None), ("lz4.db", Some("lz4"))] {
        let mut replica = following_with(&temp.path(name), &url, compression);
        until("all of it is counted", || {
            let bytes: u64 = replica.ask("SELECT bytes FROM litestream_status").parse().unwrap();
            let plain = bytes > 20_000;
            if bytes > 100 && plain == compression.is_none() { Ok(()) } else { Err(format!("{name}: {bytes} bytes")) }
        });
    }
}

#[test]
fn an_unknown_compression_is_refused_and_the_known_ones_are_named() {
    let mut victim = Victim::new(512);
    let url = victim.url();
    for value in ["\"gzip\"", "\"LZ4\"", "\"\"", "null", "true", "4", "[\"lz4\"]"] {
        for call in ["pull", "follow"] {
            let error =
                victim.shell.refused(&format!("SELECT litestream_{call}('{url}', '{{\"compression\": {value}}}')"));
            for word in ["compression", value, "none", "lz4"] {
                assert!(error.contains(word), "{call} with {value} does not say '{word}': {error}");
            }
            victim.assert_untouched(&format!("{call} with compression {value}"));
        }
    }
    victim.takes_what_is_right();
}

/// A database put together from a stream, by the tests' own reading of the protocol.
#[derive(Default)]
struct Image {
    page_size: usize,
    bytes: Vec<u8>,
    /// How many pages records were compressed, and how many were not.
    compressed: u32,
    plain: u32,
    begins: u32,
    commits: u32,
}

impl Image {
    /// Takes in a record.
    fn take(&mut self, record: &Record) {
        let payload = match record.flags {
            COMPRESSED => stream::decompress(record).payload,
            _ => record.payload.clone(),
        };
        assert!(record.flags == 0 || (record.flags == COMPRESSED && record.kind == PAGES), "{record:?}");
        let word = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap()) as usize;
        match record.kind {
            BEGIN => (self.page_size, self.begins) = (word(0), self.begins + 1),
            PAGES => {
                match record.flags {
                    COMPRESSED => {
                        assert!(record.payload.len() <= payload.len() - payload.len() / 16, "it gains too little");
                        self.compressed += 1;
                    }
                    _ => self.plain += 1,
                }
                let (count, size) = (word(0), self.page_size);
                for (n, image) in payload[4 + 4 * count..].chunks(size).enumerate() {
                    let end = word(4 + 4 * n) * size;
                    self.bytes.resize(self.bytes.len().max(end), 0);
                    self.bytes[end - size..end].copy_from_slice(image);
                }
            }
            COMMIT => {
                self.bytes.resize(word(0) * self.page_size, 0);
                self.commits += 1;
            }
            kind => assert_eq!(kind, HEARTBEAT, "the type of a record"),
        }
    }

    /// Reads from `stream` until it is at `position`.
    fn reach(&mut self, stream: &mut Response, position: &str) {
        loop {
            let record = Record::read_flagged(stream).expect("a stream that goes on");
            self.take(&record);
            if record.kind == COMMIT && record.at().to_string() == position {
                return;
            }
        }
    }

    /// Fails unless the image is what `database` holds.
    fn assert_equals(&self, database: &Path) {
        stock(database, "PRAGMA wal_checkpoint(TRUNCATE)");
        assert!(self.bytes == file_bytes(database), "the stream led to another database");
    }
}

#[test]
fn records_are_compressed_as_the_protocol_says_for_those_who_ask_in_version_2() {
    let temp = Temp::new();
    let (mut primary, url) = primary_with(&temp.path("primary.db"), 4096, 3000, false);
    let cases: [(&[(&str, &str)], bool); 4] = [
        (&WANTED, true),
        (&[WANTED[0], ("Litestream-Compression", "zstd, lz4")], true),
        (&[WANTED[0], ("Litestream-Compression", "zstd")], false),
        (&WANTED[..1], false),
    ];
    for (headers, compresses) in cases {
        let mut stream = get(&url, "/stream", headers);
        assert_eq!(stream.header("Litestream-Stream-Version"), Some("2"));
        assert_eq!(stream.header("Litestream-Compression"), compresses.then_some("lz4"), "{headers:?}");
        let mut image = Image::default();
        image.reach(&mut stream, &primary.ask("SELECT litestream_position()"));
        primary.run(&insert(20, false));
        image.reach(&mut stream, &primary.ask("SELECT litestream_position()"));
        // Some 8 MB, in records of 1 MiB; or of one page, which need not get smaller.
        let (least, other) = if compresses { (image.compressed, image.plain) } else { (image.plain, image.compressed) };
        let most = if compresses && bounds::ARE_TINY { least / 100 } else { 0 };
        assert!(least > 5 && other <= most, "{headers:?}: {} compressed, {} plain", image.compressed, image.plain);
        image.assert_equals(&temp.path("primary.db"));
    }
    let mut stream = get(&url, "/stream", &WANTED[1..]);
    assert_eq!((stream.header("Litestream-Stream-Version"), stream.header("Litestream-Compression")), (None, None));
    assert_eq!(Record::read(&mut stream).map(|record| record.kind), Some(stream::SNAPSHOT));
}

#[test]
fn a_client_that_reads_too_slowly_is_caught_up_compressed() {
    let temp = Temp::new();
    let (mut primary, url) = primary_with(&temp.path("primary.db"), 4096, 10, false);
    let mut stream = get(&url, "/stream", &WANTED);
    let mut image = Image::default();
    image.reach(&mut stream, &primary.ask("SELECT litestream_position()"));
    // More than the log and the buffers of the sockets take, in commits small enough for the log. Half of each can be
    // compressed.
    for _ in 0..200 {
        primary.run(&format!("BEGIN; {}; {}; COMMIT", insert(100, true), insert(100, false)));
    }
    image.reach(&mut stream, &primary.ask("SELECT litestream_position()"));
    assert!(image.begins > 1, "the log was large enough: {} commits, one catch-up", image.commits);
    // Records of one page hold one half or the other.
    assert!(
        image.compressed > if bounds::ARE_TINY { image.plain / 2 } else { 10 * image.plain },
        "{} compressed, {} plain",
        image.compressed,
        image.plain
    );
    image.assert_equals(&temp.path("primary.db"));
}

/// The answer of a server that compresses, or of one that does so without having said it would.
fn answer(records: &[Record], announced: bool) -> Answer {
    let announced = if announced { "Litestream-Compression: lz4\r\n" } else { "" };
    let head = format!("HTTP/1.1 200 OK\r\nLitestream-Stream-Version: 2\r\n{announced}\r\n");
    Answer::Raw([head.into_bytes(), stream::encode(records)].concat())
}

/// A whole database with its pages compressed.
fn everything_compressed(page_size: u32) -> Vec<Record> {
    let records = stream::everything(LATER, &database(page_size, 30), page_size);
    records.iter().map(|record| if record.kind == PAGES { stream::compress(record) } else { record.clone() }).collect()
}

/// Fails unless pulling what `answer` gives is an error, which is returned, and changes nothing.
fn refuses(victim: &mut Victim, what: &str, answer: Answer, compression: &str) -> String {
    victim.says(answer);
    let options = format!("{{\"timeout_ms\": 60000, \"compression\": \"{compression}\"}}");
    let error = victim.shell.refused(&format!("SELECT litestream_pull('{}', '{options}')", victim.url()));
    victim.assert_untouched(what);
    error
}

#[test]
fn a_compressed_stream_is_taken_from_an_upstream_that_agreed_to_it_and_from_no_other() {
    for page_size in [512, 65536] {
        let records = everything_compressed(page_size);
        let mut victim = Victim::new(page_size);
        for (announced, compression) in [(false, "lz4"), (true, "none"), (false, "none")] {
            let what = format!("asked for {compression}, announced {announced}");
            let error = refuses(&mut victim, &what, answer(&records, announced), compression);
            assert!(error.contains("flags"), "{what}: {error}");
        }
        victim.says(answer(&records, true));
        let pull = format!("SELECT litestream_pull('{}', '{{\"compression\": \"lz4\"}}')", victim.url());
        assert_eq!(victim.shell.ask(&pull), LATER.to_string());
        assert_eq!(victim.shell.ask("PRAGMA integrity_check; SELECT count(*) FROM t"), "ok\n30");
        victim.takes_what_is_right();
    }
}

#[test]
fn an_upstream_that_knows_nothing_of_compression_is_followed_all_the_same() {
    let mut victim = Victim::new(512);
    let bytes = database(512, 30);
    victim.says(Answer::V2(stream::encode(&stream::everything(LATER, &bytes, 512))));
    let pull = format!("SELECT litestream_pull('{}', '{{\"compression\": \"lz4\"}}')", victim.url());
    assert_eq!(victim.shell.ask(&pull), LATER.to_string());
    assert_eq!(victim.upstream.requests().last().unwrap().header("Litestream-Compression"), Some("lz4"));
    victim.rest();
    assert!(mask_mark(file_bytes(&victim.path())) == bytes, "the replica has what came");
}

#[test]
fn a_wrong_compressed_stream_changes_nothing_and_the_error_says_what_is_wrong() {
    for page_size in [512, 65536] {
        let good = everything_compressed(page_size);
        let instead = |at: usize, record: Record| {
            let mut records = good.clone();
            records[at] = record;
            records
        };
        let changed = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut record = good[1].clone();
            change(&mut record.payload);
            instead(1, record)
        };
        let says = |size: u32| changed(&|payload| payload[..4].copy_from_slice(&size.to_be_bytes()));
        let flagged = |at: usize, flags: u32| instead(at, Record { flags, ..good[at].clone() });
        let one = stream::pages(&[(1, &vec![0; page_size as usize][..])]);
        let size = one.payload.len() as u32;
        let cases = [
            ("a record that says it holds 2^32 - 1 bytes", says(u32::MAX), "4294967295"),
            ("a record that says it holds 1 GiB", says(1 << 30), "1073741824"),
            ("a record that says it holds nothing", says(0), "compressed record"),
            ("a record that says it holds a byte more", says(2 * (size - 4) + 4 + 1), "compressed record"),
            ("a record that says it holds a byte less", says(2 * (size - 4) + 4 - 1), "compressed record"),
            ("a block that is cut", changed(&|payload| payload.truncate(payload.len() / 2)), "compressed record"),
            ("a block that goes on", changed(&|payload| payload.extend([0x10, 7])), "compressed record"),
            ("a block of noise", changed(&|payload| payload[4..].fill(0xff)), "compressed record"),
            ("a record without a block", changed(&|payload| payload.truncate(4)), "4 bytes"),
            ("a record without a size", changed(&|payload| payload.truncate(3)), "3 bytes"),
            ("a record with another flag", flagged(1, 2), "flags"),
            ("a record with a flag in addition", flagged(1, 3), "flags"),
            ("a begin record with the flag", flagged(0, 1), "flags"),
            ("a commit record with the flag", flagged(good.len() - 1, 1), "flags"),
            ("pages that are wrong inside", instead(1, stream::compress(&one)), "database"),
        ];
        for mut victim in [Victim::new(page_size), Victim::empty(page_size)] {
            for (what, records, word) in &cases {
                let error = refuses(&mut victim, what, answer(records, true), "lz4");
                assert!(error.contains(word), "{what}, page size {page_size}: no '{word}' in: {error}");
            }
            let bytes = stream::encode(&good);
            let head = answer(&[], true);
            let Answer::Raw(head) = head else { unreachable!("an answer of bytes") };
            for at in (0..bytes.len()).step_by(bytes.len() / 40) {
                let cut = [&head[..], &bytes[..at]].concat();
                refuses(&mut victim, &format!("cut at byte {at}"), Answer::Raw(cut), "lz4");
            }
            victim.takes_what_is_right();
        }
    }
}
