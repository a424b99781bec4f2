//! Keeps a WAL from being overwritten before all of it was seen, without holding up checkpoints or writers.
//!
//! A WAL is restarted only by somebody who has read locks 1 to 4 for itself, and only when all of it is in the database.
//! So it is enough to hold one of two things at every instant (<https://www.sqlite.org/walformat.html#locks>):
//!
//! - **One of the read locks 1 to 4, with its read mark set to "not used".** Nobody restarts the WAL. Checkpoints go on: they
//!   stop at read marks, and this one says nothing. SQLite's readers leave a slot alone that they cannot lock.
//! - **Read lock 0, taken while all of the WAL is in the database.** The next writer may restart the WAL. But a checkpoint needs
//!   that lock for itself, so frames written from then on stay out of the database, and the WAL that has them cannot be
//!   restarted a second time.
//!
//! Going from the first to the second is only allowed once every frame was seen. Going back is always, with care for one thing: a
//! checkpoint that read the wal-index header before the WAL was restarted, and has not got read lock 0 yet, would take what is
//! written now for what it was about to copy (the WAL-reset bug of SQLite up to 3.51.2,
//! <https://www.sqlite.org/wal.html#walresetbug>). It has the checkpoint lock all that time. So read lock 0 is kept, with the
//! other, until one of two things is known:
//!
//! - **The checkpoint lock was free once.** A checkpoint that begins later sees the new header.
//! - **The checkpoint that has it keeps writers out** (FULL, RESTART, TRUNCATE). It reads the
//!   header under the write lock, so its header is not an old one, and it waits for read lock 0
//!   while no writer can go on. It has the write lock without a read lock. A transaction that
//!   writes has one of the read locks 1 to 4 all the time, or else read lock 0 of an empty WAL. So
//!   if the WAL is not empty, and the write lock cannot be had while read locks 1 to 4 are all
//!   ours, a checkpoint has it; or, for an instant, a connection that found the header half-written.
//!   That is why it must be so at every look for some time.

use std::time::{Duration, Instant};

use super::walindex::{self, State};
use crate::base::{Error, FrameNo, Kind, Result, limits};
use crate::format::walindex::{AT_READ_MARKS, Header, MARK_UNUSED, READ_MARKS, lock};
use crate::sqlite::{Connection, LockMode, WalIndex};

/// How often the checkpoint lock is tried at once. Those who checkpoint again and again leave it free for moments.
const TRIES: u32 = 100;
/// How long a checkpoint must be seen to keep writers out.
const KEPT_OUT: Duration = Duration::from_millis(10);

/// A hold on the WAL of one connection. The connection is used for nothing else that takes locks.
pub struct Watch {
    held: Hold,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Hold {
    /// Read lock 1 to 4, for ourselves.
    Slot(i32),
    /// Read lock 0, with others.
    Zero,
    /// Both, until no checkpoint can be under way that began before the WAL was restarted. Since
    /// when one was seen at every look that keeps writers out.
    Both(i32, Option<Instant>),
    /// Nothing: the WAL can be restarted any number of times.
    Nothing,
    /// A read transaction of SQLite's, since every slot was in use. Its mark keeps checkpoints from going on, as that of any
    /// reader does, until a slot is free.
    Reader,
}

impl Watch {
    /// Takes hold. The connection must have read the database in WAL mode and be in no transaction.
    pub fn begin(connection: &Connection) -> Result<Watch> {
        let deadline = Instant::now() + limits::LOCK_PATIENCE;
        loop {
            if let Some(slot) = take_slot(connection)? {
                return Ok(Watch { held: Hold::Slot(slot) });
            }
            // Whoever restarts the WAL has all of them for a moment. Otherwise they are readers', and one more can join.
            connection.pin()?;
            if !walindex::valid_state(connection)?.is_backfilled() {
                return Ok(Watch { held: Hold::Reader });
            }
            // This may be read lock 0, under which the WAL can be restarted.
            connection.unpin();
            if Instant::now() >= deadline {
                return Err(Error::new(
                    Kind::Busy,
                    format!(
                        "litestream: {}: every read lock is in use; end other readers",
                        connection.path().display()
                    ),
                ));
            }
            std::thread::yield_now();
        }
    }

    /// Whether the WAL could be restarted now if it were all in the database.
    pub fn allows_restart(&self) -> bool {
        self.held == Hold::Zero
    }

