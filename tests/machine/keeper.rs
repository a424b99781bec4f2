//! Keeps the process of a database running: starts it again when it was killed, and looks at what it says.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::process::{Failure, PATIENCE, Process};
use super::rng::Rng;
use super::world::{Node, Role, World};

/// Keeps the process of node `n` running until all ends.
pub fn keep(world: &World, n: usize) {
    let node = &world.nodes[n];
    let mut rng = Rng::of(world.seed, &format!("keeper {}", node.name));
    let mut down_since = Instant::now();
    let mut seen = Seen::default();
    while !world.stopped() {
        let gate = node.gate.read().unwrap();
        let up = node.host.lock().unwrap().is_some();
        let outcome = if up { look(world, node, &mut rng, &mut seen) } else { start(world, node) };
        drop(gate);
        match outcome {
            Ok(()) => down_since = Instant::now(),
            Err(failure) => down(world, node, failure, &mut seen, &mut down_since),
        }
        world.rest(Duration::from_millis(if up { rng.between(20, 200) } else { rng.below(100) }));
    }
}

fn down(world: &World, node: &Node, failure: Failure, seen: &mut Seen, since: &mut Instant) {
    match failure {
        Failure::Killed => {
            *node.host.lock().unwrap() = None;
            *since = Instant::now();
            *seen = Seen::default();
        }
        Failure::Sql(error) => {
            world.count(&format!("refusal {}", node.name), 1);
            world.note(&format!("{}: {error}", node.name));
            *node.host.lock().unwrap() = None;
            if since.elapsed() > PATIENCE && !node.is_full() {
                world.fail(&format!("{} did not come up within {} s: {error}", node.name, PATIENCE.as_secs()));
            }
        }
        Failure::Broken(what) => world.fail(&what),
    }
}

/// Starts the process, which serves or follows then.
fn start(world: &World, node: &Node) -> Result<(), Failure> {
    let mut host = Process::start(&node.host_slot, &node.path);
    host.load()?;
    host.ask(".timeout 30000")?;
    let role = node.role();
    if role != Role::Primary {
        follow(world, node, &mut host)?;
    }
    if role != Role::Follower {
        host.ask(&format!("SELECT litestream_serve('{}', '{{\"heartbeat_ms\": 200}}')", node.address))?;
    }
    *node.host.lock().unwrap() = Some(host);
    world.count(&format!("start {}", node.name), 1);
    Ok(())
}

fn follow(world: &World, node: &Node, host: &mut Process) -> Result<(), Failure> {
    let call = |overwrite| {
        let options = format!("{{\"timeout_ms\": 3000, \"overwrite\": {overwrite}, \"compression\": \"lz4\"}}");
        format!("SELECT litestream_follow('{}', '{options}')", node.link.url())
    };
    // At once, not when it is refused: a replica that lost what says whose it is goes on until its upstream has a new history.
    let overwrite = node.overwrite.load(Ordering::SeqCst);
    match host.ask(&call(overwrite)) {
        Err(Failure::Sql(error)) if error.contains("overwrite") && !overwrite => {
            world.fail(&format!("{} is a replica and is refused as if it were none: {error}", node.name));
        }
        other => drop(other?),
    }
    world.count("overwrite", u64::from(overwrite));
    node.overwrite.store(false, Ordering::SeqCst);
    node.fresh.store(false, Ordering::SeqCst);
    Ok(())
}

/// What a process has counted so far.
#[derive(Default)]
struct Seen([u64; 4]);

fn look(world: &World, node: &Node, rng: &mut Rng, seen: &mut Seen) -> Result<(), Failure> {
    let status = node.ask("SELECT role, state, reason, position, lag, replicas, commits, pages, reconnects, heals, healed, last_error, wal_bytes FROM litestream_status")?;
    *node.status.lock().unwrap() = format!("at {:.2} s\n{status}", world.now());
    let sums = node.ask("SELECT coalesce(sum(commits), 0), coalesce(sum(pages), 0), coalesce(sum(reconnects), 0), coalesce(sum(heals), 0) FROM litestream_status WHERE role = 'replica'")?;
    for (i, what) in ["received commits", "received pages", "reconnects", "heals"].iter().enumerate() {
        let n: u64 = sums.split('|').nth(i).and_then(|n| n.parse().ok()).unwrap_or(0);
        world.count(what, n.saturating_sub(seen.0[i]));
        if i == 3 && n > seen.0[i] {
            world.note(&format!(
                "{} healed: {}",
                node.name,
                node.ask("SELECT healed FROM litestream_status WHERE role = 'replica'")?
            ));
        }
        seen.0[i] = n;
    }
    if node.role() != Role::Primary && rng.chance(3) {
        verify(world, node)?;
    }
    Ok(())
}

/// Has a replica compared with its upstream. While commits come and it has no position, it may differ.
fn verify(world: &World, node: &Node) -> Result<(), Failure> {
    match node.ask("SELECT v ->> 'equal', v FROM (SELECT litestream_verify() AS v)") {
        Ok(verdict) if verdict.starts_with('1') => world.count("verified", 1),
        Ok(verdict) => {
            world.count("verified as different", 1);
            world.note(&format!("{} verified: {verdict}", node.name));
        }
        // The upstream cannot be reached, or what it says is garbled.
        Err(Failure::Sql(error)) => world.note(&format!("{} not verified: {error}", node.name)),
        Err(other) => return Err(other),
    }
    Ok(())
}
