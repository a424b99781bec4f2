//! What the targets begin with: files and streams that the library and SQLite made, and texts.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use litestream::format::compression::Compression;
use litestream::format::lz4 as frame;
use litestream::net::{Credentials, HttpUpstream, Url};
use litestream::replica::{Have, Upstream};
use rusqlite::Connection;

use crate::apply_wal::{PAGE, ROWS};
use crate::database::{base, loaded, plain, scratch};
use crate::pull::everything;
use crate::slow;

/// Writes the seeds of every target into folders of `corpus`.
pub fn write(corpus: &Path) {
    let put = |target: &str, seeds: Vec<Vec<u8>>| {
        let folder = corpus.join(target);
        fs::create_dir_all(&folder).expect("a folder of the corpus");
        for (n, seed) in seeds.iter().enumerate() {
            fs::write(folder.join(format!("seed-{n:02}")), seed).expect("a seed");
        }
    };
    let (streams, files) = (streams(), sidecars());
    put("record", streams.iter().flat_map(|stream| records(stream)).collect());
    put("records", prefixed(&[&[0, 1, 200, 7, 40, 39, 3, 255, 0], &[1; 9]], &streams));
    put("lz4", compressed(&streams));
    put("wal", prefixed(&[&[0], &[0x21]], &(9..=16).map(|bits| wal(1 << bits)).collect::<Vec<_>>()));
    put("sidecar", files);
    put("position", texts(&["", "5fdb81d7f2759003/0000000000000000:000000000008cd40", "5fdb81d7f2759003"]));
    put("url", URLS.iter().map(|url| [&[0; 24], url.as_bytes()].concat()).collect());
    put("arguments", ARGUMENTS.iter().map(|(call, text)| [&[*call], text.as_bytes()].concat()).collect());
    put("query", QUERIES.iter().map(|query| [query.as_bytes(), b"\0\x01\x012\x01\x09lz4, none"].concat()).collect());
    put("request", texts(&REQUESTS));
    put("head", texts(&HEADS));
    put("apply_wal", prefixed(&[&[0], &[1], &[4]], &[wal(PAGE as u32), change(), shrink()]));
    put(
        "pull",
        prefixed(&[&[0], &[1], &[3]], &[everything(&base(PAGE, 30), PAGE), streams[0].clone(), streams[1].clone()]),
    );
    put("pull-2022", prefixed(&[&[4], &[5]], &[version_1()]));
    move_all(&corpus.join("pull-2022"), &corpus.join("pull"));
}

fn move_all(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).expect("a folder").flatten() {
        let name = format!("2022-{}", entry.file_name().to_string_lossy());
        fs::rename(entry.path(), to.join(name)).expect("a seed");
    }
    fs::remove_dir(from).expect("an empty folder");
}

/// Each of `contents` after each of `prefixes`.
fn prefixed(prefixes: &[&[u8]], contents: &[Vec<u8>]) -> Vec<Vec<u8>> {
    contents
        .iter()
        .flat_map(|content| prefixes.iter().map(move |prefix| [prefix, content.as_slice()].concat()))
        .collect()
}

fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// Streams as a server of the library sends them up to the first heartbeat: everything, compressed and not, then a commit.
fn streams() -> Vec<Vec<u8>> {
    let path = scratch().join("streamed.db");
    fs::write(&path, base(PAGE, ROWS)).expect("a database");
    let connection = loaded(&path);
    connection.execute("UPDATE t SET name = name || '!' WHERE id = 3", []).expect("a commit");
    let serve = "SELECT litestream_serve('127.0.0.1:0', '{\"heartbeat_ms\": 50}')";
    let url: String = connection.query_row(serve, [], |row| row.get(0)).expect("a server");
    let streams = Compression::ALL.map(|compression| {
        let (url, silence) = (Url::parse(&url).expect("a URL"), Duration::from_secs(10));
        let upstream = HttpUpstream::new(url, silence, compression, Credentials::default()).expect("an upstream");
        let mut opened = upstream.open(Have::Nothing).expect("a stream");
        let mut bytes = Vec::new();
        while !slow::records(&bytes).iter().any(|record| record.kind == 6) {
            let mut part = [0; 4096];
            let size = opened.body.read(&mut part).expect("more of a stream");
            bytes.extend_from_slice(&part[..size]);
        }
        bytes
    });
    connection.query_row("SELECT litestream_stop()", [], |_| Ok(())).expect("an end");
    streams.to_vec()
}

