//! A database as one file, over HTTP and by SQL: whole, as of one commit, without holding anybody up.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use support::*;

/// Fetches the database served at `url` to a file. Gives its tag.
fn download(url: &str, to: &Path) -> String {
    let answer = get(url, "/snapshot", &[]);
    assert_eq!(answer.status, 200);
    let header = |name: &str| answer.header(name).unwrap_or_else(|| panic!("no header {name}")).to_string();
    let (length, tag) = (header("content-length").parse::<u64>().unwrap(), header("etag"));
    assert_eq!(
        (header("content-type").as_str(), header("accept-ranges").as_str()),
        ("application/vnd.sqlite3", "none")
    );
    let copied = std::io::copy(&mut { answer }, &mut fs::File::create(to).unwrap()).unwrap();
    assert_eq!(copied, length, "what was announced came");
    tag
}

fn is_whole(file: &Path) -> bool {
    stock(file, "PRAGMA integrity_check") == "ok"
}

fn snapshot(file: &Path) -> String {
    format!("SELECT litestream_snapshot('{}')", file.display())
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn a_download_is_the_database_and_the_start_of_a_replica() {
    let temp = Temp::new();
    let (mut primary, url) = serving_bank(&temp.path("primary.db"), 300, "{}");
    let copy = temp.path("copy.db");
    let tag = download(&url, &copy);
    assert!(tag.contains(&primary.ask("SELECT litestream_position()")), "{tag}");
    assert!(tag.contains(&primary.ask("SELECT litestream_checksum()")), "{tag}");
    assert!(is_whole(&copy));
    assert_same_pages(&temp.path("primary.db"), &copy);
    assert!(!is_marked(&copy));
    primary.run(&bank::step(1, 3));
    let mut replica = Shell::open(&copy);
    replica.run(&format!("SELECT litestream_follow('{url}', '{{\"overwrite\": true}}')"));
    catch_up(&mut primary, &mut replica);
    assert_same_pages(&temp.path("primary.db"), &copy);
    let pages: u32 = replica.ask("SELECT pages FROM litestream_status").parse().unwrap();
    assert!(pages < 50, "{pages} pages came for a commit of few");
    assert_eq!(
        names(&temp.path("primary.db-litestream")),
        ["generation", "lock", "position"],
        "nothing is left behind"
    );
}

#[test]
fn a_client_that_has_the_newest_is_told_so_and_a_head_says_what_a_download_would() {
    let temp = Temp::new();
    let (mut primary, url) = serving(&temp.path("primary.db"));
    let tag = download(&url, &temp.path("copy.db"));
    for method in ["GET", "HEAD"] {
        let again = request(method, &url, "/snapshot", &[("If-None-Match", &format!("\"other\", {tag}"))]);
        assert_eq!((again.status, again.header("etag")), (304, Some(tag.as_str())), "{method}");
    }
    let before = primary.ask("SELECT litestream_position()");
    primary.run("INSERT INTO t(x) VALUES ('two')");
    let head = request("HEAD", &url, "/snapshot?path=primary.db", &[("If-None-Match", &tag)]);
    assert_eq!((head.status, head.header("content-length")), (200, Some("8192")));
    assert_ne!(head.header("litestream-position"), Some(before.as_str()));
    assert_eq!(head.header("etag"), Some(download(&url, &temp.path("copy.db")).as_str()));
    let part = get(&url, "/snapshot", &[("Range", "bytes=0-99"), ("If-None-Match", &tag)]);
    assert_eq!(
        (part.status, part.header("content-length")),
        (200, Some("8192")),
        "parts of one state are not to be had"
    );
    assert_eq!(get(&url, "/snapshot?path=nothing.db", &[]).status, 404);
    assert_eq!(request("POST", &url, "/snapshot", &[("Content-Length", "0")]).status, 405);
}

#[test]
fn snapshots_taken_while_others_write_are_each_one_state() {
    const SNAPSHOTS: u32 = 12;
    let temp = Temp::new();
    let (mut primary, url) = serving_bank(&temp.path("primary.db"), 1500, "{\"checkpoint_frames\": 50}");
    let (stop, mut witness) = (AtomicBool::new(false), bank::Witness::default());
    std::thread::scope(|threads| {
        let _stop = StopOnDrop(&stop);
        threads.spawn(|| {
            let mut writer = Shell::stock(&temp.path("primary.db"));
            writer.run(".timeout 60000");
            writer.run("PRAGMA wal_autocheckpoint = 50");
            let mut seed = 0;
            while !stop.load(Ordering::SeqCst) {
                seed += 1;
                writer.run(&bank::step(seed, (seed % 40 * 30) as u32));
            }
        });
        for n in 0..SNAPSHOTS {
            let copy = temp.path(&format!("copy-{n}.db"));
            until("there were more commits", || match primary.ask("SELECT n FROM counter").parse::<i64>() {
                Ok(count) if count > witness.newest => Ok(()),
                other => Err(format!("{other:?}")),
            });
            if n % 2 == 0 {
                download(&url, &copy);
            } else {
                primary.run(&snapshot(&copy));
            }
            witness.see(&stock(&copy, &bank::judge("integrity_check")));
        }
    });
    assert_eq!(witness.states, SNAPSHOTS, "each shows what came since the one before");
}

#[test]
fn a_download_that_nobody_reads_holds_nobody_up_and_only_so_many_are_begun() {
    let temp = Temp::new();
    let (mut primary, url) = serving_bank(&temp.path("primary.db"), 4000, "{}");
    let mut stuck: Vec<Response> = (0..4).map(|_| get(&url, "/snapshot", &[])).collect();
    let refused = get(&url, "/snapshot", &[]);
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("5")));
    let wal = |primary: &mut Shell| -> u64 { primary.ask("SELECT wal_bytes FROM litestream_status").parse().unwrap() };
    let before = wal(&mut primary);
    for seed in 0..400 {
        primary.run(&bank::step(seed, 20));
    }
    // These commits are some 40 MiB of frames.
    let after = wal(&mut primary);
    assert!(after < before + (8 << 20), "the WAL went from {before} to {after} bytes");
    let mut replica = following(&temp.path("replica.db"), &url);
    catch_up(&mut primary, &mut replica);
    assert_same_pages(&temp.path("primary.db"), &temp.path("replica.db"));
    // What was promised still comes, as of when it was asked for.
    let mut bytes = Vec::new();
    stuck.pop().unwrap().read_to_end(&mut bytes).unwrap();
    fs::write(temp.path("copy.db"), bytes).unwrap();
    let judged = stock(&temp.path("copy.db"), &bank::judge("integrity_check"));
    assert_eq!(judged.lines().next(), Some("0"), "{judged}");
    until("there is room for one more", || match get(&url, "/snapshot", &[]).status {
        200 => Ok(()),
        status => Err(status),
    });
}

