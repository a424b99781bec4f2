//! What a follower receives when its primary comes back: the pages that changed meanwhile, and none that it has.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs;
use std::path::Path;

use support::*;

/// A primary and a follower that have been through some commits and WAL resets.
struct House {
    temp: Temp,
    primary: Shell,
    replica: Shell,
    url: String,
    generation: String,
}

impl House {
    fn new() -> House {
        let temp = Temp::new();
        let (mut primary, url) = serving_bank(&temp.path("primary.db"), 1500, "{}");
        let mut replica = following(&temp.path("replica.db"), &url);
        for seed in 0..20 {
            primary.run(&bank::step(seed, 100));
        }
        let position = catch_up(&mut primary, &mut replica);
        let index = u64::from_str_radix(&position[17..33], 16).expect("an index");
        assert!(index >= 1, "the WAL was restarted at least once: {position}");
        let generation = position[..16].to_string();
        House { temp, primary, replica, url, generation }
    }

    fn path(&self) -> std::path::PathBuf {
        self.temp.path("primary.db")
    }

    fn sidecar(&self, name: &str) -> std::path::PathBuf {
        self.temp.path("primary.db-litestream").join(name)
    }

    /// Ends the primary with `end`, does `meanwhile`, and serves again.
    /// Fails unless the follower is sent exactly the pages in which it differs then.
    fn restart(mut self, end: impl FnOnce(Shell), meanwhile: impl FnOnce(&Path)) -> House {
        let path = self.path();
        end(self.primary);
        meanwhile(&path);
        let differing = count_differing(&path, &self.temp.path("replica.db"));
        self.primary = Shell::open(&path);
        self.primary.run(&format!("SELECT litestream_serve('{}')", address(&self.url)));
        until_gives(&mut self.primary, "SELECT count(*) FROM litestream_replicas WHERE state = 'live'", "1");
        let position = catch_up(&mut self.primary, &mut self.replica);
        assert_same_pages(&path, &self.temp.path("replica.db"));
        let sent: usize = self.primary.ask("SELECT pages FROM litestream_replicas").parse().expect("a number");
        assert_eq!(sent, differing, "pages sent, and pages that differed");
        assert_eq!(position[..16], self.generation, "the generation");
        // And from here on it goes on as before.
        self.primary.run(&bank::step(99, 3));
        catch_up(&mut self.primary, &mut self.replica);
        assert_same_pages(&path, &self.temp.path("replica.db"));
        self
    }
}

fn quit(shell: Shell) {
    assert!(shell.quit().success());
}

/// Writes without the library, and leaves the WAL in place.
fn writes(path: &Path) {
    let mut other = Shell::stock(path);
    other.run(&bank::step(50, 7));
    other.run(&bank::step(51, 3));
    other.kill();
}

/// Writes without the library; the last to close removes the WAL.
fn writes_and_closes(path: &Path) {
    stock(path, &bank::step(60, 9));
    assert!(!path.with_extension("db-wal").exists());
}

#[test]
fn after_a_clean_stop_nothing_is_sent_again() {
    let house = House::new().restart(quit, |_| ());
    house.restart(quit, |_| ());
}

#[test]
fn after_a_clean_stop_only_what_others_wrote_is_sent() {
    House::new().restart(quit, writes).restart(quit, writes_and_closes);
}

#[test]
fn after_a_clean_stop_with_others_still_there_the_wal_tells_what_was_written() {
    let house = House::new();
    let mut other = Shell::stock(&house.path());
    other.run("SELECT count(*) FROM counter");
    let house = house.restart(quit, |_| other.run(&bank::step(70, 5)));
    drop(other);
    drop(house);
}

#[test]
fn after_a_kill_nothing_is_sent_again() {
    House::new().restart(Shell::kill, |_| ()).restart(Shell::kill, |_| ());
}

#[test]
fn a_replica_that_equals_a_primary_that_was_killed_is_not_said_to_be_mended() {
    let mut house = House::new().restart(Shell::kill, |_| ());
    assert_eq!(house.replica.ask("SELECT heals, healed IS NULL FROM litestream_status"), "0|1");
}

#[test]
fn after_a_kill_only_what_others_wrote_is_sent() {
    House::new().restart(Shell::kill, writes).restart(Shell::kill, writes_and_closes).restart(quit, writes);
}

#[test]
fn a_replica_that_lacks_what_was_written_after_a_kill_is_not_said_to_be_mended() {
    let mut house = House::new().restart(Shell::kill, writes).restart(Shell::kill, writes_and_closes);
    let told = "SELECT heals, healed IS NULL, state FROM litestream_status";
    assert_eq!(house.replica.ask(told), "0|1|streaming");
}

#[test]
fn a_position_from_before_a_kill_is_reached_after_it() {
    let house = House::new();
    let before = house.temp.path("replica.db");
    let mut house = house.restart(Shell::kill, writes_and_closes);
    let position = house.primary.ask("SELECT litestream_position()");
    let other = stock(&before, "SELECT 1");
    assert_eq!(other, "1");
    assert!(house.replica.ask("SELECT litestream_position()") <= position);
    assert_eq!(house.replica.ask(&format!("SELECT litestream_wait('{position}')")), "1");
}

