//! A network that misbehaves: what a replica connects to, and what passes its bytes on, or does not.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::Duration;

use super::rng::Rng;

/// What a link does to what passes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// How late each piece comes.
    pub delay: Duration,
    /// Bytes a second at most; 0 for no limit.
    pub rate: u64,
    /// A bit is turned about once in so many bytes; 0 for never.
    pub flip_every: u64,
    /// A connection is cut after about so many bytes, in the middle of a piece; 0 for never.
    pub cut_every: u64,
    /// New connections are closed at once.
    pub refuse: bool,
}

/// The way of one replica to its upstream.
pub struct Link {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    target: Mutex<String>,
    faults: Mutex<Faults>,
    sockets: Mutex<Vec<TcpStream>>,
    flipped: AtomicU64,
    passed: AtomicU64,
    connections: AtomicU64,
}

impl Link {
    /// A link to `target` (`host:port`).
    pub fn new(target: &str, seed: u64) -> Link {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port on the loopback address");
        let address = listener.local_addr().expect("the address of a listener");
        let shared = Arc::new(Shared {
            target: Mutex::new(target.to_string()),
            faults: Mutex::default(),
            sockets: Mutex::default(),
            flipped: AtomicU64::new(0),
            passed: AtomicU64::new(0),
            connections: AtomicU64::new(0),
        });
        let held = Arc::clone(&shared);
        std::thread::spawn(move || {
            for (n, socket) in (0..).zip(listener.incoming().map_while(Result::ok)) {
                let held = Arc::clone(&held);
                std::thread::spawn(move || held.connect(socket, Rng::of(seed, &format!("connection {n}"))));
            }
        });
        Link { address, shared }
    }

    /// What the replica follows.
    pub fn url(&self) -> String {
        format!("http://{}/app.db", self.address)
    }

    /// Leads elsewhere from now on.
    pub fn lead_to(&self, target: &str) {
        *self.shared.target.lock().unwrap() = target.to_string();
        self.cut();
    }

    pub fn set(&self, faults: Faults) {
        *self.shared.faults.lock().unwrap() = faults;
    }

    /// Ends all connections.
    pub fn cut(&self) {
        for socket in self.shared.sockets.lock().unwrap().drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// Connections, bytes passed on, and bits turned so far.
    pub fn counts(&self) -> [u64; 3] {
        [&self.shared.connections, &self.shared.passed, &self.shared.flipped].map(|n| n.load(Ordering::SeqCst))
    }
}

impl Shared {
    fn faults(&self) -> Faults {
        *self.faults.lock().unwrap()
    }

    fn connect(self: Arc<Shared>, replica: TcpStream, rng: Rng) {
        let target = self.target.lock().unwrap().clone();
        if self.faults().refuse {
            return;
        }
        let Ok(upstream) = TcpStream::connect(target) else { return };
        self.connections.fetch_add(1, Ordering::SeqCst);
        let ends = [&replica, &upstream].map(|socket| socket.try_clone().expect("a second handle of a socket"));
        {
            let mut sockets = self.sockets.lock().unwrap();
            // Those of which the other end has gone are forgotten.
            sockets.retain(|socket| socket.peer_addr().is_ok());
            sockets.extend(ends.each_ref().map(|socket| socket.try_clone().expect("a second handle of a socket")));
        }
        let [from, to] = ends;
        let (held, mut other) = (Arc::clone(&self), rng.clone());
        std::thread::spawn(move || held.pump(from, to, &mut other));
        let mut rng = rng;
        self.pump(upstream, replica, &mut rng);
    }

    fn pump(&self, mut from: TcpStream, mut to: TcpStream, rng: &mut Rng) {
        let mut bytes = vec![0; 32 << 10];
        while let Ok(n @ 1..) = from.read(&mut bytes) {
            let faults = self.faults();
            sleep(faults.delay);
            let mut piece = &mut bytes[..n];
            let cut = faults.cut_every > 0 && rng.below(faults.cut_every) < n as u64;
            if cut {
                piece = &mut piece[..n / 2];
            }
            if faults.flip_every > 0 && !piece.is_empty() && rng.below(faults.flip_every) < n as u64 {
                let at = rng.below(piece.len() as u64) as usize;
                piece[at] ^= 1 << rng.below(8);
                self.flipped.fetch_add(1, Ordering::SeqCst);
            }
            if let Some(micros) = (n as u64 * 1_000_000).checked_div(faults.rate) {
                sleep(Duration::from_micros(micros));
            }
            self.passed.fetch_add(piece.len() as u64, Ordering::SeqCst);
            if to.write_all(piece).is_err() || cut {
                break;
            }
        }
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    }
}
