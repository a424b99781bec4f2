//! A primary and its replicas, each a process or a connection as users have them: commits arrive, whole and in order.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::path::PathBuf;

use support::*;

#[test]
fn commits_arrive_whichever_sqlite_is_on_either_end() {
    for (primary_kind, replica_kind) in [
        (Kind::Shell, Kind::Shell),
        (Kind::Shell, Kind::Rusqlite),
        (Kind::Rusqlite, Kind::Shell),
        (Kind::Rusqlite, Kind::Rusqlite),
    ] {
        let temp = Temp::new();
        let mut primary = End::open(primary_kind, &temp.path("primary.db"));
        primary.ask(NEW);
        let url = primary.ask("SELECT litestream_serve('127.0.0.1:0')");
        let mut replica = End::open(replica_kind, &temp.path("replica.db"));
        let reached = replica.ask(&format!("SELECT litestream_follow('{url}')"));
        assert_eq!(reached, primary.ask("SELECT litestream_position()"), "{primary_kind:?} to {replica_kind:?}");
        let mut reader = Shell::stock(&temp.path("replica.db"));
        for n in 2..=20 {
            primary.ask(&format!("INSERT INTO t(x) VALUES ('row {n}'); UPDATE t SET x = x || '.' WHERE id = 1"));
            let position = primary.ask("SELECT litestream_position()");
            assert_eq!(replica.ask(&format!("SELECT litestream_wait('{position}', 60000)")), "1");
            assert_eq!(reader.ask("SELECT count(*), max(id) FROM t"), format!("{n}|{n}"));
            assert_eq!(replica.ask("SELECT litestream_position()"), position);
        }
        primary.ask("CREATE TABLE u AS SELECT * FROM t; DROP TABLE t; ALTER TABLE u ADD COLUMN y DEFAULT 7");
        let position = primary.ask("SELECT litestream_position()");
        assert_eq!(replica.ask(&format!("SELECT litestream_wait('{position}', 60000)")), "1");
        assert_eq!(reader.ask("SELECT count(*), sum(y) FROM u"), "20|140", "a changed schema");
        let error = replica.refused("INSERT INTO u(x) VALUES ('local')");
        assert!(error.contains("attempt to write a readonly database"), "{error}");
        assert!(reader.refused("DELETE FROM u").contains("attempt to write a readonly database"));
        assert_same_pages(&temp.path("primary.db"), &temp.path("replica.db"));
    }
}

#[test]
fn a_replica_starts_from_a_missing_or_an_empty_file() {
    let temp = Temp::new();
    let (mut primary, url) = serving(&temp.path("primary.db"));
    std::fs::write(temp.path("empty.db"), b"").unwrap();
    for name in ["missing.db", "empty.db"] {
        for call in ["pull", "follow"] {
            let database = temp.folder(call).join(name);
            if name == "empty.db" {
                std::fs::write(&database, b"").unwrap();
            }
            let mut replica = Shell::open(&database);
            let position = replica.ask(&format!("SELECT litestream_{call}('{url}')"));
            assert_eq!(position, primary.ask("SELECT litestream_position()"));
            assert_eq!(replica.ask("SELECT x FROM t"), "one");
            assert_eq!(replica.ask("PRAGMA journal_mode"), "wal");
            assert_eq!(stock(&database, "PRAGMA integrity_check"), "ok");
            assert!(is_marked(&database));
            assert_same_pages(&temp.path("primary.db"), &database);
        }
    }
}

#[test]
fn every_page_size_is_replicated() {
    for page_size in [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536] {
        let temp = Temp::new();
        let mut primary = Shell::open(&temp.path("primary.db"));
        primary.run(&format!(
            "PRAGMA page_size = {page_size}; PRAGMA journal_mode = wal; {}",
            bank::create(20, page_size)
        ));
        let url = primary.ask("SELECT litestream_serve('127.0.0.1:0')");
        let mut replica = following(&temp.path("replica.db"), &url);
        for step in 0..10 {
            primary.run(&bank::step(step, 20));
        }
        catch_up(&mut primary, &mut replica);
        bank::Witness::default().see(&replica.ask(&bank::judge("integrity_check")));
        assert_eq!(replica.ask("PRAGMA page_size"), page_size.to_string());
        assert_same_pages(&temp.path("primary.db"), &temp.path("replica.db"));
    }
}

