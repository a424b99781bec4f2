//! Who does the harm. What is done, to whom, and for how long is fixed by the seed; when it hits is not.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::disk;
use super::link::Faults;
use super::process::Slot;
use super::rng::Rng;
use super::settle;
use super::world::{Node, Role, World};

#[derive(Clone, Copy, Debug)]
enum Harm {
    KillHost,
    StopHost,
    KillWriter,
    StopWriter,
    KillReader,
    StopReader,
    Link,
    LoseShm,
    Sidecar,
    Wipe,
    Fill,
    Promote,
    FailOver,
    Quiet,
    Settle,
}

const HARMS: [(u64, Harm); 15] = [
    (14, Harm::KillHost),
    (10, Harm::StopHost),
    (8, Harm::KillWriter),
    (6, Harm::StopWriter),
    (4, Harm::KillReader),
    (4, Harm::StopReader),
    (30, Harm::Link),
    (5, Harm::LoseShm),
    (8, Harm::Sidecar),
    (2, Harm::Wipe),
    (3, Harm::Fill),
    (2, Harm::Promote),
    (2, Harm::FailOver),
    (4, Harm::Quiet),
    (2, Harm::Settle),
];

/// What ends by itself.
enum Undo {
    Continue(Arc<Slot>),
    HealLink(usize),
    Empty(usize),
    NoLongerFull(usize),
}

/// The harm that is being done.
pub struct Nemesis<'w> {
    world: &'w World,
    rng: Rng,
    undo: Vec<(Instant, Undo)>,
    disks: Vec<usize>,
}

