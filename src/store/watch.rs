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
//! Going from the first to the second is only allowed once every frame was seen; going back is always.

use super::walindex::{self, State};
use std::time::Instant;

use crate::base::{Error, Kind, Result, limits};
use crate::format::walindex::{AT_READ_MARKS, Header, MARK_UNUSED, READ_MARKS, lock};
use crate::sqlite::{Connection, LockMode};

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
        if let Hold::Slot(_) = self.held {
            return Ok(());
        }
        if self.held == Hold::Nothing {
            *self = Watch::begin(connection)?;
            return Ok(());
        }
        let Some(slot) = take_slot(connection)? else { return Ok(()) };
        match self.held {
            Hold::Zero => connection.wal_index()?.give_back(lock::read(0), LockMode::Shared)?,
            _ => connection.unpin(),
        }
        self.held = Hold::Slot(slot);
        Ok(())
    }

    /// Lets go altogether, until [`Watch::forbid_restart`].
    pub fn let_go(&mut self, connection: &Connection) -> Result<()> {
        match std::mem::replace(&mut self.held, Hold::Nothing) {
            Hold::Slot(slot) => connection.wal_index()?.give_back(lock::read(slot), LockMode::Exclusive),
            Hold::Zero => connection.wal_index()?.give_back(lock::read(0), LockMode::Shared),
            Hold::Reader => {
                connection.unpin();
                Ok(())
            }
            Hold::Nothing => Ok(()),
        }
    }

    /// Allows the WAL to be restarted, if all of it is in the database and `seen` is the newest commit. Whether it did.
    pub fn allow_restart(&mut self, connection: &Connection, seen: &Header) -> Result<bool> {
        let Hold::Slot(slot) = self.held else { return Ok(self.held == Hold::Zero) };
        let index = connection.wal_index()?;
        if !index.take(lock::read(0), LockMode::Shared)? {
            return Ok(false);
        }
        index.barrier();
        let now = walindex::state(&index)?;
        if !now.is_some_and(|now: State| now.is_backfilled() && now.header == *seen) {
            index.give_back(lock::read(0), LockMode::Shared)?;
            return Ok(false);
        }
        index.give_back(lock::read(slot), LockMode::Exclusive)?;
        self.held = Hold::Zero;
        Ok(true)
    }
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