/// The records of a stream, each alone.
fn records(stream: &[u8]) -> Vec<Vec<u8>> {
    let mut at = 0;
    let sizes = slow::records(stream).iter().map(|record| 40 + record.payload.len()).collect::<Vec<_>>();
    let cut = sizes.iter().map(|size| {
        at += size;
        stream[at - size..at].to_vec()
    });
    cut.collect()
}

/// LZ4 frames of several sorts; what pages records hold, compressed; records to be compressed.
fn compressed(streams: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let payloads =
        streams.iter().flat_map(|stream| slow::records(stream).into_iter().filter(|record| record.flags == 1));
    let mut seeds: Vec<_> = payloads.map(|record| record.payload.to_vec()).collect();
    seeds.push(frame::compress(&base(PAGE, 5)).expect("LZ4"));
    seeds.push(frame::compress(&[]).expect("LZ4"));
    seeds.push(frame::compress(&[7; 70_000]).expect("LZ4"));
    seeds.push(streams[0].clone());
    seeds
}

/// A WAL of SQLite's over a database of one page or a few, with a commit.
fn wal(page_size: u32) -> Vec<u8> {
    log_of(page_size, "UPDATE t SET name = name || '!' WHERE id = 1", if page_size == PAGE as u32 { ROWS } else { 2 })
}

/// One with several commits and an index.
fn change() -> Vec<u8> {
    log_of(PAGE as u32, "UPDATE t SET number = 5; CREATE INDEX u ON t(name); DELETE FROM t WHERE id % 3 = 0;", ROWS)
}

/// One after which the database is smaller.
fn shrink() -> Vec<u8> {
    log_of(PAGE as u32, "DELETE FROM t WHERE id > 5; VACUUM;", ROWS)
}

fn log_of(page_size: u32, sql: &str, rows: u32) -> Vec<u8> {
    let path = scratch().join("logged.db");
    fs::write(&path, base(page_size as usize, rows)).expect("a database");
    let connection = plain(&path);
    connection.execute_batch(sql).expect("commits");
    let log = fs::read(scratch().join("logged.db-wal")).expect("a WAL");
    drop(connection);
    log
}

/// A snapshot and segments as in 2022.
fn version_1() -> Vec<u8> {
    let database = base(PAGE, ROWS);
    let log = log_of(PAGE as u32, "UPDATE t SET name = name || '!' WHERE id = 1", ROWS);
    let header = |kind: u32, offset: u64, size: usize| {
        let fields = [7, 1, offset, size as u64].map(u64::to_be_bytes).concat();
        [[kind, 0].map(u32::to_be_bytes).concat(), fields].concat()
    };
    let mut stream = [header(1, 0, database.len()), database].concat();
    for (offset, part) in [(0, &log[..32]), (32, &log[32..])] {
        let part = frame::compress(part).expect("LZ4");
        stream.extend(header(2, offset, part.len()));
        stream.extend(part);
    }
    stream
}

/// The files of the sidecar of a primary that was served and of a replica.
fn sidecars() -> Vec<Vec<u8>> {
    let (primary, replica) = (scratch().join("primary.db"), scratch().join("replica.db"));
    fs::write(&primary, base(PAGE, 3)).expect("a database");
    let (serving, following) = (loaded(&primary), loaded(&replica));
    let ask = |connection: &Connection, sql: &str| connection.query_row(sql, [], |row| row.get::<_, Option<String>>(0));
    let url = ask(&serving, "SELECT litestream_serve('127.0.0.1:0')").expect("a server").unwrap_or_default();
    ask(&following, &format!("SELECT litestream_pull('{url}')")).expect("a replica");
    serving.query_row("SELECT litestream_stop()", [], |_| Ok(())).expect("an end");
    let mut seeds = Vec::new();
    for (number, name) in (0..).zip(["position", "generation", "upstream", "pages", "lock"]) {
        for database in ["primary.db", "replica.db"] {
            let file = scratch().join(format!("{database}-litestream")).join(name);
            seeds.extend(fs::read(file).ok().map(|content| [&[number, 0], content.as_slice()].concat()));
        }
    }
    seeds
}