impl<'w> Nemesis<'w> {
    /// `disks` are the nodes whose disk can be filled.
    pub fn new(world: &'w World, disks: Vec<usize>) -> Nemesis<'w> {
        Nemesis { world, rng: Rng::of(world.seed, "nemesis"), undo: Vec::new(), disks }
    }

    /// Does harm until `end`.
    pub fn rage(&mut self, end: Instant) {
        while !self.world.stopped() && Instant::now() < end {
            let harm = self.rng.weighted(&HARMS);
            self.world.count(&format!("harm {harm:?}"), 1);
            self.act(harm);
            let pause = Instant::now() + Duration::from_millis(self.rng.between(10, 500));
            while Instant::now() < pause {
                self.undo(false);
                self.world.rest(Duration::from_millis(10));
            }
        }
        self.undo(true);
    }

    fn act(&mut self, harm: Harm) {
        let world = self.world;
        let n = self.rng.below(world.nodes.len() as u64) as usize;
        let writer = &world.writer_slots[self.rng.below(world.writer_slots.len() as u64) as usize];
        let node = &world.nodes[n];
        match harm {
            Harm::KillHost => self.kill(&node.host_slot),
            Harm::KillWriter => self.kill(writer),
            Harm::KillReader => self.kill(&node.reader_slot),
            Harm::StopHost => self.stop(&node.host_slot),
            Harm::StopWriter => self.stop(writer),
            Harm::StopReader => self.stop(&node.reader_slot),
            Harm::Link => self.harm_link(n),
            Harm::LoseShm => self.lose_shm(n),
            Harm::Sidecar => self.harm_sidecar(n),
            Harm::Wipe => self.wipe(n),
            Harm::Fill => self.fill(),
            Harm::Promote | Harm::FailOver => {
                let candidate = self.rng.below(3) as usize;
                let planned = matches!(harm, Harm::Promote);
                self.undo(true);
                if world.nodes[candidate].role() == Role::Follower {
                    settle::promote(world, candidate, planned);
                }
            }
            Harm::Quiet => self.quiet(n),
            Harm::Settle => {
                self.undo(true);
                settle::settle(world);
            }
        }
    }

    fn kill(&self, slot: &Arc<Slot>) {
        if slot.kill() {
            self.world.note(&format!("killed {}", slot.name));
        }
    }

    fn stop(&mut self, slot: &Arc<Slot>) {
        let time = self.rng.weighted(&[(6, 300), (3, 1500), (2, 5000)]);
        let time = self.rng.between(20, time);
        if slot.pause(true) {
            self.world.note(&format!("stopped {} for {time} ms", slot.name));
            self.undo.push((Instant::now() + Duration::from_millis(time), Undo::Continue(Arc::clone(slot))));
        }
    }

    fn harm_link(&mut self, n: usize) {
        let rng = &mut self.rng;
        let mut faults = Faults::default();
        let mut cut = false;
        match rng.below(7) {
            0 => cut = true,
            1 => faults.delay = Duration::from_millis(rng.between(1, 400)),
            2 => faults.rate = 1 << rng.between(13, 20),
            3 => faults.flip_every = 1 << rng.between(8, 22),
            4 => faults.cut_every = 1 << rng.between(8, 20),
            5 => (faults.refuse, cut) = (true, rng.chance(50)),
            _ => (faults.flip_every, faults.cut_every) = (1 << rng.between(10, 20), 1 << rng.between(14, 20)),
        }
        let time = rng.between(100, 4000);
        let node = &self.world.nodes[n];
        node.link.set(faults);
        if cut {
            node.link.cut();
        }
        self.world.note(&format!("link of {} for {time} ms: {faults:?}, cut {cut}", node.name));
        self.undo.push((Instant::now() + Duration::from_millis(time), Undo::HealLink(n)));
    }

    /// Nobody writes for a while, and bits of what is sent nevertheless are turned.
    fn quiet(&mut self, n: usize) {
        let (time, faults) = (self.rng.between(300, 3000), Faults { flip_every: 64, ..Faults::default() });
        self.undo(true);
        let _writers = self.world.primary.write().unwrap();
        self.world.note(&format!("nobody writes for {time} ms, the link of {} turns bits", self.world.nodes[n].name));
        self.world.nodes[n].link.set(faults);
        self.world.rest(Duration::from_millis(time));
        self.world.nodes[n].link.set(Faults::default());
    }

    /// Takes a database out of everybody's hands, does `meanwhile`, and gives it back.
    fn without_anybody(&self, n: usize, meanwhile: impl FnOnce(&Node)) {
        let (world, node) = (self.world, &self.world.nodes[n]);
        let is_primary = node.role() == Role::Primary;
        let kill = || {
            node.host_slot.kill();
            node.reader_slot.kill();
            if is_primary {
                for slot in &world.writer_slots {
                    slot.kill();
                }
            }
        };
        // Who was stopped answers nobody, and so would not let go.
        kill();
        let _writers = is_primary.then(|| world.primary.write().unwrap());
        let _gate = node.gate.write().unwrap();
        kill();
        meanwhile(node);
    }

    fn lose_shm(&mut self, n: usize) {
        let sidecar = self.rng.chance(30).then(|| self.rng.clone());
        self.without_anybody(n, |node| {
            let gone = fs::remove_file(node.path.with_file_name("app.db-shm"));
            self.world.note(&format!("{}: killed all, removed -shm: {gone:?}", node.name));
            if let Some(mut rng) = sidecar {
                damage(self.world, node, &mut rng);
            }
        });
    }

    fn harm_sidecar(&mut self, n: usize) {
        let mut rng = Rng::of(self.rng.next(), "sidecar");
        let node = &self.world.nodes[n];
        // A reader that is stopped would keep the gate.
        node.reader_slot.pause(false);
        node.host_slot.kill();
        let _gate = node.gate.write().unwrap();
        node.host_slot.kill();
        damage(self.world, node, &mut rng);
    }

    /// A replica is lost with all its files.
    fn wipe(&mut self, n: usize) {
        let world = self.world;
        if world.nodes[n].role() == Role::Primary {
            return;
        }
        self.without_anybody(n, |node| {
            node.fresh.store(true, Ordering::SeqCst);
            ["app.db", "app.db-wal", "app.db-shm"]
                .iter()
                .for_each(|name| drop(fs::remove_file(node.path.with_file_name(name))));
            let _ = fs::remove_dir_all(node.path.with_file_name("app.db-litestream"));
            world.note(&format!("{}: removed altogether", node.name));
        });
    }

    fn fill(&mut self) {
        let (chosen, spare, time) = (self.rng.next(), self.rng.below(400_000), self.rng.between(200, 4000));
        let Some(n) = self.disks.get(chosen as usize % self.disks.len().max(1)).copied() else { return };
        let node = &self.world.nodes[n];
        node.full.fetch_add(1, Ordering::SeqCst);
        disk::fill(node.path.parent().expect("the folder of a database"), spare);
        self.world.note(&format!("disk of {} full but for {spare} bytes for {time} ms", node.name));
        let now = Instant::now();
        self.undo.push((now + Duration::from_millis(time), Undo::Empty(n)));
        self.undo.push((now + Duration::from_millis(time + 3000), Undo::NoLongerFull(n)));
    }

    /// Ends what is due, or everything.
    fn undo(&mut self, all: bool) {
        let now = Instant::now();
        let due: Vec<_> = self.undo.extract_if(.., |(when, _)| all || *when <= now).map(|(_, undo)| undo).collect();
        for undo in due {
            match undo {
                Undo::Continue(slot) => _ = slot.pause(false),
                Undo::HealLink(n) => self.world.nodes[n].link.set(Faults::default()),
                Undo::Empty(n) => disk::empty(self.world.nodes[n].path.parent().expect("a folder")),
                Undo::NoLongerFull(n) => {
                    if all {
                        // Who met the full disk is through with it.
                        self.world.rest(Duration::from_secs(2));
                    }
                    self.world.nodes[n].full.fetch_sub(1, Ordering::SeqCst);
                }
            }
        }
    }
}

/// Damages one file of the sidecar of a dead process.
fn damage(world: &World, node: &Node, rng: &mut Rng) {
    let name = ["generation", "pages", "position", "upstream", "lock"][rng.below(5) as usize];
    let path = node.sidecar(name);
    let how = rng.below(5);
    let Ok(mut bytes) = fs::read(&path) else { return };
    let at = rng.below(bytes.len() as u64) as usize;
    match how {
        0 => bytes.truncate(at),
        1 if !bytes.is_empty() => bytes[at] ^= 1 << rng.below(8),
        2 => bytes = (0..rng.below(100)).map(|_| rng.next() as u8).collect(),
        3 if !bytes.is_empty() => bytes.insert(at, bytes[at]),
        _ => bytes.clear(),
    }
    if name == "upstream" && node.role() != Role::Primary {
        // It does not say any more whose replica it is.
        node.overwrite.store(true, Ordering::SeqCst);
    }
    let done = if how == 4 { fs::remove_file(&path) } else { fs::write(&path, &bytes) };
    world.note(&format!("{}: killed, damaged {name} in way {how}: {done:?}", node.name));
}