#[test]
fn a_database_and_a_transaction_larger_than_every_buffer_arrive_whole() {
    let temp = Temp::new();
    let (mut primary, url) = serving_bank(&temp.path("primary.db"), 12_000, "{}");
    let mut replica = following(&temp.path("replica.db"), &url);
    assert_same_pages(&temp.path("primary.db"), &temp.path("replica.db"));
    primary.run("UPDATE ballast SET bytes = randomblob(3000)");
    catch_up(&mut primary, &mut replica);
    assert_eq!(replica.ask("PRAGMA integrity_check"), "ok");
    assert_same_pages(&temp.path("primary.db"), &temp.path("replica.db"));
    primary.run("DELETE FROM ballast WHERE id > 100; VACUUM");
    catch_up(&mut primary, &mut replica);
    assert_same_pages(&temp.path("primary.db"), &temp.path("replica.db"));
}

#[test]
fn a_database_past_the_lock_byte_page_is_replicated_without_it() {
    let temp = Temp::new();
    let (path, copied) = (temp.path("primary.db"), temp.path("replica.db"));
    let mut primary = Shell::open(&path);
    // Byte 1 GiB is in page 16385, where SQLite keeps its locks and nothing else.
    primary.run("PRAGMA page_size = 65536; PRAGMA journal_mode = wal; CREATE TABLE t(id INTEGER PRIMARY KEY, x)");
    for _ in 0..11 {
        primary.run("INSERT INTO t(x) VALUES (zeroblob(100000000))");
    }
    primary.run("PRAGMA wal_checkpoint(TRUNCATE)");
    let url = primary.ask("SELECT litestream_serve('127.0.0.1:0')");
    let mut replica = following(&copied, &url);
    assert_eq!(replica.ask("PRAGMA page_count"), primary.ask("PRAGMA page_count"));
    primary.run("INSERT INTO t(x) SELECT randomblob(1000000); UPDATE t SET x = zeroblob(99999999) WHERE id = 11");
    catch_up(&mut primary, &mut replica);
    assert_eq!(replica.ask("PRAGMA page_count"), primary.ask("PRAGMA page_count"));
    assert_eq!(
        replica.ask("SELECT count(*), sum(length(x)) FROM t"),
        primary.ask("SELECT count(*), sum(length(x)) FROM t")
    );
    assert_eq!(replica.ask("PRAGMA quick_check"), "ok");
    drop((primary, replica));
    for database in [&path, &copied] {
        stock(database, "PRAGMA wal_checkpoint(TRUNCATE)");
    }
    assert_same_files(&path, &copied);
}

#[test]
fn a_replica_goes_on_from_where_it_was() {
    let temp = Temp::new();
    let (mut primary, url) = serving(&temp.path("primary.db"));
    let replica = temp.path("replica.db");
    for n in 2..6 {
        let position = primary.ask("SELECT litestream_position()");
        let mut shell = Shell::open(&replica);
        assert_eq!(shell.ask(&format!("SELECT litestream_pull('{url}')")), position);
        assert_eq!(shell.ask(&format!("SELECT litestream_pull('{url}')")), position, "nothing new");
        assert_eq!(shell.ask("SELECT count(*) FROM t"), (n - 1).to_string());
        assert!(shell.quit().success());
        assert_same_pages(&temp.path("primary.db"), &replica);
        primary.run(&format!("INSERT INTO t(x) VALUES ({n})"));
    }
    let mut shell = following(&replica, &url);
    assert_eq!(shell.ask("SELECT count(*) FROM t"), "5", "following goes on from what was pulled");
    assert_eq!(shell.ask("SELECT litestream_stop()"), format!("followed {url}"));
    primary.run("INSERT INTO t(x) VALUES (6)");
    assert_eq!(shell.ask(&format!("SELECT litestream_pull('{url}')")), primary.ask("SELECT litestream_position()"));
    assert_eq!(shell.ask("SELECT count(*) FROM t"), "6", "pulling goes on from what was followed");
}