    /// Allows no restart any more. Whatever has been written since [`Watch::allow_restart`] is still there.
    pub fn forbid_restart(&mut self, connection: &Connection) -> Result<()> {
        match self.held {
            Hold::Slot(_) => return Ok(()),
            Hold::Both(..) => return self.settle(connection),
            _ => {}
        }
        if self.held == Hold::Nothing {
            *self = Watch::begin(connection)?;
            if let Hold::Slot(slot) = self.held
                && connection.wal_index()?.take(lock::read(0), LockMode::Shared)?
            {
                self.held = Hold::Both(slot, None);
            }
            return self.settle(connection);
        }
        self.held = match (self.held, take_slot(connection)?) {
            (held, None) => held,
            (Hold::Zero, Some(slot)) => Hold::Both(slot, None),
            (_, Some(slot)) => {
                connection.unpin();
                Hold::Slot(slot)
            }
        };
        self.settle(connection)
    }

    /// Whether both are held until a checkpoint of another connection is over.
    pub fn is_settling(&self) -> bool {
        matches!(self.held, Hold::Both(..))
    }

    /// Gives read lock 0 back as soon as it is safe. Until then nothing more gets into the database.
    pub fn settle(&mut self, connection: &Connection) -> Result<()> {
        let Hold::Both(slot, since) = self.held else { return Ok(()) };
        let index = connection.wal_index()?;
        let mut is_free = false;
        for _ in 0..TRIES {
            is_free = is_free || index.try_lock(lock::CHECKPOINT, 1)?.is_some();
        }
        let since = match is_free {
            false if are_writers_kept_out(&index, slot)? => since.or_else(|| Some(Instant::now())),
            _ => None,
        };
        self.held = Hold::Both(slot, since);
        if is_free || since.is_some_and(|since| since.elapsed() >= KEPT_OUT) {
            index.give_back(lock::read(0), LockMode::Shared)?;
            self.held = Hold::Slot(slot);
        }
        Ok(())
    }

    /// Lets go altogether, until [`Watch::forbid_restart`].
    pub fn let_go(&mut self, connection: &Connection) -> Result<()> {
        match std::mem::replace(&mut self.held, Hold::Nothing) {
            Hold::Slot(slot) => connection.wal_index()?.give_back(lock::read(slot), LockMode::Exclusive),
            Hold::Zero => connection.wal_index()?.give_back(lock::read(0), LockMode::Shared),
            Hold::Both(slot, _) => {
                connection.wal_index()?.give_back(lock::read(0), LockMode::Shared)?;
                connection.wal_index()?.give_back(lock::read(slot), LockMode::Exclusive)
            }
            Hold::Reader => {
                connection.unpin();
                Ok(())
            }
            Hold::Nothing => Ok(()),
        }
    }

    /// Allows the WAL to be restarted, if all of it is in the database and `seen` is the newest commit. Whether it did.
    pub fn allow_restart(&mut self, connection: &Connection, seen: &Header) -> Result<bool> {
        let (slot, has_zero) = match self.held {
            Hold::Slot(slot) => (slot, false),
            Hold::Both(slot, _) => (slot, true),
            held => return Ok(held == Hold::Zero),
        };
        let index = connection.wal_index()?;
        if !has_zero && !index.take(lock::read(0), LockMode::Shared)? {
            return Ok(false);
        }
        index.barrier();
        let now = walindex::state(&index)?;
        if !now.is_some_and(|now: State| now.is_backfilled() && now.header == *seen) {
            if !has_zero {
                index.give_back(lock::read(0), LockMode::Shared)?;
            }
            return Ok(false);
        }
        index.give_back(lock::read(slot), LockMode::Exclusive)?;
        self.held = Hold::Zero;
        Ok(true)
    }
}

/// Whether a connection in no transaction has the write lock, while we have read locks 0 and
/// `slot`.
///
/// No writer finds the database locked by this: with read locks 1 to 4 taken, no
/// transaction begins, which SQLite tries again, and none is there that could want the write lock.
fn are_writers_kept_out(index: &WalIndex, slot: i32) -> Result<bool> {
    if walindex::state(index)?.is_none_or(|state| state.header.last == FrameNo::ZERO) {
        return Ok(false);
    }
    let mut others = Vec::new();
    for other in (1..READ_MARKS as i32).filter(|other| *other != slot) {
        match index.try_lock(lock::read(other), 1)? {
            Some(held) => others.push(held),
            None => return Ok(false),
        }
    }
    Ok(index.try_lock(lock::WRITE, 1)?.is_none())
}

/// Takes a read lock that nobody uses, the last ones first: SQLite's readers begin with the first.
fn take_slot(connection: &Connection) -> Result<Option<i32>> {
    let index = connection.wal_index()?;
    for slot in (1..READ_MARKS).rev() {
        if index.take(lock::read(slot as i32), LockMode::Exclusive)? {
            index.set_word(0, AT_READ_MARKS + slot * 4, MARK_UNUSED)?;
            return Ok(Some(slot as i32));
        }
    }
    Ok(None)
}
