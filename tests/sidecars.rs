//! Sidecars that are not what this library left: damaged, cut short, foreign, of another time, or in the way. None is trusted for
//! more than it is, none ends anything, and in the end the replica has what its primary has.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use support::*;

const FILES: [&str; 5] = ["position", "upstream", "generation", "pages", "lock"];

/// Things that can be done to one file, each with what it is.
fn damages(path: &Path, foreign: &Path) -> Vec<(String, Box<dyn Fn()>)> {
    let (good, other) = (fs::read(path).unwrap_or_default(), fs::read(foreign).unwrap_or_default());
    let write = |bytes: Vec<u8>| -> Box<dyn Fn()> {
        let path = path.to_path_buf();
        Box::new(move || fs::write(&path, &bytes).unwrap())
    };
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    let mut damages = vec![
        (format!("{name} is empty"), write(Vec::new())),
        (
            format!("{name} is noise"),
            write((0..3000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 11) as u8).collect()),
        ),
        (format!("{name} is endless text"), write(b"0123456789abcdef/".repeat(100_000))),
        (format!("{name} is that of another database"), write(other)),
    ];
    for cut in [1, 16, 17, 33, 34, good.len() / 2, good.len().saturating_sub(1)] {
        if cut < good.len() {
            damages.push((format!("{name} ends at {cut}"), write(good[..cut].to_vec())));
        }
    }
    for bit in (0..good.len() * 8).step_by(31 + good.len() / 4) {
        let mut turned = good.clone();
        turned[bit / 8] ^= 1 << (bit % 8);
        damages.push((format!("{name} with bit {bit} turned"), write(turned)));
    }
    let (gone, beside) = (path.to_path_buf(), path.with_extension("tmp"));
    damages.push((format!("{name} is gone"), Box::new(move || drop(fs::remove_file(&gone)))));
    damages
        .push((format!("half of a new {name} is left over"), Box::new(move || fs::write(&beside, b"7f29").unwrap())));
    let dangling = path.to_path_buf();
    damages.push((
        format!("{name} is a link that leads nowhere"),
        Box::new(move || {
            let _ = fs::remove_file(&dangling);
            std::os::unix::fs::symlink("nowhere", &dangling).unwrap();
        }),
    ));
    damages
}

/// A primary and its replica, both used and closed, with sidecars that hold everything.
struct Line {
    temp: Temp,
}

impl Line {
    fn new(seed: u64) -> Line {
        let line = Line { temp: Temp::new() };
        plain(&line.primary()).run(&format!("PRAGMA journal_mode = wal; {}", bank::create(40, 4096)));
        plain(&line.primary()).run(&bank::step(seed, 5));
        line.pull("at first");
        line
    }

    fn primary(&self) -> PathBuf {
        self.temp.path("primary.db")
    }

    fn replica(&self) -> PathBuf {
        self.temp.path("replica.db")
    }

    /// Serves, and has the replica catch up. Both must be the same then, at one position.
    fn pull(&self, what: &str) {
        let primary = loaded(&self.primary());
        let url: String = primary.ask("SELECT litestream_serve('127.0.0.1:0')");
        let replica = loaded(&self.replica());
        let pull = format!("SELECT litestream_pull('{url}', '{{\"overwrite\": true}}')");
        let pulled = replica.query_row(&pull, [], |row| row.get::<_, String>(0));
        let position = pulled.unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_eq!(position, primary.ask::<String>("SELECT litestream_position()"), "{what}");
        let differing = differing_pages(&self.primary(), &self.replica());
        assert!(differing.is_empty(), "{what}: both are at {position} and differ in pages {differing:?}");
        primary.ask::<String>("SELECT litestream_stop()");
    }
}

#[test]
fn whatever_became_of_a_file_of_a_sidecar_the_replica_gets_what_the_primary_has() {
    let (base, foreign) = (Line::new(0), Line::new(1));
    let line = Line { temp: Temp::new() };
    for (database, base, foreign) in
        [(line.primary(), base.primary(), foreign.primary()), (line.replica(), base.replica(), foreign.replica())]
    {
        let sidecar = |database: &Path, name: &str| with_suffix(database, "-litestream").join(name);
        for name in FILES {
            let cases = {
                start_again(&line, &base);
                damages(&sidecar(&database, name), &sidecar(&foreign, name))
            };
            for (what, damage) in cases {
                let what = format!("{}: {what}", database.file_name().unwrap().to_string_lossy());
                start_again(&line, &base);
                damage();
                line.pull(&what);
                // And what it made of that is right the next time.
                plain(&line.primary()).run(&bank::step(2, 3));
                line.pull(&format!("{what}, the next time"));
            }
        }
    }
}

/// Puts both databases back to what they were when `one` of them was closed, with one commit more on the primary.
fn start_again(line: &Line, one: &Path) {
    for path in [line.primary(), line.replica()] {
        remove(&path);
        copy_all(&one.with_file_name(path.file_name().unwrap()), &path);
    }
    plain(&line.primary()).run(&bank::step(3, 7));
}

#[test]
fn a_database_put_back_from_an_older_copy_is_not_taken_for_what_its_sidecar_says() {
    let line = Line::new(0);
    let older = Temp::new();
    for path in [line.primary(), line.replica()] {
        copy(&path, &older.path(path.file_name().unwrap().to_str().unwrap()));
    }
    for path in [line.replica(), line.primary()] {
        plain(&line.primary()).run(&bank::step(3, 7));
        line.pull("while all is well");
        fs::remove_file(&path).unwrap();
        copy(&older.path(path.file_name().unwrap().to_str().unwrap()), &path);
        line.pull(&format!("{} was put back", path.display()));
        plain(&line.primary()).run(&bank::step(4, 7));
        line.pull(&format!("{} was put back, the next time", path.display()));
    }
}

