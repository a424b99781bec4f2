//! Writers of the primary's file, with the library loaded and without.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::process::{Failure, Process};
use super::rng::Rng;
use super::world::{Node, World};
use crate::support::bank;

/// Writes until all ends. `loaded` tells whether its process has the library.
pub fn write(world: &World, n: usize, loaded: bool) {
    let slot = &world.writer_slots[n];
    let mut rng = Rng::of(world.seed, &slot.name);
    let mut process: Option<(usize, Process)> = None;
    while !world.stopped() {
        let primary = world.primary.read().unwrap();
        let node = &world.nodes[*primary];
        if process.as_ref().is_none_or(|(of, _)| of != &*primary) {
            process = None;
        }
        let outcome = match process.as_mut() {
            Some((_, process)) => act(world, node, process, &mut rng),
            None => open(node, slot, loaded).map(|new| process = Some((*primary, new))),
        };
        match outcome {
            Ok(()) => (),
            Err(Failure::Killed) => process = None,
            Err(Failure::Sql(error)) if node.excuses(&error) => {
                world.count("writes refused by a full disk", 1);
                process = None;
            }
            Err(Failure::Sql(error)) => world.fail(&format!("{} on {}: {error}", slot.name, node.name)),
            Err(Failure::Broken(what)) => world.fail(&what),
        }
        drop(primary);
        let pause = if rng.chance(80) { rng.below(8) } else { rng.below(150) };
        world.rest(Duration::from_millis(pause));
    }
}

fn open(node: &Node, slot: &std::sync::Arc<super::process::Slot>, loaded: bool) -> Result<Process, Failure> {
    let mut process = Process::start(slot, &node.path);
    process.ask(".timeout 50000")?;
    if loaded {
        process.load()?;
    }
    Ok(process)
}

fn act(world: &World, node: &Node, process: &mut Process, rng: &mut Rng) -> Result<(), Failure> {
    let maintenance = [
        (6, "VACUUM"),
        (4, "PRAGMA wal_checkpoint(PASSIVE)"),
        (4, "PRAGMA wal_checkpoint(FULL)"),
        (4, "PRAGMA wal_checkpoint(RESTART)"),
        (4, "PRAGMA wal_checkpoint(TRUNCATE)"),
        (2, "ANALYZE"),
        (3, "PRAGMA wal_autocheckpoint = 0"),
        (3, "PRAGMA wal_autocheckpoint = 100"),
        (3, "PRAGMA wal_autocheckpoint = 1000"),
    ];
    if rng.chance(96) {
        return step(world, node, process, rng);
    }
    let sql = rng.weighted(&maintenance);
    match process.ask(sql) {
        // They need what others may be using.
        Err(Failure::Sql(error)) if error.contains("locked") => world.count("maintenance refused", 1),
        other => {
            other?;
            world.count(sql, 1);
        }
    }
    Ok(())
}

/// One transaction: all of it on one line, so that an error ends it and nothing runs on its own.
fn step(world: &World, node: &Node, process: &mut Process, rng: &mut Rng) -> Result<(), Failure> {
    let pages = rng.weighted(&[(60, 3), (25, 30), (10, 200), (5, 1500)]);
    let step = bank::step(rng.next(), rng.below(pages) as u32);
    let (body, _) = step.rsplit_once("COMMIT;").expect("a step that ends with its commit");
    let name = process.slot.name.clone();
    let said = format!(
        "INSERT INTO said VALUES ('{name}', 1) ON CONFLICT DO UPDATE SET steps = steps + 1; SELECT n FROM counter;"
    );
    let rolled_back = rng.chance(8);
    let end = if rolled_back { "ROLLBACK" } else { "COMMIT; SELECT 'committed'" };
    let answer = process.ask(&format!("{body} {said} {} {end}", bank::churn(rng.next())));
    let answer = match answer {
        Err(Failure::Sql(error)) => {
            let _ = process.ask("ROLLBACK");
            return Err(Failure::Sql(error));
        }
        other => other?,
    };
    if rolled_back {
        world.count("rollbacks", 1);
        return Ok(());
    }
    match answer.split_once('\n').and_then(|(n, rest)| Some((n.parse::<i64>().ok()?, rest))) {
        Some((n, "committed")) => {
            world.acknowledged.fetch_max(n, Ordering::SeqCst);
            world.count("commits", 1);
        }
        _ => world.fail(&format!("{name} on {}: a transaction said '{answer}'", node.name)),
    }
    Ok(())
}
