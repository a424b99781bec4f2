//! A check of the whole path, in one thread: SQLite commits, the tail looks, a feed sends, the
//! replica applies, and another SQLite reads the replica's file. After each step the file is
//! compared with what the primary's own SQLite reads.
//!
//! Nothing sleeps and nothing is sent over a socket: files are in memory ([`memory_vfs`]), and the
//! body of the stream that the replica reads is this program. When the replica asks for more than
//! there is, it has applied all that came; so that is when pages are compared and the next thing
//! happens. A run is the same for the same seed, but for SQLite's own random numbers (salts).
//!
//! It is part of the unit tests since these are built with tiny bounds (`base/limits.rs`), so that
//! each commit crosses some.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod memory_vfs;
mod random;
mod steps;
mod upstream;
mod workload;
mod world;

use std::path::PathBuf;
use std::sync::Once;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags, ffi};

use world::{Outcome, World};

/// Times that the replica is compared in one run, after which the next seed begins anew.
const STEPS: u64 = 400;

#[test]
fn the_replica_is_what_the_primary_is_after_every_step() {
    let mut done = Outcome::default();
    for seed in 1..=12 {
        done.add(&World::run(seed, STEPS));
    }
    println!("{done:?}");
    assert!(done.compared >= 12 * STEPS && done.catch_ups > 100 && done.commits > done.compared, "{done:?}");
}

#[test]
#[ignore = "takes as long as it is given: make model SECONDS=n SEED=n"]
fn for_as_long_as_it_is_given() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let time = Duration::from_secs(number("MODEL_SECONDS").unwrap_or(60));
    let first = number("MODEL_SEED").unwrap_or_else(|| u64::from(std::process::id()) << 20);
    println!("model: seeds from {first} on; `make model SEED=n` begins with another");
    let (began, mut done, mut seed) = (Instant::now(), Outcome::default(), first);
    while began.elapsed() < time {
        done.add(&World::run(seed, STEPS));
        seed += 1;
    }
    println!("model: {} seeds in {:.0} s: {done:?}", seed - first, began.elapsed().as_secs_f64());
}

/// A folder for what does not go through the VFS: the sidecars. In memory where there is such a
/// place.
fn folder(seed: u64) -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    let base = if memory.is_dir() { memory } else { std::env::temp_dir() };
    let folder = base.join(format!("litestream-model-{}-{seed}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("making a folder");
    folder
}

/// A connection of the stock SQLite to a database in memory.
fn open(path: &std::path::Path) -> Connection {
    let name = memory_vfs::NAME.to_str().expect("a name");
    let connection = Connection::open_with_flags_and_vfs(path, OpenFlags::default(), name);
    connection.unwrap_or_else(|e| panic!("opening {}: {e}", path.display()))
}

/// All pages of a database, as `connection` reads them now; or what SQLite says when it cannot.
#[allow(unsafe_code)]
fn pages(connection: &Connection) -> Result<Vec<u8>, String> {
    let mut size = 0;
    // SAFETY: the connection is open and used by this thread alone; what is returned is `size`
    // bytes of ours to free.
    unsafe {
        let bytes = ffi::sqlite3_serialize(connection.handle(), c"main".as_ptr(), &mut size, 0);
        if bytes.is_null() {
            let said = std::ffi::CStr::from_ptr(ffi::sqlite3_errmsg(connection.handle()));
            return Err(said.to_string_lossy().into_owned());
        }
        let copied = std::slice::from_raw_parts(bytes, size as usize).to_vec();
        ffi::sqlite3_free(bytes.cast());
        Ok(copied)
    }
}

/// Gives the library that is linked into this program a SQLite to work with, and registers the VFS.
#[allow(unsafe_code)]
fn install() {
    static ONCE: Once = Once::new();
    unsafe extern "C" fn enter(
        db: *mut ffi::sqlite3,
        message: *mut *mut std::ffi::c_char,
        routines: *const ffi::sqlite3_api_routines,
    ) -> std::ffi::c_int {
        // SAFETY: SQLite's own arguments; the two types are bindings to the same header.
        match unsafe { crate::sqlite3_litestream_init(db.cast(), message, routines.cast_mut().cast()) } {
            ffi::SQLITE_OK_LOAD_PERMANENTLY => ffi::SQLITE_OK,
            failed => failed,
        }
    }
    ONCE.call_once(|| {
        // SAFETY: the entry point is one that SQLite may call, and takes itself off again when it
        // ran.
        unsafe { ffi::sqlite3_auto_extension(Some(enter)) };
        Connection::open_in_memory().expect("a connection");
        // SAFETY: the same.
        unsafe { ffi::sqlite3_cancel_auto_extension(Some(enter)) };
        memory_vfs::register();
    });
}
