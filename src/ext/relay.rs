//! A database that is followed and served at once.

use std::sync::Arc;

use crate::base::{Position, Result};
use crate::primary::{self, Primary};
use crate::replica;

/// Brings together the follower of a database and who serves it on, which know nothing of each other.
pub struct Relay(pub Arc<Primary>);

struct Feeding<'p>(primary::Feeding<'p>);

impl replica::Relay for Relay {
    fn feeding(&self) -> Box<dyn replica::Feeding + '_> {
        Box::new(Feeding(self.0.feeding()))
    }
}

impl replica::Feeding for Feeding<'_> {
    fn reached(&mut self, position: Position, time: Option<i64>) -> Result<()> {
        self.0.reached(position, time)
    }

    fn allow_restart(&mut self) -> Result<()> {
        self.0.allow_restart()
    }
}
