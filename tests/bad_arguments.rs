//! Arguments and files that are wrong: nothing of them changes the replica, harms the process, or leaves a lock behind.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use support::*;

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

/// The options of `litestream_serve` that are whole numbers.
const NUMBERS: &[&str] = &[
    "checkpoint_frames",
    "wal_limit",
    "heartbeat_ms",
    "max_connections",
    "max_connections_per_address",
    "max_streams",
    "max_head_bytes",
    "head_timeout_ms",
    "body_timeout_ms",
    "write_timeout_ms",
];

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
    let serve =
        [&["schema", "token", "token_file", "insecure", "metrics_only", "tls_cert", "tls_key", "client_ca"], NUMBERS]
            .concat();
    let error = primary.refused("SELECT litestream_serve('127.0.0.1:0', '{\"chekpoint_frames\": 7}')");
    assert!(error.contains("chekpoint_frames"), "{error}");
    serve.iter().for_each(|known| assert!(error.contains(known), "'{known}' is not listed: {error}"));
    for call in ["pull", "follow"] {
        let error = victim.shell.refused(&format!("SELECT litestream_{call}('{url}', '{{\"over_write\": true}}')"));
        assert!(error.contains("over_write"), "{error}");
        let client = ["token", "token_file", "ca", "client_cert", "client_key"];
        for known in ["schema", "overwrite", "writable", "timeout_ms", "checkpoint_frames", "audit_ms", "compression"]
            .iter()
            .chain(&client)
        {
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
    for option in NUMBERS {
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
        ("config", &[2]),
        ("serve", &[3]),
        ("pull", &[3]),
        ("follow", &[3]),
        ("stop", &[1]),
        ("position", &[1]),
        ("wait", &[0, 3]),
        ("lag", &[1]),
        ("apply_frame", &[0, 1, 2, 4]),
        ("apply_wal", &[0, 2]),
        ("verify", &[3]),
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
        (format!("1, {pages}, zeroblob(512)"), "database"),
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
    victim.shell.run("SELECT litestream_apply_frame(2, 0, zeroblob(512))");
    victim.shell.run("SELECT litestream_apply_frame(3, 0, zeroblob(512))");
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