#[test]
fn a_replica_asks_for_what_follows_its_position() {
    let temp = Temp::new();
    let (_primary, url) = serving(&temp.path("primary.db"));
    let mut replica = Shell::open(&temp.path("replica.db"));
    let position = replica.ask(&format!("SELECT litestream_pull('{url}')"));
    let silent = Upstream::start(|_, reply| reply.text("503 Service Unavailable", "text/plain", "not today\n"));
    let error = replica.refused(&format!("SELECT litestream_pull('{}/primary.db')", silent.url()));
    assert!(error.contains("not today"), "{error}");
    let (generation, rest) = position.split_once('/').unwrap();
    let (index, offset) = rest.split_once(':').unwrap();
    let asked = silent.requests().first().unwrap().clone();
    for part in ["path=primary.db", &format!("generation={generation}"), "index=", "offset="] {
        assert!(asked.line.contains(part), "{part} is not in {}", asked.line);
    }
    let number = |name: &str| {
        let value = asked.line.split(['?', '&']).find_map(|pair| pair.strip_prefix(name)).unwrap();
        u64::from_str_radix(value, 16).unwrap()
    };
    assert_eq!(number("index="), u64::from_str_radix(index, 16).unwrap());
    assert_eq!(number("offset="), u64::from_str_radix(offset, 16).unwrap());
    assert_eq!(asked.header("Litestream-Stream-Version"), Some("2"));
}

#[test]
fn several_replicas_get_the_same() {
    let temp = Temp::new();
    let (mut primary, url) = serving_bank(&temp.path("primary.db"), 100, "{}");
    // Some of them speak as those of 2022 did.
    let old = strip_version(url.trim_end_matches("/primary.db"));
    let urls = [url, format!("{}/primary.db", old.url())];
    let mut replicas = Vec::new();
    // They come while the primary writes.
    for n in 0..5u64 {
        for step in 0..20 {
            primary.run(&bank::step(n * 20 + step, 50));
        }
        replicas.push(following(&temp.path(&format!("replica-{n}.db")), &urls[n as usize % 2]));
    }
    primary.run("VACUUM");
    for (n, replica) in replicas.iter_mut().enumerate() {
        catch_up(&mut primary, replica);
        assert_same_pages(&temp.path("primary.db"), &temp.path(&format!("replica-{n}.db")));
    }
}

#[test]
fn a_schema_other_than_main_is_served_and_followed() {
    let temp = Temp::new();
    let mut primary = Shell::open(":memory:".as_ref());
    primary.run(&format!("ATTACH '{}' AS side; PRAGMA side.journal_mode = wal", temp.path("side.db").display()));
    primary.run("CREATE TABLE side.t(x); INSERT INTO side.t VALUES (1)");
    let url = primary.ask("SELECT litestream_serve('127.0.0.1:0', '{\"schema\": \"side\"}')");
    let mut replica = Shell::open(":memory:".as_ref());
    replica.run(&format!("ATTACH '{}' AS copy", temp.path("copy.db").display()));
    replica.run(&format!("SELECT litestream_follow('{url}', '{{\"schema\": \"copy\"}}')"));
    assert_eq!(replica.ask("SELECT x FROM copy.t"), "1");
    primary.run("INSERT INTO side.t VALUES (2)");
    until_gives(&mut replica, "SELECT count(*) FROM copy.t", "2");
    assert_same_pages(&temp.path("side.db"), &temp.path("copy.db"));
}

#[test]
fn names_with_spaces_percent_signs_and_other_scripts_work() {
    let temp = Temp::new();
    for name in ["with space.db", "100%25 & more?#+.db", "данные-数据.db", "quote'd \"x\".db"] {
        let folder = temp.folder("odd % folder ü");
        let database: PathBuf = folder.join(name);
        let primary = loaded(&database);
        primary.run(NEW);
        let url: String = primary.ask("SELECT litestream_serve('127.0.0.1:0')");
        assert!(url.is_ascii() && !url.contains([' ', '"', '#', '?']), "{url}");
        let path = folder.join(format!("replica of {name}"));
        let replica = loaded(&path);
        replica.query_row("SELECT litestream_follow(?1)", [&url], |_| Ok(())).unwrap();
        assert_eq!(replica.ask::<String>("SELECT x FROM t"), "one");
        let absolute = format!("http://{}/?path={}", address(&url), percent(&database.display().to_string()));
        let second = loaded(&folder.join(format!("second replica of {name}")));
        second.query_row("SELECT litestream_pull(?1)", [&absolute], |_| Ok(())).unwrap();
        assert_eq!(second.ask::<String>("SELECT x FROM t"), "one");
        primary.ask::<String>("SELECT litestream_stop()");
        replica.ask::<String>("SELECT litestream_stop()");
    }
}

fn percent(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}
