//! Files that are replaced while they are served or followed: renamed over, overwritten, removed
//! and made anew. It is noticed, the application's new file is never harmed, no replica mixes both,
//! and after a new beginning the replicas are right.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::Path;

use support::*;

/// What becomes of the file of a database.
type Change = fn(&Temp);

const SCHEMA: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, x); CREATE INDEX tx ON t(x)";

/// SQL that fills the table with rows of some hundred bytes, each of which begins with `word`.
fn rows(count: u32, word: &str) -> String {
    format!(
        "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < {count}) \
         INSERT INTO t SELECT i, '{word}' || hex(randomblob(190)) FROM n"
    )
}

/// A served database with rows, its URL, and a replica that follows it.
fn pair(temp: &Temp) -> (Shell, String, Shell) {
    let mut primary = Shell::open(&temp.path("app.db"));
    primary.run(&format!("PRAGMA journal_mode = wal; {SCHEMA}; {}", rows(3000, "old")));
    let url = primary.ask("SELECT litestream_serve('127.0.0.1:0')");
    let mut replica = following(&temp.path("copy.db"), &url);
    catch_up(&mut primary, &mut replica);
    (primary, url, replica)
}

/// Another database, as a backup of an earlier state is one.
fn backup(temp: &Temp) -> std::path::PathBuf {
    let path = temp.path("backup.db");
    stock(&path, &format!("PRAGMA journal_mode = wal; {SCHEMA}; {}", rows(2500, "new")));
    path
}

/// Waits until the server at `url` says that it does not serve any more, and gives what it says.
fn until_stalled(url: &str) -> String {
    until("the primary is stalled", || match get(url, "/status.json", &[]).text() {
        text if text.contains("\"stalled\"") => Ok(text),
        text => Err(text),
    })
}

/// What a stock SQLite finds wrong with a database.
fn check(database: &Path) -> String {
    stock(database, "PRAGMA integrity_check")
}

/// Ends the application, begins it again at the same address, and waits until the replica is as the
/// file.
fn serve_again(temp: &Temp, primary: Shell, url: &str, replica: &mut Shell) {
    primary.quit();
    let mut again = Shell::open(&temp.path("app.db"));
    again.run(&format!("SELECT litestream_serve('{}')", address(url)));
    again.run("INSERT INTO t(x) VALUES ('again')");
    catch_up(&mut again, replica);
    assert_same_pages(&temp.path("app.db"), &temp.path("copy.db"));
    assert_eq!(check(&temp.path("copy.db")), "ok");
}

#[test]
fn a_served_file_that_another_is_renamed_over_is_noticed_and_told() {
    let temp = Temp::new();
    let (primary, url, mut replica) = pair(&temp);
    fs::rename(backup(&temp), temp.path("app.db")).unwrap();
    let told = until_stalled(&url);
    assert!(told.contains("was replaced by another file while it was in use"), "{told}");
    assert_eq!(replica.ask("SELECT count(*) FROM t WHERE x LIKE 'old%'"), "3000");
    // What belonged to the old file.
    for suffix in ["-wal", "-shm"] {
        fs::remove_file(with_suffix(&temp.path("app.db"), suffix)).unwrap();
    }
    serve_again(&temp, primary, &url, &mut replica);
    assert_eq!(replica.ask("SELECT count(*) FROM t WHERE x LIKE 'new%'"), "2500");
}

