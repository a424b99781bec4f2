//! The shared memory of a WAL database: its words and its eight locks.

use std::cell::RefCell;
use std::ffi::{c_int, c_void};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering, fence};

use super::file::File;
use crate::base::{Error, Kind, Result};
use crate::format::walindex::{HEADER_WORDS, REGION_SIZE};

const SHM_UNLOCK: c_int = 1;
const SHM_LOCK: c_int = 2;
const SHM_SHARED: c_int = 4;
const SHM_EXCLUSIVE: c_int = 8;
const BUSY: c_int = 5;

/// How a lock is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockMode {
    /// With others.
    Shared,
    /// By one alone.
    Exclusive,
}

impl LockMode {
    fn flag(self) -> c_int {
        match self {
            LockMode::Shared => SHM_SHARED,
            LockMode::Exclusive => SHM_EXCLUSIVE,
        }
    }
}

/// The wal-index of a database, valid while its connection is borrowed.
///
/// Other processes change the words at any time, so they are only ever read and written as atomics.
pub struct WalIndex<'c> {
    file: File<'c>,
    regions: &'c RefCell<Vec<NonNull<u8>>>,
}

impl<'c> WalIndex<'c> {
    /// The wal-index of a database file, of which `regions` are mapped already.
    pub(super) fn new(file: File<'c>, regions: &'c RefCell<Vec<NonNull<u8>>>) -> Result<WalIndex<'c>> {
        if file.methods().iVersion < 2 || file.methods().xShmMap.is_none() {
            return Err(Error::usage("litestream: this VFS has no shared memory, which a WAL database needs"));
        }
        Ok(WalIndex { file, regions })
    }

    /// Word (4 bytes) at byte `offset` of `region`.
    pub fn word(&self, region: u32, offset: usize) -> Result<u32> {
        Ok(self.word_cell(region, offset)?.load(Ordering::Acquire))
    }

    /// Sets the word at byte `offset` of `region`.
    pub fn set_word(&self, region: u32, offset: usize, value: u32) -> Result<()> {
        self.word_cell(region, offset)?.store(value, Ordering::Release);
        Ok(())
    }

    /// The slot (2 bytes) at byte `offset` of `region`.
    pub fn slot(&self, region: u32, offset: usize) -> Result<u16> {
        Ok(self.slot_cell(region, offset)?.load(Ordering::Acquire))
    }

    /// Sets the slot at byte `offset` of `region`.
    pub fn set_slot(&self, region: u32, offset: usize, value: u16) -> Result<()> {
        self.slot_cell(region, offset)?.store(value, Ordering::Release);
        Ok(())
    }

    /// The words of one copy of the header, which starts at byte `offset` of region 0.
    pub fn header(&self, offset: usize) -> Result<[u32; HEADER_WORDS]> {
        let mut words = [0; HEADER_WORDS];
        for (i, word) in words.iter_mut().enumerate() {
            *word = self.word(0, offset + i * 4)?;
        }
        Ok(words)
    }

    /// Orders all that was written before against all that is written after, for every process.
    pub fn barrier(&self) {
        // What xShmBarrier does, but for a mutex it takes on top.
        fence(Ordering::SeqCst);
    }

    /// Takes `n` locks from number `first` on for itself alone. None when somebody else holds one of them.
    ///
    /// The connection must not be in a transaction: its pager does not know of locks taken here.
    pub fn try_lock(&self, first: i32, n: i32) -> Result<Option<Held<'c>>> {
        match self.shm_lock(first, n, SHM_LOCK | SHM_EXCLUSIVE) {
            OK => Ok(Some(Held { file: self.file, first, n })),
            BUSY => Ok(None),
            rc => self.file.check("locking the wal-index of", rc).map(|()| None),
        }
    }

    /// The guard of `n` locks from number `first` on that this connection took and kept
    /// ([`Held::keep`]).
    pub fn held(&self, first: i32, n: i32) -> Held<'c> {
        Held { file: self.file, first, n }
    }

    /// Takes lock number `slot` until it is given back or the connection closes. False when somebody else is in the way.
    ///
    /// The connection's pager does not know of it: the connection must not need that lock for a transaction meanwhile.
    pub fn take(&self, slot: i32, mode: LockMode) -> Result<bool> {
        match self.shm_lock(slot, 1, SHM_LOCK | mode.flag()) {
            OK => Ok(true),
            BUSY => Ok(false),
            rc => self.file.check("locking the wal-index of", rc).map(|()| false),
        }
    }

    /// Gives a lock back that was taken with [`WalIndex::take`] in the same mode.
    pub fn give_back(&self, slot: i32, mode: LockMode) -> Result<()> {
        self.file.check("unlocking the wal-index of", self.shm_lock(slot, 1, SHM_UNLOCK | mode.flag()))
    }

    fn shm_lock(&self, first: i32, n: i32, flags: c_int) -> c_int {
        // SAFETY: a file with xShmMap has xShmLock; slots 0..8 are the ones it knows.
        unsafe { self.file.methods().xShmLock.map_or(1, |f| f(self.file.raw.as_ptr(), first, n, flags)) }
    }

    fn word_cell(&self, region: u32, offset: usize) -> Result<&AtomicU32> {
        let at = self.at(region, offset, 4)?;
        // SAFETY: `at` checked bounds and alignment; the mapping lasts as long as the connection keeps the WAL open.
        Ok(unsafe { AtomicU32::from_ptr(at.cast::<u32>()) })
    }

    fn slot_cell(&self, region: u32, offset: usize) -> Result<&AtomicU16> {
        let at = self.at(region, offset, 2)?;
        // SAFETY: as for words.
        Ok(unsafe { AtomicU16::from_ptr(at.cast::<u16>()) })
    }

    fn at(&self, region: u32, offset: usize, width: usize) -> Result<*mut u8> {
        if !offset.is_multiple_of(width) || offset + width > REGION_SIZE {
            return Err(Error::new(Kind::Internal, format!("wal-index: no {width} bytes at {offset} of a region")));
        }
        let base = self.region(region)?;
        // SAFETY: every region is REGION_SIZE bytes, and the bounds were checked above.
        Ok(unsafe { base.as_ptr().add(offset) })
    }

    /// Maps every region up to `region`, extending the shared memory where it is shorter.
    fn region(&self, region: u32) -> Result<NonNull<u8>> {
        let mut regions = self.regions.borrow_mut();
        while regions.len() <= region as usize {
            let next = c_int::try_from(regions.len()).unwrap_or(c_int::MAX);
            let mut base: *mut c_void = ptr::null_mut();
            // SAFETY: xShmMap with bExtend=1 sets `base` to a mapping of the size asked for that lasts until the connection
            // closes its WAL (<https://www.sqlite.org/c3ref/io_methods.html>).
            let rc = unsafe {
                let map = self.file.methods().xShmMap;
                map.map_or(1, |f| f(self.file.raw.as_ptr(), next, REGION_SIZE as c_int, 1, &mut base))
            };
            self.file.check("mapping the wal-index of", rc)?;
            let Some(base) = NonNull::new(base.cast::<u8>()) else {
                return Err(Error::new(Kind::Io, "mapping the wal-index: no memory came back"));
            };
            regions.push(base);
        }
        regions
            .get(region as usize)
            .copied()
            .ok_or_else(|| Error::new(Kind::Internal, format!("wal-index: region {region} is not mapped")))
    }
}

const OK: c_int = 0;

/// Locks of the wal-index; given back when dropped.
pub struct Held<'c> {
    file: File<'c>,
    first: i32,
    n: i32,
}

impl Held<'_> {
    /// Keeps the locks beyond the guard: until [`WalIndex::held`] makes another one.
    pub fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let unlock = SHM_UNLOCK | SHM_EXCLUSIVE;
        // SAFETY: these are the locks that try_lock took, on the same file.
        unsafe { self.file.methods().xShmLock.map(|f| f(self.file.raw.as_ptr(), self.first, self.n, unlock)) };
    }
}
