//! When everything rests: every replica comes to equal its primary, and nothing that was committed is missing. And the change of
//! the primary, which needs such rest.

use std::fs;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::process::{Failure, PATIENCE, Slot};
use super::world::{Node, Role, World};
use crate::support::{bank, differing_pages};

/// What a process may use at most: open files, threads, and memory in KiB.
const BOUNDS: [u64; 3] = [80, 60, 200 << 10];

/// Lets nobody write, waits until all replicas have what the primary has, and compares. Nothing else does harm meanwhile.
#[expect(clippy::readonly_write_lock, reason = "alone it is held so that nobody writes to the database")]
pub fn settle(world: &World) {
    let start = Instant::now();
    let primary = world.primary.write().unwrap();
    let node = &world.nodes[*primary];
    let Some(position) = ask(world, node, "SELECT litestream_position()") else { return };
    let others = || world.nodes.iter().filter(|other| other.role() != Role::Primary);
    if !others().all(|replica| reach(world, replica, &position) && stands(world, replica, &position)) {
        return;
    }
    let caught_up = start.elapsed().as_millis();
    let Some(count) = ask(world, node, "SELECT n FROM counter").and_then(|n| n.parse::<i64>().ok()) else { return };
    let acknowledged = world.acknowledged.load(Ordering::SeqCst);
    if count < acknowledged {
        return world.fail(&format!("{}: count {count}, but {acknowledged} was acknowledged", node.name));
    }
    let sum = ask(world, node, "SELECT litestream_checksum()");
    for replica in others() {
        let pages = differing_pages(&node.path, &replica.path);
        if !pages.is_empty() {
            return world.fail(&format!("{} and {} differ at {position} in pages {pages:?}", node.name, replica.name));
        }
        let own = ask(world, replica, "SELECT litestream_checksum()");
        if own != sum {
            return world.fail(&format!("{} has checksum {own:?}, its primary {sum:?}", replica.name));
        }
        let verdict = ask(world, replica, "SELECT v ->> 'equal', v FROM (SELECT litestream_verify() AS v)");
        if !verdict.as_ref().is_some_and(|verdict| verdict.starts_with('1')) {
            return world.fail(&format!("{} at rest verifies as {verdict:?}", replica.name));
        }
    }
    for any in &world.nodes {
        let verdict = ask(world, any, &format!("{}; PRAGMA integrity_check", bank::JUDGE_CHURN));
        if verdict != Some(format!("{count}|{}|1|1\nok", bank::TOTAL)) {
            return world.fail(&format!("{} at rest: {verdict:?}, count {count}", any.name));
        }
    }
    world.slots().for_each(|slot| weigh(world, slot));
    world.count("times at rest", 1);
    world.note(&format!("at rest: all equal at {position}, count {count}; caught up in {caught_up} ms"));
}

/// Fails when a process uses more than it may; remembers the most.
fn weigh(world: &World, slot: &Slot) {
    let Some(pid) = slot.pid() else { return };
    let files = fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count) as u64;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let field = |name: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|text| text.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    };
    let used = [files, field("Threads:"), field("VmRSS:")];
    world.note(&format!("{} ({pid}): {} files, {} threads, {} KiB", slot.name, used[0], used[1], used[2]));
    if used.iter().zip(BOUNDS).any(|(used, bound)| *used > bound) {
        world.fail(&format!("{} uses {used:?} of files, threads and KiB of memory, at most {BOUNDS:?}", slot.name));
    }
}

