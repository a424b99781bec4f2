//! Readers without the library, in processes of their own: each read transaction must see a state that was.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::process::{Failure, PATIENCE, Process};
use super::rng::Rng;
use super::world::{Node, World};
use crate::support::bank;

/// Reads the database of node `n` until all ends.
pub fn read(world: &World, n: usize) {
    let node = &world.nodes[n];
    let mut rng = Rng::of(world.seed, &format!("reader {}", node.name));
    let (mut process, mut witness, mut good) = (None, Witness::default(), Instant::now());
    while !world.stopped() {
        let gate = node.gate.read().unwrap();
        if !node.fresh.load(Ordering::SeqCst) {
            match look(world, node, &mut process, &mut rng, &mut witness) {
                Ok(()) => good = Instant::now(),
                Err(Failure::Killed) => process = None,
                Err(Failure::Sql(error)) if node.excuses(&error) => process = None,
                Err(Failure::Sql(error)) => world.fail(&format!("the reader of {}: {error}", node.name)),
                Err(Failure::Broken(what)) => world.fail(&what),
            }
        }
        drop(gate);
        if good.elapsed() > 2 * PATIENCE && !node.fresh.load(Ordering::SeqCst) && !node.is_full() {
            world.fail(&format!("nobody could read {} for {} s", node.name, good.elapsed().as_secs()));
        }
        world.rest(Duration::from_millis(rng.below(40)));
    }
}

/// What a reader has seen.
#[derive(Default)]
struct Witness {
    newest: i64,
    epoch: u64,
}

fn look(
    world: &World,
    node: &Node,
    process: &mut Option<Process>,
    rng: &mut Rng,
    witness: &mut Witness,
) -> Result<(), Failure> {
    if process.is_none() {
        let mut new = Process::start(&node.reader_slot, &node.path);
        new.ask(".timeout 30000")?;
        *process = Some(new);
    }
    let Some(reader) = process else { return Ok(()) };
    let before = world.epoch.load(Ordering::SeqCst);
    let count = match rng.below(20) {
        0 => check(world, node, reader, "integrity_check")?,
        1..4 => check(world, node, reader, "quick_check")?,
        4 => twice(world, node, reader, rng)?,
        _ => judge(world, node, &reader.ask(bank::JUDGE_CHURN)?),
    };
    let after = world.epoch.load(Ordering::SeqCst);
    world.count("looks", 1);
    if before != after || after % 2 == 1 {
        // What was seen may be of the time before.
        *witness = Witness { newest: 0, epoch: before };
        return Ok(());
    }
    if witness.epoch != after {
        *witness = Witness { newest: 0, epoch: after };
    }
    if count < witness.newest {
        world.fail(&format!("{}: time ran backwards, from count {} to {count}", node.name, witness.newest));
    }
    world.count("states seen", u64::from(count > witness.newest));
    witness.newest = witness.newest.max(count);
    Ok(())
}

fn check(world: &World, node: &Node, reader: &mut Process, check: &str) -> Result<i64, Failure> {
    let answer = reader.ask(&format!("BEGIN; {}; PRAGMA {check}; COMMIT", bank::JUDGE_CHURN))?;
    let (first, rest) = answer.split_once('\n').unwrap_or((&answer, ""));
    if rest != "ok" {
        world.fail(&format!("{}: {check} says {rest} at {first}", node.name));
    }
    world.count(check, 1);
    Ok(judge(world, node, first))
}

/// One read transaction that lasts: its end sees what its beginning saw.
fn twice(world: &World, node: &Node, reader: &mut Process, rng: &mut Rng) -> Result<i64, Failure> {
    let first = reader.ask(&format!("BEGIN; {}", bank::JUDGE_CHURN))?;
    world.rest(Duration::from_millis(rng.below(800)));
    let second = reader.ask(&format!("{}; COMMIT", bank::JUDGE_CHURN));
    if second.is_err() {
        let _ = reader.ask("ROLLBACK");
    }
    let second = second?;
    if first != second {
        world.fail(&format!("{}: one read transaction saw {first} and then {second}", node.name));
    }
    Ok(judge(world, node, &second))
}

fn judge(world: &World, node: &Node, row: &str) -> i64 {
    let count = row.split('|').next().and_then(|n| n.parse().ok());
    if count.is_none() || row.split_once('|').map(|(_, rest)| rest) != Some(&format!("{}|1|1", bank::TOTAL)) {
        world.fail(&format!("{}: a reader saw {row}, expected count|{}|1|1", node.name, bank::TOTAL));
    }
    count.unwrap_or(0)
}
