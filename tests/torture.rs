//! The torture machine: a primary with several writers, followers, a relay with a follower behind it, readers on each, a network
//! that misbehaves, and a nemesis that kills, stops, damages, fills disks and changes the primary. Every state that a reader sees is
//! judged, and at rest every replica must equal its primary.
//!
//! `make torture SECONDS=60 SEED=7`; docs/testing.md tells more.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::missing_docs_in_private_items)]

mod machine;
mod support;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, RwLock};
use std::time::{Duration, Instant, SystemTime};

use machine::link::Link;
use machine::nemesis::Nemesis;
use machine::process::{Process, Slot};
use machine::world::{Node, Role, World};
use machine::{disk, keeper, reader, settle, writer};
use support::{Temp, bank};

/// Databases, in the order of their numbers. The first is the primary at the beginning; each of the first three can be.
const NODES: [(&str, Role); 5] = [
    ("one", Role::Primary),
    ("two", Role::Follower),
    ("three", Role::Follower),
    ("relay", Role::Relay),
    ("leaf", Role::Follower),
];
/// Those on a disk of their own, which can be filled.
const SMALL_DISKS: [usize; 2] = [1, 4];
const DISK_MEGABYTES: u32 = 200;
/// Writers, and whether their processes have the library loaded.
const WRITERS: [bool; 5] = [true, true, false, false, false];

#[test]
#[ignore = "make torture"]
fn nothing_is_lost_and_nothing_wrong_is_seen_whatever_happens() {
    let seconds = number("TORTURE_SECONDS").unwrap_or(60);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("the time");
    let seed = number("TORTURE_SEED").unwrap_or(u64::from(now.subsec_nanos()) / 1000);
    println!("torture: {seconds} s with seed {seed}");
    let temp = Temp::new();
    let folder = temp.as_ref().to_path_buf();
    let disks = mount_disks(&folder);
    let world = World::new(seed, nodes(seed, &folder), writer_slots(&folder));
    create(&world);
    run(&world, disks.clone(), Duration::from_secs(seconds));
    let report = report(&world);
    println!("{report}");
    if std::env::var_os("TORTURE_VERBOSE").is_some() {
        println!("{}", world.events().join("\n"));
    }
    if let Some(failure) = world.failure.lock().unwrap().take() {
        let kept = keep(&world, &folder, &format!("{report}\n{failure}"));
        disks.iter().for_each(|n| disk::keep(&folder.join(NODES[*n].0)));
        std::mem::forget(temp);
        panic!("seed {seed} failed {failure}\nall files and reports are kept in {}", kept.display());
    }
    disks.iter().for_each(|n| disk::unmount(&folder.join(NODES[*n].0)));
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|e| panic!("{variable}={text}: {e}")))
}

fn mount_disks(folder: &Path) -> Vec<usize> {
    let mounted = |n: &usize| {
        let place = folder.join(NODES[*n].0);
        std::fs::create_dir_all(&place).expect("a folder");
        disk::mount(&place, DISK_MEGABYTES)
    };
    let disks: Vec<usize> = SMALL_DISKS.into_iter().filter(mounted).collect();
    if disks.is_empty() {
        println!("torture: no disk is filled, since mounting a small one is not allowed here (it takes root)");
    }
    disks
}

fn nodes(seed: u64, folder: &Path) -> Vec<Node> {
    let listeners = NODES.map(|_| TcpListener::bind("127.0.0.1:0").expect("a port on the loopback address"));
    let addresses = listeners.each_ref().map(|l| l.local_addr().expect("the address of a listener").to_string());
    let node = |(n, (name, role)): (usize, (&'static str, Role))| {
        let place = folder.join(name);
        std::fs::create_dir_all(&place).expect("a folder");
        // The leaf follows the relay, all others the primary.
        let target = if name == "leaf" { &addresses[3] } else { &addresses[0] };
        Node {
            name,
            path: place.join("app.db"),
            address: addresses[n].clone(),
            role: Mutex::new(role),
            link: Link::new(target, seed.wrapping_add(n as u64)),
            host: Mutex::new(None),
            host_slot: Slot::new(&format!("host of {name}"), folder),
            reader_slot: Slot::new(&format!("reader of {name}"), folder),
            gate: RwLock::new(()),
            overwrite: AtomicBool::new(false),
            fresh: AtomicBool::new(role != Role::Primary),
            full: AtomicU64::new(0),
            status: Mutex::default(),
        }
    };
    NODES.into_iter().enumerate().map(node).collect()
}

fn writer_slots(folder: &Path) -> Vec<std::sync::Arc<Slot>> {
    (0..WRITERS.len()).map(|n| Slot::new(&format!("writer {n}"), folder)).collect()
}

fn create(world: &World) {
    let mut shell = Process::start(&world.writer_slots[0], &world.nodes[0].path);
    let sql = format!("PRAGMA journal_mode = wal; {} {}", bank::create(1500, 4096), bank::CREATE_CHURN);
    shell.ask(&sql).expect("making the first database");
}

/// Runs everything for `time`, and settles at the end.
fn run(world: &World, disks: Vec<usize>, time: Duration) {
    std::thread::scope(|threads| {
        for n in 0..world.nodes.len() {
            threads.spawn(move || keeper::keep(world, n));
            threads.spawn(move || reader::read(world, n));
        }
        for (n, loaded) in WRITERS.into_iter().enumerate() {
            threads.spawn(move || writer::write(world, n, loaded));
        }
        settle::settle(world);
        Nemesis::new(world, disks).rage(Instant::now() + time);
        settle::settle(world);
        world.stop.store(true, Ordering::SeqCst);
    });
}

/// What was done.
fn report(world: &World) -> String {
    let mut text = format!("seed {}, {:.0} s\n", world.seed, world.now());
    for (what, n) in world.counts() {
        text.push_str(&format!("{n:>9}  {what}\n"));
    }
    for node in &world.nodes {
        let [connections, bytes, flipped] = node.link.counts();
        text.push_str(&format!(
            "link of {}: {connections} connections, {} KiB, {flipped} bits turned\n",
            node.name,
            bytes >> 10
        ));
    }
    text
}

/// Keeps what is needed to look into a failure: the files stay where they are.
fn keep(world: &World, folder: &Path, report: &str) -> PathBuf {
    let events = world.events();
    let statuses: String =
        world.nodes.iter().map(|n| format!("{} {:?} {}\n", n.name, n.role(), n.status.lock().unwrap())).collect();
    std::fs::write(folder.join("report.txt"), format!("{report}\n\n{statuses}\n\n{}\n", events.join("\n")))
        .expect("a report");
    println!("{statuses}\nthe last of what was done:");
    events.iter().skip(events.len().saturating_sub(40)).for_each(|event| println!("{event}"));
    folder.to_path_buf()
}