#[test]
fn a_served_file_that_is_overwritten_is_noticed_before_a_replica_mixes_both() {
    let temp = Temp::new();
    let (mut primary, url, mut replica) = pair(&temp);
    until_gives(&mut primary, "PRAGMA wal_checkpoint(TRUNCATE)", "0|0|0");
    catch_up(&mut primary, &mut replica);
    let backup = backup(&temp);
    fs::copy(&backup, temp.path("app.db")).unwrap();
    // The application connects again, and goes on.
    stock(&temp.path("app.db"), "INSERT INTO t(x) VALUES ('more'); UPDATE t SET x = 'upd' || id WHERE id % 100 = 0");
    let told = until_stalled(&url);
    assert!(told.contains("was overwritten while it was in use"), "{told}");
    assert_eq!(check(&temp.path("copy.db")), "ok");
    assert_eq!(replica.ask("SELECT count(*) FROM t WHERE x LIKE 'old%'"), "3000");
    serve_again(&temp, primary, &url, &mut replica);
    assert_eq!(replica.ask("SELECT count(*) FROM t WHERE x LIKE 'new%'"), "2475");
}

#[test]
fn a_wal_that_is_removed_while_the_database_is_served_is_noticed() {
    let temp = Temp::new();
    let (_primary, url, _replica) = pair(&temp);
    fs::remove_file(temp.path("app.db-wal")).unwrap();
    let told = until_stalled(&url);
    assert!(told.contains("app.db-wal was removed or renamed while it was in use"), "{told}");
}

#[test]
fn a_page_that_changes_without_a_commit_is_sent_to_nobody() {
    let temp = Temp::new();
    let (mut primary, url, mut replica) = pair(&temp);
    until_gives(&mut primary, "PRAGMA wal_checkpoint(TRUNCATE)", "0|0|0");
    catch_up(&mut primary, &mut replica);
    let file = fs::OpenOptions::new().write(true).open(temp.path("app.db")).unwrap();
    file.write_all_at(&[7; 100], 200 * 4096 + 1000).unwrap();
    // Closing it takes none of the locks away: they are another process's.
    drop(file);
    let error = Shell::open(&temp.path("late.db")).refused(&format!("SELECT litestream_follow('{url}')"));
    assert!(error.contains("page 201 has changed without a commit"), "{error}");
    let told = until_stalled(&url);
    assert!(told.contains("page 201 has changed without a commit"), "{told}");
    assert_eq!(check(&temp.path("copy.db")), "ok");
}

#[test]
fn a_database_that_is_made_anew_while_it_is_served_is_not_harmed() {
    for attempt in 0..5 {
        let temp = Temp::new();
        let (mut primary, url, _replica) = pair(&temp);
        let app = temp.path("app.db");
        primary.run("UPDATE t SET x = 'o' || id WHERE id % 9 = 0");
        // A new connection finds the old wal-index: with frames that are not in the database yet it
        // fails, with or without us.
        until("all is in the database", || match primary.ask("PRAGMA wal_checkpoint") {
            done if done.split('|').nth(1) == done.split('|').nth(2) => Ok(()),
            done => Err(done),
        });
        // The WAL and its index stay, as they do when an application knows nothing of them.
        fs::remove_file(&app).unwrap();
        let mut again = Shell::stock(&app);
        again.run(".timeout 10000");
        again.run(&format!("PRAGMA journal_mode = wal; {SCHEMA}; {}", rows(4900, "new")));
        for step in 0..20 {
            again.run(&format!("UPDATE t SET x = 'n' || id WHERE id % 50 = {step}"));
        }
        let told = until_stalled(&url);
        assert!(told.contains("while it was in use"), "{told}");
        for step in 0..20 {
            again.run(&format!("UPDATE t SET x = 'm' || id WHERE id % 50 = {step}"));
        }
        primary.quit();
        assert_eq!(again.ask("PRAGMA integrity_check"), "ok", "attempt {attempt}");
        again.quit();
        assert_eq!(stock(&app, "PRAGMA integrity_check; SELECT count(*) FROM t"), "ok\n4900", "attempt {attempt}");
    }
}