#[test]
fn a_download_that_is_cut_off_does_not_look_whole() {
    let temp = Temp::new();
    let (mut primary, url) = serving_bank(&temp.path("primary.db"), 6000, "{}");
    let mut cut = get(&url, "/snapshot", &[]);
    primary.run("SELECT litestream_stop()");
    let error = cut.read_to_end(&mut Vec::new()).expect_err("the end of a body that is shorter than was said");
    assert!(
        error.kind() == std::io::ErrorKind::ConnectionAborted || error.kind() == std::io::ErrorKind::ConnectionReset
    );
}

#[test]
fn sql_copies_a_primary_a_replica_and_a_database_that_is_neither() {
    let temp = Temp::new();
    let (mut primary, url) = serving_bank(&temp.path("primary.db"), 300, "{}");
    let mut replica = following(&temp.path("replica.db"), &url);
    primary.run(&bank::step(1, 10));
    let position = catch_up(&mut primary, &mut replica);
    let copies = ["primary", "followed", "left", "plain"].map(|name| temp.path(&format!("{name}-copy.db")));
    assert_eq!(primary.ask(&snapshot(&copies[0])), position);
    assert_eq!(replica.ask(&snapshot(&copies[1])), position);
    replica.run("SELECT litestream_stop()");
    assert_eq!(replica.ask(&snapshot(&copies[2])), position);
    primary.run("SELECT litestream_stop()");
    assert_eq!(primary.ask(&format!("SELECT litestream_snapshot('{}') IS NULL", copies[3].display())), "1");
    for copy in &copies {
        assert!(is_whole(copy) && !is_marked(copy), "{}", copy.display());
        assert_same_pages(&temp.path("primary.db"), copy);
        stock(copy, "INSERT INTO counter VALUES (1)");
    }
}

#[test]
fn a_relay_gives_a_copy_that_is_nobodys_replica() {
    let temp = Temp::new();
    let (mut primary, url) = serving(&temp.path("primary.db"));
    let mut relay = following(&temp.path("relay.db"), &url);
    let relayed = relay.ask("SELECT litestream_serve('127.0.0.1:0')");
    let position = catch_up(&mut primary, &mut relay);
    let copy = temp.path("copy.db");
    assert!(download(&relayed, &copy).contains(&position));
    assert!(is_whole(&copy) && !is_marked(&copy));
    assert_same_pages(&temp.path("primary.db"), &copy);
}

#[test]
fn sql_replaces_only_what_it_was_told_to_replace() {
    let temp = Temp::new();
    let file = temp.path("primary.db");
    let (mut primary, _) = serving(&file);
    let copy = temp.path("copy.db");
    fs::write(&copy, "somebody's").unwrap();
    assert!(primary.refused(&snapshot(&copy)).contains("overwrite"));
    assert_eq!(fs::read_to_string(&copy).unwrap(), "somebody's");
    let overwriting = |to: &Path| format!("SELECT litestream_snapshot('{}', '{{\"overwrite\": true}}')", to.display());
    primary.run(&overwriting(&copy));
    assert!(is_whole(&copy));
    fs::write(with_suffix(&copy, "-wal"), "of a database of that name").unwrap();
    assert!(primary.refused(&overwriting(&copy)).contains("copy.db-wal"));
    assert!(primary.refused(&overwriting(&file)).contains("the database itself"));
    assert!(primary.refused(&overwriting(temp.as_ref())).contains("folder"));
    assert!(primary.refused(&snapshot(&temp.path("nowhere/copy.db"))).contains("cannot be written"));
    assert!(primary.refused("SELECT litestream_snapshot('')").contains("empty"));
    assert!(Shell::open(":memory:".as_ref()).refused(&snapshot(&temp.path("m.db"))).contains("in memory"));
    let mut other = Shell::open(&temp.path("other.db"));
    other.run("CREATE TABLE t(x)");
    assert!(other.refused(&snapshot(&temp.path("o.db"))).contains("WAL mode"));
    assert!(names(temp.as_ref()).iter().all(|name| !name.ends_with(".tmp")), "{:?}", names(temp.as_ref()));
}

#[test]
fn a_copy_can_be_read_by_those_who_can_read_the_database() {
    let temp = Temp::new();
    let file = temp.path("primary.db");
    let (mut primary, _) = serving(&file);
    for mode in [0o600, 0o644] {
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        let copy = temp.path(&format!("copy-{mode:o}.db"));
        primary.run(&snapshot(&copy));
        assert_eq!(fs::metadata(&copy).unwrap().permissions().mode() & 0o777, mode);
    }
}