const URLS: [&str; 12] = [
    "http://h:9090",
    "http://127.0.0.1:9090/app.db",
    "https://ann:pw@db_1.example.org/my%20app.db",
    "http://[::1]:9090/var/lib/app.db",
    "http://h:9090//app.db",
    "http://h:9090/?path=a+b%2Bc=d%26.db",
    "http://h:9090?path=C%3A%5Cdata%5Capp.db",
    "http://h:9090/données.db",
    "http://[::ffff:127.0.0.1]/a+b@c.db",
    "http://h/a%00.db",
    "127.0.0.1:9090",
    "[::1]:0",
];

const ARGUMENTS: [(u8, &str); 12] = [
    (0, "127.0.0.1:9090"),
    (1, ":0\0{\"checkpoint_frames\": 1000, \"wal_limit\": 0, \"heartbeat_ms\": 50, \"write_timeout_ms\": 1000}"),
    (1, ":0\0{\"schema\": \"temp\"}"),
    (2, "http://h/app.db\0{\"overwrite\": true, \"writable\": false, \"timeout_ms\": 1000}"),
    (3, "http://h/app.db\0{\"compression\": \"lz4\", \"checkpoint_frames\": 4000}"),
    (4, "5fdb81d7f2759003/0000000000000000:000000000008cd40"),
    (5, "5fdb81d7f2759003/0000000000000000:000000000008cd40\0 1000"),
    (3, "https://t0ken@h/app.db\0{\"token\": \"t0ken\", \"ca\": \"ca.pem\", \"client_cert\": \"a.pem\"}"),
    (1, "0.0.0.0:0\0{\"insecure\": true, \"token\": [\"a\", \"b\"], \"tls_cert\": \"a.pem\", \"tls_key\": \"b.pem\"}"),
    (6, "{\"timeout_ms\": 5}"),
    (7, "1\0 2"),
    (3, "http://h\0[]"),
];

const QUERIES: [&str; 6] = [
    "",
    "path=app.db",
    "path=/var/lib/my%20app.db&generation=5fdb81d7f2759003&index=0000000000000003&offset=000000000008cd40",
    "generation=54a5500f213265e3&index=2",
    "page_size=4096&path=a+b",
    "path=&index=-1&generation=xyz",
];

const REQUESTS: [&str; 14] = [
    "GET / HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "GET /status.json HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n",
    "GET /snapshot HTTP/1.1\r\nhost: localhost\r\nrange: bytes=0-9\r\nif-none-match: \"x\"\r\nauthorization: Bearer x\r\n\r\n",
    "HEAD /snapshot?path=served.db HTTP/1.1\r\nhost: [::1]\r\n\r\n",
    "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "GET /stream HTTP/1.1\r\nhost: localhost\r\nlitestream-stream-version: 2\r\nlitestream-compression: lz4\r\n\r\n",
    "GET /stream?path=served.db HTTP/1.0\r\n\r\n",
    "GET /stream?generation=5fdb81d7f2759003&index=3&offset=8cd40 HTTP/1.1\r\nhost: localhost\r\nLitestream-Stream-Version: 2\r\n\r\n",
    "POST /stream?page_size=512 HTTP/1.1\r\nhost: localhost\r\nlitestream-stream-version: 2\r\ncontent-length: 16\r\n\r\n\u{1}2345678abcdefgh",
    "POST /verify?page_size=512 HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n8\r\n12345678\r\n0\r\n\r\n",
    "POST /verify?page_size=512&generation=5fdb81d7f2759003&index=3&offset=8cd40 HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n",
    "PUT /stream HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\nabc",
    "HEAD /nothing HTTP/1.1\r\nhost: localhost\r\n\r\nGET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n",
];

const HEADS: [&str; 9] = [
    "HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\ntransfer-encoding: chunked\r\nlitestream-page-size: 4096\r\n\
     litestream-stream-version: 2\r\nlitestream-compression: lz4\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\nLitestream-Page-Size: 1024\r\n\r\nhello",
    "HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\nhello",
    "HTTP/1.1 404 Not Found\r\ncontent-type: text/plain\r\n\r\nDatabase not found\n",
    "HTTP/1.1 302 Found\r\nlocation: https://other/stream\r\ncontent-length: 0\r\n\r\n",
    "HTTP/1.1 409 Conflict\r\ncontent-length: 4\r\n\r\nwhy\n",
    "HTTP/1.1 502 Bad Gateway\r\ncontent-type: text/html\r\n\r\n<html>",
    "HTTP/1.1 405 x\r\n\r\n",
    "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nlitestream-stream-version: 3\r\n\r\n",
];
