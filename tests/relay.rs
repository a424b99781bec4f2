//! A replica that serves others.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use support::*;

/// An origin, a relay that follows it, and the relay's URL.
fn house(temp: &Temp) -> (Shell, String, Shell, String) {
    let (origin, url) = serving_bank(&temp.path("origin.db"), 300, "{\"heartbeat_ms\": 50}");
    let (relay, relay_url) = relay(temp, &url, "127.0.0.1:0");
    (origin, url, relay, relay_url)
}

fn relay(temp: &Temp, url: &str, address: &str) -> (Shell, String) {
    let mut relay = following(&temp.path("relay.db"), url);
    let relay_url = relay.ask(&format!("SELECT litestream_serve('{address}', '{{\"heartbeat_ms\": 50}}')"));
    (relay, relay_url)
}

fn assert_all_equal(temp: &Temp) {
    assert_same_pages(&temp.path("origin.db"), &temp.path("relay.db"));
    assert_same_pages(&temp.path("origin.db"), &temp.path("leaf.db"));
}

#[test]
fn a_replica_of_a_replica_knows_the_positions_of_the_origin() {
    let temp = Temp::new();
    let (mut origin, _, mut relay, relay_url) = house(&temp);
    let mut leaf = following(&temp.path("leaf.db"), &relay_url);
    let mut reader = Shell::stock(&temp.path("leaf.db"));
    let mut witness = bank::Witness::default();
    for seed in 0..60 {
        origin.run(&bank::step(seed, 40));
        let position = origin.ask("SELECT litestream_position()");
        assert_eq!(leaf.ask(&format!("SELECT litestream_wait('{position}', 60000)")), "1");
        witness.see(&reader.ask(&bank::judge("quick_check")));
        assert_eq!(witness.newest, seed as i64 + 1, "what was waited for is there");
    }
    origin.run("DELETE FROM ballast WHERE id % 3 = 0; VACUUM");
    catch_up(&mut origin, &mut leaf);
    assert_all_equal(&temp);
    assert_eq!(leaf.ask("SELECT litestream_checksum()"), origin.ask("SELECT litestream_checksum()"));
    assert_eq!(relay.ask("SELECT role, state FROM litestream_status ORDER BY 1"), "relay|serving\nreplica|streaming");
    assert_eq!(leaf.ask("SELECT litestream_verify() ->> 'equal'"), "1");
    assert!(leaf.refused("INSERT INTO counter VALUES (1)").contains("readonly"));
    assert_eq!(leaf.ask("SELECT heals FROM litestream_status"), "0");
}

#[test]
fn a_follower_goes_from_the_origin_to_the_relay_and_back_for_what_changed() {
    let temp = Temp::new();
    let (mut origin, url, mut relay, relay_url) = house(&temp);
    let mut leaf = following(&temp.path("leaf.db"), &url);
    for (seed, to) in (0..6).zip([&relay_url, &url].into_iter().cycle()) {
        catch_up(&mut origin, &mut leaf);
        leaf.run("SELECT litestream_stop()");
        origin.run(&bank::step(seed, 5));
        catch_up(&mut origin, &mut relay);
        let differing = count_differing(&temp.path("origin.db"), &temp.path("leaf.db"));
        leaf.run(&format!("SELECT litestream_follow('{to}')"));
        catch_up(&mut origin, &mut leaf);
        let server = if to == &url { &mut origin } else { &mut relay };
        let sent = server.ask("SELECT pages FROM litestream_replicas ORDER BY seconds LIMIT 1");
        assert_eq!(sent, differing.to_string(), "sent by {to}");
        assert_all_equal(&temp);
    }
}

