//! A connection whose reads end at a deadline, however many bytes come.
//!
//! The HTTP client reads for as long as it needs to make sense of what comes, and its own limits
//! count from one byte to the next. So one that is sent a byte a second, or that looks for the end
//! of a line which was lost, would go on for ever.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, NextTimeout, Transport, time};
use ureq::{Error, Timeout};

/// The deadline of one connection, and how much has come over it.
#[derive(Debug, Default)]
pub struct Watch {
    deadline: Mutex<Option<Instant>>,
    received: AtomicU64,
}

impl Watch {
    /// Lets reads go on for `time` from now.
    pub fn allow(&self, time: Duration) {
        *self.deadline.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now().checked_add(time);
    }

    /// How often bytes have come.
    pub fn received(&self) -> u64 {
        self.received.load(Relaxed)
    }

    /// The shorter of `timeout` and what is left until the deadline.
    fn limit(&self, timeout: NextTimeout) -> Result<NextTimeout, Error> {
        let Some(deadline) = *self.deadline.lock().unwrap_or_else(PoisonError::into_inner) else { return Ok(timeout) };
        let left = deadline.saturating_duration_since(Instant::now());
        match left.is_zero() {
            true => Err(Error::Timeout(Timeout::PerRead)),
            false if left < *timeout.after => {
                Ok(NextTimeout { after: time::Duration::Exact(left), reason: Timeout::PerRead, ..timeout })
            }
            false => Ok(timeout),
        }
    }
}

/// Watches every connection that it is handed.
#[derive(Debug)]
pub struct WatchConnector(pub Arc<Watch>);

impl<In: Transport> Connector<In> for WatchConnector {
    type Out = Watched<In>;

    fn connect(&self, _: &ConnectionDetails, chained: Option<In>) -> Result<Option<Watched<In>>, Error> {
        Ok(chained.map(|inner| Watched { inner, watch: Arc::clone(&self.0) }))
    }
}

/// A connection that is watched.
#[derive(Debug)]
pub struct Watched<T> {
    inner: T,
    watch: Arc<Watch>,
}

impl<T: Transport> Transport for Watched<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.inner.transmit_output(amount, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        let has_come = self.inner.await_input(self.watch.limit(timeout)?)?;
        self.watch.received.fetch_add(u64::from(has_come), Relaxed);
        Ok(has_come)
    }

    fn is_open(&mut self) -> bool {
        self.inner.is_open()
    }

    fn is_tls(&self) -> bool {
        self.inner.is_tls()
    }
}