/// Makes node `to` the primary and the old primary a follower. `planned`: nothing is lost; otherwise the old primary is killed
/// and what the new one has not got is lost.
pub fn promote(world: &World, to: usize, planned: bool) {
    let new = &world.nodes[to];
    if new.host.lock().unwrap().is_none() {
        return world.note(&format!("{} is not promoted: it is not up", new.name));
    }
    if !planned {
        let old = *world.primary.read().unwrap();
        world.nodes[old].host_slot.kill();
    }
    let mut primary = world.primary.write().unwrap();
    let old = &world.nodes[*primary];
    world.note(&format!("{} is promoted in place of {}, planned: {planned}", new.name, old.name));
    world.epoch.fetch_add(1, Ordering::SeqCst);
    if planned {
        let Some(position) = ask(world, old, "SELECT litestream_position()") else { return };
        if !reach(world, new, &position) {
            return;
        }
    }
    if ask(world, new, "SELECT 'at ' || coalesce(litestream_promote(), 'no position')").is_none() {
        return;
    }
    *new.role.lock().unwrap() = Role::Primary;
    *old.role.lock().unwrap() = Role::Follower;
    old.overwrite.store(true, Ordering::SeqCst);
    for slot in [&old.host_slot, &new.host_slot].into_iter().chain(&world.writer_slots) {
        slot.kill();
    }
    let direct = world.nodes.iter().filter(|node| node.name != "leaf");
    direct.for_each(|node| node.link.lead_to(&new.address));
    *primary = to;
    let count = ask(world, new, "SELECT n FROM counter").and_then(|n| n.parse::<i64>().ok());
    let Some((count, position)) = count.zip(ask(world, new, "SELECT litestream_position()")) else { return };
    let acknowledged = world.acknowledged.load(Ordering::SeqCst);
    if planned && count < acknowledged {
        return world.fail(&format!("{} was promoted with count {count} of {acknowledged}", new.name));
    }
    world.acknowledged.store(count, Ordering::SeqCst);
    world.note(&format!("{} is the primary at {position}, count {count} of {acknowledged}", new.name));
    drop(primary);
    world.nodes.iter().filter(|node| node.role() != Role::Primary).all(|node| reach(world, node, &position));
    world.epoch.fetch_add(1, Ordering::SeqCst);
    world.count(if planned { "switchovers" } else { "failovers" }, 1);
}

/// Waits until a replica has reached `position`. False, with a failure noted, when it does not.
fn reach(world: &World, node: &Node, position: &str) -> bool {
    let (start, mut last) = (Instant::now(), String::new());
    while !world.stopped() {
        match node.ask(&format!("SELECT litestream_wait('{position}', 300)")) {
            Ok(answer) if answer == "1" => return true,
            Ok(answer) => last = answer,
            // It was of another history just now.
            Err(Failure::Sql(error)) => last = error,
            Err(Failure::Killed) => last = "no process".to_string(),
            Err(Failure::Broken(what)) => world.fail(&what),
        }
        if start.elapsed() > PATIENCE {
            let here = node.ask("SELECT * FROM litestream_status");
            world.fail(&format!("{} does not reach {position}: {last}; it says {here:?}", node.name));
        }
        world.rest(Duration::from_millis(20));
    }
    false
}

/// Waits until a replica says that it is exactly at `position`: not beyond it, where nobody ever was.
fn stands(world: &World, node: &Node, position: &str) -> bool {
    let start = Instant::now();
    while let Some(here) = ask(world, node, "SELECT coalesce(litestream_position(), 'at no position')") {
        if here == position {
            return true;
        }
        if start.elapsed() > PATIENCE / 2 {
            world.fail(&format!("{} says that it is at {here}, its primary at {position}", node.name));
        }
        world.rest(Duration::from_millis(20));
    }
    false
}

/// Asks the process of a node, as soon as it is there. None, with a failure noted, when that fails.
fn ask(world: &World, node: &Node, sql: &str) -> Option<String> {
    let start = Instant::now();
    while !world.stopped() {
        match node.ask(sql) {
            Ok(answer) if !answer.is_empty() => return Some(answer),
            Err(Failure::Broken(what)) => world.fail(&what),
            other if start.elapsed() > PATIENCE => world.fail(&format!("{}: {sql}: {other:?}", node.name)),
            _ => world.rest(Duration::from_millis(20)),
        }
    }
    None
}
