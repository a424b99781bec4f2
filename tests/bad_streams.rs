//! Streams that are cut, wrong, or no streams at all: nothing of them changes the replica, harms the process, or leaves a
//! lock behind.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use support::stream::{At, BEGIN, COMMIT, ERROR, HEARTBEAT, PAGES, Record, SEGMENT, SNAPSHOT};
use support::*;

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
    flagged[40 + 20 + 7] = 1;
    let mut short_count = stream::pages(&[page(1), page(2)]);
    short_count.payload[3] = 1;
    let mut zero_count = stream::pages(&[page(1)]);
    zero_count.payload[3] = 0;
    let mode = begin().with(|fields| fields[7] = 2);
    let turned = Record { offset: LATER.2 ^ 8, ..commit() };
    let lock_page = (1 << 30) / page_size + 1;
    let zeros = vec![0; size];
    let mut resized = page(1).1.to_vec();
    resized[16..18].copy_from_slice(&if page_size == 512 { 1024u16 } else { 512 }.to_be_bytes());
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
        ("a begin record that is too short", instead(0, Record::new(BEGIN, LATER, vec![0; 19])), "19"),
        ("a page size of 0", instead(0, stream::begin(LATER, 0, true, 1)), "page size 0"),
        ("a page size of 1000", instead(0, stream::begin(LATER, 1000, true, 1)), "page size 1000"),
        ("an unknown mode", instead(0, mode), "mode 2"),
        ("pages of another size", instead(0, stream::begin(LATER, other_size, true, 9)), "pages"),
        ("page number 0", instead(1, stream::pages(&[page(1), (0, &zeros)])), "page number 0"),
        (
            "page number 2^32 - 1",
            with(&[begin(), stream::pages(&[page(1)]), stream::pages(&[(u32::MAX, page(2).1)]), commit()]),
            "",
        ),
        ("a commit of 2^32 - 1 pages", instead(good.len() - 1, stream::commit(LATER, u32::MAX)), "4294967295 pages"),
        ("the lock-byte page", instead(1, stream::pages(&[page(1), (lock_page, &zeros)])), "lock-byte"),
        ("more pages than counted", instead(1, short_count), "pages"),
        ("no pages in a pages record", instead(1, zero_count), "pages"),
        ("a commit of 0 pages", instead(good.len() - 1, stream::commit(LATER, 0)), "0 pages"),
        ("a commit with a bit turned in its position", instead(good.len() - 1, turned), "checksum"),
        ("a commit at an index of 2^63", instead(good.len() - 1, Record { index: 1 << 63, ..commit() }), "no WAL"),
        ("a begin record at an offset of 2^63", instead(0, Record { offset: 1 << 63, ..begin() }), "no WAL"),
        ("a commit that is too short", instead(good.len() - 1, Record::new(COMMIT, LATER, vec![0; 23])), "23"),
        ("everything but page 1", with(&[begin(), stream::pages(&[page(2), page(3)]), commit()]), "page"),
        ("everything but page 2", with(&[begin(), stream::pages(&[page(1), page(3)]), commit()]), "page"),
        ("a page 1 that is no database", instead(1, stream::pages(&[(1, &zeros[..]), page(2)])), "database"),
        ("a page 1 with another page size", instead(1, stream::pages(&[(1, &resized[..]), page(2)])), "page"),
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
        ("a frame with wrong salts", changed(8), "salts"),
        ("a frame with a wrong checksum", changed(16), "checksum"),
        ("a frame with a changed page", changed(100), "checksum"),
        ("a WAL header with a wrong checksum", with(vec![snapshot(), segment(0, &header)]), "WAL header"),
        ("a segment that is no LZ4", with(vec![snapshot(), Record::new(SEGMENT, At(OTHER, 0, 0), vec![7; 50])]), "LZ4"),
        (
            "a segment with half a frame",
            with(vec![snapshot(), good[1].clone(), segment(32, &frame[..300])]),
            "300 bytes",
        ),
        ("a gap between segments", with(vec![snapshot(), good[1].clone(), good[3].clone()]), "expected"),
        ("segments without a WAL header", with(vec![snapshot(), good[2].clone()]), "expected"),
        ("segments without a snapshot", with(good[1..].to_vec()), "generation"),
        ("a segment of another generation", with(vec![snapshot(), good[1].clone(), other_generation]), "generation"),
        ("a snapshot that is no database", with(vec![no_database]), "database"),
        ("a snapshot with a byte too many", with(vec![odd]), ""),
        ("a snapshot with other pages", with(vec![other_size]), "page"),
        ("a snapshot of 2^63 bytes", [snapshot().header(1 << 63), wal.clone()].concat(), "9223372036854775808"),
        ("a segment of 2^63 bytes", [snapshot().encode(), good[1].header(1 << 63)].concat(), "9223372036854775808"),
        ("a text", b"cannot obtain WAL iterator: something went wrong\n".to_vec(), "type"),
    ];
    let mut replica = Victim::new(512);
    let mut empty = Victim::empty(512);
    // To a replica of another history, a version 1 stream is one that replaces everything.
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
        victim.says(Answer::V1Ended(bytes[..at].to_vec()));
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