#[test]
fn a_relay_that_is_behind_does_not_take_its_follower_back() {
    let temp = Temp::new();
    let (mut origin, url) = serving_bank(&temp.path("origin.db"), 300, "{}");
    let between = proxy(address(&url), |_, _| ());
    let (mut shell, relay_url) = relay(&temp, &format!("{}/origin.db", between.url()), "127.0.0.1:0");
    let mut leaf = following(&temp.path("leaf.db"), &url);
    catch_up(&mut origin, &mut shell);
    drop(between);
    until_gives(&mut shell, "SELECT state FROM litestream_status WHERE role = 'replica'", "reconnecting");
    origin.run(&bank::step(1, 5));
    catch_up(&mut origin, &mut leaf);
    leaf.run("SELECT litestream_stop()");
    let refused = leaf.refused(&format!("SELECT litestream_pull('{relay_url}')"));
    assert!(refused.contains("behind the replica"), "{refused}");
    assert_eq!(leaf.ask("SELECT n FROM counter"), "1");
    shell.run("SELECT litestream_stop()");
    shell.run(&format!("SELECT litestream_follow('{url}')"));
    shell.run(&format!("SELECT litestream_serve('{}')", address(&relay_url)));
    leaf.run(&format!("SELECT litestream_follow('{relay_url}')"));
    origin.run(&bank::step(2, 5));
    catch_up(&mut origin, &mut leaf);
    assert_all_equal(&temp);
}

#[test]
fn a_follower_of_a_relay_knows_how_old_it_is_when_the_origin_is_gone() {
    let temp = Temp::new();
    let (mut origin, _, mut relay, relay_url) = house(&temp);
    let mut leaf = following(&temp.path("leaf.db"), &relay_url);
    catch_up(&mut origin, &mut leaf);
    until_gives(&mut leaf, "SELECT litestream_lag() < 1", "1");
    origin.kill();
    until_gives(&mut leaf, "SELECT litestream_lag() > 2", "1");
    until_gives(&mut leaf, "SELECT state, reconnects FROM litestream_status", "stalled|0");
    assert_eq!(relay.ask("SELECT state FROM litestream_status WHERE role = 'replica'"), "reconnecting");
}

#[test]
fn a_relay_that_is_restarted_sends_no_page_that_its_followers_have() {
    let temp = Temp::new();
    let (mut origin, url, relay_shell, relay_url) = house(&temp);
    let mut leaf = following(&temp.path("leaf.db"), &relay_url);
    let mut shell = relay_shell;
    for seed in 0..4 {
        catch_up(&mut origin, &mut leaf);
        if seed % 2 == 0 {
            shell.kill()
        } else {
            assert!(shell.quit().success())
        };
        origin.run(&bank::step(seed, 9));
        let differing = count_differing(&temp.path("origin.db"), &temp.path("leaf.db"));
        (shell, _) = relay(&temp, &url, address(&relay_url));
        catch_up(&mut origin, &mut leaf);
        assert_eq!(shell.ask("SELECT sum(pages) FROM litestream_replicas"), differing.to_string());
        assert_all_equal(&temp);
    }
}

#[test]
fn a_relay_passes_on_what_was_mended_in_it() {
    let temp = Temp::new();
    let (mut origin, _, mut relay, relay_url) = house(&temp);
    let mut leaf = following(&temp.path("leaf.db"), &relay_url);
    let path = temp.path("relay.db");
    take_mark_away(&path);
    stock(&path, "UPDATE account SET balance = 0; UPDATE counter SET n = 1000");
    let mut reader = Shell::stock(&temp.path("leaf.db"));
    let mut witness = bank::Witness::default();
    witness.see(&reader.ask(&bank::judge("quick_check")));
    for seed in 0..10 {
        origin.run(&bank::step(seed, 2));
        witness.see(&reader.ask(&bank::judge("quick_check")));
    }
    catch_up(&mut origin, &mut leaf);
    witness.see(&reader.ask(&bank::judge("integrity_check")));
    assert_all_equal(&temp);
    assert_eq!(relay.ask("SELECT heals FROM litestream_status WHERE role = 'replica'"), "1");
}

#[test]
fn a_relay_passes_nothing_on_that_somebody_else_wrote_to_it_also_when_its_origin_is_quiet() {
    let temp = Temp::new();
    let (mut origin, _, mut relay, relay_url) = house(&temp);
    let mut leaf = following(&temp.path("leaf.db"), &relay_url);
    let path = temp.path("relay.db");
    take_mark_away(&path);
    stock(&path, "UPDATE account SET balance = 0");
    // Nothing is committed on the origin: what comes from it are heartbeats.
    until_gives(&mut relay, "SELECT heals FROM litestream_status WHERE role = 'replica'", "1");
    catch_up(&mut origin, &mut leaf);
    bank::Witness::default().see(&leaf.ask(&bank::judge("integrity_check")));
    assert_all_equal(&temp);
}