#[test]
fn a_replica_whose_file_is_replaced_is_left_alone_until_following_begins_again() {
    let temp = Temp::new();
    let (mut primary, url, mut replica) = pair(&temp);
    let (copy, backup) = (temp.path("copy.db"), backup(&temp));
    let before = file_bytes(&backup);
    fs::rename(&backup, &copy).unwrap();
    for suffix in ["-wal", "-shm"] {
        fs::remove_file(with_suffix(&copy, suffix)).unwrap();
    }
    primary.run("INSERT INTO t(x) VALUES ('more')");
    until("the replica is stalled", || match replica.ask("SELECT state || ': ' || reason FROM litestream_status") {
        told if told.starts_with("stalled") && told.contains("was replaced by another file") => Ok(()),
        told => Err(told),
    });
    assert!(file_bytes(&copy) == before, "nothing is written to a file that is not the replica");
    replica.quit();
    assert!(file_bytes(&copy) == before, "nothing is written to it at the end either");
    let mut replica = following(&copy, &url);
    catch_up(&mut primary, &mut replica);
    assert_same_pages(&temp.path("app.db"), &copy);
}

#[test]
fn a_replica_that_is_overwritten_is_written_no_more_until_following_begins_again() {
    let temp = Temp::new();
    let (mut primary, url, mut replica) = pair(&temp);
    fs::copy(backup(&temp), temp.path("copy.db")).unwrap();
    let before = file_bytes(&temp.path("copy.db"));
    primary.run("INSERT INTO t(x) VALUES ('more')");
    until("the replica is stalled", || match replica.answer("SELECT state || ': ' || reason FROM litestream_status") {
        Ok(told) if told.starts_with("stalled") && told.contains("was overwritten while it was in use") => Ok(()),
        told => Err(format!("{told:?}")),
    });
    assert!(file_bytes(&temp.path("copy.db")) == before);
    replica.quit();
    let mut replica = following(&temp.path("copy.db"), &url);
    catch_up(&mut primary, &mut replica);
    assert_same_pages(&temp.path("app.db"), &temp.path("copy.db"));
    assert_eq!(check(&temp.path("copy.db")), "ok");
}

#[test]
fn a_process_ends_in_order_after_its_database_has_changed_its_name() {
    let changes: [(&str, Change); 3] = [
        ("renamed over", |temp| fs::rename(backup(temp), temp.path("app.db")).unwrap()),
        ("removed", |temp| fs::remove_file(temp.path("app.db")).unwrap()),
        ("a second name", |temp| fs::hard_link(temp.path("app.db"), temp.path("second.db")).unwrap()),
    ];
    let upstream = Temp::new();
    let (_upstream, url) = serving(&upstream.path("upstream.db"));
    for (what, change) in changes {
        for call in ["litestream_serve('127.0.0.1:0')", &format!("litestream_follow('{url}')")] {
            let temp = Temp::new();
            let mut shell = Shell::open(&temp.path("app.db"));
            if call.contains("serve") {
                shell.run(NEW);
            }
            shell.run(&format!("SELECT {call}"));
            change(&temp);
            assert!(shell.quit().success(), "{what}, {call}");
        }
    }
}

#[test]
fn a_wal_is_read_by_no_name_that_leads_to_a_database() {
    let temp = Temp::new();
    let database = temp.path("app.db");
    let app = loaded(&database);
    app.run("PRAGMA journal_mode = wal; CREATE TABLE t(x)");
    app.ask::<String>("SELECT litestream_serve('127.0.0.1:0')");
    let locks = || {
        let (inode, process) =
            (format!(":{} ", fs::metadata(&database).unwrap().ino()), std::process::id().to_string());
        let locks = fs::read_to_string("/proc/locks").unwrap();
        let is_ours = |lock: &&str| lock.contains(&inode) && lock.split_whitespace().any(|word| word == process);
        locks.lines().filter(is_ours).count()
    };
    let before = locks();
    assert!(before > 0, "a database in WAL mode is locked by who has it open");
    symlink(&database, temp.path("symbolic-wal")).unwrap();
    fs::hard_link(&database, temp.path("hard-wal")).unwrap();
    for (name, why) in [("symbolic-wal", "no regular file"), ("hard-wal", "another name of a file")] {
        let path = temp.path(name);
        let error = app.refused(&format!("SELECT count(*) FROM litestream_wal('{}')", path.display()));
        assert!(error.contains(why), "{name}: {error}");
        assert_eq!(locks(), before, "{name}");
    }
    fs::remove_file(temp.path("hard-wal")).unwrap();
    let own = format!("SELECT count(*) > 0 FROM litestream_wal('{}-wal')", database.display());
    assert_eq!(app.ask::<i64>(&own), 1);
    assert_eq!(locks(), before);
}