#[test]
fn a_sidecar_put_back_from_an_older_copy_is_not_trusted() {
    let line = Line::new(0);
    for path in [line.primary(), line.replica()] {
        let sidecar = with_suffix(&path, "-litestream");
        let older: Vec<_> = FILES.iter().map(|name| fs::read(sidecar.join(name))).collect();
        for seed in 3..6 {
            plain(&line.primary()).run(&bank::step(seed, 7));
            line.pull("while all is well");
        }
        for (name, bytes) in FILES.iter().zip(&older) {
            if let Ok(bytes) = bytes {
                fs::write(sidecar.join(name), bytes).unwrap();
            }
        }
        line.pull(&format!("{}: its sidecar was put back", path.display()));
        plain(&line.primary()).run(&bank::step(7, 7));
        line.pull(&format!("{}: its sidecar was put back, the next time", path.display()));
    }
}

#[test]
fn settings_that_are_damaged_are_told_of_by_their_file_and_cost_nothing_else() {
    let line = Line::new(0);
    let good = "{\"heartbeat_ms\": 500, \"timeout_ms\": 5000, \"compression\": \"none\", \"progress\": false}\n";
    let foreign = line.temp.path("foreign.json");
    fs::write(&foreign, "[{\"id\": 1}]").unwrap();
    let judge = rusqlite::Connection::open_in_memory().unwrap();
    for database in [line.primary(), line.replica()] {
        let file = with_suffix(&database, "-litestream").join("config.json");
        fs::write(&file, good).unwrap();
        let (mut refused, mut taken) = (0, 0);
        for (what, damage) in damages(&file, &foreign) {
            damage();
            let connection = plain(&database);
            match try_load(&connection) {
                Err(error) => {
                    assert!(error.to_string().contains(&file.display().to_string()), "{what}: {error}");
                    refused += 1;
                }
                // Another number in its place is no damage that anybody could see.
                Ok(()) if fs::symlink_metadata(&file).is_ok() => {
                    let text = fs::read_to_string(&file).unwrap();
                    let valid = judge
                        .query_row("SELECT json_valid(?1) AND json_type(?1) = 'object'", [&text], |row| row.get(0));
                    assert_eq!(valid, Ok(true), "{what}: {text} was taken for settings");
                    taken += 1;
                }
                Ok(()) => taken += 1,
            }
            drop(connection);
            let _ = fs::remove_file(&file);
            fs::write(&file, good).unwrap();
        }
        assert!(refused > 10 && taken > 1, "{refused} refused, {taken} taken");
        plain(&line.primary()).run(&bank::step(2, 3));
        line.pull("settings are as they were");
    }
}

#[test]
fn a_folder_that_cannot_be_written_is_told_of_before_anything_is_done() {
    for what in ["a file in its place", "a link that leads nowhere"] {
        let temp = Temp::new();
        let (primary, replica) = (temp.path("primary.db"), temp.path("replica.db"));
        for path in [&primary, &replica] {
            let place = with_suffix(path, "-litestream");
            match what {
                "a file in its place" => fs::write(place, b"in the way").unwrap(),
                _ => std::os::unix::fs::symlink("nowhere/at/all", place).unwrap(),
            }
        }
        let connection = loaded(&primary);
        connection.run(NEW);
        let error = connection.refused("SELECT litestream_serve('127.0.0.1:0')");
        assert!(error.contains("primary.db-litestream cannot be written"), "{what}: {error}");
        let origin = Origin::new(4096);
        let connection = loaded(&replica);
        let error = connection.refused(&origin.pull("{}"));
        assert!(error.contains("replica.db-litestream cannot be written"), "{what}: {error}");
        assert_eq!(connection.ask::<i64>("SELECT count(*) FROM sqlite_schema"), 0, "{what}: nothing was done");
    }
}

/// Positions come up again then, and a wait could take an older state for the one that it waits
/// for.
#[test]
fn a_wait_is_right_with_a_primary_that_an_older_sidecar_was_put_back_for() {
    let temp = Temp::new();
    let (primary_path, replica_path) = (temp.path("primary.db"), temp.path("replica.db"));
    let generation = with_suffix(&primary_path, "-litestream").join("generation");
    let (first, url) = serving(&primary_path);
    first.kill();
    let older = fs::read(&generation).unwrap();
    let serve = format!("SELECT litestream_serve('{}')", address(&url));
    let mut second = Shell::open(&primary_path);
    second.run(&serve);
    let mut replica = following(&replica_path, &url);
    second.run("INSERT INTO t(x) VALUES (zeroblob(100000))");
    let reached = catch_up(&mut second, &mut replica);
    second.kill();
    until_gives(&mut replica, "SELECT state FROM litestream_status", "reconnecting");
    fs::write(&generation, older).unwrap();
    stock(&primary_path, "PRAGMA wal_checkpoint(TRUNCATE)");
    let mut third = Shell::open(&primary_path);
    third.run(&serve);
    third.run("INSERT INTO t(x) VALUES ('in its place')");
    let again: String = third.ask("SELECT litestream_position()");
    assert_eq!(again[..33], reached[..33], "the same index");
    assert!(again < reached, "{again} came up before {reached}");
    until_gives(&mut replica, "SELECT state FROM litestream_status", "streaming");
    catch_up(&mut third, &mut replica);
    assert_eq!(replica.ask("SELECT count(*) FROM t WHERE x = 'in its place'"), "1");
    assert_same_pages(&primary_path, &replica_path);
}