#[test]
fn a_relay_follows_its_origin_into_a_new_generation() {
    let temp = Temp::new();
    let (mut origin, url, _relay, relay_url) = house(&temp);
    let mut leaf = following(&temp.path("leaf.db"), &relay_url);
    catch_up(&mut origin, &mut leaf);
    let before = origin.ask("SELECT substr(litestream_position(), 1, 16)");
    origin.kill();
    std::fs::remove_dir_all(temp.path("origin.db-litestream")).expect("removing the sidecar");
    let mut origin = Shell::open(&temp.path("origin.db"));
    origin.run(&format!("SELECT litestream_serve('{}')", address(&url)));
    origin.run(&bank::step(3, 3));
    let generation = origin.ask("SELECT substr(litestream_position(), 1, 16)");
    assert_ne!(before, generation);
    until_gives(&mut leaf, "SELECT substr(position, 1, 16) FROM litestream_status", &generation);
    catch_up(&mut origin, &mut leaf);
    assert_all_equal(&temp);
}

#[test]
fn the_wal_of_a_relay_stays_bounded() {
    let temp = Temp::new();
    let (mut origin, url) = serving_bank(&temp.path("origin.db"), 300, "{}");
    let mut relay = Shell::open(&temp.path("relay.db"));
    relay.run(&format!("SELECT litestream_follow('{url}', '{{\"checkpoint_frames\": 100}}')"));
    let relay_url = relay.ask("SELECT litestream_serve('127.0.0.1:0')");
    let mut leaf = following(&temp.path("leaf.db"), &relay_url);
    for seed in 0..60 {
        origin.run(&bank::step(seed, 50));
        catch_up(&mut origin, &mut leaf);
    }
    let bytes: u64 = relay.ask("SELECT max(wal_bytes) FROM litestream_status").parse().expect("a number");
    assert!(bytes < 400 * 4120, "{bytes} bytes of some 3,000 frames");
    assert_all_equal(&temp);
}

#[test]
fn stopping_and_promoting_end_a_relay() {
    let temp = Temp::new();
    let (mut origin, url, mut relay, relay_url) = house(&temp);
    let again = relay.ask("SELECT litestream_serve('127.0.0.1:0', '{\"heartbeat_ms\": 50}')");
    assert_eq!(again, relay_url, "the second call does nothing");
    assert!(relay.refused("SELECT litestream_serve('127.0.0.1:0')").contains("being served already"));
    assert_eq!(relay.ask("SELECT litestream_stop()"), format!("served {relay_url}; followed {url}"));
    assert!(relay.refused("SELECT litestream_serve('127.0.0.1:0')").contains("read-only"));
    relay.run(&format!("SELECT litestream_follow('{url}')"));
    relay.run("SELECT litestream_serve('127.0.0.1:0')");
    catch_up(&mut origin, &mut relay);
    relay.run("SELECT litestream_promote()");
    assert_eq!(relay.ask("SELECT count(*) FROM litestream_status"), "0");
    let mut promoted = Shell::open(&temp.path("relay.db"));
    promoted.run(&bank::step(5, 1));
    promoted.run("SELECT litestream_serve('127.0.0.1:0')");
    assert_eq!(promoted.ask("SELECT role FROM litestream_status"), "primary");
}

#[test]
fn a_relay_does_not_speak_version_1() {
    let temp = Temp::new();
    let (_origin, _, _relay, relay_url) = house(&temp);
    let answer = get(&relay_url, "/stream", &[]);
    assert_eq!(answer.status, 400);
    assert!(answer.text().contains("follow its origin"));
}

#[test]
fn a_relay_says_the_position_of_its_origin_and_not_that_of_its_own_wal() {
    let temp = Temp::new();
    let (mut origin, _, mut relay, _) = house(&temp);
    for seed in 0..5 {
        // A commit of several transactions has other frames in the relay, and a restarted WAL has none.
        origin.run(&bank::step(seed, 5));
        origin.run("PRAGMA wal_checkpoint(TRUNCATE)");
        let position = catch_up(&mut origin, &mut relay);
        assert_eq!(relay.ask("SELECT litestream_position()"), position);
        assert_eq!(relay.ask("SELECT DISTINCT position FROM litestream_status"), position, "both of its rows");
    }
}
