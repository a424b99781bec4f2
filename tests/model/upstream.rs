//! The upstream that the replica knows: the primary in the same thread.

use std::io::Read;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, PoisonError};

use super::world::World;
use crate::base::{Error, Position, Result};
use crate::replica::{Compared, Have, Opened, PageSums, Times, Upstream, UpstreamClock};

/// The way to the primary.
pub struct Link(pub Arc<Mutex<World>>);

/// A stream from it.
struct Body(Arc<Mutex<World>>);

impl Upstream for Link {
    fn url(&self) -> &str {
        "http://model/primary.db"
    }

    fn open(&self, have: Have) -> Result<Opened> {
        let compression = self.0.lock().unwrap_or_else(PoisonError::into_inner).open_feed(have)?;
        let clock = UpstreamClock::new(Times::WallClock, Box::new(|| channel().1));
        let body = Box::new(Body(Arc::clone(&self.0)));
        Ok(Opened { version2: true, compression, clock, page_size: None, body })
    }

    fn compare(&self, _: PageSums, _: Option<Position>) -> Result<Compared> {
        Err(Error::usage("the model compares by itself"))
    }

    fn another(&self) -> Arc<dyn Upstream> {
        Arc::new(Link(Arc::clone(&self.0)))
    }

    fn interrupt(&self) {}

    fn shutdown(&self) {}
}

impl Read for Body {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        Ok(self.0.lock().unwrap_or_else(PoisonError::into_inner).read(out))
    }
}