#[test]
fn a_sidecar_that_is_removed_is_made_again_and_keeps_others_out() {
    let temp = Temp::new();
    let (mut primary, _url, mut replica) = pair(&temp);
    for (database, file) in [("app.db", "generation"), ("copy.db", "upstream")] {
        let sidecar = temp.path(&format!("{database}-litestream"));
        let before = fs::read_to_string(sidecar.join(file)).unwrap();
        fs::remove_dir_all(&sidecar).unwrap();
        until("the sidecar is there again", || {
            primary.run("INSERT INTO t(x) VALUES ('more')");
            match fs::read_to_string(sidecar.join(file)) {
                Ok(now) if now.get(..16) == before.get(..16) => Ok(()),
                now => Err(format!("{now:?}")),
            }
        });
        let error = Shell::open(&temp.path(database)).refused(match file {
            "generation" => "SELECT litestream_serve('127.0.0.1:0')",
            _ => "SELECT litestream_promote()",
        });
        assert!(error.contains("already serves or follows this database"), "{error}");
    }
    catch_up(&mut primary, &mut replica);
}

#[test]
fn a_primary_whose_sidecar_another_process_has_taken_stops() {
    let temp = Temp::new();
    let (_primary, url, _replica) = pair(&temp);
    let sidecar = temp.path("app.db-litestream");
    fs::rename(&sidecar, temp.path("away")).unwrap();
    fs::create_dir(&sidecar).unwrap();
    let lock = fs::File::create(sidecar.join("lock")).unwrap();
    // The primary may have been quicker, and made the folder first.
    if lock.try_lock().is_ok() {
        let told = until_stalled(&url);
        assert!(told.contains("was removed while it was in use"), "{told}");
    }
}

#[test]
fn a_backup_is_put_back_while_everything_runs() {
    let temp = Temp::new();
    let (mut primary, _url, mut replica) = pair(&temp);
    let backup = backup(&temp);
    let mut shell = Shell::stock(&temp.path("app.db"));
    shell.run(".timeout 10000");
    shell.run(&format!(".restore '{}'", backup.display()));
    primary.run("INSERT INTO t(x) VALUES ('after')");
    catch_up(&mut primary, &mut replica);
    assert_eq!(replica.ask("SELECT count(*), total(x LIKE 'new%') FROM t"), "2501|2500.0");
    assert_same_pages(&temp.path("app.db"), &temp.path("copy.db"));
    assert_eq!(replica.ask("SELECT heals FROM litestream_status"), "0");
}

#[test]
fn a_folder_that_cannot_be_looked_into_for_a_while_ends_nothing() {
    let temp = Temp::new();
    let folder = temp.path("folder");
    fs::create_dir(&folder).unwrap();
    let (mut primary, url) = serving(&folder.join("app.db"));
    let mut replica = following(&temp.path("copy.db"), &url);
    catch_up(&mut primary, &mut replica);
    fs::rename(&folder, temp.path("away")).unwrap();
    // Whatever is looked for there, the system answers neither with a file nor that there is none.
    symlink(&folder, &folder).unwrap();
    until("the failure is noticed", || match get(&url, "/status.json", &[]).text() {
        text if text.contains("symbolic links") => Ok(()),
        text => Err(text),
    });
    fs::remove_file(&folder).unwrap();
    fs::rename(temp.path("away"), &folder).unwrap();
    primary.run("CREATE TABLE later(x)");
    catch_up(&mut primary, &mut replica);
}