#[test]
fn commits_that_a_power_loss_took_from_the_primary_are_taken_from_the_follower() {
    let house = House::new();
    let mut house = house.restart(quit, |_| ());
    // What was synced last is all that a power loss leaves.
    let kept = house.temp.path("kept");
    fs::create_dir(&kept).expect("a folder");
    for name in ["primary.db", "primary.db-wal"] {
        copy(&house.temp.path(name), &kept.join(name));
    }
    house.primary.run(&bank::step(80, 30));
    catch_up(&mut house.primary, &mut house.replica);
    let house = house.restart(Shell::kill, |path| {
        fs::remove_file(path.with_extension("db-shm")).expect("the -shm file");
        for name in ["primary.db", "primary.db-wal"] {
            copy(&kept.join(name), &path.with_file_name(name));
        }
    });
    drop(house);
}

#[test]
fn a_page_map_that_is_damaged_foreign_or_of_another_version_is_not_trusted() {
    let mut house = House::new();
    for damage in ["bit", "cut", "empty", "version", "missing", "foreign"] {
        let path = house.sidecar("pages");
        house = house.restart(quit, |database| {
            let mut bytes = fs::read(&path).expect("the page map of a primary that ended in order");
            match damage {
                "bit" => bytes[100] ^= 1,
                "cut" => bytes.truncate(bytes.len() - 1),
                "empty" => bytes.clear(),
                "version" => bytes[7] += 1,
                "foreign" => {
                    let other = Temp::new();
                    let (primary, _) = serving(&other.path("primary.db"));
                    assert!(primary.quit().success());
                    copy(&other.path("primary.db-litestream").join("pages"), &path);
                    bytes = fs::read(&path).expect("a page map");
                }
                _ => {}
            }
            fs::write(&path, bytes).expect("writing a file");
            if damage == "missing" {
                fs::remove_file(&path).expect("removing a file");
            }
            writes_and_closes(database);
        });
    }
}

#[test]
fn a_primary_that_lost_its_sidecar_begins_a_new_generation_and_sends_what_differs() {
    for lost in ["all", "generation", "damaged"] {
        let mut house = House::new();
        let (path, url, generation) = (house.path(), house.url.clone(), house.sidecar("generation"));
        quit(house.primary);
        match lost {
            "all" => fs::remove_dir_all(house.temp.path("primary.db-litestream")).expect("removing the sidecar"),
            "generation" => fs::remove_file(generation).expect("removing a file"),
            _ => fs::write(generation, "not a generation\n").expect("writing a file"),
        }
        writes_and_closes(&path);
        let differing = count_differing(&path, &house.temp.path("replica.db"));
        let mut primary = Shell::open(&path);
        primary.run(&format!("SELECT litestream_serve('{}')", address(&url)));
        until_gives(&mut primary, "SELECT count(*) FROM litestream_replicas WHERE state = 'live'", "1");
        let generation = primary.ask("SELECT substr(litestream_position(), 1, 16)");
        assert_ne!(generation, house.generation);
        until_gives(&mut house.replica, "SELECT substr(position, 1, 16) FROM litestream_status", &generation);
        assert_same_pages(&path, &house.temp.path("replica.db"));
        assert_eq!(primary.ask("SELECT pages FROM litestream_replicas"), differing.to_string(), "{lost}");
    }
}

#[test]
fn a_replica_that_was_promoted_and_served_begins_a_generation_of_its_own() {
    let mut house = House::new();
    let mut second = following(&house.temp.path("second.db"), &house.url);
    house.replica.run("SELECT litestream_promote()");
    house.replica = Shell::open(&house.temp.path("replica.db"));
    house.replica.run(&bank::step(81, 4));
    let url = house.replica.ask("SELECT litestream_serve('127.0.0.1:0')");
    assert_ne!(house.replica.ask("SELECT substr(litestream_position(), 1, 16)"), house.generation);
    second.run("SELECT litestream_stop()");
    let refused = second.refused(&format!("SELECT litestream_follow('{url}')"));
    assert!(refused.contains("is a replica of") && refused.contains("overwrite"), "{refused}");
    second.run(&format!("SELECT litestream_follow('{url}', '{{\"overwrite\": true}}')"));
    catch_up(&mut house.replica, &mut second);
    assert_same_pages(&house.temp.path("replica.db"), &house.temp.path("second.db"));
    let sent: usize = house.replica.ask("SELECT pages FROM litestream_replicas").parse().expect("a number");
    assert!((1..40).contains(&sent), "{sent} pages sent of some 1,900");
}

#[test]
fn a_primary_that_becomes_a_replica_ends_its_generation() {
    let house = House::new();
    let mut other = Shell::open(&house.temp.path("other.db"));
    other.run(NEW);
    let url = other.ask("SELECT litestream_serve('127.0.0.1:0')");
    let path = house.path();
    quit(house.primary);
    let mut demoted = Shell::open(&path);
    demoted.run(&format!("SELECT litestream_follow('{url}', '{{\"overwrite\": true}}')"));
    catch_up(&mut other, &mut demoted);
    demoted.run("SELECT litestream_promote()");
    quit(demoted);
    let mut again = Shell::open(&path);
    again.run("SELECT litestream_serve('127.0.0.1:0')");
    assert_ne!(again.ask("SELECT substr(litestream_position(), 1, 16)"), house.generation);
}
